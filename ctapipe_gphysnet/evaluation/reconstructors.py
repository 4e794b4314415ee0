"""Who has reconstructed the events of DL2 files, by the names of the tables."""

import re
from dataclasses import dataclass, replace

import numpy as np
import tables
from ctapipe.io.hdf5dataformat import DL2_SUBARRAY_GROUP, DL2_TEL_GROUP

from ..dl1 import DL1Error
from ..files import reason
from ..lstchain import dl2_prefix, is_lstchain

__all__ = [
    "EvaluationError",
    "Reconstructor",
    "find_reconstructors",
    "files_by_reconstructors",
]

# the property by the ending of a table's name; by the name of its group in the file
ENDINGS = {"Energy": "energy", "Geometry": "geometry", "Classifier": "particle_type"}
GROUPS = {
    "energy": "energy",
    "geometry": "geometry",
    "particle_type": "particle_type",
    "classification": "particle_type",  # its name up to ctapipe 0.28
}
NAME = re.compile(
    r"(?P<name>.*?)(?:Seed(?P<seed>\d+))?(?P<ending>" + "|".join(ENDINGS) + ")"
)


class EvaluationError(ValueError):
    """Events cannot be evaluated; the message says which and why."""


@dataclass(frozen=True)
class Reconstructor:
    """Names of a reconstructor's DL2 tables.

    Attributes
    ----------
    name : str
    seed : int or None
        Where several trainings of one reconstructor stand in the files.
    energy, geometry, particle_type : str or None
        Prefix of the property's table and columns; None where it has none.
    """

    name: str
    seed: int | None = None
    energy: str | None = None
    geometry: str | None = None
    particle_type: str | None = None

    def __str__(self):
        return self.name if self.seed is None else f"{self.name}, seed {self.seed}"

    @property
    def prefixes(self):
        """The prefixes that there are, by property."""
        every = {name: getattr(self, name) for name in ENDINGS.values()}
        return {name: prefix for name, prefix in every.items() if prefix}


def files_by_reconstructors(paths, names=None, array_wise=False):
    """Put files together that have results of the same reconstructors.

    Parameters
    ----------
    paths : list of path-like
    names : list of str, optional
        Reconstructors to look for, by default all.
    array_wise : bool
        Whether to look for results for array events instead of those for telescopes.

    Returns
    -------
    groups : list of (list of path-like, list of Reconstructor)
        Files without any of the reconstructors are left out. The reconstructors are in
        the order of ``names``.

    Raises
    ------
    EvaluationError
        If a file cannot be read, a reconstructor is not found, has fewer tables in one
        file than in another, or tables with different events.
    """
    if not paths:
        raise EvaluationError("no input: give DL2 files")
    every = [(path, find_reconstructors(path, array_wise)) for path in paths]
    chosen = [
        (path, {key: r for key, r in found.items() if not names or r.name in names})
        for path, found in every
    ]
    level = "array-wise" if array_wise else "telescope-wise"
    _verify_found(every, chosen, names, level)
    groups = {}
    for path, found in chosen:
        _verify_tables(path, found, chosen, level)
        _verify_same_events(path, found.values(), array_wise)
        if found:
            group, _ = groups.setdefault(frozenset(found), ([], list(found.values())))
            group.append(path)
    for _, reconstructors in groups.values():
        if names:
            reconstructors.sort(key=lambda r: names.index(r.name))
    return list(groups.values())


def _verify_found(every, chosen, names, level):
    """Raise if a reconstructor that is asked for is in no file, or none is in a file."""
    missing = set(names or ()) - {name for _, found in chosen for name, _ in found}
    empty = [path for path, found in every if not found]
    if missing or empty:
        what = f"reconstructor {', '.join(sorted(missing))}".rstrip()
        where = [path for path, _ in every] if missing else empty
        known = sorted({name for _, found in every for name, _ in found})
        raise EvaluationError(
            f"no {level} results of {what} in {', '.join(map(str, where))}; found:"
            f" {', '.join(known) or 'none'}"
        )


def _verify_tables(path, found, chosen, level):
    """Raise if a reconstructor lacks a table that it has in another file."""
    for key, reconstructor in found.items():
        for _, others in chosen:
            known = set(others[key].prefixes.values()) if key in others else set()
            lacking = known - set(reconstructor.prefixes.values())
            if lacking:
                raise EvaluationError(
                    f"{path} has no {level} results of {reconstructor}: table"
                    f" {', '.join(sorted(lacking))} is missing. Apply it to this file"
                    " too, or name the reconstructors to compare with --reconstructor"
                )


def find_reconstructors(path, array_wise=False):
    """The reconstructors of a DL2 file, of ctapipe or of lstchain.

    Parameters
    ----------
    path : path-like
    array_wise : bool
        Whether to look for results for array events instead of those for telescopes.

    Returns
    -------
    reconstructors : dict of (str, int or None) to Reconstructor
        By name and seed.

    Raises
    ------
    EvaluationError
        If the file cannot be read, or is one of lstchain, which has no array events.
    """
    if is_lstchain(path):
        reconstructor = _lstchain_reconstructor(path, array_wise)
        return {(reconstructor.name, reconstructor.seed): reconstructor}
    found = {}
    with _open(path) as file:
        for prefix, kind, _ in _tables(file, array_wise):
            match = NAME.fullmatch(prefix)
            if match is None or ENDINGS[match["ending"]] != kind:
                continue
            seed = int(match["seed"]) if match["seed"] else None
            key = match["name"], seed
            known = found.get(key, Reconstructor(*key))
            found[key] = replace(known, **{kind: prefix})
    return found


def _lstchain_reconstructor(path, array_wise):
    if array_wise:
        raise EvaluationError(f"{path} is a file of lstchain: no array-wise results")
    try:
        prefix = dl2_prefix(path)
    except DL1Error as error:
        raise EvaluationError(str(error)) from error
    match = NAME.fullmatch(f"{prefix}Energy")
    return Reconstructor(
        match["name"],
        int(match["seed"]) if match["seed"] else None,
        **{kind: prefix + ending for ending, kind in ENDINGS.items()},
    )


def _open(path):
    try:
        return tables.open_file(path)
    except (OSError, tables.HDF5ExtError) as error:
        raise EvaluationError(f"{path} cannot be read: {reason(error)}") from error


def _tables(file, array_wise):
    """Prefix and property of every DL2 table of a file, with its node."""
    base = DL2_SUBARRAY_GROUP if array_wise else DL2_TEL_GROUP
    for group, kind in GROUPS.items():
        if f"{base}/{group}" in file.root:
            for node in file.get_node(f"{base}/{group}"):
                yield node._v_name, kind, node


def _verify_same_events(path, reconstructors, array_wise):
    """Raise if the tables of a file are not about the same events."""
    prefixes = {p for r in reconstructors for p in r.prefixes.values()}
    first = {}
    with _open(path) as file:
        for prefix, _, node in _tables(file, array_wise):
            if prefix not in prefixes:
                continue
            for table in [node] if array_wise else list(node):
                place = "" if array_wise else table._v_name
                keys = np.column_stack([table.col("obs_id"), table.col("event_id")])
                name, expected = first.setdefault(place, (table._v_pathname, keys))
                if not np.array_equal(keys, expected):
                    raise EvaluationError(
                        f"{path}: {table._v_pathname} has {len(keys)} events and {name}"
                        f" {len(expected)}, or others: results of different events"
                        " cannot be compared; apply the reconstructor anew"
                    )
