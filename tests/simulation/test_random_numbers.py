import numpy as np
import pytest
from scipy import stats

from ctapipe_gphysnet.simulation.random_numbers import (
    exponential,
    normal_pair,
    poisson,
    random_state,
    uniform,
)

N = 20_000


def test_uniform_is_that_of_numpy():
    state = random_state(3, 14)
    expected = np.random.Generator(np.random.SFC64([3, 14])).random(N)
    np.testing.assert_array_equal([uniform(state) for _ in range(N)], expected)


def test_different_seeds_give_different_numbers():
    assert uniform(random_state(1, 2)) != uniform(random_state(2, 1))


def test_normal_pair():
    state = random_state(1)
    pairs = np.array([normal_pair(state) for _ in range(N)])
    assert stats.kstest(pairs[:, 0], "norm").pvalue > 0.01
    assert stats.kstest(pairs[:, 1], "norm").pvalue > 0.01
    assert abs(np.corrcoef(pairs.T)[0, 1]) < 4 / np.sqrt(N)


def test_exponential():
    state = random_state(2)
    assert stats.kstest([exponential(state) for _ in range(N)], "expon").pvalue > 0.01


@pytest.mark.parametrize("mean", [0.0, 0.3, 7.0, 75.0])
def test_poisson(mean):
    state = random_state(5)
    numbers = np.array([poisson(state, mean) for _ in range(N)])
    assert numbers.mean() == pytest.approx(mean, abs=4 * np.sqrt(mean / N))
    # the variance of the variance of a Poisson distribution is (2 mean2 + mean) / N
    spread = np.sqrt((2 * mean**2 + mean) / N)
    assert numbers.var() == pytest.approx(mean, abs=4 * spread)
