"""The tasks of the network: targets from event tables and back again.

This is the one place that says what a number behind the network means.
Every task has

* ``n_outputs`` raw outputs, read from the ``path`` of the multi-task block,
* ``target(events)``, the value to train on, from a table with the columns
  named in ``columns``,
* ``turn(target, matrix)``, the target after the camera image was turned by
  a matrix acting on (fov_lon, fov_lat),
* an inverse from raw outputs to quantities.

A task whose errors can be foretold also has

* ``uncertainty``, the name of one more raw output: the natural logarithm of
  the scale of the error,
* ``error(raw, target)``, the error that it is the scale of,
* ``width(pulls)`` of errors divided by their scales, 1 if the scales are right,
* ``to_uncertainty``, an inverse for this output too.
"""

from dataclasses import dataclass

import astropy.units as u
import numpy as np

__all__ = [
    "TASKS",
    "DirectionTask",
    "EnergyTask",
    "ImpactTask",
    "ParticleTypeTask",
    "horizontal_to_telescope",
    "telescope_to_horizontal",
]

GAMMA_ID = 0  # CORSIKA's particle id / simtel's primary id of a gamma ray
ONE_SIGMA = 0.6827  # share of a normal distribution within one standard deviation


def telescope_to_horizontal(fov_lon, fov_lat, pointing_alt, pointing_az):
    """Sky position of an offset from the pointing.

    The same as astropy's transformation from ctapipe's `TelescopeFrame` to
    `AltAz`, without its cost per call.

    Parameters
    ----------
    fov_lon, fov_lat : Quantity
        Offset in `TelescopeFrame`.
    pointing_alt, pointing_az : Quantity
        Pointing of the telescope.

    Returns
    -------
    alt, az : Quantity [rad]
        Azimuth in [0, 2 pi).
    """
    lon, lat = _radian(fov_lon), _radian(fov_lat)
    alt0, az0 = _radian(pointing_alt), _radian(pointing_az)
    forward = np.cos(lat) * np.cos(lon)
    side, up = np.cos(lat) * np.sin(lon), np.sin(lat)
    level = forward * np.cos(alt0) - up * np.sin(alt0)
    height = forward * np.sin(alt0) + up * np.cos(alt0)
    alt = np.arctan2(height, np.hypot(level, side))
    az = (az0 + np.arctan2(side, level)) % (2 * np.pi)
    az = np.where(az == 2 * np.pi, 0.0, az)  # the remainder of -1e-20 is 2 pi itself
    return alt * u.rad, az * u.rad


def horizontal_to_telescope(alt, az, pointing_alt, pointing_az):
    """Offset from the pointing of a sky position; inverse of
    `telescope_to_horizontal`.

    Returns
    -------
    fov_lon, fov_lat : Quantity [rad]
        Longitude in (-pi, pi].
    """
    alt, az = _radian(alt), _radian(az)
    alt0, az0 = _radian(pointing_alt), _radian(pointing_az)
    level = np.cos(alt) * np.cos(az - az0)
    side, height = np.cos(alt) * np.sin(az - az0), np.sin(alt)
    forward = level * np.cos(alt0) + height * np.sin(alt0)
    up = height * np.cos(alt0) - level * np.sin(alt0)
    return (
        np.arctan2(side, forward) * u.rad,
        np.arctan2(up, np.hypot(forward, side)) * u.rad,
    )


def _radian(angle):
    return u.Quantity(angle, dtype=np.float64).to_value(u.rad)


@dataclass(frozen=True)
class EnergyTask:
    """Decimal logarithm of the energy in TeV."""

    name: str = "energy"
    path: str = "global"
    n_outputs: int = 1
    loss: str = "l1"
    columns: tuple = ("true_energy",)
    uncertainty: str | None = "energy_uncertainty"

    def target(self, events):
        """log10(E / TeV), float64 of shape (N, 1)."""
        energy = u.Quantity(events["true_energy"], dtype=np.float64)
        return np.log10(energy.to_value(u.TeV))[:, None]

    def turn(self, target, matrix):
        """The energy does not turn."""
        return target

    def to_energy(self, raw):
        """Energy of raw outputs (N, 1).

        Returns
        -------
        energy : Quantity [TeV], shape (N,)
        """
        return 10 ** np.asarray(raw, dtype=np.float64)[:, 0] * u.TeV

    def error(self, raw, target):
        """log10(E / E_true), float64 of shape (N,)."""
        return np.subtract(raw, target, dtype=np.float64)[:, 0]

    def width(self, pulls):
        """Half of the central 68.27 % interval."""
        low, high = np.quantile(pulls, [(1 - ONE_SIGMA) / 2, (1 + ONE_SIGMA) / 2])
        return (high - low) / 2

    def to_uncertainty(self, raw, energy):
        """Standard deviation of energies.

        It is that of log10 E, times E ln 10.

        Parameters
        ----------
        raw : array-like, shape (N, 1)
            The raw output ``uncertainty``.
        energy : Quantity, shape (N,)

        Returns
        -------
        uncertainty : Quantity, shape (N,)
            In the unit of the energy.
        """
        scale = np.exp(np.asarray(raw, dtype=np.float64)[:, 0])
        return np.log(10) * scale * energy


