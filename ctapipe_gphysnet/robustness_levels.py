"""How much worse reconstructions get when the images get worse.

A study is made of levels. Each is a set of DL2 files with the same events, changed in
one way and by one amount, and with what every reconstructor makes of them.
"""

import json
from dataclasses import dataclass

import astropy.units as u
import numpy as np
import tables
from astropy.table import join, vstack
from ctapipe.io import write_table
from ctapipe.io.hdf5dataformat import (
    DL1_SUBARRAY_TRIGGER_TABLE,
    DL1_TEL_PARAMETERS_GROUP,
)

from .bulk import DL2Writer
from .evaluation.metrics import (
    angular_resolutions,
    aucs,
    common_events,
    energy_resolutions,
    reconstructed_fractions,
)
from .evaluation.reconstructors import EvaluationError
from .merging import DL1Merger

__all__ = [
    "PERTURBATIONS",
    "Level",
    "LevelWriter",
    "compare_levels",
    "is_finished",
    "mark_finished",
    "write_frame",
]

#: Options of `ctapipe_gphysnet.perturbations.ImagePerturbation` that are studied, with
#: the value that changes nothing.
PERTURBATIONS = {"night_sky": 0.0, "dead_pixels": 0.0, "charge_scale": 1.0}
STUDY_ATTRIBUTE = "ROBUSTNESS_STUDY"
EVERYTHING = u.Quantity([0, np.inf], u.TeV)
KINDS = ("energy", "geometry", "particle_type")
KEYS = ["reconstructor", "seed", "true_energy_low", "true_energy_high"]
# by the function that computes them, columns and what they are called here
RESOLUTIONS = {
    angular_resolutions: {"angular_resolution": "angular_resolution"},
    energy_resolutions: {"bias": "energy_bias", "resolution": "energy_resolution"},
}


@dataclass(frozen=True)
class Level:
    """One amount of one change.

    Attributes
    ----------
    perturbation : str
        One of `PERTURBATIONS`.
    value : float
    """

    perturbation: str
    value: float

    @property
    def is_neutral(self):
        """Whether nothing is changed."""
        return self.value == PERTURBATIONS[self.perturbation]

    @property
    def name(self):
        """For the level's folder; all that change nothing share one."""
        return "unchanged" if self.is_neutral else f"{self.perturbation}_{self.value:g}"


def write_frame(path, output, n_events, parent):
    """Copy what stays the same at all levels: truth, triggers, instrument.

    Parameters
    ----------
    path : path-like
        DL1 file, its tables in the order of the trigger table.
    output : path-like
        File to write.
    n_events : int
        How many of the first array events to copy.
    parent : ctapipe.core.Component
        Has the configuration of ctapipe's merger.
    """
    with DL1Merger(output, products=(), statistics="", parent=parent) as merger:
        for kind in (
            *("dl1_images", "dl1_parameters", "dl1_muon", "true_images"),
            *("dl2_telescope", "dl2_subarray", "r0_waveforms", "r1_waveforms"),
            "processing_statistics",
        ):
            setattr(merger, kind, False)
        merger(path)
        merger.finish()
    with tables.open_file(output, "a") as file:
        trigger = file.root[DL1_SUBARRAY_TRIGGER_TABLE]
        kept = set(trigger.read(0, n_events)[["obs_id", "event_id"]].tolist())
        for table in file.walk_nodes("/", "Table"):
            if {"obs_id", "event_id"} <= set(table.colnames):
                keys = table.read()[["obs_id", "event_id"]].tolist()
                table.truncate(sum(key in kept for key in keys))


class LevelWriter(DL2Writer):
    """Appends image parameters to the file, as well as results of the network."""

    def append(self, block):
        """Append what belongs to a block of events to the tables."""
        for telescope in block.events.telescopes:
            write_table(
                telescope.parameters,
                self._writer.h5file,
                f"{DL1_TEL_PARAMETERS_GROUP}/tel_{telescope.tel_id:03d}",
                append=True,
            )
        super().append(block)


def mark_finished(path, made_from):
    """Write into a level's file what it was made from, as the last thing.

    Parameters
    ----------
    path : path-like
    made_from : dict
        Inputs and options; what is not of JSON counts as its text.
    """
    with tables.open_file(path, "a") as file:
        file.root._v_attrs[STUDY_ATTRIBUTE] = _text(made_from)


def is_finished(path, made_from):
    """Whether a level's file is there and was made from the same.

    Parameters
    ----------
    path : path-like
    made_from : dict
        See `mark_finished`.
    """
    try:
        with tables.open_file(path) as file:
            return getattr(file.root._v_attrs, STUDY_ATTRIBUTE, None) == _text(made_from)
    except (OSError, tables.HDF5ExtError):
        return False


