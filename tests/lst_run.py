"""Raw data of LST-1 as its event builder writes them, made of simulated images.

And what ctapipe_io_lst needs to read them: drive report and calibration files.
"""

import functools
from dataclasses import dataclass, field

import astropy.units as u
import numpy as np
import tables
from astropy.table import Table
from astropy.time import Time
from ctapipe.containers import EventType, PixelStatus
from ctapipe.image.toymodel import WaveformModel
from ctapipe.io import HDF5TableWriter, write_table
from ctapipe_io_lst import LSTEventSource
from ctapipe_io_lst.anyarray_dtypes import CDTS_AFTER_37201_DTYPE, DRAGON_COUNTERS_DTYPE
from ctapipe_io_lst.constants import CLOCK_FREQUENCY_KHZ, TriggerBits
from ctapipe_io_lst.containers import (
    FlatFieldContainer,
    PedestalContainer,
    PixelStatusContainer,
    WaveformCalibrationContainer,
)
from ctapipe_io_lst.evb_preprocessing import EVBPreprocessingFlag
from ctapipe_io_lst.event_time import time_to_cta_high
from protozfits import FlatProtobufZOFits, numpy_to_any_array
from protozfits.ProtoR1_LSTCam_pb2 import LstCamConfig, LstCamEvent
from protozfits.ProtoR1_pb2 import CameraConfiguration as OldConfiguration
from protozfits.ProtoR1_pb2 import CameraEvent
from protozfits.R1v1_debug_pb2 import DebugCameraConfiguration, DebugEvent
from protozfits.R1v1_pb2 import CameraConfiguration, Event, TelescopeDataStream

RUN = 10000
START = Time("2023-05-16T22:00:00", scale="utc")
N_PIXELS, N_MODULES, N_SAMPLES = 1855, 265, 40
MISSING = np.arange(700, 707)  # pixels of a module that the camera is without
UNUSABLE = np.array([3, 250, 900])  # pixels that the calibration file says are so
PRESENT = np.setdiff1d(np.arange(N_PIXELS), MISSING)
GAINS, BASELINE = (86, 5), 400  # ADC counts a photo-electron, and without light
SCALE = 80  # of waveforms that are stored in photo-electrons
READ = np.uint8(PixelStatus.HIGH_GAIN_STORED)
BOTH = READ | np.uint8(PixelStatus.LOW_GAIN_STORED)
KEPT = np.uint8(PixelStatus.DVR_0)
TRIGGERS = {
    EventType.SUBARRAY: TriggerBits.MONO,
    EventType.FLATFIELD: TriggerBits.CALIBRATION,
    EventType.SKY_PEDESTAL: TriggerBits.PEDESTAL,
}


@dataclass
class RawEvent:
    """An event to write.

    Attributes
    ----------
    event_id : int
    seconds : int
        After the start of the run.
    charge, peak_time : ndarray, shape (1855,)
        In photo-electrons and ns.
    event_type : EventType
    broken, left_out : ndarray of int
        Pixels that were not read, and those that data volume reduction left out.
    both_gains : bool
        Whether both gain channels were read.
    """

    event_id: int
    seconds: int
    charge: np.ndarray
    peak_time: np.ndarray
    event_type: EventType = EventType.SUBARRAY
    broken: np.ndarray = field(default_factory=lambda: np.array([], dtype=int))
    left_out: np.ndarray = field(default_factory=lambda: np.array([], dtype=int))
    both_gains: bool = False

    @property
    def time(self):
        return START + self.seconds * u.s

    @property
    def pixel_status(self):
        """Of the present pixels."""
        status = np.full(N_PIXELS, (BOTH if self.both_gains else READ) | KEPT)
        status[self.left_out] &= ~KEPT
        status[self.broken] = 0
        return status[PRESENT]

    @functools.cached_property
    def _signal(self):
        """Photo-electrons in every sample, shape (1855, 40)."""
        (signal,) = _pulse_model().get_waveform(self.charge, self.peak_time, N_SAMPLES)
        return signal

    def waveform(self, gains, baseline):
        """Of the pixels that are stored, as the file has them, shape (N,)."""
        stored = PRESENT[(self.pixel_status & KEPT) > 0]
        gains = gains if self.both_gains else gains[:1]
        counts = [baseline + gain * self._signal[stored] for gain in gains]
        return np.clip(counts, 0, 65535).astype(np.uint16).ravel()


