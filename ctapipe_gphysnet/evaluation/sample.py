"""Simulated DL2 events with the results of several reconstructors, side by side."""

from collections import Counter
from dataclasses import dataclass, field

import astropy.units as u
import numpy as np
import tables
from astropy.coordinates import angular_separation
from astropy.table import QTable, vstack
from ctapipe.core import QualityQuery
from ctapipe.core.expression_engine import ExpressionError
from ctapipe.io import TableLoader
from tqdm.auto import tqdm
from traitlets import TraitError

from ..dl1 import DL1Error
from ..files import reason
from ..lstchain import is_lstchain, read_dl2
from .reconstructors import EvaluationError, files_by_reconstructors

__all__ = ["PARTICLES", "Sample", "read_sample"]

# true_shower_primary_id, as sim_telarray has it
PARTICLES = {0: "gamma", 1: "electron", 101: "proton"}

# property, name and unit of the columns, which may be missing
UNCERTAINTIES = (
    ("energy", "energy_uncert", u.TeV),
    ("geometry", "ang_distance_uncert", u.deg),
)

CHUNK_SIZE = 100_000
KEY = [("particle", "U8"), ("obs_id", "i8"), ("event_id", "i8"), ("tel_id", "i8")]


@dataclass
class Sample:
    """Simulated events, and what reconstructors say of them.

    Attributes
    ----------
    events : astropy.table.QTable, N rows
        ``obs_id``, ``event_id``, ``tel_id``, ``particle``, ``true_energy``,
        ``true_alt``, ``true_az``, ``true_core_x``, ``true_core_y``, ``pointing_alt``,
        ``pointing_az``, ``intensity``. The pointing and the intensity are NaN where
        the file does not tell, as for events of an array.
    results : dict of Reconstructor to astropy.table.QTable, N rows
        ``reco_energy``, ``reco_alt``, ``reco_az``, ``theta`` (distance from the true
        direction), ``core_error`` (distance from the true core on the ground),
        ``gammaness``, and the uncertainties ``energy_uncert`` and
        ``ang_distance_uncert``; NaN where there is none.
    selected : dict of str to ndarray of bool, shape (N,)
        Which events pass the criteria of a selection, by its name.
    criteria : dict of str to list of tuple
        For every selection its criteria: name, expression, and which events pass all
        criteria up to this one, ndarray of bool, shape (N,).
    files : list of dict
        For every file its path, the number of events of every particle, the runs
        (particle and ``obs_id``), and the versions and models that its tables name.
    """

    events: QTable
    results: dict
    selected: dict
    criteria: dict = field(default_factory=dict)
    files: list = field(default_factory=list)

    def __len__(self):
        return len(self.events)

    def is_particle(self, name):
        """Which events are of a kind, ndarray of bool, shape (N,)."""
        return np.asarray(self.events["particle"]) == name


def read_sample(
    paths,
    selections,
    names=None,
    array_wise=False,
    focal_length_choice=None,
    progress=False,
):
    """Read simulated DL2 events of several files.

    Parameters
    ----------
    paths : list of path-like
        DL2 files, of ctapipe or of lstchain. Results of one event may be in several.
    selections : dict of str to list of (str, str)
        Quality criteria of every selection, each with its name, as for
        `ctapipe.core.QualityQuery`, in terms of the columns that
        `ctapipe.io.TableLoader` gives.
    names : list of str, optional
        Reconstructors to read; by default all whose tables' names end in Energy,
        Geometry or Classifier.
    array_wise : bool
        Whether to read the results for array events instead of those for telescopes.
    focal_length_choice : ctapipe.instrument.FocalLengthKind, optional
        As for `ctapipe.io.TableLoader`.
    progress : bool
        Whether to show a progress bar.

    Returns
    -------
    sample : Sample

    Raises
    ------
    EvaluationError
        If a file has no truth, lacks a reconstructor that another one has, has tables
        with different events, a reconstructor lacks runs that another has, or there is
        an event twice.
    """
    options = (
        {}
        if focal_length_choice is None
        else {"focal_length_choice": focal_length_choice}
    )
    queries = {name: _query(name, criteria) for name, criteria in selections.items()}
    samples = []
    for group, reconstructors in files_by_reconstructors(paths, names, array_wise):
        parts = []
        for path in group:
            parts.extend(
                _read_file(path, queries, reconstructors, array_wise, options, progress)
            )
        samples.append(_joined(parts, selections, reconstructors))
        _verify_no_event_twice(samples[-1].events, group)
    return samples[0] if len(samples) == 1 else _united(samples, names)


