"""Hadrons and muons in air: interactions out of a table, decays, and their light."""

import math

from .atmosphere import density, height_at_depth, overburden, refractivity
from .cherenkov import LIGHT_VELOCITY, emit
from .compiling import compiled
from .electromagnetic import (
    CUT_ENERGY,
    RADIATION_LENGTH,
    STEEPEST,
    magnetic_turn,
)
from .particles import (
    CHARGE,
    DECAY_LENGTH,
    ELECTRON,
    KAON_LONG,
    KAON_MINUS,
    KAON_PLUS,
    MASS,
    MUON_MINUS,
    MUON_PLUS,
    NEUTRON,
    PHOTON,
    PION_MINUS,
    PION_PLUS,
    PION_ZERO,
    POSITRON,
    PROTON,
)
from .random_numbers import (
    bernoulli,
    exponential,
    isotropic_angle,
    normal_pair,
    uniform,
)
from .stack import push
from .vectors import along, rotated, tilted

__all__ = ["decay_neutral_pion", "follow_hadron"]

# Interaction length [g/cm2] = mean mass of an air nucleus (14.55 u) / cross-section [mb].
LENGTH_TIMES_SECTION = 24160.0

LEAST_INTERACTING = 1.9  # GeV, hadrons below are not followed: the table ends at 2 GeV
LEAST_KINETIC = 0.3  # GeV; no such particle makes light with less
LEAST_SECONDARY = 0.5  # GeV, same for what comes out of an interaction
LEAST_MUON = 1.0  # GeV, far below the threshold of light (4.5 GeV at the ground)

IONISATION = 2.2e-3  # GeV cm2/g near the minimum (PDG)
HIGHLAND = 0.0136  # GeV, Gaussian core of multiple scattering (PDG, 34.16)

# Pieces of a muon's or charged hadron's path, m: the ring of light near a telescope wants
# short ones.
LONGEST_PIECE = 100.0
NEAR_GROUND = 1500.0
SHORTEST_PIECE = 8.0
LONGEST_DARK_MUON_PIECE = 500.0

MUON_FROM_KAON = 0.636  # branching ratio K -> mu nu (PDG); the rest as K -> pi pi0
LARGEST_SINE = 0.9

NOTHING, INTERACTS, DECAYS = range(3)


@compiled
def _projectile(species):
    """Row of the table of interactions, -1 without strong interaction."""
    if species == PROTON or species == NEUTRON:
        return 0
    if species == PION_PLUS or species == PION_MINUS:
        return 1
    if species == KAON_PLUS or species == KAON_MINUS or species == KAON_LONG:
        return 2
    return -1


@compiled
def _node(table, energy):
    """Last node below an energy (the last but one at most), and how far on it is."""
    last = table.energy.shape[0] - 2
    index = 0
    while index < last and table.energy[index + 1] < energy:
        index += 1
    low, high = math.log(table.energy[index]), math.log(table.energy[index + 1])
    return index, min(max((math.log(energy) - low) / (high - low), 0.0), 1.0)


@compiled
def _cross_section(table, projectile, energy):
    index, share = _node(table, energy)
    low = table.cross_section[projectile, index]
    return low + share * (table.cross_section[projectile, index + 1] - low)


@compiled
def _piece_length(species, charge, height, beta, medium):
    """Length [m] to follow at once; infinite without light."""
    longest = math.inf
    if charge != 0 and beta * (1 + refractivity(medium, medium.ground)) > 1:
        longest = LONGEST_PIECE
        above = height - medium.ground
        if above < NEAR_GROUND:
            longest = max(15.0 + 0.05 * above, SHORTEST_PIECE)
    if species == MUON_MINUS or species == MUON_PLUS:
        longest = min(longest, LONGEST_DARK_MUON_PIECE)
    return longest


