"""Photons, electrons and positrons in air.

Cross-sections and the ways to draw from them follow the Geant4 Physics Reference Manual
("Geant4" below) and the Review of Particle Physics ("PDG"); energies in GeV, lengths
along the path in radiation lengths.
"""

import math

import numpy as np

from .atmosphere import density, height_at_depth, overburden, refractivity
from .cherenkov import LIGHT_VELOCITY, emit
from .compiling import compiled
from .particles import ELECTRON, ELECTRON_MASS, PHOTON, POSITRON
from .random_numbers import (
    bernoulli,
    exponential,
    isotropic_angle,
    normal_pair,
    uniform,
)
from .stack import push
from .vectors import along, cross, rotated, sideways, tilted, unit

__all__ = [
    "CUT_ENERGY",
    "PROFILE_STEP",
    "RADIATION_LENGTH",
    "STEEPEST",
    "drop_energy",
    "follow_electron",
    "follow_photon",
    "magnetic_turn",
]

RADIATION_LENGTH = 36.66  # g/cm2, dry air (PDG)
CUT_ENERGY = 0.020  # GeV: less energetic photons and knock-on electrons are a loss only
STEEPEST = -0.3  # particles with a larger vertical component (upwards, flat) are dropped
PROFILE_STEP = 20.0  # g/cm2

# Particles well below the threshold of Cherenkov light are dropped. The threshold is the
# one at 12 km for those above, which still have a dense atmosphere before them.
HIGHEST_THRESHOLD = 12e3  # m
BELOW_THRESHOLD = 0.7

# Mean atomic number of air; its Coulomb correction is left out (below 1 %).
ATOMIC_NUMBER = 7.37
CUBE_ROOT = ATOMIC_NUMBER ** (1 / 3)
SCREENING_LOSS = 8 / 3 * math.log(ATOMIC_NUMBER)
HARDEST_SCREENING = math.exp((42.24 - SCREENING_LOSS) / 8.368) - 0.952

AVOGADRO = 6.02214076e23
ELEMENTS = (
    (7, 14.007, 0.755),
    (8, 15.999, 0.232),
    (18, 39.95, 0.013),
)  # Z, A, mass share
ELECTRONS_PER_GRAM = AVOGADRO * sum(z / a * share for z, a, share in ELEMENTS)
CLASSICAL_RADIUS_SQUARED = 7.9408e-26  # cm2

# Moeller and Bhabha scattering above the cut, d n / d T = KNOCK_ON / T2 per radiation
# length: 0.1535 MeV cm2/g Z/A (PDG, section 34.2.6).
KNOCK_ON = 0.0767e-3 * RADIATION_LENGTH

# Energy loss by ionisation with energy transfers below the cut, GeV cm2/g (PDG, table of
# air, less the mean loss to more energetic knock-on electrons).
IONISATION = 2.42e-3
IONISATION_SLOPE = 0.29e-3 * CUT_ENERGY
# and by bremsstrahlung below the cut, per radiation length
SOFT_BREMSSTRAHLUNG = 1.35 * CUT_ENERGY

# Multiple scattering after Moliere (Bethe, Physical Review 89 (1953) 1256): squares of
# the characteristic angle per radiation length and of the screening angle, times energy2.
CHARACTERISTIC_ANGLE = 24.2e-6
SCREENING_ANGLE = 76e-12
# Scatters beyond this many characteristic angles squared are drawn one by one.
HARD_SCATTER = 4.0
LARGEST_SCATTER = 0.7  # rad

# Steps of electrons, whichever limit is the shortest: radiation lengths, share of the
# energy lost; in m it is an argument.
LONGEST_STEP = 0.2
LARGEST_LOSS = 0.15

# Emission angles matter below this energy only.
SMALL_ANGLES = 3.0


