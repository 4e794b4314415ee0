"""Noise and dead pixels of a telescope, from its images."""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq

__all__ = ["PixelNoise", "added_night_sky", "measure_noise"]

NORMAL = 1.4826  # standard deviation of a normal distribution over its median deviation
# A pixel that is filled in from its six neighbors has 0.41 of their spread.
DEAD_SPREAD = 0.55
MOST_NIGHT_SKY = 64.0  # p.e., of what is tried


@dataclass(frozen=True)
class PixelNoise:
    """What the pixels of a camera show without light.

    Attributes
    ----------
    n_events : int
        Of which it was measured.
    spread : ndarray, shape (P,)
        Of the charge from event to event, in photo-electrons: the median deviation from
        the median, as standard deviation of a normal distribution. Showers, which light
        a pixel in few of the events, hardly change it.
    """

    n_events: int
    spread: np.ndarray

    @property
    def dead(self):
        """Pixels that show nothing or what others show, ndarray of bool, shape (P,)."""
        typical = np.nanmedian(self.spread)
        return ~(self.spread > DEAD_SPREAD * typical)

    @property
    def typical(self):
        """Median spread of the sound pixels, in photo-electrons."""
        return float(np.median(self.spread[~self.dead]))


def measure_noise(charge):
    """Measure noise of images.

    Parameters
    ----------
    charge : ndarray, shape (N, P)
        Photo-electrons. NaN where there is none.

    Returns
    -------
    noise : PixelNoise

    Raises
    ------
    ValueError
        If there are no events, or no pixel has any spread.
    """
    if len(charge) < 2:
        raise ValueError(f"{len(charge)} images are too few to measure noise")
    missing = np.isnan(charge).mean(axis=0) > 0.5
    spread = np.full(charge.shape[1], np.nan)
    sound = charge[:, ~missing]
    deviation = np.abs(sound - np.nanmedian(sound, axis=0))
    spread[~missing] = NORMAL * np.nanmedian(deviation, axis=0)
    if not (spread > 0).any():
        raise ValueError("the charge of no pixel changes from image to image")
    return PixelNoise(len(charge), spread)


def added_night_sky(simulated, spread, seed=0):
    """Night sky to add to simulated images for them to have a wanted noise.

    Photo-electrons are added as in training (`ctapipe_gphysnet.batches.Augmentation`),
    and the noise is measured again, until it fits.

    Parameters
    ----------
    simulated : ndarray, shape (N, P)
        Charges [p.e.].
    spread : float
        Wanted typical spread, see `PixelNoise`.
    seed : int
        Of the photo-electrons.

    Returns
    -------
    night_sky : float
        Expected photo-electrons a pixel; 0 if there is more noise already.

    Raises
    ------
    ValueError
        If 64 are not enough.
    """

    def noise_with(night_sky):
        rng = np.random.default_rng(seed)
        more = rng.poisson(night_sky, simulated.shape) - night_sky
        return measure_noise(simulated + more).typical

    if noise_with(0.0) >= spread:
        return 0.0
    if noise_with(MOST_NIGHT_SKY) < spread:
        raise ValueError(
            f"with {MOST_NIGHT_SKY:g} photo-electrons of night sky a pixel the noise is"
            f" still below {spread:.2f} p.e."
        )
    return brentq(
        lambda night_sky: noise_with(night_sky) - spread, 0.0, MOST_NIGHT_SKY, xtol=0.01
    )
