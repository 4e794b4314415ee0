"""DL1 files in bulk: telescope events of many array events at once.

Columns are read straight from the tables of a file. Joining them, as
`ctapipe.io.TableLoader` does, takes longer than reading them.
"""

from dataclasses import dataclass

import astropy.units as u
import numpy as np
import tables
from astropy.table import Table
from ctapipe.instrument import SubarrayDescription
from ctapipe.io import read_table
from ctapipe.io.hdf5dataformat import (
    DL0_TEL_POINTING_GROUP,
    DL1_SUBARRAY_TRIGGER_TABLE,
    DL1_TEL_IMAGES_GROUP,
    DL1_TEL_PARAMETERS_GROUP,
    DL1_TEL_POINTING_GROUP,
    DL1_TEL_TRIGGER_TABLE,
    FIXED_POINTING_GROUP,
)
from ctapipe.io.hdf5tableio import get_column_attrs, get_column_transforms
from ctapipe.monitoring.interpolation import PointingInterpolator

from .chunks import RowReader
from .files import reason
from .quality import is_calibration

__all__ = ["ArrayEvents", "DL1Error", "DL1File", "Reading", "TelescopeEvents"]

BLOCK_SIZE = 24 * 2**20  # bytes of images that are read at once
BLOCK_EVENTS = 8192  # array events that are read at once, at most


class DL1Error(ValueError):
    """A file cannot be used as DL1 input with images."""


@dataclass
class TelescopeEvents:
    """Some events of a telescope.

    Attributes
    ----------
    tel_id : int
    event : ndarray of int, shape (N,)
        Which of the array events, ascending.
    has_image : ndarray of bool, shape (N,)
        Triggered telescopes may be without data, and those of calibration events are
        left out. M of them have an image.
    image, peak_time : ndarray of float32, shape (M, P)
    parameters : astropy.table.Table, M rows
        Of the images; nothing but obs_id and event_id if they are not read.
    altitude, azimuth : Quantity, shape (M,)
        Pointing of the telescope.
    """

    tel_id: int
    event: np.ndarray
    has_image: np.ndarray
    image: np.ndarray
    peak_time: np.ndarray
    parameters: Table
    altitude: u.Quantity
    azimuth: u.Quantity


@dataclass
class ArrayEvents:
    """Some successive events of the array.

    Attributes
    ----------
    index : ndarray with fields obs_id and event_id, shape (E,)
    telescopes : list of TelescopeEvents
        Telescopes with at least one event.
    """

    index: np.ndarray
    telescopes: list


class DL1File:
    """A DL1 file of ctapipe with images.

    Parameters
    ----------
    path : path-like
    focal_length_choice : ctapipe.instrument.FocalLengthKind
        See `ctapipe.io.TableLoader`.
    parent : ctapipe.core.Component, optional
        Has the configuration of `PointingInterpolator`.

    Raises
    ------
    DL1Error
        If it cannot be read or has no images.
    """

    def __init__(self, path, focal_length_choice, parent=None):
        self.path = path
        with self._reading():
            self._file = tables.open_file(path)
        try:
            with self._reading():
                self.subarray = SubarrayDescription.from_hdf(
                    self._file, focal_length_choice=focal_length_choice
                )
                self._trigger = self._table(DL1_SUBARRAY_TRIGGER_TABLE)
                self._pointing = _Pointing(path, self._file, parent)
            if DL1_TEL_IMAGES_GROUP not in self._file.root:
                raise DL1Error(
                    f"{path}: no images ({DL1_TEL_IMAGES_GROUP} is missing); make DL1"
                    " files with ctapipe-process --write-images"
                )
        except BaseException:
            self.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def __len__(self):
        return self._trigger.nrows

    @property
    def data_model_version(self):
        """Version of ctapipe's data model."""
        return self._file.root._v_attrs["CTA PRODUCT DATA MODEL VERSION"]

    def close(self):
        """Close the file."""
        self._file.close()

    def _reading(self):
        return Reading(self.path)

    def _table(self, path):
        if path not in self._file.root:
            raise DL1Error(f"{self.path}: no table {path}")
        return self._file.get_node(path)

    def blocks(self, tel_ids, with_parameters):
        """Read all array events, block by block.

        Parameters
        ----------
        tel_ids : iterable of int
            The telescopes to read.
        with_parameters : bool
            Whether to read image parameters.

        Yields
        ------
        events : ArrayEvents

        Raises
        ------
        DL1Error
            If something is missing, or out of step with the trigger table.
        """
        with self._reading():
            readers = {
                tel_id: _TelescopeReader(self, tel_id, with_parameters)
                for tel_id in tel_ids
            }
            times = _TriggerTimes(self) if self._pointing.needs_time else None
            start = 0
            while start < len(self):
                index, triggered, calibration = self._next_events(start, readers)
                if times:
                    times.read(index, triggered)
                telescopes = []
                for tel_id, reader in readers.items():
                    column = self.subarray.tel_indices[tel_id]
                    event = np.flatnonzero(triggered[:, column])
                    if len(event):
                        time = times and times.of_telescope(tel_id)
                        telescopes.append(reader.read(index, event, time, calibration))
                yield ArrayEvents(index, telescopes)
                start += len(index)
            for reader in readers.values():
                reader.finish()

    def _next_events(self, start, readers):
        """Index, trigger pattern and whether it is a calibration event.

        Of as many events as fit in memory.
        """
        rows = self._trigger.read(start, start + BLOCK_EVENTS)
        triggered = rows["tels_with_trigger"]
        size = sum(
            triggered[:, self.subarray.tel_indices[tel_id]] * reader.row_size
            for tel_id, reader in readers.items()
        )
        stop = np.searchsorted(np.cumsum(size), BLOCK_SIZE, side="right")
        stop = max(1, stop)
        calibration = is_calibration(rows["event_type"])
        return rows[["obs_id", "event_id"]][:stop], triggered[:stop], calibration[:stop]