def _pair_table():
    """Pair production per radiation length (Hubbell, Gimm and Overbo 1980, as Geant4)."""
    polynomials = (
        (8.7842e2, -1.9625e3, 1.2949e3, -2.0028e2, 1.2575e1, -2.8333e-1),
        (-1.0342e1, 1.7692e1, -8.2381, 1.3063, -9.0815e-2, 2.3586e-3),
        (-4.5263e2, 1.1161e3, -8.6749e2, 2.1773e2, -2.0467e1, 6.5372e-1),
    )
    logarithm = np.linspace(math.log(0.004), math.log(80.0), 200)
    x = logarithm - math.log(ELECTRON_MASS)
    f1, f2, f3 = (np.polynomial.Polynomial(c)(x) for c in polynomials)
    microbarn = 1e-30
    section = sum(
        share * AVOGADRO / a * z * (z + 1) * (f1 + f2 * z + f3 / z) * microbarn
        for z, a, share in ELEMENTS
    )
    return logarithm[0], logarithm[1] - logarithm[0], section * RADIATION_LENGTH


PAIR_START, PAIR_STEP, PAIR_SECTION = _pair_table()


@compiled
def _pair_section(energy):
    """Pair production per radiation length; constant above 80 GeV."""
    position = (math.log(energy) - PAIR_START) / PAIR_STEP
    if position < 0.0:
        return 0.0
    index = int(position)
    last = PAIR_SECTION.shape[0] - 1
    if index >= last:
        return PAIR_SECTION[last]
    low, high = PAIR_SECTION[index], PAIR_SECTION[index + 1]
    return low + (high - low) * (position - index)


@compiled
def _compton_section(energy):
    """Compton scattering per radiation length (Klein and Nishina)."""
    k = energy / ELECTRON_MASS
    log_term = math.log(1 + 2 * k)
    section = (1 + k) / (k * k) * (2 * (1 + k) / (1 + 2 * k) - log_term / k)
    section += log_term / (2 * k) - (1 + 3 * k) / (1 + 2 * k) ** 2
    per_electron = 2 * math.pi * CLASSICAL_RADIUS_SQUARED * section
    return per_electron * ELECTRONS_PER_GRAM * RADIATION_LENGTH


@compiled
def _screening_1(delta):
    """Screening function phi_1 of Butcher and Messel (Geant4)."""
    if delta > 1.0:
        return 42.24 - 8.368 * math.log(delta + 0.952)
    return 42.392 - delta * (7.796 - 1.961 * delta)


@compiled
def _screening_2(delta):
    """Screening function phi_2 of Butcher and Messel (Geant4)."""
    if delta > 1.0:
        return 42.24 - 8.368 * math.log(delta + 0.952)
    return 41.405 - delta * (5.828 - 0.8945 * delta)


@compiled
def _electron_share(energy, state):
    """Share of a converted photon's energy that the electron has (Geant4, 6.5.2)."""
    least = ELECTRON_MASS / energy
    if energy < 0.002:
        return least + (0.5 - least) * uniform(state)
    screening = 136 * least / CUBE_ROOT
    softest = 4 * screening
    limit = 0.5 - 0.5 * math.sqrt(max(0.0, 1 - softest / HARDEST_SCREENING))
    lowest = max(least, limit)
    width = 0.5 - lowest
    first = _screening_1(softest) - SCREENING_LOSS
    second = _screening_2(softest) - SCREENING_LOSS
    weight_1 = max(first * width * width, 0.0)
    weight_2 = max(1.5 * second, 0.0)
    share = 0.5
    accepted = False
    while not accepted:
        if uniform(state) * (weight_1 + weight_2) < weight_1:
            share = 0.5 - width * uniform(state) ** (1 / 3)
            delta = screening / (share * (1 - share))
            probability = (_screening_1(delta) - SCREENING_LOSS) / first
        else:
            share = lowest + width * uniform(state)
            delta = screening / (share * (1 - share))
            probability = (_screening_2(delta) - SCREENING_LOSS) / second
        accepted = bernoulli(state, probability)
    return share if bernoulli(state, 0.5) else 1 - share


@compiled
def _emission_angle(energy, state):
    """Angle of a pair's particle or of bremsstrahlung (Tsai, as in Geant4, 6.5.3)."""
    scale = 0.625 if bernoulli(state, 0.25) else 1.875
    angle = (exponential(state) + exponential(state)) / scale
    return min(angle * ELECTRON_MASS / energy, 0.5)


