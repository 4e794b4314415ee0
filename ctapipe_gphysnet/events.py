"""Simulated DL1 events as arrays to train on."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.table import Table, vstack
from ctapipe.core import QualityQuery
from ctapipe.core.expression_engine import ExpressionError
from ctapipe.core.traits import List, Tuple, Unicode
from ctapipe.instrument import FocalLengthKind
from ctapipe.io import TableLoader
from tqdm.auto import tqdm

from .camera import CameraLayout, CameraMismatch
from .dl1 import DL1Error
from .lattice import LatticeError
from .lstchain import LstchainFile, is_lstchain
from .tasks import GAMMA_ID, TASKS

__all__ = [
    "EventError",
    "EventSample",
    "EventSelection",
    "read_events",
    "set_aside",
    "shower_numbers",
]

# CORSIKA and sim_telarray number the uses of one shower consecutively:
# event_id = 100 * shower + use.
EVENTS_PER_SHOWER_ID = 100
CHUNK_SIZE = 2000  # events read at once, 60 MB of LSTCam images


class EventError(ValueError):
    """A file cannot be trained on."""


def shower_numbers(events):
    """A number for every event, equal for events of one shower.

    Parameters
    ----------
    events : astropy.table.Table, N rows
        With the columns obs_id, event_id and true_shower_primary_id.

    Returns
    -------
    numbers : ndarray of int, shape (N,)
        From 0 on, without gaps.
    """
    keys = np.column_stack(
        [
            events["obs_id"],
            events["event_id"] // EVENTS_PER_SHOWER_ID,
            events["true_shower_primary_id"],
        ]
    ).astype(np.int64)
    return np.unique(keys, axis=0, return_inverse=True)[1].reshape(-1)


def set_aside(events, fraction, seed):
    """Draw a share of the showers, each with all of its events.

    Parameters
    ----------
    events : astropy.table.Table, N rows
        As for `shower_numbers`.
    fraction : float
        Share of the showers.
    seed : int
        Of the draw.

    Returns
    -------
    aside : ndarray of bool, shape (N,)
    """
    shower = shower_numbers(events)
    draw = np.random.default_rng(seed).random(shower.max() + 1)
    return draw[shower] < fraction


class EventSelection(QualityQuery):
    """Which images to train on; expressions use columns of the DL1 tables."""

    quality_criteria = List(
        Tuple(Unicode(), Unicode()),
        default_value=[
            ("intensity > 50 p.e.", "hillas_intensity > 50"),
            ("leakage < 20 %", "leakage_intensity_width_2 < 0.2"),
        ],
        help=QualityQuery.quality_criteria.help,
    ).tag(config=True)


@dataclass
class EventSample:
    """Images with their targets.

    Attributes
    ----------
    charge, peak_time : ndarray of float16, shape (N, P)
        Photo-electrons and nanoseconds, in the order of the camera's pixels; half
        precision is finer than the noise of a pixel.
    targets : dict of str to ndarray
        For every task, float32 of shape (N, n_outputs) or int64 of shape (N,).
    truth : astropy.table.Table
        Identity and truth of the N events.
    camera : CameraLayout
        The camera of all of them.
    classified : ndarray of bool, shape (N,)
        Events to learn the particle type from.
    """

    charge: np.ndarray
    peak_time: np.ndarray
    targets: dict
    truth: Table
    camera: CameraLayout
    classified: np.ndarray

    def __len__(self):
        return len(self.charge)

    @property
    def is_signal(self):
        """Gamma rays, bool of shape (N,)."""
        return np.asarray(self.truth["true_shower_primary_id"]) == GAMMA_ID

    @classmethod
    def concatenate(cls, samples):
        """One sample of several with the same camera and tasks."""
        first = samples[0]
        return cls(
            charge=np.concatenate([sample.charge for sample in samples]),
            peak_time=np.concatenate([sample.peak_time for sample in samples]),
            targets={
                task: np.concatenate([sample.targets[task] for sample in samples])
                for task in first.targets
            },
            truth=vstack([s.truth for s in samples], metadata_conflicts="silent"),
            camera=first.camera,
            classified=np.concatenate([sample.classified for sample in samples]),
        )

    def split(self, fraction, seed):
        """Part the events by shower, so that no shower is on both sides.

        Parameters
        ----------
        fraction : float
            Share of the showers in the second part.
        seed : int
            Of the draw.

        Returns
        -------
        first, second : ndarray of int
            Indices of the events, in their order.
        """
        aside = set_aside(self.truth, fraction, seed)
        return np.flatnonzero(~aside), np.flatnonzero(aside)


def read_events(paths, selection, tasks, camera=None, classify=True, progress=True):
    """Read and select the images of simulated DL1 files.

    Telescopes whose camera is that of the first telescope type found (or of
    ``camera``) are pooled; others are left out.

    Parameters
    ----------
    paths : iterable of path-like
        DL1 files with images and parameters, of ctapipe or of lstchain.
    selection : EventSelection
        Which images to keep; its counts go on.
    tasks : iterable of str
        Names in `ctapipe_gphysnet.tasks.TASKS`.
    camera : CameraLayout, optional
        The camera to read.
    classify : bool
        Whether to learn the particle type from these events.
    progress : bool
        Show a progress bar.

    Returns
    -------
    EventSample

    Raises
    ------
    EventError
        If a file has no images, no truth or no telescope with the camera, or
        if no event passes the selection.
    """
    parts = []
    for path in paths:
        with _open(path) as file:
            camera, matches = _matching_telescopes(file.subarray, path, camera)
            chunks = tqdm(
                _tables(file, list(matches)),
                desc=Path(path).name,
                unit="chunk",
                total=math.ceil(len(file) / CHUNK_SIZE),
                disable=not progress,
            )
            for chunk in chunks:
                events = _selected(chunk, path, selection, tasks)
                for match in {id(match): match for match in matches.values()}.values():
                    same = [matches[tel_id] is match for tel_id in events["tel_id"]]
                    if any(same):
                        parts.append(_arrays(events[same], path, tasks, match))
    if not parts:
        raise EventError(f"no event passes the selection in {[str(p) for p in paths]}")
    charge, peak_time, targets, truth = zip(*parts)
    return EventSample(
        charge=np.concatenate(charge),
        peak_time=np.concatenate(peak_time),
        targets={task: np.concatenate([t[task] for t in targets]) for task in tasks},
        truth=vstack(list(truth), metadata_conflicts="silent"),
        camera=camera,
        classified=np.full(sum(map(len, charge)), classify),
    )


def _open(path):
    try:
        if is_lstchain(path):
            return LstchainFile(path, FocalLengthKind.EFFECTIVE)
        return TableLoader(path)
    except DL1Error as error:
        raise EventError(str(error)) from error
    except Exception as error:  # PyTables, h5py and ctapipe each raise their own
        raise EventError(f"{path}: cannot be read as a ctapipe file: {error}") from error


def _tables(file, tel_ids):
    """Events of some telescopes, in tables with ctapipe's names."""
    if isinstance(file, LstchainFile):
        try:
            yield from file.tables(CHUNK_SIZE, tel_ids)
        except DL1Error as error:
            raise EventError(str(error)) from error
        return
    chunks = file.read_telescope_events_chunked(
        CHUNK_SIZE,
        telescopes=tel_ids,
        dl1_images=True,
        dl1_parameters=True,
        dl2=False,
        true_parameters=False,
        simulated=True,
        instrument=True,
        pointing=True,
    )
    for chunk in chunks:
        yield chunk.data


