"""Simulated DL1 events as arrays to train on."""

import ctypes
import gc
import math
import os
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import astropy.units as u
import numpy as np
import tables
from astropy.table import Table
from ctapipe import __version__ as ctapipe_version
from ctapipe.core import QualityQuery
from ctapipe.core.expression_engine import ExpressionError
from ctapipe.core.traits import List, Tuple, Unicode
from ctapipe.instrument import FocalLengthKind
from ctapipe.io import TableLoader
from ctapipe.io.hdf5eventsource import COMPATIBLE_DATA_MODEL_VERSIONS
from tqdm.auto import tqdm

from .camera import CameraLayout, CameraMismatch
from .dl1 import DL1Error, Reading
from .files import reason
from .image_store import ImageStore
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
CHUNKS_TO_COLLECT = 8  # chunks before their memory is given back, which takes a while


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

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._of_primary = {}  # what passes so far, by criterion

    def get_table_mask(self, table):
        """As of `ctapipe.core.QualityQuery`; counts every kind of primary, too.

        Parameters
        ----------
        table : astropy.table.Table, N rows
            With the column true_shower_primary_id, and those that the criteria name.

        Returns
        -------
        passed : ndarray of bool, shape (N,)
        """
        passed = np.ones((len(self.expressions) + 1, len(table)), dtype=bool)
        for i, result in enumerate(self.engine(table), 1):
            passed[i] = passed[i - 1] & result
        primary = np.asarray(table["true_shower_primary_id"])
        for number in np.unique(primary):
            counts = np.count_nonzero(passed[:, primary == number], axis=1)
            before = self._of_primary.get(int(number), 0)
            self._of_primary[int(number)] = before + counts
        return super().get_table_mask(table)

    def to_table(self, functions=False):
        """As of `ctapipe.core.QualityQuery`, with a column for every kind of primary.

        primary_101 says how many of those with true_shower_primary_id 101, protons, pass
        a criterion and all before it.
        """
        table = super().to_table(functions)
        for number, counts in sorted(self._of_primary.items()):
            table[f"primary_{number}"] = counts
        return table


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


def read_events(
    paths,
    selection,
    tasks,
    regression_paths=(),
    camera=None,
    telescopes=None,
    focal_length_choice=FocalLengthKind.EFFECTIVE,
    store=None,
    progress=True,
):
    """Read and select the images of simulated DL1 files.

    Telescopes whose camera is that of the first telescope found (or ``camera``) are
    pooled; others are left out, with a warning. Pixels and directions are those of that
    camera, also of telescopes whose focal length is a little different.

    Parameters
    ----------
    paths : iterable of path-like
        DL1 files with images and parameters, of ctapipe or of lstchain.
    selection : EventSelection
        Which images to keep; its counts go on.
    tasks : iterable of str
        Names in `ctapipe_gphysnet.tasks.TASKS`.
    regression_paths : iterable of path-like
        More files, whose events are not to learn the particle type from.
    camera : CameraLayout, optional
        The camera to read.
    telescopes : sequence of int or str, optional
        Numbers or types (as ``LST_LST_LSTCam``) of the telescopes to read, by default
        all.
    focal_length_choice : ctapipe.instrument.FocalLengthKind
        As of ctapipe's `TableLoader`.
    store : ImageStore, optional
        Where the images go; by default one with its default options. It has to stay
        open as long as the images are used.
    progress : bool
        Show a progress bar.

    Returns
    -------
    EventSample

    Raises
    ------
    EventError
        If a file cannot be read, has no images, no truth or no telescope with the
        camera, or if no event passes the selection.
    ImageStoreError
        If there is no room for the images.
    """
    store = ImageStore() if store is None else store
    files = [(path, True) for path in paths]
    files += [(path, False) for path in regression_paths]
    for path, _ in files:
        _verify(path)
    sizes = np.array([os.path.getsize(path) for path, _ in files])
    shares = np.append(0, np.cumsum(sizes)) / max(1, sizes.sum())
    parts = []
    for (path, classify), before, after in zip(files, shares, shares[1:]):
        with _open(path, focal_length_choice) as file:
            wanted = _wanted(file.subarray, path, telescopes)
            camera, matches = _matching_telescopes(
                file.subarray, wanted, path, camera, selection
            )
            for chunk, share in _chunks(file, path, list(matches), progress):
                events = _selected(chunk, path, selection, tasks)
                for part, match in _by_camera(events, matches):
                    store.append(*_images(part, match), before + (after - before) * share)
                    parts.append(_targets_and_truth(part, path, tasks, match, classify))
    if not parts:
        raise EventError(
            f"no event passes the selection in {[str(path) for path, _ in files]}; how"
            f" many pass each criterion:\n{selection.to_table()}"
        )
    images, rows = store.finish(), np.concatenate(parts)
    truth = Table({name: rows[name] for name in TRUTH})
    for name, unit in TRUTH.items():
        truth[name].unit = unit
    return EventSample(
        charge=images[:, 0],
        peak_time=images[:, 1],
        targets={task: rows[task].copy() for task in tasks},
        truth=truth,
        camera=camera,
        classified=rows["classified"].copy(),
    )