@dataclass(frozen=True)
class DirectionTask:
    """Offset of the source from the pointing in `TelescopeFrame`, degrees."""

    name: str = "direction"
    path: str = "local"
    n_outputs: int = 2
    loss: str = "l1"
    columns: tuple = ("true_alt", "true_az", "pointing_alt", "pointing_az")
    uncertainty: str | None = "direction_uncertainty"

    def target(self, events):
        """(fov_lon, fov_lat) in degrees, float64 of shape (N, 2)."""
        offset = horizontal_to_telescope(*(u.Quantity(events[c]) for c in self.columns))
        return np.column_stack([angle.to_value(u.deg) for angle in offset])

    def turn(self, target, matrix):
        """The offset turns with the image."""
        return target @ matrix.T

    def to_horizontal(self, raw, pointing_alt, pointing_az):
        """Sky position of raw outputs (N, 2) for a pointing.

        Returns
        -------
        alt, az : Quantity [rad], shape (N,)
        """
        lon, lat = np.asarray(raw, dtype=np.float64).T * u.deg
        return telescope_to_horizontal(lon, lat, pointing_alt, pointing_az)

    def error(self, raw, target):
        """Distance from the true direction in degrees, float64 of shape (N,)."""
        return np.linalg.norm(np.subtract(raw, target, dtype=np.float64), axis=1)

    def width(self, pulls):
        """The quantile that holds 68.27 %."""
        return np.quantile(pulls, ONE_SIGMA)

    def to_uncertainty(self, raw):
        """Radius that holds the true direction in 68.27 % of the events.

        Parameters
        ----------
        raw : array-like, shape (N, 1)
            The raw output ``uncertainty``.

        Returns
        -------
        radius : Quantity [deg], shape (N,)
        """
        return np.exp(np.asarray(raw, dtype=np.float64)[:, 0]) * u.deg


# TiltedGroundFrame's x axis points against fov_lat and its y axis against
# fov_lon, so this matrix leads from one pair of components to the other.
TILTED_FROM_TELESCOPE = np.array([[0.0, -1.0], [-1.0, 0.0]])


@dataclass(frozen=True)
class ImpactTask:
    """Shower core from the telescope in `TiltedGroundFrame`, hundreds of metres."""

    name: str = "impact"
    path: str = "local"
    n_outputs: int = 2
    loss: str = "l1"
    columns: tuple = (
        "true_core_x",
        "true_core_y",
        "tel_pos_x",
        "tel_pos_y",
        "tel_pos_z",
        "pointing_alt",
        "pointing_az",
    )
    uncertainty: str | None = None

    def target(self, events):
        """Tilted (x, y) of core minus telescope in 100 m, float64 (N, 2).

        The core lies in the plane z = 0 of the array, as ctapipe has it.
        """
        core_x, core_y, x, y, z = (
            u.Quantity(events[c], dtype=np.float64).to_value(u.m)
            for c in self.columns[:5]
        )
        alt, az = (_radian(events[c]) for c in self.columns[5:])
        north, west, up = core_x - x, core_y - y, -z
        ahead = north * np.cos(az) - west * np.sin(az)
        side = north * np.sin(az) + west * np.cos(az)
        return np.column_stack([ahead * np.sin(alt) - up * np.cos(alt), side]) / 100

    def turn(self, target, matrix):
        """The core turns with the image, in its own axes."""
        turned = TILTED_FROM_TELESCOPE @ matrix @ TILTED_FROM_TELESCOPE
        return target @ turned.T

    def to_core(self, raw, tel_position, pointing_alt, pointing_az):
        """Core on the ground (the plane z = 0 of the array) of raw outputs (N, 2).

        Parameters
        ----------
        raw : array-like, shape (N, 2)
        tel_position : Quantity, shape (N, 3) or (3,)
            In `ctapipe.coordinates.GroundFrame`.
        pointing_alt, pointing_az : Quantity, shape (N,) or scalar

        Returns
        -------
        core_x, core_y : Quantity [m], shape (N,)
        """
        tilted_x, side = 100 * np.asarray(raw, dtype=np.float64).T
        x, y, z = np.moveaxis(u.Quantity(tel_position).to_value(u.m), -1, 0)
        alt, az = _radian(pointing_alt), _radian(pointing_az)
        ahead = (tilted_x - z * np.cos(alt)) / np.sin(alt)
        north = ahead * np.cos(az) + side * np.sin(az)
        west = side * np.cos(az) - ahead * np.sin(az)
        return (x + north) * u.m, (y + west) * u.m


@dataclass(frozen=True)
class ParticleTypeTask:
    """Gamma ray (class 1) or anything else (class 0)."""

    name: str = "particle_type"
    path: str = "class"
    n_outputs: int = 2
    loss: str = "cross_entropy"
    columns: tuple = ("true_shower_primary_id",)
    uncertainty: str | None = None

    def target(self, events):
        """1 for gamma rays, else 0; int64 of shape (N,)."""
        return (np.asarray(events["true_shower_primary_id"]) == GAMMA_ID).astype(np.int64)

    def turn(self, target, matrix):
        """The particle does not turn."""
        return target

    def to_gammaness(self, raw):
        """Score in [0, 1], 1 for a gamma ray, of raw logits (N, 2).

        Returns
        -------
        gammaness : ndarray, shape (N,)
        """
        hadron, gamma = np.asarray(raw, dtype=np.float64).T
        # the softmax of two logits, safe for large differences
        return 0.5 * (1 + np.tanh(0.5 * (gamma - hadron)))


TASKS = {
    task.name: task
    for task in (EnergyTask(), DirectionTask(), ImpactTask(), ParticleTypeTask())
}
