"""Particles that wait to be followed, for compiled code."""

import numpy as np

from .compiling import compiled

__all__ = ["new_stack", "pop", "push"]

# The youngest particle is followed first, so that few wait at a time: some hundred
# of each hadronic interaction in a chain.
DEPTH = 50_000


def new_stack():
    """Room for particles.

    Returns
    -------
    stack : ndarray, shape (DEPTH, 9)
        Species, total energy [GeV], position [m], direction, time [ns].
    """
    return np.empty((DEPTH, 9))


@compiled
def push(stack, size, species, energy, position, direction, time):
    """Put a particle on the stack and return the new size."""
    if size >= stack.shape[0]:
        raise RuntimeError("too many particles wait to be followed")
    row = stack[size]
    row[0] = species
    row[1] = energy
    row[2], row[3], row[4] = position
    row[5], row[6], row[7] = direction
    row[8] = time
    return size + 1


@compiled
def pop(stack, size):
    """The particle on top: species, energy, position, direction, time."""
    row = stack[size - 1]
    return (
        int(row[0]),
        row[1],
        (row[2], row[3], row[4]),
        (row[5], row[6], row[7]),
        row[8],
    )