@compiled
def _emitted(direction, energy, state):
    """Direction of what leaves a particle of an energy."""
    if energy >= SMALL_ANGLES:
        return direction
    angle = _emission_angle(energy, state)
    azimuth = isotropic_angle(state)
    return tilted(direction, angle * math.cos(azimuth), angle * math.sin(azimuth))


@compiled
def magnetic_turn(direction, charge, field, length, momentum):
    """Change of a direction in the magnetic field [T] over a length [m]."""
    # momentum [GeV] = 0.2998 * field [T] * radius of curvature [m]
    turn = 0.299792458 * charge * length / momentum
    change = cross(direction, field)
    return turn * change[0], turn * change[1], turn * change[2]


@compiled
def drop_energy(medium, height):
    """Energy below which an electron at a height [m] is not followed."""
    at = refractivity(medium, min(height, HIGHEST_THRESHOLD))
    return max(CUT_ENERGY, BELOW_THRESHOLD * ELECTRON_MASS / math.sqrt(2 * at))


@compiled
def follow_photon(energy, position, direction, time, free, medium, stack, size, state):
    """Let a photon make a pair or scatter, and put what comes of it on the stack.

    Parameters
    ----------
    energy, position, direction, time : float, tuple, tuple, float
        GeV, m, unit vector, ns.
    free : bool
        False: it interacts where it is.
    medium : Medium
    stack : ndarray, shape (D, 9)
    size : int
        Of the stack.
    state : ndarray of uint64, shape (4,)

    Returns
    -------
    size : int
    height : float
        Where it has interacted [m], -1 if it has not.
    """
    if energy < drop_energy(medium, position[2]):
        return size, -1.0
    pair = _pair_section(energy)
    compton = _compton_section(energy) if energy < 0.5 else 0.0
    if free:
        path = exponential(state) * RADIATION_LENGTH / (pair + compton)
        depth = overburden(medium, position[2]) - path * direction[2]
        if depth >= medium.ground_overburden:
            return size, -1.0
        height = height_at_depth(medium, depth)
        length = (height - position[2]) / direction[2]
        position = along(position, length, direction)
        time += length / LIGHT_VELOCITY
    if uniform(state) * (pair + compton) < pair:
        size = _convert(energy, position, direction, time, stack, size, state)
    else:
        size = _scatter(energy, position, direction, time, stack, size, state)
    return size, position[2]


@compiled
def _convert(energy, position, direction, time, stack, size, state):
    share = _electron_share(energy, state)
    for species, of_photon in ((ELECTRON, share), (POSITRON, 1 - share)):
        own = of_photon * energy
        towards = _emitted(direction, own, state)
        size = push(stack, size, species, own, position, towards, time)
    return size


@compiled
def _scatter(energy, position, direction, time, stack, size, state):
    """Compton scattering (Geant4, 6.4.2)."""
    k = energy / ELECTRON_MASS
    lowest = 1 / (1 + 2 * k)
    weight_1 = -math.log(lowest)
    weight_2 = 0.5 * (1 - lowest * lowest)
    share, one_minus_cosine = 1.0, 0.0
    accepted = False
    while not accepted:
        if uniform(state) * (weight_1 + weight_2) < weight_1:
            share = math.exp(-weight_1 * uniform(state))
        else:
            share = math.sqrt(lowest * lowest + (1 - lowest * lowest) * uniform(state))
        one_minus_cosine = (1 - share) / (k * share)
        sine_squared = one_minus_cosine * (2 - one_minus_cosine)
        accepted = bernoulli(state, 1 - share * sine_squared / (1 + share * share))
    cosine = max(-1.0, 1 - one_minus_cosine)
    sine = math.sqrt(max(0.0, 1 - cosine * cosine))
    azimuth = isotropic_angle(state)
    knocked = energy * (1 - share)
    if knocked > CUT_ENERGY:
        # cotangent of the electron's angle: (1 + k) tan(photon's angle / 2)
        polar = math.atan2(1.0 + cosine, (1 + k) * sine)
        towards = rotated(direction, math.cos(polar), math.sin(polar), azimuth + math.pi)
        size = push(stack, size, ELECTRON, knocked, position, towards, time)
    if share * energy > CUT_ENERGY:
        towards = rotated(direction, cosine, sine, azimuth)
        size = push(stack, size, PHOTON, share * energy, position, towards, time)
    return size