def _chunks(file, path, tel_ids, progress):
    """Tables of a file, and the share of it that has been read with each."""
    with _opening(path):
        n_chunks = math.ceil(len(file) / CHUNK_SIZE)
    chunks = tqdm(
        _tables(file, path, tel_ids),
        desc=Path(path).name,
        unit="chunk",
        total=n_chunks,
        disable=not progress,
    )
    for number, chunk in enumerate(chunks, 1):
        if number % CHUNKS_TO_COLLECT == 0:
            _give_back_memory()
        yield chunk, number / n_chunks
    _give_back_memory()


def _by_camera(events, matches):
    """Events of each kind of camera, with its match."""
    for match in {id(match): match for match in matches.values()}.values():
        same = [matches[tel_id] is match for tel_id in events["tel_id"]]
        if any(same):
            yield events[same], match


def _images(events, match):
    """Charge and peak time in the order of the pixels of the camera to train."""
    names = ("image", "peak_time")
    return [np.asarray(events[name])[:, match.permutation] for name in names]


def _give_back_memory():
    """Give the memory of tables that are not in use any more back to the system.

    Tables refer to themselves in circles: only the collector of garbage frees them, and
    it comes seldom. Of what is freed, glibc keeps much for later.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # other systems have it not
    if trim is not None:
        trim(0)


@contextmanager
def _opening(path):
    """Name the file in whatever is raised."""
    try:
        yield
    except DL1Error as error:
        raise EventError(str(error)) from error
    except Exception as error:  # PyTables, h5py and ctapipe each raise their own
        raise EventError(
            f"{path}: cannot be read as a DL1 file, it may be damaged or of another"
            f" format: {reason(error)}"
        ) from error


def _verify(path):
    """Raise unless a file is whole and of a known data model.

    This is quick: all files are looked at before the first one is read.
    """
    with _opening(path):
        if is_lstchain(path):
            return  # its tables tell whether it is known
        with tables.open_file(path) as file:
            name = "CTA PRODUCT DATA MODEL VERSION"
            if name not in file.root._v_attrs:
                raise DL1Error(f"{path}: is no file of ctapipe, it has no {name!r}")
            version = file.root._v_attrs[name]
        if version not in COMPATIBLE_DATA_MODEL_VERSIONS:
            raise DL1Error(
                f"{path}: is of version {version} of ctapipe's data model; ctapipe"
                f" {ctapipe_version} reads {', '.join(COMPATIBLE_DATA_MODEL_VERSIONS)}."
                " Take another version of ctapipe, or make the file again with this one"
            )


def _open(path, focal_length_choice):
    with _opening(path):
        if is_lstchain(path):
            return LstchainFile(path, focal_length_choice)
        return TableLoader(path, focal_length_choice=focal_length_choice)


def _tables(file, path, tel_ids):
    """Events of some telescopes, in tables with ctapipe's names."""
    try:
        if isinstance(file, LstchainFile):
            yield from file.tables(CHUNK_SIZE, tel_ids)
        else:
            with Reading(path):
                yield from _tables_of_ctapipe(file, tel_ids)
    except DL1Error as error:
        raise EventError(str(error)) from error


