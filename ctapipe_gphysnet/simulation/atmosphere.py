"""The atmosphere: density, refraction, and how much light it lets through."""

import math
from typing import NamedTuple

import astropy.units as u
import numpy as np
from astropy.table import Table
from ctapipe.atmosphere import (
    AtmosphereDensityProfile,
    FiveLayerAtmosphereDensityProfile,
)
from ctapipe.core import Component
from ctapipe.core.traits import AstroQuantity, Float, Path

from .compiling import compiled

__all__ = [
    "Atmosphere",
    "Medium",
    "density",
    "height_at_depth",
    "overburden",
    "refractivity",
]

HEIGHT_STEP = 100.0  # m; between two heights, the density is wrong by 3e-5 at most
TOP = 100e3  # m
DEPTH_STEPS = 4000

# The US standard atmosphere as in CORSIKA (user's guide, appendix D), five layers with
# overburden a + b exp(-h / c), the last one linear:
# above height [cm], a, b [g/cm2], c [cm], 1 / c as ctapipe wants it.
US_STANDARD = [
    [0, -186.5562, 1222.6562, 994186.38, 1 / 994186.38],
    [4e5, -94.919, 1144.9069, 878153.55, 1 / 878153.55],
    [1e6, 0.61289, 1305.5948, 636143.04, 1 / 636143.04],
    [4e6, 0.0, 540.1778, 772170.16, 1 / 772170.16],
    [1e7, 0.01128292, 1.0, 1e9, 1e-9],
]

# Refractivity of air at sea level, at 400 nm and 15 degrees Celsius (Edlen, Metrologia 2
# (1966) 71), elsewhere in proportion to the density (Gladstone and Dale).
REFRACTIVITY = 2.83e-4

# Rayleigh scattering: mean free path 2974 g/cm2 at 400 nm (Baltrusaitis et al., Nuclear
# Instruments and Methods A 240 (1985) 410), the exponent includes the dispersion of air.
RAYLEIGH_DEPTH = 2974.0
RAYLEIGH_EXPONENT = 4.05

# Aerosol: optical depth in proportion to 1 / wavelength, exponential with height.
AEROSOL_WAVELENGTH = 550.0  # nm
AEROSOL_SCALE_HEIGHT = 1200.0  # m

# Vertical absorption by all ozone, an optical depth, after the Hartley and Huggins bands.
OZONE_WAVELENGTH = [250, 260, 270, 280, 290, 300, 310, 320, 330, 340]
OZONE_DEPTH = [30, 25, 10, 3.2, 1.1, 0.33, 0.10, 0.027, 0.008, 0]


class Medium(NamedTuple):
    """What compiled code reads of an atmosphere; see `Atmosphere.medium`."""

    density: np.ndarray  # g/cm2/m, on heights with HEIGHT_STEP from sea level on
    overburden: np.ndarray  # g/cm2, on the same heights
    height: np.ndarray  # m, on logarithms of overburden in equal steps
    first_log_overburden: float
    log_overburden_step: float
    refractivity_per_density: float  # of the density above
    ground: float  # m above sea level
    ground_overburden: float  # g/cm2


@compiled
def _interpolated(table, position):
    index = min(max(int(position), 0), table.shape[0] - 2)
    return table[index] + (table[index + 1] - table[index]) * (position - index)


@compiled
def density(medium, height):
    """Density [g/cm2/m] at a height [m]."""
    return _interpolated(medium.density, height * (1.0 / HEIGHT_STEP))


@compiled
def overburden(medium, height):
    """Vertical depth [g/cm2] of the air above a height [m]."""
    return _interpolated(medium.overburden, height * (1.0 / HEIGHT_STEP))


@compiled
def height_at_depth(medium, depth):
    """Height [m] at a vertical depth [g/cm2]."""
    step = math.log(max(depth, 1e-9)) - medium.first_log_overburden
    return _interpolated(medium.height, max(step / medium.log_overburden_step, 0.0))


@compiled
def refractivity(medium, height):
    """Refractive index less one, at a height [m]."""
    return medium.refractivity_per_density * density(medium, height)


