"""Interactions of hadrons with air, made by the models in the package chromo.

The models: UrQMD 3.4 (Bass et al., Prog. Part. Nucl. Phys. 41 (1998) 255; Bleicher et
al., J. Phys. G 25 (1999) 1859) up to 45 GeV, Sibyll 2.3e (Riehn et al., Phys. Rev. D 102
(2020) 063002) above, both as in chromo (Dembinski et al., PoS ICRC2023 (2023) 189).
"""

import contextlib
import tempfile
import warnings
from importlib import metadata
from itertools import chain

import numpy as np
from tqdm.auto import tqdm

from .hadron_decays import decay_short_lived
from .hadron_tables import PROJECTILES, HadronTable
from .particles import MASS, PION_ZERO, POSITRON, PROTON, SPECIES

__all__ = [
    "HIGH_ENERGIES",
    "HIGH_ENERGY_MODEL",
    "LOW_ENERGIES",
    "LOW_ENERGY_MODEL",
    "build_hadron_table",
    "describe",
    "events_of_node",
    "low_energy_cross_section",
]

LOW_ENERGY_MODEL, HIGH_ENERGY_MODEL = "UrQMD34", "Sibyll23e"
#: Total energies of the projectile [GeV]: 2 to 45, 89 to 1e5.
LOW_ENERGIES = 10 ** (0.3 + 0.15 * np.arange(10))
HIGH_ENERGIES = 10 ** (1.95 + 0.2 * np.arange(16))

# What chromo calls the projectiles of the table, in the order of its rows.
PARTICLES = dict(zip(PROJECTILES, ("p", "pi+", "K+")))

# Shares of nitrogen and oxygen among the nuclei of air without argon, and among those
# that are hit: Sibyll's cross-section of oxygen is 1.13 times that of nitrogen.
NUCLEI = {"N14": 0.7885, "O16": 0.2115}
HIT_NUCLEI = {"N14": 0.7675, "O16": 0.2325}
# 0.47 % of the nuclei are argon, (40 / 14.4)^0.7 times as large, which Sibyll lacks
ARGON = 1.005

# A particle that cannot lead to light is left out. Hadrons and muons: the pion's
# Cherenkov threshold at the ground is 5.6 GeV, the muon's 4.4 GeV, and the table of the
# next interactions begins at 2 GeV. Electrons and photons: the threshold is 21 MeV.
# Neutral pions of any energy make photons of 67 MeV or more. What goes backwards sends no
# light to the ground.
LEAST_KINETIC_ENERGY = 0.5  # GeV
LEAST_ELECTROMAGNETIC = 0.02  # GeV

NEUTRINOS = (12, 14, 16)
LIGHTEST_NUCLEUS = 1_000_000_000  # identifiers of nuclei begin here
NUCLEONS = (2212, 2112)

MOST_TRIES = 10  # events of a model for each one asked for


def build_hadron_table(n_events, seed):
    """Make a table of interactions with chromo.

    Parameters
    ----------
    n_events : int
        Events of protons and of pions at each energy up to 10 TeV. Above, and of
        kaons, half of it, as `events_of_node` says. Of low-energy kaons, which mostly
        scatter elastically, there may be fewer.
    seed : int

    Returns
    -------
    table : HadronTable

    Raises
    ------
    ModuleNotFoundError
        Without chromo.
    AssertionError
        Of chromo, if a table has been made in this process before: the models can be
        started only once.
    """
    sequence = np.random.SeedSequence(seed)
    random = np.random.default_rng(sequence)
    with _surroundings_of_models():
        low, high = _start_models(sequence)
        nodes = [
            (projectile, energy, model)
            for projectile in PROJECTILES
            for model, energies in ((low, LOW_ENERGIES), (high, HIGH_ENERGIES))
            for energy in energies
        ]
        total = sum(events_of_node(*node[:2], n_events) for node in nodes)
        interactions = []
        with tqdm(total=total, unit=" interactions") as bar:
            for projectile, energy, model in nodes:
                bar.set_postfix_str(f"{projectile} {energy:.3g} GeV")
                number = events_of_node(projectile, energy, n_events)
                interactions.append(
                    _interactions(model, projectile, energy, number, random)
                )
                bar.update(number)
        return _joined(interactions, _cross_sections(high))


