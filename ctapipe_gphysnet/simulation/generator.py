"""Primary particles: which, how many, from where, and where they strike."""

import math
from typing import NamedTuple

import astropy.units as u
import numpy as np
from ctapipe.coordinates.utils import altaz_to_righthanded_cartesian
from ctapipe.core import Component, ToolConfigurationError
from ctapipe.core.traits import AstroQuantity, CaselessStrEnum, Float, Int

__all__ = ["MAX_USES", "PRIMARY_IDS", "ParticleGenerator", "ThrownShower"]

#: Numbers of the primary particles in ctapipe's ``shower_primary_id``.
PRIMARY_IDS = {"gamma": 0, "electron": 1, "muon": 2, "proton": 101, "helium": 402}

#: Uses of one shower, so that event numbers are 100 times the shower plus the use.
MAX_USES = 100

# GeV; the tables of hadronic interactions end at the upper one
ENERGY_RANGE = (1.0, 1e5)
LEAST_ALTITUDE = 30 * u.deg  # the atmosphere is flat
LARGEST_VIEWCONE = 10 * u.deg


class ThrownShower(NamedTuple):
    """A particle and all places where it is made to strike."""

    energy: u.Quantity
    altitude: u.Quantity  # where it comes from
    azimuth: u.Quantity
    core: np.ndarray  # m, on the observation level: north, west; shape (U, 2)
    core_distance: np.ndarray  # m, of the axis from the array's center; shape (U,)


def _length(default, help):
    return AstroQuantity(
        default_value=default, physical_type=u.physical.length, help=help
    ).tag(config=True)


def _angle(default, help):
    return AstroQuantity(
        default_value=default, physical_type=u.physical.angle, help=help
    ).tag(config=True)


def _energy(default, help):
    return AstroQuantity(
        default_value=default, physical_type=u.physical.energy, help=help
    ).tag(config=True)