def _tables_of_ctapipe(file, tel_ids):
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


def _wanted(subarray, path, telescopes):
    """Numbers of the telescopes to read."""
    if not telescopes:
        return set(subarray.tel_ids)
    try:
        return set(subarray.get_tel_ids(telescopes))
    except ValueError as error:
        known = ", ".join(f"{t} ({subarray.tel[t]})" for t in subarray.tel_ids)
        raise EventError(
            f"{path}: {error} Telescopes asked for are {telescopes}, there are {known}"
        ) from None


def _matching_telescopes(subarray, wanted, path, camera, selection):
    """The camera, and the match of every telescope that has it."""
    matches = {}
    reasons = []
    types = {subarray.get_tel_ids_for_type(t): t for t in subarray.telescope_types}
    for tel_ids, telescope in sorted(types.items()):
        tel_ids = sorted(wanted.intersection(tel_ids))
        if not tel_ids:
            continue
        try:
            layout = CameraLayout.from_telescope(telescope)
            camera = camera or layout
            match = camera.match(layout)
        except (CameraMismatch, LatticeError) as error:
            numbers = ", ".join(map(str, tel_ids))
            reasons.append(f"{telescope} (telescopes {numbers}): {error}")
            continue
        matches.update(dict.fromkeys(tel_ids, match))
    if not matches:
        raise EventError(
            f"{path}: no telescope has the camera to train, which is that of the first"
            f" file or of the initial model; train each camera on its own:"
            f" {'; '.join(reasons)}"
        )
    for text in reasons:
        selection.log.warning("%s: left out, of another camera: %s", path, text)
    return camera, matches


# columns of the truth, with their units
TRUTH = {
    "obs_id": None,
    "event_id": None,
    "tel_id": None,
    "true_energy": u.TeV,
    "true_shower_primary_id": None,
    "pointing_alt": u.rad,
    "pointing_az": u.rad,
}
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
            raise EventError(f"{path}: no column {name!r}; {_remedy(name)}")
    try:
        return table[selection.get_table_mask(table)]
    except ExpressionError as error:
        hint = ""
        if not any(name.startswith("hillas_") for name in table.colnames):
            hint = (
                "; it has no image parameters, make it with ctapipe-process"
                " --write-parameters"
            )
        raise EventError(
            f"{path}: the selection cannot be applied: {error}{hint}"
        ) from None


def _remedy(column):
    """What to do where a column is missing."""
    if column in ("image", "peak_time"):
        return "training needs images, make the file with ctapipe-process --write-images"
    if column in ("pointing_alt", "pointing_az"):
        return "training needs the pointing of the telescopes"
    return (
        "training needs simulated truth, which observed events have not; take DL1 files"
        " of simulations"
    )


def _targets_and_truth(events, path, tasks, match, classify):
    """What is kept of events beside their images, a structured array."""
    _verify_values(events, path, tasks)
    columns = {
        name: np.asarray(events[name])
        if unit is None
        else u.Quantity(events[name]).to_value(unit)
        for name, unit in TRUTH.items()
    }
    columns.update({task: _target(TASKS[task], events, path) for task in tasks})
    if "direction" in columns:  # as on the camera to train
        columns["direction"] /= np.float32(match.angle_scale)
    columns["classified"] = np.full(len(events), classify)
    dtype = [(name, value.dtype, value.shape[1:]) for name, value in columns.items()]
    rows = np.empty(len(events), dtype)
    for name, value in columns.items():
        rows[name] = value
    return rows


def _verify_values(events, path, tasks):
    """Raise where a number is missing that the targets or the card are made from."""
    needed = {*TRUTH, *(column for task in tasks for column in TASKS[task].columns)}
    for name in sorted(needed):
        column = events[name]
        # the table loader masks what it does not find in the table of another event
        missing = getattr(column, "mask", False)
        values = np.asarray(getattr(column, "unmasked", column))
        bad = np.flatnonzero(missing | ~np.isfinite(values))
        if len(bad):
            event = events[int(bad[0])]
            raise EventError(
                f"{path}: event {event['event_id']} of obs {event['obs_id']} has no"
                f" {name}: it is {event[name]}. Make the file again, or leave it out"
            )


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