def _text(made_from):
    return json.dumps(made_from, sort_keys=True, default=str)


def compare_levels(samples, energy_edges):
    """Performance at all levels of the changes, on the same events.

    Along the levels of one change, resolutions and AUC are those of the events that
    every reconstructor has at every one of these levels. So events that are gained or
    lost on the way neither improve nor spoil them; their number shows in the
    fraction of all events that are reconstructed.

    Parameters
    ----------
    samples : dict of Level to ctapipe_gphysnet.evaluation.sample.Sample
        With a selection ``"all"``, and the same events in the same order.
    energy_edges : Quantity, shape (B + 1,)
        Of bins in true energy.

    Returns
    -------
    table : astropy.table.QTable
        A row for every level, reconstructor and bin; those for all energies, from 0
        to infinity, come first. Columns ``perturbation``, ``level``,
        ``reconstructor``, ``seed``, ``true_energy_low``, ``…_high``, and

        ``n_simulated_gamma``, ``reconstructed_gamma``, ``n_simulated_proton`` …
            Events that were read, and what fraction of them is reconstructed.
        ``n_gamma``, ``n_proton``
            Events that are compared.
        ``angular_resolution``, ``energy_bias``, ``energy_resolution``, ``auc``
            Of these, see `ctapipe_gphysnet.evaluation.metrics`. The AUC stands in the
            rows for all energies only and is masked in the others.

        Every value but the numbers of events has its uncertainty in ``…_error``.

    Raises
    ------
    EvaluationError
        If the events of two levels differ, or if no gamma is left to compare.
    """
    _verify_same_events(samples)
    rows = []
    for perturbation in dict.fromkeys(level.perturbation for level in samples):
        levels = [level for level in samples if level.perturbation == perturbation]
        common = np.logical_and.reduce(
            [
                common_events(samples[level], "all", kind)
                for level in levels
                for kind in KINDS
            ]
        )
        if not (common & samples[levels[0]].is_particle("gamma")).any():
            raise EvaluationError(
                f"no gamma ray is reconstructed at all levels of {perturbation}:"
                f" {', '.join(f'{level.value:g}' for level in levels)}"
            )
        for level in sorted(levels, key=lambda level: level.value):
            samples[level].selected["common"] = common
            table = _performance(samples[level], energy_edges)
            table.add_column(perturbation, index=0, name="perturbation")
            table.add_column(level.value, index=1, name="level")
            rows.append(table)
    return vstack(rows)


def _verify_same_events(samples):
    (first, expected), *others = samples.items()
    for level, sample in others:
        for name in ("obs_id", "event_id", "tel_id", "true_energy"):
            if not np.array_equal(sample.events[name], expected.events[name]):
                raise EvaluationError(
                    f"levels {first.name} and {level.name} have different events"
                )


def _performance(sample, energy_edges):
    """Rows of one level, see `compare_levels`."""
    parts = []
    for particle in ("gamma", "proton"):
        parts += _numbers(sample, particle, energy_edges)
    for function, names in RESOLUTIONS.items():
        found = [function(sample, "common", e) for e in (EVERYTHING, energy_edges)]
        parts.append(_renamed(vstack(found), names))
    parts.append(_aucs(sample))
    table, *others = [part for part in parts if len(part)]
    for other in others:
        table = join(table, other, KEYS, join_type="left")
    return table


def _numbers(sample, particle, energy_edges):
    """Tables of the events that were read, and of those that are compared."""
    for selection, names in (
        ("all", {"n_events": "n_simulated", "fraction": "reconstructed"}),
        ("common", {"n_events": "n"}),
    ):
        table = reconstructed_fractions(sample, selection, energy_edges)
        names = {old: f"{new}_{particle}" for old, new in names.items()}
        yield _renamed(table[table["particle"] == particle], names)


def _renamed(table, names):
    """The keys and some columns, by other names, with the uncertainties they have."""
    if not len(table):  # no reconstructor has it
        return table
    renamed = table[KEYS]
    for old, new in names.items():
        renamed[new] = table[old]
        if f"{old}_error" in table.colnames:
            renamed[f"{new}_error"] = table[f"{old}_error"]
    return renamed


def _aucs(sample):
    table = aucs(sample, "common", axes={})
    if len(table):
        table = table[np.isfinite(table["auc"])]  # NaN without protons
        table["true_energy_low"], table["true_energy_high"] = EVERYTHING
    return _renamed(table, {"auc": "auc"})