class ParticleGenerator(Component):
    """Draws primary particles.

    Energies follow a power law, directions are those of a point source or fill a cone
    around the pointing uniformly, and every shower is used at several places, uniformly
    in a disc perpendicular to its axis, around the array's center.
    """

    primary = CaselessStrEnum(
        list(PRIMARY_IDS), default_value="gamma", help="Kind of the particles"
    ).tag(config=True)
    energy_min = _energy(10 * u.GeV, "Lowest total energy")
    energy_max = _energy(
        20 * u.TeV, "Highest total energy; that of all particles if it is the lowest one"
    )
    spectral_index = Float(
        -2.0, help="Of the number of particles as a power of the energy"
    ).tag(config=True)
    pointing_altitude = _angle(70 * u.deg, "Where the telescopes point")
    pointing_azimuth = _angle(
        180 * u.deg, "Where the telescopes point; from north over east"
    )
    viewcone_radius = _angle(
        0 * u.deg,
        "Directions are this far from the pointing at most; 0: a point source",
    )
    offset = _angle(0 * u.deg, "Of the point source from the pointing")
    position_angle = _angle(
        90 * u.deg,
        "Where the offset points: 0 is up, 90 deg is to increasing azimuth",
    )
    max_core_distance = _length(500 * u.m, "Radius of the disc")
    uses = Int(
        10,
        min=1,
        max=MAX_USES,
        help="Places where each shower strikes, one after another",
    ).tag(config=True)

    def __init__(self, config=None, parent=None, **kwargs):
        super().__init__(config=config, parent=parent, **kwargs)
        for wrong, what in self._mistakes():
            if wrong:
                raise ToolConfigurationError(f"{type(self).__name__}.{what}")

    def _mistakes(self):
        """Pairs of whether something is wrong, and what."""
        lowest, highest = self._energies()
        least, most = ENERGY_RANGE
        return [
            (
                not least <= lowest <= most,
                f"energy_min is {self.energy_min}: it has to be from {least:g} GeV to"
                f" {most / 1e3:g} TeV",
            ),
            (
                highest < lowest,
                f"energy_max is {self.energy_max}, below energy_min, {self.energy_min}",
            ),
            (
                not highest <= most,
                f"energy_max is {self.energy_max}: the most is {most / 1e3:g} TeV",
            ),
            (
                not LEAST_ALTITUDE <= self.pointing_altitude <= 90 * u.deg,
                f"pointing_altitude is {self.pointing_altitude}: it has to be from"
                f" {LEAST_ALTITUDE} to 90 deg, that is at most 60 deg from the zenith,"
                " because the simulated atmosphere is flat",
            ),
            (
                not 0 * u.deg <= self.viewcone_radius <= LARGEST_VIEWCONE,
                f"viewcone_radius is {self.viewcone_radius}: it has to be from 0 deg to"
                f" {LARGEST_VIEWCONE}",
            ),
            (
                not 0 * u.deg <= self.offset <= LARGEST_VIEWCONE,
                f"offset is {self.offset}: it has to be from 0 deg to {LARGEST_VIEWCONE}",
            ),
            (
                self.offset > 0 * u.deg and self.viewcone_radius > 0 * u.deg,
                f"offset is {self.offset} and viewcone_radius is {self.viewcone_radius}:"
                " a point source has no cone, and cones are around the pointing",
            ),
            (
                not 0 * u.m < self.max_core_distance < np.inf * u.m,
                f"max_core_distance is {self.max_core_distance}: it has to be positive",
            ),
        ]

    def _energies(self):
        return self.energy_min.to_value(u.GeV), self.energy_max.to_value(u.GeV)

    @property
    def source(self):
        """Altitude and azimuth of the point source, or the middle of the cone."""
        return self._direction(
            self.offset.to_value(u.rad), self.position_angle.to_value(u.rad)
        )

    def throw(self, random):
        """Draw a particle.

        Parameters
        ----------
        random : numpy.random.Generator

        Returns
        -------
        shower : ThrownShower
        """
        energy = self._power_law(random.random())
        altitude, azimuth = self._direction(*self._offset(random))
        radius = self.max_core_distance.to_value(u.m) * np.sqrt(random.random(self.uses))
        angle = 2 * np.pi * random.random(self.uses)
        core = _on_ground(altitude, azimuth, radius, angle)
        return ThrownShower(energy * u.GeV, altitude, azimuth, core, radius)

    def _power_law(self, share):
        """Energy [GeV] below which a share of the particles are."""
        lowest, highest = self._energies()
        exponent = self.spectral_index + 1
        if abs(exponent) < 1e-9:
            return lowest * (highest / lowest) ** share
        low, high = lowest**exponent, highest**exponent
        return (low + share * (high - low)) ** (1 / exponent)

    def _offset(self, random):
        """Angle from the pointing, and position angle [rad]."""
        if self.viewcone_radius == 0 * u.deg:
            return self.offset.to_value(u.rad), self.position_angle.to_value(u.rad)
        depth = 1 - math.cos(self.viewcone_radius.to_value(u.rad))
        return math.acos(1 - depth * random.random()), 2 * math.pi * random.random()

    def _direction(self, offset, position_angle):
        # spherical law of cosines; astropy's offset_by takes as long as a small shower
        altitude = self.pointing_altitude.to_value(u.rad)
        sine = math.sin(altitude) * math.cos(offset)
        sine += math.cos(altitude) * math.sin(offset) * math.cos(position_angle)
        aside = math.sin(position_angle) * math.sin(offset) * math.cos(altitude)
        ahead = math.cos(offset) - math.sin(altitude) * sine
        azimuth = self.pointing_azimuth.to_value(u.rad) + math.atan2(aside, ahead)
        return (
            u.Quantity(math.asin(min(max(sine, -1.0), 1.0)), u.rad),
            u.Quantity(azimuth % (2 * math.pi), u.rad),
        )


def _on_ground(altitude, azimuth, radius, angle):
    """Points of a plane perpendicular to a direction, moved along it to the ground.

    Returns
    -------
    points : ndarray, shape (N, 2)
        Of ctapipe's GroundFrame, x and y [m].
    """
    axis = altaz_to_righthanded_cartesian(alt=altitude, az=azimuth)
    azimuth = azimuth.to_value(u.rad)
    level = np.array([math.sin(azimuth), math.cos(azimuth), 0.0])
    points = np.outer(radius * np.cos(angle), level)
    points += np.outer(radius * np.sin(angle), np.cross(axis, level))
    return (points - np.outer(points[:, 2] / axis[2], axis))[:, :2]