@compiled
def _rates(energy, is_positron):
    """Hard processes per radiation length.

    Returns
    -------
    steep, flat : float
        Bremsstrahlung above the cut, the majorant 1.351 (1 - y) / y + y of its spectrum
        in the share y of the energy.
    knock_on : float
        Moeller or Bhabha scattering above the cut; of two electrons the less energetic
        one counts as knocked on.
    """
    lowest = CUT_ENERGY / energy
    steep = 1.351 * (-math.log(lowest) - (1 - lowest))
    flat = 0.5 * (1 - lowest * lowest)
    knock_on = 0.0
    if is_positron or energy > 2 * CUT_ENERGY:
        largest = energy if is_positron else 0.5 * energy
        knock_on = KNOCK_ON * max(1 / CUT_ENERGY - 1 / largest, 0.0)
    return steep, flat, knock_on


@compiled
def _bremsstrahlung(energy, steep, flat, state):
    """Energy of a photon, 0 where the majorant was too large."""
    lowest = CUT_ENERGY / energy
    if uniform(state) * (steep + flat) < steep:
        share = 1.0
        accepted = False
        while not accepted:
            share = math.exp(math.log(lowest) * uniform(state))
            accepted = bernoulli(state, 1 - share)
    else:
        share = math.sqrt(lowest * lowest + uniform(state) * (1 - lowest * lowest))
    if share > 0.9999:
        return 0.0
    # complete and incomplete screening (Geant4, 10.2)
    delta = 136 / CUBE_ROOT * (ELECTRON_MASS / energy) * share / (1 - share)
    unscreened = 42.392 - SCREENING_LOSS
    first = (_screening_1(delta) - SCREENING_LOSS) / unscreened
    second = (_screening_2(delta) - SCREENING_LOSS) / unscreened
    spectrum = (1 + (1 - share) ** 2) * first - 2 / 3 * (1 - share) * second
    majorant = 1.351 * (1 - share) + share * share
    return share * energy if bernoulli(state, spectrum / majorant) else 0.0


@compiled
def _scattering(energy, path, state):
    """Two tangents of the angle of multiple scattering over radiation lengths."""
    square = CHARACTERISTIC_ANGLE * path / (energy * energy)
    logarithm = math.log(HARD_SCATTER * CHARACTERISTIC_ANGLE / SCREENING_ANGLE * path + 1)
    deviation = math.sqrt(0.5 * square * max(logarithm - 1, 0.2))
    x, y = normal_pair(state)
    x, y = x * deviation, y * deviation
    if bernoulli(state, 1 / HARD_SCATTER):
        angle = math.sqrt(HARD_SCATTER * square / (1 - uniform(state)))
        angle = min(angle, LARGEST_SCATTER)
        azimuth = isotropic_angle(state)
        x += angle * math.cos(azimuth)
        y += angle * math.sin(azimuth)
    return x, y


