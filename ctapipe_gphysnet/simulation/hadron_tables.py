"""Table of interactions of hadrons with air: what it holds, and its file.

The package comes with one. A larger one is made by ::

    python -m ctapipe_gphysnet.simulation.hadron_tables --events 2000
"""

import argparse
import json
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ctapipe.utils.download import get_cache_path

from ..files import replaced_when_whole
from ..resources import RESOURCES
from .particles import MASS

__all__ = [
    "PROJECTILES",
    "HadronTable",
    "cached_table_path",
    "read_hadron_card",
    "read_hadron_table",
    "write_hadron_table",
]

#: Projectiles of the rows: protons, and positive pions and kaons.
PROJECTILES = ("proton", "pion", "kaon")

SHIPPED_TABLE = RESOURCES / "hadron_interactions.npz"
FORMAT_VERSION = 1

# A share x of the energy is stored as the whole number nearest to -ln(x) / ENERGY_STEP,
# a transverse momentum p as 1 + ln(p / LEAST_TRANSVERSE) / TRANSVERSE_STEP, zero being
# less than LEAST_TRANSVERSE, an azimuth as the number of its interval. So they are true
# to 0.5 %, 2 % (up to 25 GeV) and 0.7 degrees, about as much as chance changes them
# between one step of a shower and the next.
ENERGY_STEP = 0.01
TRANSVERSE_STEP = 0.04
LEAST_TRANSVERSE = 1e-3  # GeV
AZIMUTHS = 256


class HadronTable(NamedTuple):
    """Interactions of hadrons with air: what comes out of them, and how often they are.

    For I projectiles (`PROJECTILES`), N energies, E events and P particles. A tuple of
    arrays, as numba takes it.
    """

    #: Total energy of the projectile in the laboratory [GeV], shape (N,), rising.
    energy: np.ndarray
    #: Events of projectile i at energy n: from ``[i, n]`` to before ``[i, n + 1]``;
    #: shape (I, N + 1), int64.
    first_event: np.ndarray
    #: Particles of event e: from ``[e]`` to before ``[e + 1]``; shape (E + 1,), int64.
    first_particle: np.ndarray
    #: As in `particles`, shape (P,), int8. Neutral pions have not decayed.
    species: np.ndarray
    #: Total energy over the projectile's, shape (P,), float32.
    energy_fraction: np.ndarray
    #: GeV, shape (P,), float32. All go forwards. In a file it may be up to 2 % more than
    #: the momentum.
    transverse_momentum: np.ndarray
    #: About the projectile's direction [rad], shape (P,), float32.
    azimuth: np.ndarray
    #: For making particles (inelastic without quasi-elastic) on a nucleus of air [mb],
    #: shape (I, N).
    cross_section: np.ndarray


def read_hadron_table(path=None):
    """Read a table of interactions.

    Parameters
    ----------
    path : path-like, optional
        The one that comes with the package by default.

    Returns
    -------
    table : HadronTable

    Raises
    ------
    FileNotFoundError
    ValueError
        If it is not a table of this version, or not whole.
    """
    path = Path(path or SHIPPED_TABLE)
    stored = _read_stored(path)
    try:
        return _decoded(stored)
    except ValueError as error:
        raise ValueError(
            f"{path} is damaged: {error}; take another table or make it again"
        ) from error


def read_hadron_card(path=None):
    """How a table was made.

    Parameters
    ----------
    path : path-like, optional
        The table that comes with the package by default.

    Returns
    -------
    card : dict
        Version of the format, models, version of chromo, seed and the number of events
        asked for.

    Raises
    ------
    FileNotFoundError, ValueError
        As `read_hadron_table`.
    """
    return json.loads(str(_read_stored(Path(path or SHIPPED_TABLE))["card"]))


