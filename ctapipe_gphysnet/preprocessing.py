"""From calibrated images to the network's input, the same in training and use."""

from dataclasses import asdict, dataclass

import numpy as np

__all__ = ["Preprocessing"]

CHARGE_TRANSFORMS = ("none", "arcsinh")
TIME_REFERENCES = ("none", "charge-weighted")


@dataclass(frozen=True)
class Preprocessing:
    """What is done to charge and peak time before the network sees them.

    Broken pixels (marked so, or of NaN charge) take the mean of their sound
    neighbours. A charge of +inf is a saturated pixel and becomes the maximum
    charge; ctapipe's 16-bit image encoding writes saturated pixels so.

    Attributes
    ----------
    charge : {"arcsinh", "none"}
        "arcsinh" compresses: linear in the noise, logarithmic in bright
        pixels. "none" keeps photo-electrons, as the papers do.
    charge_scale : float
        Photo-electrons where "arcsinh" turns from linear to logarithmic.
    max_charge : float
        Photo-electrons to which larger charges, saturated ones included,
        are clipped.
    time_reference : {"charge-weighted", "none"}
        "charge-weighted" subtracts the mean peak time weighted by the square
        of the charge, so that the trigger's position in the readout window
        does not matter.
    time_scale : float
        Nanoseconds that become 1.
    time_charge_scale : float
        Times are multiplied by q / (q + time_charge_scale) with the charge q
        in photo-electrons, for the time of a pixel without light is noise.
        0 leaves them as they are.
    """

    charge: str = "arcsinh"
    charge_scale: float = 5.0
    max_charge: float = 6000.0
    time_reference: str = "charge-weighted"
    time_scale: float = 10.0
    time_charge_scale: float = 5.0

    def __post_init__(self):
        for name, choices in (
            ("charge", CHARGE_TRANSFORMS),
            ("time_reference", TIME_REFERENCES),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"{name} must be one of {choices}, got {getattr(self, name)!r}"
                )
        for name in ("charge_scale", "max_charge", "time_scale"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)!r}")
        if not self.time_charge_scale >= 0:
            raise ValueError(
                f"time_charge_scale must not be negative, got {self.time_charge_scale!r}"
            )

    def to_dict(self):
        """The entry in the model card."""
        return asdict(self)

    def __call__(self, charge, peak_time, lattice, broken=None):
        """Network input of a set of images.

        Parameters
        ----------
        charge : ndarray, shape (N, P)
            Photo-electrons.
        peak_time : ndarray, shape (N, P)
            Nanoseconds.
        lattice : CameraLattice
            Of the camera, for the neighbours of broken pixels.
        broken : ndarray of bool, shape (N, P), optional
            Pixels not to be trusted.

        Returns
        -------
        images : ndarray of float32, shape (N, 2, P)
        """
        charge = np.array(charge, dtype=np.float32)
        time = np.array(peak_time, dtype=np.float32)
        if charge.shape != time.shape or charge.shape[1:] != (lattice.n_pixels,):
            raise ValueError(
                f"charge {charge.shape} and peak_time {time.shape} must both have shape"
                f" (N, {lattice.n_pixels})"
            )
        missing = np.isnan(charge) | np.isneginf(charge)
        if broken is not None:
            missing |= broken
        charge[missing] = np.nan
        np.minimum(charge, np.float32(self.max_charge), out=charge)
        time[missing | ~np.isfinite(time)] = np.nan
        _fill_from_neighbors(charge, missing, lattice)
        _fill_from_neighbors(time, missing, lattice)
        np.nan_to_num(charge, copy=False)

        brightness = np.maximum(charge, 0)
        if self.time_reference == "charge-weighted":
            time -= _weighted_mean(time, brightness**2)[:, None]
        np.nan_to_num(time, copy=False)
        time /= self.time_scale
        if self.time_charge_scale > 0:
            time *= brightness / (brightness + np.float32(self.time_charge_scale))
        if self.charge == "arcsinh":
            charge = np.arcsinh(charge / self.charge_scale)
        return np.stack([charge, time], axis=1).astype(np.float32, copy=False)


def _fill_from_neighbors(images, missing, lattice):
    """Set missing pixels to the mean of their neighbours that are not NaN."""
    if not missing.any():
        return
    event, pixel = np.nonzero(missing)
    neighbor = lattice.neighbors[:, pixel]  # [kernel, missing pixel]
    value = np.where(neighbor >= 0, images[event, neighbor], np.nan)
    sound = np.isfinite(value)
    count = sound.sum(axis=0)
    total = np.where(sound, value, 0).sum(axis=0)
    images[event, pixel] = np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _weighted_mean(values, weights):
    """Mean along the pixels, NaN values left out; 0 where nothing is left."""
    weights = np.where(np.isfinite(values), weights, 0)
    total = weights.sum(axis=1)
    mean = (np.nan_to_num(values) * weights).sum(axis=1) / np.where(total > 0, total, 1)
    return mean.astype(np.float32)