def _query(name, criteria):
    try:
        return QualityQuery(quality_criteria=[tuple(c) for c in criteria])
    except (ExpressionError, TraitError, TypeError) as error:
        raise EvaluationError(
            f"criteria of the selection {name} cannot be used: {error}"
        ) from error


def _read_file(path, queries, reconstructors, array_wise, options, progress):
    """Parts of the sample, a chunk of events each."""
    counts, runs, meta = Counter(), set(), {}
    try:
        for table in _read_tables(path, array_wise, options, progress):
            if not len(table):
                continue
            meta.update(table.meta)
            part = _part(path, table, reconstructors, array_wise)
            counts.update(part.events["particle"].tolist())
            runs |= set(np.unique(_keys(part.events)[["particle", "obs_id"]]).tolist())
            part.selected = {
                name: _mask(path, query, table) for name, query in queries.items()
            }
            part.criteria = {
                name: _criteria(query, table) for name, query in queries.items()
            }
            yield part
    except DL1Error as error:
        raise EvaluationError(str(error)) from error
    except (OSError, tables.HDF5ExtError, tables.NoSuchNodeError) as error:
        raise EvaluationError(f"{path} cannot be read: {reason(error)}") from error
    if not counts:
        raise EvaluationError(f"{path} has no events")
    empty = Sample(QTable(), {}, {})
    file = {"path": str(path), "counts": dict(counts), "runs": runs, "meta": meta}
    empty.files = [file]
    yield empty


def _read_tables(path, array_wise, options, progress):
    """Events of a file, a chunk at a time."""
    if is_lstchain(path):
        yield read_dl2(path)
        return
    with TableLoader(path, **options) as loader:
        read = (
            loader.read_subarray_events_chunked
            if array_wise
            else loader.read_telescope_events_chunked
        )
        flags = {"dl2": True, "simulated": True}
        if not array_wise:
            flags.update(dl1_images=False, dl1_parameters=True, true_parameters=False)
        chunks = read(CHUNK_SIZE, **flags)
        for chunk in tqdm(chunks, desc=str(path), unit="chunk", disable=not progress):
            yield chunk.data


def _mask(path, query, table):
    try:
        return np.asarray(query.get_table_mask(table), dtype=bool)
    except (ExpressionError, NameError, KeyError, AttributeError) as error:
        raise EvaluationError(
            f"{path}: a criterion of the selection cannot be evaluated: {error}"
        ) from error


def _criteria(query, table):
    """Criteria with the events that pass all of them up to each one."""
    passed = np.ones(len(table), dtype=bool)
    criteria = []
    for name, expression in query.quality_criteria:
        one = QualityQuery(quality_criteria=[(name, expression)])
        passed = passed & np.asarray(one.get_table_mask(table), dtype=bool)
        criteria.append((name, expression, passed))
    return criteria


def _column(path, table, name, unit=None):
    """A column as plain numbers, or a Quantity; masked values are NaN."""
    if name not in table.colnames:
        raise EvaluationError(f"{path} has no column {name}: are these simulated events?")
    values = np.ma.filled(np.ma.asarray(table[name], dtype=np.float64), np.nan)
    if unit is None:
        return np.asarray(values)
    return u.Quantity(values, table[name].unit or unit, copy=False).to(unit)