def write_hadron_table(table, path, card):
    """Write a table, in coarse steps (0.5 % in energy), so that it is small.

    Parameters
    ----------
    table : HadronTable
    path : path-like
        A file of this name is replaced.
    card : dict
        How it was made, as JSON can hold it.
    """
    stored = _encoded(table)
    stored["card"] = np.array(json.dumps({"format_version": FORMAT_VERSION, **card}))
    with replaced_when_whole(path) as aside, aside.open("wb") as file:
        np.savez_compressed(file, **stored)


def _encoded(table):
    energy = -np.log(np.minimum(table.energy_fraction, 1)) / ENERGY_STEP
    energy = np.rint(energy).astype(np.uint16)
    with np.errstate(divide="ignore"):
        transverse = np.log(table.transverse_momentum / LEAST_TRANSVERSE)
    transverse = np.clip(np.rint(1 + transverse / TRANSVERSE_STEP), 0, 255)
    azimuth = np.floor(table.azimuth * (AZIMUTHS / (2 * np.pi))).astype(int) % AZIMUTHS
    return {
        "energy": table.energy,
        "cross_section": table.cross_section,
        "n_events": np.diff(table.first_event, axis=1).astype(np.uint32),
        "n_particles": np.diff(table.first_particle).astype(np.uint16),
        "species": table.species.astype(np.uint8),
        # in two bytes, the first of which hardly changes
        "energy_fraction": np.stack([energy >> 8, energy & 255]).astype(np.uint8),
        "transverse_momentum": transverse.astype(np.uint8),
        "azimuth": azimuth.astype(np.uint8),
    }


# What numpy and what it builds on raise about a file of something else, or half a file.
UNREADABLE = (
    *(AttributeError, EOFError, KeyError, OSError, TypeError, ValueError),
    *(zipfile.BadZipFile, zlib.error),
)
STORED = (
    *("card", "energy", "cross_section", "n_events", "n_particles"),
    *("species", "energy_fraction", "transverse_momentum", "azimuth"),
)


