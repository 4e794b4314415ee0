"""The mirror: where in the camera a photon arrives, and which photons are detected."""

import math
from typing import NamedTuple

import astropy.units as u
import numpy as np
from ctapipe.core import Component
from ctapipe.core.traits import AstroQuantity, Float
from scipy.integrate import trapezoid

from .compiling import compiled
from .random_numbers import normal_pair, uniform
from .vectors import dot

__all__ = ["MirrorOptics", "Telescopes", "reflect"]

FINE_STRUCTURE = 1 / 137.035999

WAVELENGTH = np.arange(250, 701, 5.0)  # nm

# Photon detection efficiency of the LST camera's photomultipliers, Hamamatsu R11920-100
# (shape after Okumura et al., arXiv:1508.07776; peak 42 %).
QUANTUM_EFFICIENCY = {
    250: 0, 270: 0.05, 280: 0.12, 290: 0.22, 300: 0.30, 320: 0.37, 340: 0.405,
    360: 0.42, 380: 0.42, 400: 0.41, 420: 0.40, 450: 0.365, 480: 0.32, 500: 0.285,
    520: 0.24, 550: 0.16, 580: 0.11, 600: 0.085, 650: 0.035, 700: 0.01,
}  # fmt: skip
# Reflectivity of a glass mirror with sputtered aluminium and protective layers.
REFLECTIVITY = {
    250: 0.70, 280: 0.80, 300: 0.87, 350: 0.92, 400: 0.93, 450: 0.91, 500: 0.89,
    550: 0.87, 600: 0.85, 700: 0.80,
}  # fmt: skip
# Entrance window of the camera (acrylic), before the loss in the light guides.
WINDOW = {
    250: 0,
    270: 0.05,
    280: 0.3,
    290: 0.6,
    300: 0.8,
    320: 0.88,
    350: 0.92,
    700: 0.92,
}
LIGHT_GUIDES = 0.95
SHADOW = 0.969 * 0.96  # of the camera with its support, and gaps between mirror facets


# Scattered at the mirror, light from outside the camera's field of view can still arrive.
FIELD_MARGIN = math.radians(0.15)

YIELD_HEIGHT = np.arange(0, 40e3, 250.0)  # m


class Telescopes(NamedTuple):
    """What compiled code knows of telescopes; see `MirrorOptics.telescopes`."""

    x: np.ndarray  # m, of the mirrors' centers: north, shape (T,)
    y: np.ndarray  # west
    z: np.ndarray  # above sea level
    along_altitude: tuple  # unit vectors of the camera's axes in the ground frame
    along_azimuth: tuple
    axis: tuple  # of the optical axis, towards the sky
    focal_length: float  # m
    camera_height: float  # m, above the mirror's center
    outer_radius: float  # m
    inner_radius: float
    camera_radius: float
    view_cosine: float  # of the field of view's radius
    view_sine: float
    core_scatter: float  # rad
    tail_scatter: float
    tail_fraction: float
    light_yield: np.ndarray  # photo-electrons/m at sin2 = 1, on heights above sea level
    yield_step: float  # m


@compiled
def reflect(telescopes, position, direction, state):
    """Follow a photon from near the mirror to the camera.

    The mirror is a paraboloid. Its facets' errors turn the reflected direction by two
    normal distributions.

    Parameters
    ----------
    telescopes : Telescopes
    position : tuple of 3 float
        Relative to the mirror's center, ground frame [m].
    direction : tuple of 3 float
        Unit vector, ground frame.
    state : ndarray of uint64, shape (4,)

    Returns
    -------
    arrives : bool
    x, y : float
        In ctapipe's CameraFrame [m].
    path : float
        From ``position`` to the camera [m].
    """
    nowhere = (False, 0.0, 0.0, 0.0)
    along_altitude, along_azimuth = telescopes.along_altitude, telescopes.along_azimuth
    axis = telescopes.axis
    vx, vy, vz = (
        dot(direction, along_altitude),
        dot(direction, along_azimuth),
        dot(direction, axis),
    )
    if vz > -0.35:
        return nowhere
    px, py, pz = (
        dot(position, along_altitude),
        dot(position, along_azimuth),
        dot(position, axis),
    )
    # down to the plane through the mirror's center, then to the mirror by iteration
    to_plane = -pz / vz
    x0, y0 = px + to_plane * vx, py + to_plane * vy
    outer_squared = telescopes.outer_radius**2
    if x0 * x0 + y0 * y0 > (telescopes.outer_radius + 1.5) ** 2:
        return nowhere
    beyond = 0.0
    quarter = 1 / (4 * telescopes.focal_length)
    for _ in range(3):
        x, y = x0 + beyond * vx, y0 + beyond * vy
        beyond = (x * x + y * y) * quarter / vz
    x, y, z = x0 + beyond * vx, y0 + beyond * vy, beyond * vz
    radius_squared = x * x + y * y
    if radius_squared > outer_squared or radius_squared < telescopes.inner_radius**2:
        return nowhere
    if to_plane + beyond < 0:
        return nowhere
    # normal of the paraboloid
    slope = 1 / (2 * telescopes.focal_length)
    nx, ny = -x * slope, -y * slope
    nz = 1 / math.sqrt(nx * nx + ny * ny + 1)
    nx, ny = nx * nz, ny * nz
    twice = 2 * (vx * nx + vy * ny + vz * nz)
    scatter = telescopes.core_scatter
    if uniform(state) < telescopes.tail_fraction:
        scatter = telescopes.tail_scatter
    error_x, error_y = normal_pair(state)
    rx = vx - twice * nx + scatter * error_x
    ry = vy - twice * ny + scatter * error_y
    rz = vz - twice * nz
    to_camera = (telescopes.camera_height - z) / rz
    x, y = x + to_camera * rx, y + to_camera * ry
    if x * x + y * y > telescopes.camera_radius**2:
        return nowhere
    return True, -x, -y, to_plane + beyond + to_camera


