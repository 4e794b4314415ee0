"""Air showers: from the primary particle to photo-electrons in the cameras."""

import math
from dataclasses import dataclass

import astropy.units as u
import numpy as np
from ctapipe.core import Component
from ctapipe.core.traits import AstroQuantity, Path

from .atmosphere import overburden
from .cherenkov import LIGHT_VELOCITY
from .compiling import compiled
from .electromagnetic import (
    PROFILE_STEP,
    STEEPEST,
    follow_electron,
    follow_photon,
)
from .hadron_tables import read_hadron_table
from .hadronic import decay_neutral_pion, follow_hadron
from .particles import (
    ELECTRON,
    MASS,
    MUON_MINUS,
    NEUTRON,
    PHOTON,
    PION_ZERO,
    POSITRON,
    PROTON,
)
from .random_numbers import random_state
from .stack import new_stack, pop, push

__all__ = ["PRIMARIES", "Shower", "ShowerSimulator"]

# Nucleons of a helium nucleus come one by one, each with its share of the energy
# (superposition).
PRIMARIES = {
    "gamma": [PHOTON],
    "electron": [ELECTRON],
    "muon": [MUON_MINUS],
    "proton": [PROTON],
    "helium": [PROTON, PROTON, NEUTRON, NEUTRON],
}

GRAMMAGE = u.g / u.cm**2
TOP = 100e3  # m above sea level, where particles start
PROFILE_DEPTH = 1200.0  # g/cm2, at sea level there are 1036
FIRST_PHOTONS = 200_000  # room for photo-electrons; grows on demand


@compiled
def _follow_all(
    size,
    stack,
    fixed_interaction,
    longest_step,
    field,
    medium,
    telescopes,
    table,
    photons,
    reached,
    tally,
    profile,
    state,
):
    """Follow all particles on the stack and all that come of them.

    Returns
    -------
    count : int
        Number of photo-electrons; those beyond the room for them are counted only.
    first : float
        Height of the highest interaction of a primary particle [m], -1 without.
    """
    count = 0
    first = -1.0
    n_waiting = size  # primaries, below all others on the stack
    while size > 0:
        species, energy, position, direction, time = pop(stack, size)
        is_primary = size <= n_waiting
        size -= 1
        if is_primary:
            n_waiting = size
        height = -1.0
        if direction[2] > STEEPEST:
            continue
        if species == PHOTON:
            size, height = follow_photon(
                energy, position, direction, time, not (fixed_interaction and is_primary),
                medium, stack, size, state,
            )  # fmt: skip
        elif species == ELECTRON or species == POSITRON:
            size, count = follow_electron(
                species == POSITRON, energy, position, direction, time, longest_step,
                field, medium, telescopes, stack, size, photons, count, reached, tally,
                profile, state,
            )  # fmt: skip
        elif species == PION_ZERO:
            size = decay_neutral_pion(
                energy, position, direction, time, stack, size, state
            )
        else:
            size, count, height = follow_hadron(
                species, energy, position, direction, time, table, field, medium,
                telescopes, stack, size, photons, count, reached, tally, state,
            )  # fmt: skip
        if is_primary:
            first = max(first, height)
    return count, first


@dataclass
class Shower:
    """What telescopes see of a shower, and what is known of it.

    Attributes
    ----------
    starts : ndarray of int, shape (T + 1,)
        Photo-electrons of telescope i are those from ``starts[i]`` to ``starts[i + 1]``.
    x, y : ndarray of float32, shape (N,)
        Where they are in ctapipe's CameraFrame [m].
    time : ndarray of float32, shape (N,)
        When they are there [ns]; at zero the primary would cross the observation level.
    first_interaction_height : astropy.units.Quantity
        Above sea level; NaN for electrons, and for what has not interacted.
    first_interaction_depth : astropy.units.Quantity
        Slant.
    x_max : astropy.units.Quantity
        Slant depth with most electrons and positrons; NaN without any.
    track_length : astropy.units.Quantity
        Of all charged particles above the threshold of Cherenkov light.
    profile : ndarray, shape (60,)
        Mean number of electrons and positrons above 20 MeV in steps of 20 g/cm2 of
        vertical depth.
    """

    starts: np.ndarray
    x: np.ndarray
    y: np.ndarray
    time: np.ndarray
    first_interaction_height: u.Quantity
    first_interaction_depth: u.Quantity
    x_max: u.Quantity
    track_length: u.Quantity
    profile: np.ndarray

    def light(self, telescope):
        """Photo-electrons of one telescope: x, y and time."""
        here = slice(self.starts[telescope], self.starts[telescope + 1])
        return self.x[here], self.y[here], self.time[here]


