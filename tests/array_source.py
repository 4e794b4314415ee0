"""Events of an array of telescopes, put together from those of one telescope."""

from copy import deepcopy

import astropy.units as u
import numpy as np
from astropy.table import QTable
from astropy.time import Time
from ctapipe.containers import (
    ArrayEventContainer,
    ObservationBlockContainer,
    SchedulingBlockContainer,
)
from ctapipe.core import Provenance
from ctapipe.instrument import SubarrayDescription
from ctapipe.io import DataLevel, DataWriter, EventSource, write_table

START = Time("2026-01-01T00:00:00", scale="tai")
OBS_ID = 77


class ArraySource(EventSource):
    """Observed events of three telescopes like LST-1, and of one with other optics.

    A telescope event is one of the sample's. Telescope 5 never triggers, and
    some events are of telescope 7 alone.
    """

    is_simulation = False
    datalevels = (DataLevel.DL1_IMAGES, DataLevel.DL1_PARAMETERS)
    observation_blocks = {OBS_ID: ObservationBlockContainer(obs_id=np.uint64(OBS_ID))}
    scheduling_blocks = {OBS_ID: SchedulingBlockContainer(sb_id=np.uint64(OBS_ID))}

    def __init__(self, path, n_events):
        super().__init__(path)
        with EventSource(path, max_events=3 * n_events) as source:
            lst = source.subarray.tel[1]
            self._dl1 = [deepcopy(event.dl1.tel[1]) for event in source]
        self.n_events = n_events
        other = deepcopy(lst)
        other.optics.effective_focal_length *= 2
        telescopes = {1: lst, 3: lst, 5: lst, 7: other}
        self._subarray = SubarrayDescription(
            "test array",
            tel_positions={t: [100 * t, 0, 0] * u.m for t in telescopes},
            tel_descriptions=telescopes,
            reference_location=None,
        )

    @staticmethod
    def is_compatible(path):
        return False  # it is not for others to find

    @property
    def subarray(self):
        return self._subarray

    def _generator(self):
        dl1 = iter(self._dl1)
        for i in range(self.n_events):
            event = ArrayEventContainer(count=i)
            event.index.obs_id, event.index.event_id = OBS_ID, 10 * i
            tel_ids = [[1, 3, 7], [3], [7], [1, 3], [1, 7]][i % 5]
            event.trigger.time = START + i * u.s
            event.trigger.tels_with_trigger = np.array(tel_ids)
            for tel_id in tel_ids:
                event.trigger.tel[tel_id].time = event.trigger.time + tel_id * u.ms
                event.dl1.tel[tel_id] = next(dl1)
            yield event


class SimulatedArraySource(ArraySource):
    """The first events of the sample, seen alike by telescopes 1, 3 and 7.

    Telescope 3 is 100 m north of telescope 1.
    """

    is_simulation = True
    simulation_config = property(lambda self: self._simulation_config)

    def __init__(self, path, n_events):
        super().__init__(path, n_events)
        with EventSource(path, max_events=n_events) as source:
            self._simulation_config = source.simulation_config
            self.observation_blocks = source.observation_blocks
            self.scheduling_blocks = source.scheduling_blocks
            self._events = [deepcopy(event) for event in source]
            north = source.subarray.positions[1]
        types = {tel_id: self._subarray.tel[tel_id] for tel_id in (1, 3, 7)}
        self._subarray = SubarrayDescription(
            "simulated array",
            tel_positions={
                tel_id: north + [offset, 0, 0] * u.m
                for tel_id, offset in ((1, 0), (3, 100), (7, 300))
            },
            tel_descriptions=types,
            reference_location=None,
        )

    def _generator(self):
        for event in self._events:
            for container in (
                *(event.trigger, event.dl1, event.simulation),
                *(event.monitoring, getattr(event, "pointing", event.monitoring)),
            ):
                for tel_id in (3, 7):
                    if 1 in container.tel:
                        container.tel[tel_id] = deepcopy(container.tel[1])
            event.trigger.tels_with_trigger = np.array([1, 3, 7])
            yield event


def write_simulated_array_dl1(sample_path, path, n_events):
    """Write a DL1 file of such events."""
    _write(SimulatedArraySource, sample_path, path, n_events)


def write_array_dl1(sample_path, path, n_events):
    """Write a DL1 file of observed events, with a pointing that moves."""
    _write(ArraySource, sample_path, path, n_events)
    for tel_id in (1, 3, 7):
        pointing = QTable(
            {
                "time": START + [-1, 2 * n_events] * u.s,
                "azimuth": np.deg2rad([359, 361 + tel_id]) * u.rad,
                "altitude": np.deg2rad([70, 69]) * u.rad,
            }
        )
        write_table(
            pointing, path, f"/dl0/monitoring/telescope/pointing/tel_{tel_id:03d}"
        )


def _write(kind, sample_path, path, n_events):
    Provenance().start_activity("test")
    try:
        with kind(sample_path, n_events) as source:
            with DataWriter(
                source,
                output_path=path,
                write_dl1_images=True,
                write_dl1_parameters=True,
                transform_peak_time=True,
            ) as write:
                for event in source:
                    write(event)
    finally:
        Provenance().finish_activity("test")