def _unit_vectors(altitude, azimuth):
    """Axes of a telescope in the ground frame: x to the north, y to the west, z up."""
    cos_alt, sin_alt = math.cos(altitude), math.sin(altitude)
    cos_az, sin_az = math.cos(azimuth), math.sin(azimuth)
    along_altitude = (-sin_alt * cos_az, sin_alt * sin_az, cos_alt)
    along_azimuth = (-sin_az, -cos_az, 0.0)
    axis = (cos_alt * cos_az, -cos_alt * sin_az, sin_alt)
    return along_altitude, along_azimuth, axis


def _curve(points):
    return np.interp(WAVELENGTH, list(points), list(points.values()))


class MirrorOptics(Component):
    """Mirror of the LST and the efficiency of all that light passes on its way.

    Rays are followed to a camera slightly behind the focus, as the LST's is, so the
    point-spread function with its coma comes out by itself.
    """

    efficiency = Float(
        0.75,
        min=0,
        help=(
            "Factor for the number of detected photons; 0.65 is that of CTAO's"
            " productions prod5 and prod6, which have degraded mirrors"
        ),
    ).tag(config=True)
    focal_length = AstroQuantity(
        default_value=28 * u.m, physical_type=u.physical.length, help="Of the paraboloid"
    ).tag(config=True)
    camera_offset = AstroQuantity(
        default_value=6.55 * u.cm,
        physical_type=u.physical.length,
        help="Of the camera behind the focus, which makes showers sharp instead of stars",
    ).tag(config=True)
    outer_radius = AstroQuantity(
        default_value=11.5 * u.m, physical_type=u.physical.length, help="Of the mirror"
    ).tag(config=True)
    inner_radius = AstroQuantity(
        default_value=1 * u.m,
        physical_type=u.physical.length,
        help="Of the hole in the mirror's center",
    ).tag(config=True)
    camera_radius = AstroQuantity(
        default_value=1.2 * u.m,
        physical_type=u.physical.length,
        help="Photons further out are not recorded",
    ).tag(config=True)
    core_scatter = AstroQuantity(
        default_value=0.0105 * u.deg,
        physical_type=u.physical.angle,
        help="Standard deviation of reflected directions, in each coordinate",
    ).tag(config=True)
    tail_scatter = AstroQuantity(
        default_value=0.037 * u.deg,
        physical_type=u.physical.angle,
        help="Standard deviation for the worse part of the mirror",
    ).tag(config=True)
    tail_fraction = Float(
        0.125, min=0, max=1, help="Share of the worse part of the mirror"
    ).tag(config=True)

    def light_yield(self, atmosphere, height, zenith):
        """Photo-electrons of light that is aimed at the mirror.

        Frank and Tamm's formula, Review of Particle Physics, section 34.7.

        Parameters
        ----------
        atmosphere : Atmosphere
        height : ndarray, shape (H,)
            Of the emission, above sea level [m].
        zenith : float
            Zenith distance of the light [rad].

        Returns
        -------
        light_yield : ndarray, shape (H,)
            Photo-electrons per m of track, to be multiplied by the squared sine of the
            Cherenkov angle.
        """
        efficiency = (
            self.efficiency
            * _curve(QUANTUM_EFFICIENCY)
            * _curve(REFLECTIVITY)
            * _curve(WINDOW)
            * (LIGHT_GUIDES * SHADOW)
        )
        detected = efficiency * atmosphere.transmission(WAVELENGTH, height, zenith)
        wavelength = WAVELENGTH * 1e-9
        return (
            2
            * math.pi
            * FINE_STRUCTURE
            * trapezoid(detected / wavelength**2, wavelength, axis=1)
        )

    def telescopes(self, atmosphere, altitude, azimuth):
        """Equal telescopes that point in one direction, none of them placed yet.

        Parameters
        ----------
        atmosphere : Atmosphere
        altitude, azimuth : float
            Where they point [rad].

        Returns
        -------
        telescopes : Telescopes
        """
        along_altitude, along_azimuth, axis = _unit_vectors(altitude, azimuth)
        view = (self.camera_radius / self.focal_length).to_value(u.one) + FIELD_MARGIN
        return Telescopes(
            x=np.empty(0),
            y=np.empty(0),
            z=np.empty(0),
            along_altitude=along_altitude,
            along_azimuth=along_azimuth,
            axis=axis,
            focal_length=self.focal_length.to_value(u.m),
            camera_height=(self.focal_length + self.camera_offset).to_value(u.m),
            outer_radius=self.outer_radius.to_value(u.m),
            inner_radius=self.inner_radius.to_value(u.m),
            camera_radius=self.camera_radius.to_value(u.m),
            view_cosine=math.cos(view),
            view_sine=math.sin(view),
            core_scatter=self.core_scatter.to_value(u.rad),
            tail_scatter=self.tail_scatter.to_value(u.rad),
            tail_fraction=self.tail_fraction,
            light_yield=self.light_yield(
                atmosphere, YIELD_HEIGHT, math.pi / 2 - altitude
            ),
            yield_step=YIELD_HEIGHT[1],
        )