@compiled
def follow_hadron(
    species,
    energy,
    position,
    direction,
    time,
    table,
    field,
    medium,
    telescopes,
    stack,
    size,
    photons,
    count,
    reached,
    tally,
    state,
):
    """Follow a hadron or muon until it interacts, decays, is slow or hits the ground.

    Parameters
    ----------
    species : int
    energy, position, direction, time : float, tuple, tuple, float
        GeV, m, unit vector, ns.
    table : HadronTable
    field : tuple of 3 float
        Magnetic field: north, west, up [T].
    medium, telescopes, stack, size, photons, count, reached, tally, state
        As in `electromagnetic.follow_photon` and `cherenkov.emit`.

    Returns
    -------
    size, count : int
    height : float
        Where it has interacted [m], -1 if it has not.
    """
    mass, charge = MASS[species], CHARGE[species]
    if energy < mass + LEAST_KINETIC:
        return size, count, -1.0
    projectile = _projectile(species)
    to_interaction = math.inf  # g/cm2
    if projectile >= 0:
        if energy < LEAST_INTERACTING:
            return size, count, -1.0
        section = _cross_section(table, projectile, energy)
        to_interaction = exponential(state) * LENGTH_TIMES_SECTION / section
    momentum = math.sqrt(energy * energy - mass * mass)
    to_decay = math.inf  # m
    if DECAY_LENGTH[species] > 0:
        to_decay = exponential(state) * DECAY_LENGTH[species] * momentum / mass

    is_muon = species == MUON_MINUS or species == MUON_PLUS
    fate = NOTHING
    while fate == NOTHING:
        beta = momentum / energy
        air = density(medium, position[2])
        path = _piece_length(species, charge, position[2], beta, medium) * air
        if to_interaction < path:
            path = to_interaction
            fate = INTERACTS
        depth = overburden(medium, position[2]) - path * direction[2]
        grounded = depth >= medium.ground_overburden
        height = medium.ground if grounded else height_at_depth(medium, depth)
        length = max((height - position[2]) / direction[2], 0.0)
        if length > to_decay:
            length = to_decay
            fate = DECAYS
            grounded = False
            height = position[2] + length * direction[2]
        path = (overburden(medium, position[2]) - overburden(medium, height)) / direction[
            2
        ]
        if charge != 0:
            middle = 0.5 * (position[2] + height)
            refraction = refractivity(medium, middle)
            if beta * (1 + refraction) > 1:
                count = emit(
                    telescopes, medium, position, time, direction, length, beta,
                    middle, refraction, photons, count, reached, tally, state,
                )  # fmt: skip
        position = along(position, length, direction)
        time += length / (beta * LIGHT_VELOCITY)
        if grounded:
            return size, count, -1.0
        to_interaction -= path
        to_decay -= length
        if charge != 0:
            energy -= IONISATION * path
            if energy < mass + LEAST_KINETIC:
                return size, count, -1.0
            momentum = math.sqrt(energy * energy - mass * mass)
            direction = _bent(direction, charge, field, length, momentum, path, state)
        if direction[2] > STEEPEST or (is_muon and energy < LEAST_MUON):
            return size, count, -1.0

    if fate == INTERACTS:
        size = _interact(
            species,
            projectile,
            energy,
            position,
            direction,
            time,
            table,
            stack,
            size,
            state,
        )
        return size, count, position[2]
    size = _decay(
        species, energy, momentum, position, direction, time, stack, size, state
    )
    return size, count, -1.0


@compiled
def _bent(direction, charge, field, length, momentum, path, state):
    """Direction after the magnetic field and multiple scattering."""
    turn = magnetic_turn(direction, charge, field, length, momentum)
    deviation = HIGHLAND / momentum * math.sqrt(max(path, 0.0) / RADIATION_LENGTH)
    x, y = normal_pair(state)
    return tilted(along(direction, 1.0, turn), deviation * x, deviation * y)


@compiled
def _mirrored(projectile, secondary):
    """Secondary of a projectile's mirror image, of which there is no table.

    Charge conjugation for mesons, isospin for the neutron.
    """
    if projectile == PION_MINUS or projectile == KAON_MINUS or projectile == NEUTRON:
        if secondary == PION_PLUS:
            return PION_MINUS
        if secondary == PION_MINUS:
            return PION_PLUS
    if projectile == PION_MINUS or projectile == KAON_MINUS:
        if secondary == KAON_PLUS:
            return KAON_MINUS
        if secondary == KAON_MINUS:
            return KAON_PLUS
    if projectile == NEUTRON:
        if secondary == PROTON:
            return NEUTRON
        if secondary == NEUTRON:
            return PROTON
    return secondary


@compiled
def _interact(
    species, projectile, energy, position, direction, time, table, stack, size, state
):
    """Put the secondaries of an interaction in the table on the stack.

    The event is one of the two nearest energies', each as probable as it is near on a
    logarithmic scale; energies are scaled, transverse momenta are not.
    """
    index, share = _node(table, energy)
    if bernoulli(state, share):
        index += 1
    first = table.first_event[projectile, index]
    number = table.first_event[projectile, index + 1] - first
    event = first + int(uniform(state) * number)
    turn = isotropic_angle(state)
    for i in range(table.first_particle[event], table.first_particle[event + 1]):
        secondary = _mirrored(species, int(table.species[i]))
        mass = MASS[secondary]
        own = table.energy_fraction[i] * energy
        if secondary == PHOTON or secondary == PION_ZERO:
            if own < CUT_ENERGY + mass:
                continue
        elif secondary > POSITRON and own < mass + LEAST_SECONDARY:
            continue
        momentum = math.sqrt(max(own * own - mass * mass, 1e-12))
        sine = table.transverse_momentum[i] / momentum
        if sine > LARGEST_SINE:
            continue
        cosine = math.sqrt(1 - sine * sine)
        towards = rotated(direction, cosine, sine, table.azimuth[i] + turn)
        size = push(stack, size, secondary, own, position, towards, time)
    return size