class Reading:
    """Turn what PyTables and ctapipe raise into a message with the file's name.

    Parameters
    ----------
    path : path-like
    maker : str
        Whose file it should be.
    """

    def __init__(self, path, maker="ctapipe"):
        self._path, self._maker = path, maker

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        errors = (tables.HDF5ExtError, tables.NodeError, OSError, KeyError, RuntimeError)
        if isinstance(error, (*errors, ValueError)) and not isinstance(error, DL1Error):
            raise DL1Error(
                f"{self._path}: cannot be read as a DL1 file of {self._maker}:"
                f" {reason(error)}. It may be damaged: make it again"
            ) from error


class _TelescopeReader:
    """Events of one telescope, in the order of the trigger table."""

    def __init__(self, dl1, tel_id, with_parameters):
        self._dl1, self._tel_id = dl1, tel_id
        name = f"tel_{tel_id:03d}"
        path = f"{DL1_TEL_IMAGES_GROUP}/{name}"
        # a telescope that never triggered has no tables
        self._images = self._parameters = self._transforms = None
        self.row_size = 0
        if path not in dl1._file.root:
            return
        table = dl1._table(path)
        self._verify(table)
        self._images = _RowsInStep(dl1, table)
        self._transforms = get_column_transforms(get_column_attrs(table))
        self.row_size = table.rowsize
        if with_parameters:
            path = f"{DL1_TEL_PARAMETERS_GROUP}/{name}"
            if path not in dl1._file.root:
                raise DL1Error(
                    f"{dl1.path}: no image parameters ({path} is missing), but quality"
                    " criteria or weights need them; make DL1 files with"
                    " ctapipe-process --write-parameters, or use neither"
                )
            self._parameters = _RowsInStep(dl1, dl1._table(path))

    def _verify(self, table):
        n_pixels = self._dl1.subarray.tel[self._tel_id].camera.geometry.n_pixels
        for name in ("image", "peak_time"):
            if name not in table.colnames:
                raise DL1Error(
                    f"{self._dl1.path}: no column {name} in {table._v_pathname}"
                )
            shape = tuple(int(n) for n in table.coldescrs[name].shape)
            if shape != (n_pixels,):
                raise DL1Error(
                    f"{self._dl1.path}: column {name} of {table._v_pathname} has shape"
                    f" {shape}, but the camera has {n_pixels} pixels"
                )

    def read(self, index, event, time, calibration):
        """The telescope's part of some array events."""
        if self._images is None:
            raise DL1Error(
                f"{self._dl1.path}: telescope {self._tel_id} has triggered, but there is"
                f" no table of its images in {DL1_TEL_IMAGES_GROUP}"
            )
        rows, found = self._images.read(index[event])
        keys = index[event[found]]
        if self._parameters is not None:
            parameters = self._parameters.read_table(keys)
        else:
            parameters = Table({name: keys[name] for name in keys.dtype.names})
        wanted = ~calibration[event[found]]
        if not wanted.all():
            rows, found = rows[wanted], found[wanted]
            keys, parameters = keys[wanted], parameters[wanted]
        with_image = np.zeros(len(event), dtype=bool)
        with_image[found] = True
        altitude, azimuth = self._dl1._pointing(
            self._tel_id, keys["obs_id"], None if time is None else time[found]
        )
        return TelescopeEvents(
            tel_id=self._tel_id,
            event=event,
            has_image=with_image,
            image=self._decoded("image", rows),
            peak_time=self._decoded("peak_time", rows),
            parameters=parameters,
            altitude=altitude,
            azimuth=azimuth,
        )

    def _decoded(self, name, rows):
        transform = self._transforms.get(name)
        return transform.inverse(rows[name]) if transform else rows[name]

    def finish(self):
        """Raise if rows are left that no array event was there for."""
        for rows in (self._images, self._parameters):
            if rows is not None:
                rows.finish()


