"""Random numbers for compiled code, from a state that the caller holds.

The generator is SFC64 of Chris Doty-Humphrey, as in `numpy.random.SFC64`. Compiled into
its caller it is several times as fast as numba's global generator, and a shower depends
on nothing but the seed of its own state.
"""

import math

import numpy as np

from .compiling import compiled

__all__ = [
    "bernoulli",
    "exponential",
    "isotropic_angle",
    "normal_pair",
    "poisson",
    "random_state",
    "uniform",
]

TWO_PI = 2 * math.pi
LONGEST_PRODUCT = 30.0  # exp(-30) is well above the smallest double


def random_state(*seeds):
    """State of a generator.

    Parameters
    ----------
    *seeds : int
        Not negative. Different ones give independent generators.

    Returns
    -------
    state : ndarray of uint64, shape (4,)
        Changed by each function of this module.
    """
    return np.random.SFC64(seeds).state["state"]["state"].copy()


@compiled
def uniform(state):
    """Uniform in [0, 1)."""
    a, b, c, counter = state[0], state[1], state[2], state[3]
    number = a + b + counter
    state[0] = b ^ (b >> np.uint64(11))
    state[1] = c + (c << np.uint64(3))
    state[2] = ((c << np.uint64(24)) | (c >> np.uint64(40))) + number
    state[3] = counter + np.uint64(1)
    # as a signed integer, of which the conversion is one instruction
    return np.int64(number >> np.uint64(11)) * (1.0 / 9007199254740992.0)


@compiled
def exponential(state):
    """Exponential with mean one."""
    return -math.log(1.0 - uniform(state))


@compiled
def bernoulli(state, probability):
    """True with a probability."""
    return uniform(state) < probability


@compiled
def isotropic_angle(state):
    """Uniform in [0, 2 pi)."""
    return TWO_PI * uniform(state)


@compiled
def normal_pair(state):
    """Two independent numbers, normal with variance one (Marsaglia's polar method)."""
    while True:
        x = 2.0 * uniform(state) - 1.0
        y = 2.0 * uniform(state) - 1.0
        square = x * x + y * y
        if 0.0 < square < 1.0:
            factor = math.sqrt(-2.0 * math.log(square) / square)
            return x * factor, y * factor


@compiled
def poisson(state, mean):
    """Poisson with a mean, exact, in a time that grows with the mean (Knuth)."""
    total = 0
    while mean > LONGEST_PRODUCT:
        total += _poisson_by_product(state, LONGEST_PRODUCT)
        mean -= LONGEST_PRODUCT
    return total + _poisson_by_product(state, mean)


@compiled
def _poisson_by_product(state, mean):
    limit = math.exp(-mean)
    product = uniform(state)
    number = 0
    while product > limit:
        product *= uniform(state)
        number += 1
    return number