@compiled
def _two_body(mass, first_mass, second_mass, energy, momentum, state):
    """Decay in flight into two particles.

    Returns
    -------
    first, second : float
        Total energies [GeV].
    transverse : float
        Momentum [GeV].
    """
    own = (mass * mass + first_mass * first_mass - second_mass * second_mass) / (2 * mass)
    star = math.sqrt(max(own * own - first_mass * first_mass, 0.0))
    cosine = 2 * uniform(state) - 1
    first = (energy * own + momentum * star * cosine) / mass
    return first, energy - first, star * math.sqrt(1 - cosine * cosine)


@compiled
def _thrown(species, energy, transverse, azimuth, position, direction, time, stack, size):
    """Put a particle on the stack, with a transverse momentum to a direction."""
    mass = MASS[species]
    momentum = math.sqrt(max(energy * energy - mass * mass, 1e-12))
    sine = transverse / momentum
    if sine > LARGEST_SINE:
        return size
    towards = rotated(direction, math.sqrt(1 - sine * sine), sine, azimuth)
    return push(stack, size, species, energy, position, towards, time)


@compiled
def decay_neutral_pion(energy, position, direction, time, stack, size, state):
    """Put the two photons of a neutral pion on the stack; it decays where it is made.

    Returns
    -------
    size : int
    """
    mass = MASS[PION_ZERO]
    momentum = math.sqrt(max(energy * energy - mass * mass, 0.0))
    first, second, transverse = _two_body(mass, 0.0, 0.0, energy, momentum, state)
    azimuth = isotropic_angle(state)
    for own, turn in ((first, 0.0), (second, math.pi)):
        if own > CUT_ENERGY:
            size = _thrown(
                PHOTON, own, transverse, azimuth + turn, position, direction, time,
                stack, size,
            )  # fmt: skip
    return size


@compiled
def _decay(species, energy, momentum, position, direction, time, stack, size, state):
    mass = MASS[species]
    azimuth = isotropic_angle(state)
    if species == MUON_MINUS or species == MUON_PLUS:
        return _decay_muon(species, energy, position, direction, time, stack, size, state)
    positive = CHARGE[species] > 0
    if species == KAON_LONG:
        # half of its charged decays are to a pion, an electron or muon and a neutrino;
        # the light of all is negligible
        return size
    is_pion = species == PION_PLUS or species == PION_MINUS
    if is_pion or bernoulli(state, MUON_FROM_KAON):
        muon = MUON_PLUS if positive else MUON_MINUS
        own, _, transverse = _two_body(mass, MASS[muon], 0.0, energy, momentum, state)
        return _thrown(
            muon, own, transverse, azimuth, position, direction, time, stack, size
        )
    pion = PION_PLUS if positive else PION_MINUS
    own, other, transverse = _two_body(
        mass, MASS[pion], MASS[PION_ZERO], energy, momentum, state
    )
    size = _thrown(pion, own, transverse, azimuth, position, direction, time, stack, size)
    return _thrown(
        PION_ZERO, other, transverse, azimuth + math.pi, position, direction, time,
        stack, size,
    )  # fmt: skip


@compiled
def _decay_muon(species, energy, position, direction, time, stack, size, state):
    """Electron of a muon's decay; spectrum without polarisation (PDG, section 59).

    For a fast muon the share of its energy has the density 5/3 - 3 x2 + 4/3 x3.
    """
    share = 0.0
    accepted = False
    while not accepted:
        share = uniform(state)
        density_ = 5 / 3 - 3 * share**2 + 4 / 3 * share**3
        accepted = bernoulli(state, density_ / (5 / 3))
    electron = POSITRON if species == MUON_PLUS else ELECTRON
    own = share * energy
    if own < CUT_ENERGY:
        return size
    transverse = min(0.03, 0.5 * own) * uniform(
        state
    )  # GeV, at most half the muon's mass
    return _thrown(
        electron, own, transverse, isotropic_angle(state), position, direction, time,
        stack, size,
    )  # fmt: skip
