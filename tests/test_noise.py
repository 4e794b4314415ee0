import numpy as np
import pytest

from ctapipe_gphysnet.noise import added_night_sky, measure_noise

N_EVENTS, N_PIXELS = 1500, 300


@pytest.fixture
def charge():
    """Noise of one photo-electron, with showers in a hundredth of the pixels."""
    rng = np.random.default_rng(2)
    charge = rng.normal(1.7, 1.0, (N_EVENTS, N_PIXELS))
    lit = rng.random(charge.shape) < 0.01
    charge[lit] += rng.exponential(100, lit.sum())
    return charge


def test_spread_is_that_of_the_noise(charge):
    noise = measure_noise(charge)
    assert noise.n_events == N_EVENTS
    assert noise.typical == pytest.approx(1.01, abs=0.03)
    assert not noise.dead.any()


def test_dead_pixels(charge):
    charge[:, 3] = 0
    charge[:, 17] = np.nan
    neighbors = charge[:, 20:26].copy()
    charge[:, 40] = neighbors.mean(axis=1)  # filled in
    charge[: N_EVENTS // 4, 50] = np.nan  # for some time only
    charge[:, 60] *= 3  # near a star
    assert np.flatnonzero(measure_noise(charge).dead).tolist() == [3, 17, 40]


@pytest.mark.parametrize("expected", [0.6, 2.0, 5.0])
def test_night_sky_that_was_added_is_found(charge, expected):
    rng = np.random.default_rng(5)
    brighter = charge + rng.poisson(expected, charge.shape) - expected
    found = added_night_sky(charge, measure_noise(brighter).typical)
    assert found == pytest.approx(expected, rel=0.08)


def test_more_noise_than_wanted(charge):
    assert added_night_sky(charge, 0.5) == 0


def test_out_of_reach(charge):
    with pytest.raises(ValueError, match="still below 50"):
        added_night_sky(charge, 50.0)


def test_nothing_to_measure(charge):
    with pytest.raises(ValueError, match="too few"):
        measure_noise(charge[:1])
    with pytest.raises(ValueError, match="no pixel changes"):
        measure_noise(np.ones((10, 5)))