class Atmosphere(Component):
    """Air that showers develop in and their light passes through.

    Flat layers, which is right to better than 1 % of the depth for zenith distances up
    to 60 degrees.
    """

    observation_level = AstroQuantity(
        default_value=2200 * u.m,
        physical_type=u.physical.length,
        help="Height of the telescopes' ground above sea level",
    ).tag(config=True)
    profile_table = Path(
        default_value=None,
        allow_none=True,
        exists=True,
        directory_ok=False,
        help=(
            "Table of a density profile, in the format of ctapipe's"
            " AtmosphereDensityProfile.from_table; None: US standard atmosphere"
        ),
    ).tag(config=True)
    refractivity = Float(
        REFRACTIVITY,
        min=0,
        help="Refractive index less one at sea level, near 400 nm",
    ).tag(config=True)
    rayleigh_scale = Float(
        1.0, min=0, help="Factor for the optical depth of molecules"
    ).tag(config=True)
    aerosol_optical_depth = Float(
        0.05,
        min=0,
        help="Vertical optical depth of aerosol above the ground at 550 nm",
    ).tag(config=True)
    ozone_scale = Float(1.0, min=0, help="Factor for the optical depth of ozone").tag(
        config=True
    )

    def __init__(self, config=None, parent=None, **kwargs):
        super().__init__(config=config, parent=parent, **kwargs)
        self.profile = self._read_profile()

    def _read_profile(self):
        if self.profile_table is None:
            return FiveLayerAtmosphereDensityProfile.from_array(np.array(US_STANDARD))
        try:
            return AtmosphereDensityProfile.from_table(Table.read(self.profile_table))
        except (ValueError, KeyError) as error:
            raise ValueError(
                f"{self.profile_table} is not a density profile that ctapipe reads:"
                f" {error}"
            ) from error

    @property
    def ground(self):
        """Observation level [m]."""
        return self.observation_level.to_value(u.m)

    def medium(self):
        """Tables for compiled code.

        Returns
        -------
        medium : Medium
        """
        unit = u.g / u.cm**2
        heights = np.arange(0, TOP + HEIGHT_STEP, HEIGHT_STEP)
        density_ = self.profile(heights * u.m).to_value(unit / u.m)
        depth = self.profile.integral(heights * u.m).to_value(unit)
        known = np.isfinite(density_) & np.isfinite(depth) & (depth > 0)
        heights, density_, depth = heights[known], density_[known], depth[known]
        log_depth = np.log(depth[::-1])
        nodes = np.linspace(log_depth[0], log_depth[-1], DEPTH_STEPS)
        return Medium(
            density=density_,
            overburden=depth,
            height=np.interp(nodes, log_depth, heights[::-1]),
            first_log_overburden=nodes[0],
            log_overburden_step=nodes[1] - nodes[0],
            refractivity_per_density=self.refractivity / density_[0],
            ground=self.ground,
            ground_overburden=np.interp(self.ground, heights, depth),
        )

    def transmission(self, wavelength, height, zenith):
        """Share of light that reaches the ground from a height.

        Parameters
        ----------
        wavelength : ndarray, shape (W,)
            nm
        height : ndarray, shape (H,)
            m above sea level
        zenith : float
            Zenith distance of the light [rad].

        Returns
        -------
        transmission : ndarray, shape (H, W)
        """
        above = np.clip(np.asarray(height) - self.ground, 0, None)
        air_mass = 1 / math.cos(zenith)
        unit = u.g / u.cm**2
        depth = self.profile.integral([self.ground, *height] * u.m).to_value(unit)
        molecules = (depth[0] - depth[1:]).clip(0) / RAYLEIGH_DEPTH
        optical_depth = (
            self.rayleigh_scale
            * np.outer(molecules, (400 / wavelength) ** RAYLEIGH_EXPONENT)
            + self.aerosol_optical_depth
            * np.outer(
                1 - np.exp(-above / AEROSOL_SCALE_HEIGHT), AEROSOL_WAVELENGTH / wavelength
            )
            + self.ozone_scale
            * np.outer(
                _ozone_below(above, np.asarray(height)),
                np.interp(wavelength, OZONE_WAVELENGTH, OZONE_DEPTH),
            )
        )
        return np.exp(-air_mass * optical_depth)


def _ozone_below(above_ground, height):
    """Ozone between the ground and a height, in units of the table's.

    One unit in the lowest 10 km, eight in the layer between 14 and 30 km.
    """
    return np.minimum(above_ground, 10e3) / 10e3 + (
        8 * (np.minimum(height, 30e3) - 14e3).clip(0) / 16e3
    )
