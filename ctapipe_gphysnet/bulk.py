"""γ-PhysNet on whole files: the tables of ctapipe-process without its event loop.

Three things go on at the same time: one thread reads and writes, for HDF5
wants to be used by one only; others prepare images; the caller's runs the
network.
"""

import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass

import numpy as np
from ctapipe.containers import EventIndexContainer, TelEventIndexContainer
from ctapipe.io import HDF5TableWriter, write_table
from ctapipe.io.hdf5dataformat import (
    DL2_EVENT_STATISTICS_GROUP,
    DL2_SUBARRAY_GROUP,
    DL2_TEL_GROUP,
)
from ctapipe.io.tableio import TelListToMaskTransform

from .combination import weight_columns
from .dl1 import ArrayEvents
from .files import close_verified
from .products import physical_columns

__all__ = ["DL2Writer", "reconstruct"]

PREPARERS = min(8, max(1, (os.cpu_count() or 1) // 2))


def reconstruct(files, reconstructor, writer, progress=lambda n_events: None):
    """Fill the DL2 tables of whole files.

    Parameters
    ----------
    files : iterable of callable
        Each opens a `ctapipe_gphysnet.dl1.DL1File`.
    reconstructor : GammaPhysNetReconstructor
        For the subarray of the files. Its quality query counts.
    writer : DL2Writer
    progress : callable
        Told the number of array events that are done, time and again.

    Raises
    ------
    DL1Error
        If a file cannot be used. Some rows are written then.
    """
    with _threads(1) as hdf5, _threads(PREPARERS) as preparers:
        blocks = _blocks(files, reconstructor)
        ahead, written = deque(), None

        def read_ahead():
            block = hdf5.submit(next, blocks, None)
            ahead.append(preparers.submit(_prepared, block, reconstructor))

        try:
            for _ in range(PREPARERS + 1):
                read_ahead()
            while (block := ahead.popleft().result()) is not None:
                read_ahead()
                block.predict(reconstructor)
                if written is not None:
                    written.result()
                written = hdf5.submit(writer.append, block)
                progress(len(block.events.index))
            if written is not None:
                written.result()
        finally:
            for task in ahead:
                task.cancel()
            hdf5.submit(blocks.close).result()


def _prepared(block, reconstructor):
    """What becomes of a block that is being read; None after the last."""
    block = block.result()
    if block is not None:
        block.prepare(reconstructor)
    return block


@contextmanager
def _threads(number):
    """A thread pool that drops waiting tasks when there is an exception."""
    with ThreadPoolExecutor(number) as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


@dataclass
class _Block:
    """Some array events on their way through.

    Attributes
    ----------
    events : ArrayEvents
    usable : list of ndarray of bool
        For every telescope, which of its images go through the network.
    images : list of ndarray of float32
        For every telescope, the network's input.
    raw : list of dict
        For every telescope, the network's output.
    """

    events: ArrayEvents
    usable: list
    images: list = None
    raw: list = None

    def prepare(self, reconstructor):
        """Turn images into the network's input."""
        self.images = []
        for telescope, usable in zip(self.events.telescopes, self.usable):
            assignment = reconstructor.assignments[telescope.tel_id]
            self.images.append(
                assignment.predictor.prepare(
                    telescope.image[usable], telescope.peak_time[usable], assignment.match
                )
            )
            telescope.image = telescope.peak_time = None  # most of the memory

    def predict(self, reconstructor):
        """Run the network, once for all telescopes with the same model."""
        self.raw = [None] * len(self.images)
        predictors = [
            reconstructor.assignments[telescope.tel_id].predictor
            for telescope in self.events.telescopes
        ]
        for predictor in dict.fromkeys(predictors):
            mine = [i for i, other in enumerate(predictors) if other is predictor]
            images = [self.images[i] for i in mine]
            raw = predictor.predict(
                images[0] if len(mine) == 1 else np.concatenate(images)
            )
            ends = np.cumsum([len(image) for image in images])
            for i, start, end in zip(mine, [0, *ends], ends):
                self.raw[i] = {task: output[start:end] for task, output in raw.items()}
        self.images = None


def _blocks(files, reconstructor):
    """Blocks of all files, not yet prepared."""
    query = reconstructor.quality_query
    with_parameters = bool(query.quality_criteria) or any(
        combiner.needs_parameters for combiner in reconstructor.combiners.values()
    )
    for open_file in files:
        with open_file() as dl1:
            blocks = dl1.blocks(list(reconstructor.assignments), with_parameters)
            with closing(blocks):
                for events in blocks:
                    usable = [
                        # both are evaluated in any case, for the statistics
                        query.passed(telescope.parameters)
                        & ~np.isnan(telescope.image).all(axis=1)
                        for telescope in events.telescopes
                    ]
                    yield _Block(events, usable)


class DL2Writer:
    """Appends to the DL2 tables of a file.

    Parameters
    ----------
    path : path-like
        A ctapipe file without tables of this package.
    reconstructor : GammaPhysNetReconstructor
    telescope_wise, array_wise : bool
        Which tables to write.
    """

    def __init__(self, path, reconstructor, telescope_wise=True, array_wise=True):
        self._reconstructor = reconstructor
        self._telescope_wise, self._array_wise = telescope_wise, array_wise
        self._writer = HDF5TableWriter(path, mode="a", add_prefix=True)
        self._empty_rows = {}
        # as ctapipe.io.DataWriter does
        self._telescope_mask = TelListToMaskTransform(reconstructor.subarray)
        self._writer.exclude(f"{DL2_TEL_GROUP[1:]}/.*", ".*telescopes")
        self._writer.add_column_transform_regexp(
            f"{DL2_SUBARRAY_GROUP[1:]}/.*", ".*telescopes", self._telescope_mask
        )

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def close(self):
        """Close the file."""
        self._writer.close()

    def finish(self):
        """Write how many telescope events passed the criteria, and close the file."""
        write_table(
            self._reconstructor.quality_query.to_table(functions=True),
            self._writer.h5file,
            f"{DL2_EVENT_STATISTICS_GROUP}/{self._reconstructor.statistics_name}",
        )
        close_verified(self._writer.h5file)

    def append(self, block):
        """Append the results of a block of events to the tables."""
        results = [
            self._columns(telescope, usable, raw)
            for telescope, usable, raw in zip(
                block.events.telescopes, block.usable, block.raw
            )
        ]
        for product in self._reconstructor.products:
            found = [
                (telescope, usable, columns[product.task])
                for telescope, usable, columns in zip(
                    block.events.telescopes, block.usable, results
                )
                if product.task in columns
            ]
            if self._telescope_wise:
                for telescope, usable, columns in found:
                    self._append_telescope(
                        product, block.events.index, telescope, usable, columns
                    )
            if self._array_wise:
                self._append_array(product, block.events.index, found)

    def _columns(self, telescope, usable, raw):
        match = self._reconstructor.assignments[telescope.tel_id].match
        altitude = telescope.altitude[usable]
        self._reconstructor.warn_without_pointing(telescope.tel_id, altitude)
        return physical_columns(
            raw,
            match.angle_scale,
            self._reconstructor.subarray.positions[telescope.tel_id],
            altitude,
            telescope.azimuth[usable],
        )

    def _append_telescope(self, product, index, telescope, usable, columns):
        keys = index[telescope.event]
        self._append_rows(
            f"{DL2_TEL_GROUP[1:]}/{product.slot}/{product.prefix}"
            f"/tel_{telescope.tel_id:03d}",
            TelEventIndexContainer(
                obs_id=keys["obs_id"][0],
                event_id=keys["event_id"][0],
                tel_id=np.int16(telescope.tel_id),
            ),
            self._reconstructor.container(
                product, f"{product.prefix}_tel", product.nothing
            ),
            keys,
            np.flatnonzero(telescope.has_image)[usable],
            columns,
        )

    def _append_array(self, product, index, found):
        columns = {}
        if found:
            columns = self._combined(product, len(index), found)
        self._append_rows(
            f"{DL2_SUBARRAY_GROUP[1:]}/{product.slot}/{product.prefix}",
            EventIndexContainer(obs_id=index["obs_id"][0], event_id=index["event_id"][0]),
            self._reconstructor.container(
                product, product.prefix, {**product.nothing, "telescopes": []}
            ),
            index,
            slice(None),
            columns,
        )

    def _combined(self, product, n_events, found):
        """Array-wise columns of the valid telescope-wise ones."""
        combiner = self._reconstructor.combiners[product.prefix]
        subarray = self._reconstructor.subarray
        parts = []
        telescopes = np.zeros((n_events, len(subarray)), dtype=bool)
        for telescope, usable, columns in found:
            valid = columns["is_valid"]
            part = {name: columns[name][valid] for name in product.averaged}
            part["event"] = telescope.event[telescope.has_image][usable][valid]
            if combiner.needs_parameters:
                part.update(weight_columns(telescope.parameters[usable][valid]))
            telescopes[part["event"], subarray.tel_indices[telescope.tel_id]] = True
            parts.append(part)
        together = {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
        order = np.argsort(together["event"], kind="stable")
        together = {name: values[order] for name, values in together.items()}
        combined = combiner.combine_table(together.pop("event"), together, n_events)
        return {**combined, "telescopes": telescopes, "is_valid": telescopes.any(axis=1)}

    def _append_rows(self, name, index, container, keys, place, columns):
        """Append rows to a table, with values in some of them.

        Parameters
        ----------
        name : str
            Of the table, which ctapipe makes if it is new.
        index, container : ctapipe.core.Container
            A row without result.
        keys : ndarray with fields obs_id and event_id, shape (N,)
        place : ndarray of int, shape (M,), or slice
            Rows with values.
        columns : dict of str to Quantity or ndarray, shape (M,)
            The values, by name of the container's field.
        """
        if name not in self._empty_rows:
            self._writer.write(name, [index, container])
            table = self._writer.h5file.get_node(f"/{name}")
            table.flush()
            self._empty_rows[name] = table[:]
            table.truncate(0)
        rows = np.repeat(self._empty_rows[name], len(keys))
        rows["obs_id"], rows["event_id"] = keys["obs_id"], keys["event_id"]
        for field, values in columns.items():
            unit = container.fields[field].unit
            rows[f"{container.prefix}_{field}"][place] = (
                values.to_value(unit) if unit else values
            )
        self._writer.h5file.get_node(f"/{name}").append(rows)