@contextlib.contextmanager
def _surroundings_of_models():
    """A folder to run in, as UrQMD writes a file; without chromo's warning on decays."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "UrQMD34: ", RuntimeWarning)
        with contextlib.chdir(folder):
            yield


def describe(n_events, seed):
    """How `build_hadron_table` makes a table: the card of its file.

    Parameters
    ----------
    n_events, seed : int

    Returns
    -------
    card : dict
    """
    return {
        "models": {
            LOW_ENERGY_MODEL: [LOW_ENERGIES[0], LOW_ENERGIES[-1]],
            HIGH_ENERGY_MODEL: [HIGH_ENERGIES[0], HIGH_ENERGIES[-1]],
        },
        "cross_section": f"{HIGH_ENERGY_MODEL} production; below: "
        "hadron_building.low_energy_cross_section",
        "chromo": metadata.version("chromo"),
        "seed": seed,
        "n_events": n_events,
    }


def events_of_node(projectile, energy, n_events):
    """Events that are made of a projectile at an energy.

    Half of ``n_events`` for kaons and half above 10 TeV, where particles are many and
    showers few.
    """
    return max(n_events // (1 + (projectile == "kaon")) // (1 + (energy > 1e4)), 1)


def _start_models(sequence):
    try:
        from chromo.kinematics import FixedTarget
        from chromo.models import Sibyll23e, UrQMD34
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "making a table of hadronic interactions needs chromo:"
            " pip install 'ctapipe_gphysnet[hadrons]'"
        ) from error
    low_seed, high_seed = (int(s) for s in sequence.generate_state(2))
    low = UrQMD34(FixedTarget(LOW_ENERGIES[-1], "p", "O16"), seed=low_seed)
    high = Sibyll23e(FixedTarget(HIGH_ENERGIES[-1], "p", "O16"), seed=high_seed)
    high.set_stable(111)
    return low, high


def _kinematics(projectile, energy, nuclei):
    """Projectile of a total energy [GeV] on air; GeV is the unit of chromo."""
    from chromo.kinematics import CompositeTarget, FixedTarget

    return FixedTarget(
        energy, PARTICLES[projectile], CompositeTarget(list(nuclei.items()))
    )


def _interactions(model, projectile, energy, number, random):
    """Interactions of one projectile at one energy: number of particles, particles.

    Returns
    -------
    n_particles : ndarray of int, shape (N,)
        N is ``number``, or less if the model scatters elastically in most events.
    particles : ndarray of float, shape (4, M)
        Species, share of the projectile's energy, transverse momentum [GeV], azimuth.
    """
    model.kinematics = _kinematics(projectile, energy, HIT_NUCLEI)
    events = []
    tries = 0
    while len(events) < number and (tries < MOST_TRIES * number or not events):
        missing = number - len(events)
        for event in model(missing):
            final = event.final_state()
            if not _is_elastic(final.pid, projectile):
                momentum = np.stack([final.px, final.py, final.pz], 1)
                events.append((final.pid.copy(), momentum))
        tries += missing
    event = np.repeat(np.arange(len(events)), [len(pid) for pid, _ in events])
    species, momentum = (np.concatenate(part) for part in zip(*events))
    particles = _particles(*decay_short_lived(event, species, momentum, random))
    event, *particles = particles
    particles[1] /= energy
    return np.bincount(event, minlength=len(events)), np.stack(particles)


def _is_elastic(pid, projectile):
    """Whether a meson has only scattered: there is itself, and nucleons of the target.

    UrQMD 3.4 leaves out elastic scattering of nucleons, but not of mesons
    (https://github.com/impy-project/chromo/issues/45).
    """
    if projectile == "proton":
        return False
    others = pid[~np.isin(pid, NUCLEONS)]
    return others.tolist() == [{"pion": 211, "kaon": 321}[projectile]]


def _particles(event, pid, momentum):
    """Event, species, energy [GeV], transverse momentum [GeV] and azimuth, in order.

    Those that can make light; by event, species and falling energy, which makes files
    smaller.
    """
    known = np.isin(pid, list(SPECIES))
    strange = np.unique(pid[~known])
    lost = np.isin(np.abs(strange), NEUTRINOS) | (np.abs(strange) >= LIGHTEST_NUCLEUS)
    if not lost.all():
        raise RuntimeError(f"cannot place particles {strange[~lost].tolist()} (PDG)")
    event, pid, momentum = event[known], pid[known], momentum[known]
    species = np.array([SPECIES[identifier] for identifier in pid.tolist()], dtype=int)
    energy = np.sqrt((momentum**2).sum(1) + MASS[species] ** 2)
    least = MASS[species] + LEAST_KINETIC_ENERGY
    least[species <= POSITRON] = LEAST_ELECTROMAGNETIC
    least[species == PION_ZERO] = 0
    kept = (momentum[:, 2] > 0) & (energy >= least)
    order = np.flatnonzero(kept)
    order = order[np.lexsort((-energy[order], species[order], event[order]))]
    x, y, _ = momentum[order].T
    return event[order], species[order], energy[order], np.hypot(x, y), np.arctan2(y, x)


def _cross_sections(model):
    """Production cross-sections on air [mb], shape (3, nodes); model is Sibyll."""
    rows = []
    for projectile in PROJECTILES:
        high = []
        for energy in HIGH_ENERGIES:
            model.kinematics = _kinematics(projectile, energy, NUCLEI)
            high.append(ARGON * model.cross_section().prod)
        low = low_energy_cross_section(projectile, LOW_ENERGIES, high[0])
        rows.append([*low, *high])
    return np.array(rows)


def low_energy_cross_section(projectile, energy, at_join):
    """Production cross-section on air below the energies of Sibyll.

    That of mesons is taken as constant: those of pions and kaons on nucleons change by
    less than 15 % from 2 to 90 GeV (PDG) and those on light nuclei by less still. That
    of protons goes with the 0.67th power of the inelastic one on protons, as Sibyll's
    own of protons and pions on air (31 and 21 mb on protons) do at 89 GeV.

    Parameters
    ----------
    projectile : str
    energy : ndarray
        Total energy [GeV].
    at_join : float
        Cross-section [mb] at the lowest energy of Sibyll.

    Returns
    -------
    cross_section : ndarray
        mb.
    """
    if projectile != "proton":
        return np.full(np.shape(energy), at_join)
    ratio = _proton_inelastic(energy) / _proton_inelastic(HIGH_ENERGIES[0])
    return at_join * ratio**0.67


def _proton_inelastic(energy):
    """Inelastic cross-section [mb] of protons on protons, at a total energy [GeV].

    Kafexhiu, Aharonian, Taylor and Vila, Phys. Rev. D 90 (2014) 123014, equation 1.
    """
    over_threshold = (energy - MASS[PROTON]) / 0.2797
    logarithm = np.log(over_threshold)
    return (30.7 - 0.96 * logarithm + 0.18 * logarithm**2) * (
        1 - over_threshold**-1.9
    ) ** 3


def _joined(interactions, cross_section):
    """Table of the interactions of all nodes, projectile by projectile."""
    n_particles, particles = zip(*interactions)
    ends = np.cumsum([0, *map(len, n_particles)])
    n_nodes = cross_section.shape[1]
    first = n_nodes * np.arange(len(PROJECTILES))[:, None] + np.arange(n_nodes + 1)
    species, fraction, transverse, azimuth = np.concatenate(particles, axis=1)
    return HadronTable(
        energy=np.concatenate([LOW_ENERGIES, HIGH_ENERGIES]),
        first_event=ends[first],
        first_particle=np.cumsum([0, *chain(*n_particles)]),
        species=species.astype(np.int8),
        energy_fraction=fraction.astype(np.float32),
        transverse_momentum=transverse.astype(np.float32),
        azimuth=azimuth.astype(np.float32),
        cross_section=cross_section,
    )