@functools.cache
def _pulse_model():
    readout = LSTEventSource.create_subarray().tel[1].camera.readout
    return WaveformModel(
        readout.reference_pulse_shape[:1],
        readout.reference_pulse_sample_width,
        sample_width=1 / readout.sampling_rate,
    )


def packed(array):
    return numpy_to_any_array(np.ascontiguousarray(array))


def write_run(path, events, protocol, calibrated=False):
    """Write raw data.

    Parameters
    ----------
    path : path-like
        The name should be that of a file of LST-1.
    events : list of RawEvent
    protocol : {"R1v1", "ProtoR1"}
        Format of the messages; ProtoR1 is the older one.
    calibrated : bool
        Whether the event builder has already made photo-electrons of the waveforms.
    """
    write = {"R1v1": _write_r1v1, "ProtoR1": _write_proto_r1}[protocol]
    with FlatProtobufZOFits(
        n_tiles=2, rows_per_tile=20, compression_block_size_kb=64 * 1024
    ) as file:
        file.open(str(path))
        write(file, events, calibrated)


def _write_r1v1(file, events, calibrated):
    action = EVBPreprocessingFlag.PE_CALIBRATION if calibrated else 0
    gains, baseline = ((SCALE, SCALE), 5 * SCALE) if calibrated else (GAINS, BASELINE)
    pattern = np.full(16, action, dtype=np.uint16)
    file.move_to_new_table("DataStream")
    stream = {"waveform_scale": SCALE, "waveform_offset": 5} if calibrated else {}
    file.write_message(
        TelescopeDataStream(
            sb_id=RUN, obs_id=RUN, **{"waveform_scale": 1, "waveform_offset": 0} | stream
        )
    )
    file.move_to_new_table("CameraConfiguration")
    file.write_message(
        CameraConfiguration(
            tel_id=1,
            local_run_id=RUN,
            config_time_s=int(START.unix),
            num_modules=N_MODULES - 1,
            num_pixels=len(PRESENT),
            num_channels=2,
            data_model_version="1.0",
            num_samples_nominal=N_SAMPLES,
            pixel_id_map=packed(PRESENT.astype(np.uint16)),
            module_id_map=packed(_modules()),
            debug=DebugCameraConfiguration(
                evb_version="test",
                tdp_type=packed(np.zeros(15, dtype=np.uint16)),
                # ctapipe_io_lst expects the two mixed up, as they are in reality
                tdp_action=packed(np.zeros(16, dtype=np.uint16)),
                ttype_pattern=packed(pattern),
            ),
        )
    )
    file.move_to_new_table("Events")
    file.set_bool("LSTDVR", True)
    for event in events:
        seconds, quarter_nanoseconds = time_to_cta_high(event.time)
        file.write_message(
            Event(
                event_id=event.event_id,
                tel_id=1,
                local_run_id=RUN,
                event_type=event.event_type.value,
                event_time_s=int(seconds),
                event_time_qns=int(quarter_nanoseconds),
                num_channels=2 if event.both_gains else 1,
                num_pixels=len(PRESENT),
                num_samples=N_SAMPLES,
                pixel_status=packed(event.pixel_status),
                waveform=packed(event.waveform(gains, baseline)),
                first_cell_id=packed(_first_cells(event)),
                module_hires_local_clock_counter=packed(_clock(event)),
                debug=DebugEvent(
                    module_status=packed(np.ones(N_MODULES - 1, dtype=np.uint8)),
                    extdevices_presence=0,
                    counters=packed(_counters(event)),
                    tdp_action=int(action),
                ),
            )
        )