class _RowsInStep:
    """Rows of a table that follow the order of the trigger table."""

    def __init__(self, dl1, table):
        self._dl1, self._table = dl1, table
        self._rows = RowReader(table)
        self._position = 0

    def read(self, keys):
        """The next rows, as far as they belong to the events.

        Parameters
        ----------
        keys : ndarray with fields obs_id and event_id, shape (N,)

        Returns
        -------
        rows : structured ndarray, shape (M,)
        found : ndarray of int, shape (M,)
            Which of the events, ascending.
        """
        rows = self._rows.read(self._position, self._position + len(keys))
        found = _match(rows, keys)
        self._position += len(found)
        return rows[: len(found)], found

    def read_table(self, keys):
        """The next rows as a table; there has to be one for each event."""
        start, self._position = self._position, self._position + len(keys)
        table = read_table(
            self._dl1._file, self._table._v_pathname, start, self._position
        )
        same = _same(table, keys[: len(table)])
        if len(table) < len(keys) or not same.all():
            self._position = start + np.argmin(np.append(same, False))
            self._out_of_step()
        return table

    def finish(self):
        """Raise if rows are left."""
        if self._position < self._table.nrows:
            self._out_of_step()

    def _out_of_step(self):
        raise DL1Error(
            f"{self._dl1.path}: {self._table._v_pathname} is not in the order of the"
            f" trigger table, or has other events, from row {self._position} on"
        )


def _match(rows, keys):
    """Events of the first rows; ends before the first one that is of a later event."""
    if len(rows) == len(keys) and _same(rows, keys).all():
        return np.arange(len(rows))
    place = {key: i for i, key in enumerate(keys.tolist())}
    found = []
    for key in zip(rows["obs_id"].tolist(), rows["event_id"].tolist()):
        i = place.get(key, -1)
        if i < 0 or (found and i <= found[-1]):
            break
        found.append(i)
    return np.array(found, dtype=int)


def _same(rows, keys):
    """Which rows have the same obs_id and event_id as the events."""
    return np.logical_and.reduce(
        [np.asarray(rows[name]) == keys[name] for name in keys.dtype.names]
    )


class _TriggerTimes:
    """Trigger times of all telescopes, in the order of the trigger table."""

    def __init__(self, dl1):
        self._dl1 = dl1
        self._dl1._table(DL1_TEL_TRIGGER_TABLE)
        self._position = 0
        self._rows = None

    def read(self, index, triggered):
        """Read those of the next array events."""
        keys = np.repeat(index, triggered.sum(axis=1))
        start, self._position = self._position, self._position + len(keys)
        self._rows = read_table(
            self._dl1._file, DL1_TEL_TRIGGER_TABLE, start, self._position
        )
        if len(self._rows) < len(keys) or any(
            (np.asarray(self._rows[name]) != keys[name]).any()
            for name in keys.dtype.names
        ):
            raise DL1Error(
                f"{self._dl1.path}: {DL1_TEL_TRIGGER_TABLE} is not in the order of the"
                f" trigger table after row {start}"
            )

    def of_telescope(self, tel_id):
        """Trigger times of one telescope, a `Time`."""
        return self._rows["time"][self._rows["tel_id"] == tel_id]


class _Pointing:
    """Pointing of telescopes, from where ctapipe's event source takes it."""

    def __init__(self, path, file, parent):
        self._path = path
        self._interpolator, self._constant = None, {}
        if DL0_TEL_POINTING_GROUP in file.root:
            self._interpolator = PointingInterpolator(h5file=file, parent=parent)
        elif FIXED_POINTING_GROUP in file.root:
            for node in file.root[FIXED_POINTING_GROUP]._f_iter_nodes("Table"):
                table = read_table(file, node._v_pathname)
                table.sort("obs_id")
                self._constant[int(node._v_name.removeprefix("tel_"))] = table
        elif DL1_TEL_POINTING_GROUP in file.root:
            raise DL1Error(
                f"{path}: has its pointing in {DL1_TEL_POINTING_GROUP}, as ctapipe before"
                " version 0.21 wrote it; bring it up to date with ctapipe-process"
            )

    @property
    def needs_time(self):
        """Whether it depends on the time of the event."""
        return self._interpolator is not None

    def __call__(self, tel_id, obs_id, time):
        """Altitude and azimuth for some events of a telescope."""
        if self.needs_time:
            return self._interpolator(tel_id, time)
        if tel_id not in self._constant:
            unknown = np.full(len(obs_id), np.nan) * u.deg
            return unknown, unknown
        table = self._constant[tel_id]
        known = np.asarray(table["obs_id"])
        row = np.minimum(np.searchsorted(known, obs_id), len(known) - 1)
        if (known[row] != obs_id).any():
            missing = obs_id[known[row] != obs_id][0]
            raise DL1Error(
                f"{self._path}: {FIXED_POINTING_GROUP} has no pointing of telescope"
                f" {tel_id} for obs_id {missing}"
            )
        return tuple(
            table[f"telescope_pointing_{name}"].quantity[row]
            for name in ("altitude", "azimuth")
        )
