"""Decays of the short-lived particles that interaction models leave undecayed."""

import numpy as np

from .particles import MASS as SPECIES_MASS
from .particles import SPECIES

__all__ = ["SHORT_LIVED", "decay_short_lived"]

# GeV. Masses and branching ratios: Particle Data Group, Phys. Rev. D 110 (2024) 030001.
DECAYING_MASS = {
    221: 0.547862,  # eta
    310: 0.497611,  # K0S
    3122: 1.115683,  # Lambda
    3212: 1.192642,  # Sigma0
    3222: 1.18937,  # Sigma+
    3112: 1.197449,  # Sigma-
    3322: 1.31486,  # Xi0
    3312: 1.32171,  # Xi-
    3334: 1.67245,  # Omega-
}
MASS = {identifier: SPECIES_MASS[own] for identifier, own in SPECIES.items()}
MASS |= DECAYING_MASS

# Branching ratios, with the products; rarer ones are left out and the sum is made 1.
# Neutral pions stay: they decay at once in the shower.
DECAYS = {
    221: [
        (0.3936, (22, 22)),
        (0.3257, (111, 111, 111)),
        (0.2302, (211, -211, 111)),
        (0.0428, (211, -211, 22)),
    ],
    310: [(0.6920, (211, -211)), (0.3069, (111, 111))],
    3122: [(0.641, (2212, -211)), (0.359, (2112, 111))],
    3212: [(1.0, (3122, 22))],
    3222: [(0.5147, (2212, 111)), (0.4843, (2112, 211))],
    3112: [(1.0, (2112, -211))],
    3322: [(1.0, (3122, 111))],
    3312: [(1.0, (3122, -211))],
    3334: [(0.678, (3122, -321)), (0.236, (3322, -211)), (0.086, (3312, 111))],
}

#: Identifiers (PDG) of the particles that `decay_short_lived` lets decay.
SHORT_LIVED = tuple(sorted(DECAYS))

THEIR_OWN_ANTIPARTICLE = (22, 111, 221, 310)


def decay_short_lived(event, species, momentum, random):
    """Replace short-lived particles by what they decay to, until none is left.

    They decay where they are made and without polarisation. The flight of the
    longest-lived, 8 cm times the Lorentz factor for the Lambda, is short against
    the kilometres between interactions.

    Parameters
    ----------
    event, species : ndarray of int, shape (N,)
        Number of the event; identifier of the Particle Data Group.
    momentum : ndarray, shape (N, 3)
        GeV.
    random : numpy.random.Generator

    Returns
    -------
    event, species, momentum : ndarray, shapes (M,), (M,), (M, 3)
        In another order.
    """
    short_lived = np.isin(np.abs(species), SHORT_LIVED)
    while short_lived.any():
        stays = ~short_lived
        parts = [(event[stays], species[stays], momentum[stays])]
        for identifier in np.unique(species[short_lived]):
            chosen = species == identifier
            parts += _decay_all(event[chosen], identifier, momentum[chosen], random)
        event, species, momentum = (np.concatenate(part) for part in zip(*parts))
        short_lived = np.isin(np.abs(species), SHORT_LIVED)
    return event, species, momentum


def _decay_all(event, identifier, momentum, random):
    """Products of particles of one kind, as parts of (event, species, momentum)."""
    ratios, products = zip(*DECAYS[abs(identifier)])
    channel = random.choice(
        len(ratios), size=len(event), p=np.divide(ratios, sum(ratios))
    )
    parts = []
    for number, channel_products in enumerate(products):
        chosen = channel == number
        for product, own in zip(
            channel_products,
            _share_momentum(
                momentum[chosen],
                DECAYING_MASS[abs(identifier)],
                [MASS[abs(product)] for product in channel_products],
                random,
            ),
        ):
            if identifier < 0 and product not in THEIR_OWN_ANTIPARTICLE:
                product = -product
            parts.append((event[chosen], np.full(chosen.sum(), product), own))
    return parts


def _share_momentum(momentum, mass, masses, random):
    """Momenta of the two or three products of decays, evenly in phase space.

    Three go by a pair of the last two, whose mass m has the density p(m) q(m): p the
    momentum of the first against the pair, q that within the pair, each in its own
    rest frame (PDG, "Kinematics", three-body decays).

    Returns
    -------
    momenta : list of ndarray, shape (N, 3)
    """
    count = len(momentum)
    if len(masses) == 2:
        return _share_between_two(momentum, mass, *masses, random)
    first, second, third = masses
    pair_mass = np.empty(count)
    todo = np.arange(count)
    least, most = second + third, mass - first
    # each factor falls or grows with m only, so the product of their largest bounds it
    bound = _break_up(mass, first, least) * _break_up(most, second, third)
    while len(todo):
        trial = random.uniform(least, most, len(todo))
        weight = _break_up(mass, first, trial) * _break_up(trial, second, third)
        accepted = random.uniform(0, bound, len(todo)) < weight
        pair_mass[todo[accepted]] = trial[accepted]
        todo = todo[~accepted]
    first_momentum, pair_momentum = _share_between_two(
        momentum, mass, first, pair_mass, random
    )
    return [
        first_momentum,
        *_share_between_two(pair_momentum, pair_mass, second, third, random),
    ]


def _share_between_two(momentum, mass, first, second, random):
    """Momenta of two products, back to back in any direction where the parent rests."""
    count = len(momentum)
    cosine = random.uniform(-1, 1, count)
    azimuth = random.uniform(0, 2 * np.pi, count)
    sine = np.sqrt(1 - cosine**2)
    direction = np.stack([sine * np.cos(azimuth), sine * np.sin(azimuth), cosine], 1)
    own = np.broadcast_to(_break_up(mass, first, second), count)[:, None] * direction
    return [
        _boosted(own, first, momentum, mass),
        _boosted(-own, second, momentum, mass),
    ]


def _break_up(mass, first, second):
    """Momentum of each of two products where their parent rests (PDG, "Kinematics")."""
    squared = (mass**2 - (first + second) ** 2) * (mass**2 - (first - second) ** 2)
    return np.sqrt(np.maximum(squared, 0)) / (2 * mass)


def _boosted(momentum, mass, frame_momentum, frame_mass):
    """Momenta (N, 3) given where a particle rests, seen where it has a momentum."""
    frame_mass = np.reshape(frame_mass, (-1, 1))
    mass = np.reshape(mass, (-1, 1))
    energy = np.sqrt((momentum**2).sum(1, keepdims=True) + mass**2)
    frame_energy = np.sqrt((frame_momentum**2).sum(1, keepdims=True) + frame_mass**2)
    along = (momentum * frame_momentum).sum(1, keepdims=True)
    share = along / (frame_mass * (frame_energy + frame_mass)) + energy / frame_mass
    return momentum + share * frame_momentum