def _part(path, table, reconstructors, array_wise):
    events = QTable()
    events["obs_id"] = np.asarray(table["obs_id"])
    events["event_id"] = np.asarray(table["event_id"])
    events["tel_id"] = 0 if array_wise else np.asarray(table["tel_id"])
    primary = _column(path, table, "true_shower_primary_id").astype(int)
    unknown = sorted(set(primary.tolist()) - set(PARTICLES))
    if unknown:
        raise EvaluationError(
            f"{path}: true_shower_primary_id {', '.join(map(str, unknown))}; known are"
            f" {', '.join(f'{i} ({name})' for i, name in PARTICLES.items())}"
        )
    events["particle"] = np.array([PARTICLES[i] for i in primary], dtype="U8")
    events["true_energy"] = _column(path, table, "true_energy", u.TeV)
    for name in ("true_alt", "true_az"):
        events[name] = _column(path, table, name, u.deg)
    for name in ("true_core_x", "true_core_y"):
        events[name] = _column(path, table, name, u.m)
    nothing = np.full(len(table), np.nan)
    for name, column in (
        ("pointing_alt", "telescope_pointing_altitude"),
        ("pointing_az", "telescope_pointing_azimuth"),
    ):
        known = column in table.colnames
        events[name] = _column(path, table, column, u.deg) if known else nothing * u.deg
    known = "hillas_intensity" in table.colnames
    events["intensity"] = _column(path, table, "hillas_intensity") if known else nothing
    results = {r: _result(path, table, r, events, array_wise) for r in reconstructors}
    return Sample(events, results, {})


def _result(path, table, reconstructor, events, array_wise):
    """What one reconstructor says of the events of a table."""

    def columns(kind, names, unit):
        prefix = getattr(reconstructor, kind)
        start = prefix if array_wise or prefix is None else f"{prefix}_tel"
        if prefix is None:
            return [np.full(len(table), np.nan) * (unit or 1) for _ in names]
        valid = _column(path, table, f"{start}_is_valid") == 1
        found = [_column(path, table, f"{start}_{name}", unit) for name in names]
        # a property is there as a whole or not at all
        valid &= np.logical_and.reduce([np.isfinite(values) for values in found])
        for values in found:
            values[~valid] = np.nan
        return found

    result = QTable()
    (result["reco_energy"],) = columns("energy", ["energy"], u.TeV)
    result["reco_alt"], result["reco_az"] = columns("geometry", ["alt", "az"], u.deg)
    core = columns("geometry", ["core_x", "core_y"], u.m)
    (result["gammaness"],) = columns("particle_type", ["prediction"], None)
    for kind, name, unit in UNCERTAINTIES:
        prefix = getattr(reconstructor, kind)
        result[name] = np.full(len(table), np.nan) * unit
        if f"{prefix}{'' if array_wise else '_tel'}_{name}" in table.colnames:
            (result[name],) = columns(kind, [name], unit)
    result["theta"] = angular_separation(
        result["reco_az"], result["reco_alt"], events["true_az"], events["true_alt"]
    ).to(u.deg)
    result["core_error"] = np.hypot(
        core[0] - events["true_core_x"], core[1] - events["true_core_y"]
    )
    return result


def _joined(parts, selections, reconstructors):
    """One sample of many."""
    files = [file for part in parts for file in part.files]
    parts = [part for part in parts if not part.files]
    return Sample(
        vstack([part.events for part in parts], metadata_conflicts="silent"),
        {
            r: vstack([part.results[r] for part in parts], metadata_conflicts="silent")
            for r in reconstructors
        },
        {name: np.concatenate([p.selected[name] for p in parts]) for name in selections},
        _joined_criteria(parts),
        files,
    )