def _matching_telescopes(subarray, path, camera):
    """The camera, and the match of every telescope that has it."""
    matches = {}
    reasons = []
    for telescope in subarray.telescope_types:
        try:
            layout = CameraLayout.from_telescope(telescope)
            camera = camera or layout
            match = camera.match(layout)
        except (CameraMismatch, LatticeError) as error:
            reasons.append(f"{telescope}: {error}")
            continue
        for tel_id in subarray.get_tel_ids_for_type(telescope):
            matches[tel_id] = match
    if not matches:
        raise EventError(f"{path}: no telescope with the camera to train; {reasons}")
    return camera, matches


TRUTH = ["obs_id", "event_id", "tel_id", "true_energy", "true_shower_primary_id"]
RENAMED = {
    "telescope_pointing_altitude": "pointing_alt",
    "telescope_pointing_azimuth": "pointing_az",
    "pos_x": "tel_pos_x",
    "pos_y": "tel_pos_y",
    "pos_z": "tel_pos_z",
}


def _selected(table, path, selection, tasks):
    """The events of one chunk that pass, once all columns are known to be there."""
    if len(table) == 0:
        return table
    for old, new in RENAMED.items():
        if old in table.colnames:
            table.rename_column(old, new)
    columns = [column for task in tasks for column in TASKS[task].columns]
    for name in ["image", "peak_time", *TRUTH, *columns]:
        if name not in table.colnames:
            what = "images" if name in ("image", "peak_time") else "simulated truth"
            raise EventError(f"{path}: no column {name!r}; training needs {what}")
    try:
        return table[selection.get_table_mask(table)]
    except ExpressionError as error:
        raise EventError(f"{path}: the selection cannot be applied: {error}") from None


def _arrays(events, path, tasks, match):
    """Images, targets and truth of events whose cameras match in the same way."""
    with np.errstate(over="ignore"):  # infinite charge is that of a saturated pixel
        charge, peak_time = (
            np.asarray(events[name])[:, match.permutation].astype(np.float16)
            for name in ("image", "peak_time")
        )
    targets = {task: _target(TASKS[task], events, path) for task in tasks}
    truth = events[TRUTH + ["pointing_alt", "pointing_az"]]
    return charge, peak_time, targets, truth


def _target(task, events, path):
    target = task.target(events)
    bad = np.flatnonzero(~np.isfinite(target.reshape(len(events), -1)).all(axis=1))
    if len(bad):
        event = events[int(bad[0])]
        raise EventError(
            f"{path}: event {event['event_id']} of obs {event['obs_id']} has no finite"
            f" {task.name}: " + ", ".join(f"{c} = {event[c]}" for c in task.columns)
        )
    return target if target.dtype.kind == "i" else target.astype(np.float32)