def _read_stored(path):
    """Arrays of a file, not looked into except for the version."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            stored = {name: arrays[name] for name in STORED}
        version = json.loads(str(stored["card"]))["format_version"]
    except FileNotFoundError:
        raise
    except UNREADABLE as error:
        raise ValueError(
            f"{path} is not a table of hadronic interactions, or not whole: {error}"
        ) from error
    if version != FORMAT_VERSION:
        raise ValueError(
            f"{path} is a table of hadronic interactions of version {version}; this"
            f" version of ctapipe_gphysnet reads {FORMAT_VERSION}, make the table again"
        )
    return stored


def _decoded(stored):
    _verify(stored)
    steps = np.arange(2**16)
    fraction = np.exp(-ENERGY_STEP * steps)
    transverse = LEAST_TRANSVERSE * np.exp(TRANSVERSE_STEP * (steps[:256] - 1))
    transverse[0] = 0
    azimuth = (steps[:256] + 0.5) * (2 * np.pi / AZIMUTHS)
    high, low = stored["energy_fraction"].astype(np.uint16)
    n_projectiles, n_nodes = stored["n_events"].shape
    events = np.cumsum([0, *stored["n_events"].ravel()], dtype=np.int64)
    first = n_nodes * np.arange(n_projectiles)[:, None] + np.arange(n_nodes + 1)
    particles = np.concatenate([[0], np.cumsum(stored["n_particles"], dtype=np.int64)])
    return HadronTable(
        energy=stored["energy"].astype(float),
        first_event=events[first],
        first_particle=particles,
        species=stored["species"].astype(np.int8),
        energy_fraction=fraction.astype(np.float32)[high << 8 | low],
        transverse_momentum=transverse.astype(np.float32)[stored["transverse_momentum"]],
        azimuth=azimuth.astype(np.float32)[stored["azimuth"]],
        cross_section=stored["cross_section"].astype(float),
    )


def _verify(stored):
    """Raise ValueError if arrays do not fit together."""
    n_nodes = stored["energy"].size
    n_particles = stored["species"].size
    shapes = {
        "energy": (n_nodes,),
        "cross_section": (len(PROJECTILES), n_nodes),
        "n_events": (len(PROJECTILES), n_nodes),
        "n_particles": (int(stored["n_events"].sum()),),
        "species": (n_particles,),
        "energy_fraction": (2, n_particles),
        "transverse_momentum": (n_particles,),
        "azimuth": (n_particles,),
    }
    for name, shape in shapes.items():
        if stored[name].shape != shape:
            raise ValueError(f"{name} has the shape {stored[name].shape}, not {shape}")
    for name in ("species", "energy_fraction", "transverse_momentum", "azimuth"):
        if stored[name].dtype != np.uint8:
            raise ValueError(f"{name} is {stored[name].dtype}, not uint8")
    energy = stored["energy"]
    if n_nodes < 2 or not (energy[0] > 0 and (np.diff(energy) > 0).all()):
        raise ValueError("energies are not two or more, positive and rising")
    if not (stored["n_events"] > 0).all():
        raise ValueError("n_events: a projectile has no event at some energy")
    if int(stored["n_particles"].sum(dtype=np.int64)) != n_particles:
        raise ValueError(f"n_particles does not add up to the {n_particles} of species")
    if not (stored["species"] < len(MASS)).all():
        raise ValueError("species: there is an unknown particle")
    if not ((stored["cross_section"] > 0) & (stored["cross_section"] < 1e4)).all():
        raise ValueError("cross_section has values not between 0 and 10 000 mb")


def cached_table_path(n_events, seed):
    """Where a table that was made on this machine is kept: in ctapipe's cache.

    Parameters
    ----------
    n_events, seed : int
        As in `hadron_building.build_hadron_table`.

    Returns
    -------
    path : pathlib.Path
        Of a file that may not be there.
    """
    from .hadron_building import HIGH_ENERGY_MODEL, LOW_ENERGY_MODEL

    models = f"{LOW_ENERGY_MODEL}-{HIGH_ENERGY_MODEL}"
    name = f"hadron-interactions-v{FORMAT_VERSION}-{models}-{n_events}-seed{seed}.npz"
    return Path(get_cache_path(f"ctapipe_gphysnet/{name}"))


def main(arguments=None):
    """Make a table with chromo and print its path: see ``--help``."""
    options = _parser().parse_args(arguments)
    path = options.output
    if path is None:
        path = cached_table_path(options.events, options.seed)
        path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not options.overwrite:
        raise SystemExit(f"{path} is there already; --overwrite makes it again")
    if not path.parent.is_dir():
        raise SystemExit(f"{path}: there is no folder {path.parent}")
    from .hadron_building import build_hadron_table, describe

    try:
        table = build_hadron_table(options.events, options.seed)
    except ModuleNotFoundError as error:
        raise SystemExit(str(error)) from error
    write_hadron_table(table, path, describe(options.events, options.seed))
    print(path)


def _parser():
    parser = argparse.ArgumentParser(
        prog="python -m ctapipe_gphysnet.simulation.hadron_tables",
        description="Make a table of interactions of hadrons with air (UrQMD 3.4 from 2"
        " to 45 GeV, Sibyll 2.3e from 89 GeV to 100 TeV) for the shower simulation, and"
        " print its path. Needs chromo: pip install 'ctapipe_gphysnet[hadrons]'.",
    )
    parser.add_argument(
        "--events",
        type=_positive,
        default=5000,
        help="interactions of protons and of pions at each energy; half of it for kaons,"
        " and half of that above 10 TeV (default: %(default)s)",
    )
    parser.add_argument(
        "--seed", type=_seed, default=1, help="of the models (default: %(default)s)"
    )
    parser.add_argument(
        "--output", type=Path, help="file to write; in the cache folder by default"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a file that is there"
    )
    return parser


def _positive(text):
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not positive")
    return number


def _seed(text):
    number = int(text)
    if not 0 <= number < 2**32:
        raise argparse.ArgumentTypeError(f"{number} is not between 0 and 2**32 - 1")
    return number


if __name__ == "__main__":
    main()