def _joined_criteria(parts, events=slice(None)):
    """Criteria of several samples, one after the other, for some of the events."""
    return {
        name: [
            (*criterion[0][:2], np.concatenate([c[2] for c in criterion])[events])
            for criterion in zip(*(part.criteria[name] for part in parts))
        ]
        for name in parts[0].criteria
    }


def _united(samples, names):
    """One sample of several with other reconstructors, of the same events or of others.

    What a sample does not have is NaN. Thrown showers are counted for the first sample
    with a run only.
    """
    keys = [_keys(sample.events) for sample in samples]
    every, first = np.unique(np.concatenate(keys), return_index=True)
    together = vstack([s.events for s in samples], metadata_conflicts="silent")[first]
    results = {}
    for reconstructor in _reconstructors(samples, names):
        having = [i for i, s in enumerate(samples) if reconstructor in s.results]
        _verify_has_every_run(reconstructor, [samples[i] for i in having], samples)
        _verify_no_event_twice(
            vstack([samples[i].events for i in having], metadata_conflicts="silent"),
            [file["path"] for i in having for file in samples[i].files],
        )
        place = np.searchsorted(every, np.concatenate([keys[i] for i in having]))
        parts = [samples[i].results[reconstructor] for i in having]
        results[reconstructor] = _spread(vstack(parts), place, len(every))
    selected = {
        name: np.concatenate([s.selected[name] for s in samples])[first]
        for name in samples[0].selected
    }
    known, files = set(), []
    for sample in samples:
        for file in sample.files:
            files.append({**file, "is_counted": not known & file["runs"]})
        known |= _runs(sample)
    return Sample(together, results, selected, _joined_criteria(samples, first), files)


def _reconstructors(samples, names):
    """Those of all samples, in the order of the names if there are any."""
    found = list(dict.fromkeys(r for sample in samples for r in sample.results))
    return sorted(found, key=lambda r: names.index(r.name)) if names else found


def _runs(sample):
    """Particle and number of the runs that a sample has."""
    return set().union(*(file["runs"] for file in sample.files))


def _spread(result, place, n_events):
    """Results in their places among more events; the others have NaN."""
    columns = {}
    for name in result.colnames:
        values = np.full(n_events, np.nan)
        values[place] = getattr(result[name], "value", result[name])
        unit = result[name].unit
        columns[name] = u.Quantity(values, unit) if unit else values
    return QTable(columns)


def _verify_has_every_run(reconstructor, having, samples):
    """Raise if others have results of a run that one lacks."""
    known = set().union(*map(_runs, having))
    for sample in samples:
        for file in sample.files:
            if file["runs"] - known:
                particle, obs_id = min(file["runs"] - known)
                raise EvaluationError(
                    f"{file['path']}: there are no results of {reconstructor} for these"
                    f" {particle} events, obs_id {obs_id}. Apply it to them too, or name"
                    " the reconstructors to compare with --reconstructor"
                )


def _keys(events):
    """What tells one event from others."""
    names = ("particle", "obs_id", "event_id", "tel_id")
    return np.array(list(zip(*(np.asarray(events[n]).tolist() for n in names))), KEY)


def _verify_no_event_twice(events, paths):
    """Raise if the same event of the same kind stands in the files twice."""
    columns = [np.asarray(events[n]) for n in ("obs_id", "event_id", "tel_id")]
    columns.append(np.unique(np.asarray(events["particle"]), return_inverse=True)[1])
    order = np.lexsort(columns)
    same = np.logical_and.reduce([np.diff(c[order]) == 0 for c in columns])
    if same.any():
        row = events[order[np.flatnonzero(same)[0]]]
        raise EvaluationError(
            f"{same.sum()} events are twice in {', '.join(map(str, paths))}, for example"
            f" {row['particle']} obs_id {row['obs_id']}, event_id {row['event_id']},"
            f" tel_id {row['tel_id']}: give the results of a reconstructor for an event"
            " once; several trainings have names with Seed1, Seed2 ..."
        )