@compiled
def follow_electron(
    is_positron,
    energy,
    position,
    direction,
    time,
    longest_step,
    field,
    medium,
    telescopes,
    stack,
    size,
    photons,
    count,
    reached,
    tally,
    profile,
    state,
):
    """Follow an electron or positron until it is slow, and what it radiates on the way.

    Parameters
    ----------
    is_positron : bool
    energy, position, direction, time : float, tuple, tuple, float
        GeV, m, unit vector, ns.
    longest_step : float
        m
    field : tuple of 3 float
        Magnetic field: north, west, up [T].
    medium, telescopes, stack, size, photons, count, reached, tally, state
        As in `follow_photon` and `cherenkov.emit`.
    profile : ndarray of float, shape (D,)
        Charged particles in each `PROFILE_STEP` of vertical depth.

    Returns
    -------
    size, count : int
    """
    charge = 1.0 if is_positron else -1.0
    # hard processes happen when this many mean free paths are used up
    ahead = exponential(state)
    while energy > drop_energy(medium, position[2]):
        steep, flat, knock_on = _rates(energy, is_positron)
        rate = steep + flat + knock_on
        air = density(medium, position[2])  # g/cm2/m
        loss = (IONISATION - IONISATION_SLOPE / energy) * RADIATION_LENGTH
        loss += SOFT_BREMSSTRAHLUNG
        path = min(
            LONGEST_STEP,
            LARGEST_LOSS * energy / loss,
            longest_step * air / RADIATION_LENGTH,
        )
        hard = ahead < rate * path
        if hard:
            path = ahead / rate
        # length with the density in the middle
        length = path * RADIATION_LENGTH / air
        middle = position[2] + 0.5 * length * direction[2]
        length = path * RADIATION_LENGTH / density(medium, middle)
        grounded = position[2] + length * direction[2] <= medium.ground
        if grounded:
            length = (medium.ground - position[2]) / direction[2]
            path = length * density(medium, middle) / RADIATION_LENGTH
        ahead -= rate * path
        middle = position[2] + 0.5 * length * direction[2]

        x, y = _scattering(energy, path, state)
        after = max(energy - loss * path, 1.001 * ELECTRON_MASS)
        mean = 0.5 * (energy + after)
        turn = magnetic_turn(direction, charge, field, length, mean)
        scatter = sideways(direction, x, y)
        beta = 1 - 0.5 * (ELECTRON_MASS / mean) ** 2
        refraction = refractivity(medium, middle)
        if beta * (1 + refraction) > 1:
            # in the direction at a point drawn on the way
            share = uniform(state)
            root = math.sqrt(share)
            towards = along(along(direction, share, turn), root, scatter)
            towards = unit(towards)
            count = emit(
                telescopes, medium, position, time, towards, length, beta,
                middle, refraction, photons, count, reached, tally, state,
            )  # fmt: skip
        if mean > CUT_ENERGY:
            bin_ = int(overburden(medium, middle) / PROFILE_STEP)
            if bin_ < profile.shape[0]:
                profile[bin_] += path * RADIATION_LENGTH / PROFILE_STEP
        # the deviation from a straight line after scattering is 1 / sqrt(3) of the angle
        aside = math.sqrt(1 / 3)
        moved = along(along(direction, 0.5, turn), aside, scatter)
        position = along(position, length, unit(moved))
        direction = unit(along(along(direction, 1.0, turn), 1.0, scatter))
        time += length / (beta * LIGHT_VELOCITY)
        energy = after
        if grounded or direction[2] > STEEPEST or position[2] <= medium.ground:
            break
        if not hard:
            continue
        ahead = exponential(state)
        if energy <= CUT_ENERGY:
            break
        if uniform(state) * rate < steep + flat:
            radiated = _bremsstrahlung(energy, *_rates(energy, is_positron)[:2], state)
            if radiated > 0:
                towards = _emitted(direction, energy, state)
                size = push(stack, size, PHOTON, radiated, position, towards, time)
                energy -= radiated
        else:
            energy, size = _knock_on(
                is_positron, energy, position, direction, time, stack, size, state
            )
    return size, count


@compiled
def _knock_on(is_positron, energy, position, direction, time, stack, size, state):
    """Hit an electron; returns the energy left and the stack's size."""
    largest = energy if is_positron else 0.5 * energy
    if largest <= CUT_ENERGY:
        return energy, size
    knocked = 1 / (1 / CUT_ENERGY - uniform(state) * (1 / CUT_ENERGY - 1 / largest))
    if knocked > 0.95 * energy:
        return energy, size
    sine = math.sqrt(max(0.0, 2 * ELECTRON_MASS / knocked * (1 - knocked / energy)))
    if sine < LARGEST_SCATTER:
        cosine = math.sqrt(1 - sine * sine)
        towards = rotated(direction, cosine, sine, isotropic_angle(state))
        size = push(stack, size, ELECTRON, knocked, position, towards, time)
    return energy - knocked, size