class ShowerSimulator(Component):
    """Showers of single particles, in the air above telescopes that point in parallel.

    Parameters
    ----------
    atmosphere : Atmosphere
    optics : MirrorOptics
    """

    magnetic_field_north = AstroQuantity(
        default_value=30.8 * u.uT,
        physical_type=u.T,
        help="Horizontal magnetic field, to the north; the default is La Palma's",
    ).tag(config=True)
    magnetic_field_down = AstroQuantity(
        default_value=23.2 * u.uT,
        physical_type=u.T,
        help="Vertical magnetic field, down; the default is La Palma's",
    ).tag(config=True)
    longest_step = AstroQuantity(
        default_value=400 * u.m,
        physical_type=u.physical.length,
        help="Longest step of electrons; results do not depend on it up to the default",
    ).tag(config=True)
    muon_height = AstroQuantity(
        default_value=2 * u.km,
        physical_type=u.physical.length,
        help="Above the observation level, where muons as primary particles start",
    ).tag(config=True)
    hadron_table = Path(
        default_value=None,
        allow_none=True,
        exists=True,
        directory_ok=False,
        help="Table of hadronic interactions; None: the one in the package",
    ).tag(config=True)

    def __init__(self, atmosphere, optics, config=None, parent=None, **kwargs):
        super().__init__(config=config, parent=parent, **kwargs)
        self.atmosphere = atmosphere
        self.optics = optics
        self._medium = atmosphere.medium()
        self._table = read_hadron_table(self.hadron_table)
        self._longest_step = self.longest_step.to_value(u.m)
        self._pointing = None
        self._stack = new_stack()
        self._photons = np.empty((FIRST_PHOTONS, 4), dtype=np.float32)
        self._field = (
            self.magnetic_field_north.to_value(u.T),
            0.0,
            -self.magnetic_field_down.to_value(u.T),
        )

    def simulate(
        self,
        primary,
        energy,
        altitude,
        azimuth,
        positions,
        pointing_altitude,
        pointing_azimuth,
        seed,
        first_interaction_height=None,
    ):
        """Simulate a shower.

        Parameters
        ----------
        primary : str
            A key of `PRIMARIES`.
        energy : astropy.units.Quantity
            Total energy, of the whole nucleus.
        altitude, azimuth : astropy.units.Quantity
            Where the particle comes from.
        positions : ndarray, shape (T, 3)
            Of the telescopes' mirrors [m], relative to where the shower's axis meets the
            observation level: north, west, up.
        pointing_altitude, pointing_azimuth : astropy.units.Quantity
            Of all telescopes.
        seed : int or sequence of int
            The same one gives the same shower.
        first_interaction_height : astropy.units.Quantity, optional
            Above sea level, for gamma rays.

        Returns
        -------
        shower : Shower

        Raises
        ------
        ValueError
            For particles that cannot be simulated.
        """
        direction = self._direction(altitude, azimuth)
        start = self._start(primary, first_interaction_height)
        size = self._push_primary(primary, energy.to_value(u.GeV), direction, start)
        telescopes = self._telescopes(positions, pointing_altitude, pointing_azimuth)
        tally = np.zeros(1)
        profile = np.zeros(int(PROFILE_DEPTH / PROFILE_STEP))
        reached = np.zeros(len(telescopes.x), dtype=bool)
        while True:
            tally[:], profile[:] = 0, 0
            count, first = _follow_all(
                size,
                self._stack,
                first_interaction_height is not None,
                self._longest_step,
                self._field,
                self._medium,
                telescopes,
                self._table,
                self._photons,
                reached,
                tally,
                profile,
                random_state(*np.atleast_1d(seed)),
            )
            if count <= len(self._photons):
                break
            # once more from the same seed, with enough room
            self._photons = np.empty((2 * count, 4), dtype=np.float32)
            self._push_primary(primary, energy.to_value(u.GeV), direction, start)
        return self._shower(count, len(reached), first, tally, profile, -direction[2])

    def _direction(self, altitude, azimuth):
        """Unit vector of flight: north, west, up."""
        altitude, azimuth = altitude.to_value(u.rad), azimuth.to_value(u.rad)
        if -math.sin(altitude) > STEEPEST:
            least = math.degrees(math.asin(-STEEPEST))
            raise ValueError(
                f"particles from an altitude of {math.degrees(altitude):.1f} deg cannot"
                f" be simulated, the least is {least:.1f} deg"
            )
        return (
            -math.cos(altitude) * math.cos(azimuth),
            math.cos(altitude) * math.sin(azimuth),
            -math.sin(altitude),
        )

    def _start(self, primary, first_interaction_height):
        """Height [m] from which a particle is followed."""
        if primary not in PRIMARIES:
            raise ValueError(
                f"{primary!r} cannot be simulated, only {', '.join(PRIMARIES)}"
            )
        if first_interaction_height is not None:
            if primary != "gamma":
                raise ValueError(
                    "the first interaction's height can be given for gamma rays only,"
                    f" not for {primary}"
                )
            return first_interaction_height.to_value(u.m)
        if primary == "muon":
            return self.atmosphere.ground + self.muon_height.to_value(u.m)
        return TOP

    def _telescopes(self, positions, altitude, azimuth):
        pointing = altitude.to_value(u.rad), azimuth.to_value(u.rad)
        if pointing != self._pointing:
            self._pointing = pointing
            self._directed = self.optics.telescopes(self.atmosphere, *pointing)
        positions = np.asarray(positions, dtype=float).reshape(-1, 3)
        return self._directed._replace(
            x=positions[:, 0].copy(),
            y=positions[:, 1].copy(),
            z=positions[:, 2] + self.atmosphere.ground,
        )

    def _push_primary(self, primary, energy, direction, start):
        length = (start - self.atmosphere.ground) / -direction[2]
        position = (-length * direction[0], -length * direction[1], start)
        species = PRIMARIES[primary]
        least = sum(MASS[s] for s in species)
        if energy <= least:
            raise ValueError(
                f"a {primary} of {energy:.3g} GeV: the energy has to be more than the"
                f" mass, {least:.3g} GeV"
            )
        size = 0
        for one in species:
            size = push(
                self._stack, size, one, energy / len(species), position, direction,
                -length / LIGHT_VELOCITY,
            )  # fmt: skip
        return size

    def _shower(self, count, n_telescopes, first, tally, profile, cosine):
        photons = self._photons[:count]
        telescope = photons[:, 0].astype(np.int32)
        photons = photons[np.argsort(telescope, kind="stable")]
        starts = np.zeros(n_telescopes + 1, dtype=np.int64)
        starts[1:] = np.cumsum(np.bincount(telescope, minlength=n_telescopes))
        depth = np.nan
        if first >= 0:
            depth = overburden(self._medium, first) / cosine
        return Shower(
            starts=starts,
            x=np.ascontiguousarray(photons[:, 1]),
            y=np.ascontiguousarray(photons[:, 2]),
            time=np.ascontiguousarray(photons[:, 3]),
            first_interaction_height=u.Quantity(first if first >= 0 else np.nan, u.m),
            first_interaction_depth=u.Quantity(depth, GRAMMAGE),
            x_max=u.Quantity(_depth_of_maximum(profile) / cosine, GRAMMAGE),
            track_length=u.Quantity(tally[0], u.m),
            profile=profile.copy(),
        )


def _depth_of_maximum(profile):
    """Vertical depth [g/cm2] of the largest value, by a parabola around it."""
    smooth = np.convolve(profile, np.ones(3) / 3, mode="same")
    top = int(np.argmax(smooth))
    if smooth[top] <= 0:
        return np.nan
    shift = 0.0
    if 0 < top < len(smooth) - 1:
        before, at, after = smooth[top - 1 : top + 2]
        curvature = before - 2 * at + after
        if curvature < 0:
            shift = 0.5 * (before - after) / curvature
    return (top + 0.5 + shift) * PROFILE_STEP