def _write_proto_r1(file, events, calibrated):
    assert not calibrated  # it is not in this format
    file.move_to_new_table("CameraConfig")
    file.write_message(
        OldConfiguration(
            telescope_id=1,
            configuration_id=RUN,
            date=int(START.unix),
            num_pixels=len(PRESENT),
            num_samples=N_SAMPLES,
            expected_pixels_id=packed(PRESENT.astype(np.uint16)),
            lstcam=LstCamConfig(
                idaq_version="40000",
                num_modules=N_MODULES - 1,
                expected_modules_id=packed(_modules()),
            ),
        )
    )
    file.move_to_new_table("Events")
    file.set_bool("LSTDVR", True)
    for event in events:
        seconds, quarter_nanoseconds = time_to_cta_high(event.time)
        cdts = np.zeros(1, dtype=CDTS_AFTER_37201_DTYPE)
        cdts["timestamp"] = np.uint64(seconds) * np.uint64(1_000_000_000)
        cdts["trigger_type"] = TRIGGERS[event.event_type]
        file.write_message(
            CameraEvent(
                configuration_id=RUN,
                event_id=event.event_id,
                tel_event_id=event.event_id,
                trigger_time_s=int(seconds),
                trigger_time_qns=int(quarter_nanoseconds),
                waveform=packed(event.waveform(GAINS, BASELINE)),
                pixel_status=packed(event.pixel_status),
                lstcam=LstCamEvent(
                    module_status=packed(np.ones(N_MODULES - 1, dtype=np.uint8)),
                    extdevices_presence=0b10,
                    cdts_data=packed(cdts.view(np.uint8)),
                    counters=packed(_counters(event)),
                    first_capacitor_id=packed(_first_cells(event)),
                ),
            )
        )


def _modules():
    return np.delete(np.arange(N_MODULES), MISSING[0] // 7).astype(np.uint16)


def _first_cells(event):
    rng = np.random.default_rng(event.event_id)
    return rng.integers(0, 4096, 8 * (N_MODULES - 1)).astype(np.uint16)


def _clock(event):
    ticks = 1000 * CLOCK_FREQUENCY_KHZ * (event.seconds + 10)
    return np.full(N_MODULES - 1, ticks, dtype=np.uint64)


def _counters(event):
    counters = np.zeros(N_MODULES - 1, dtype=DRAGON_COUNTERS_DTYPE)
    counters["pps_counter"] = event.seconds
    counters["local_clock_counter"] = _clock(event)
    return counters.view(np.uint8)


def write_drive_report(path, seconds, azimuth, altitude):
    """Write a report of the drive, as its log file is.

    Parameters
    ----------
    path : path-like
    seconds : sequence of float
        After the start of the run.
    azimuth, altitude : Quantity
    """
    table = Table(
        {
            "time": START.unix + np.asarray(seconds),
            "azimuth": azimuth.to_value(u.deg),
            "zenith": 90 - altitude.to_value(u.deg),
        }
    )
    table.write(path, format="ascii.no_header", delimiter=" ")


def write_run_summary(path):
    """Write the table in which old data have the reference of their clocks."""
    table = Table(
        {
            "run_id": [RUN],
            "dragon_reference_time": [1_000_000_000 * int(START.unix_tai)],
            "dragon_reference_counter": [0],
            "dragon_reference_module_index": [0],
            "dragon_reference_source": ["ucts"],
        }
    )
    table.write(path, format="ascii.ecsv")


def write_calibration(drs4_pedestal, time_calibration, calibration):
    """Write calibration files, of pixels that are all alike, but for unusable ones.

    Parameters
    ----------
    drs4_pedestal, time_calibration, calibration : path-like
    """
    pixels = (2, N_PIXELS)
    cells = {
        "baseline_mean": np.full((1, *pixels, 4096), BASELINE, dtype=np.int16),
        "spike_height": np.zeros((1, *pixels, 3), dtype=np.int16),
    }
    write_table(Table(cells), drs4_pedestal, "/r1/monitoring/drs4_baseline/tel_001")
    with tables.open_file(time_calibration, "w") as file:
        for name in ("fan", "fbn"):
            file.create_array("/", name, np.zeros((*pixels, 2)))
    containers = {
        "calibration": WaveformCalibrationContainer(
            dc_to_pe=1 / np.repeat([GAINS], N_PIXELS, axis=0).T,
            pedestal_per_sample=np.zeros(pixels),
            time_correction=np.zeros(pixels) * u.ns,
            unusable_pixels=np.array([np.isin(np.arange(N_PIXELS), UNUSABLE)] * 2),
        ),
        "flatfield": FlatFieldContainer(),
        "pedestal": PedestalContainer(),
        "pixel_status": PixelStatusContainer(
            hardware_failing_pixels=np.zeros(pixels, dtype=bool)
        ),
    }
    with HDF5TableWriter(calibration, group_name="tel_1") as writer:
        for name, container in containers.items():
            writer.write(name, container)
