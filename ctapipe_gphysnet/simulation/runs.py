"""Whole runs of a simulation: each goes to a DL1 file of its own, a part."""

import copy
import shutil
from functools import partial
from importlib.metadata import version

import numpy as np
import tables
import yaml
from ctapipe.core import Component, ToolConfigurationError
from ctapipe.core.traits import Bool
from ctapipe.fitting import FIT_RNG
from ctapipe.image import ImageProcessor
from ctapipe.image.image_processor import DEFAULT_TRUE_IMAGE_PARAMETERS
from ctapipe.io import DataWriter, EventSource, metadata, write_table
from ctapipe.io.hdf5dataformat import (
    DL1_IMAGE_STATISTICS_TABLE,
    DL1_SUBARRAY_TRIGGER_TABLE,
)
from traitlets.config import Config

from ..files import close_verified, replaced_when_whole
from ..merging import BlockMerger
from .card import CARD_SUFFIX
from .source import AirShowerSource

__all__ = ["DEFAULTS", "PartsFolder", "PartsMerger", "RunSimulator", "last_run"]

#: Options of ctapipe's components that are not ctapipe's defaults.
DEFAULTS = {
    # for the night sky that the simulated camera has by default
    "TailcutsImageCleaner": {
        "picture_threshold_pe": 8.0,
        "boundary_threshold_pe": 4.0,
        "min_picture_neighbors": 2,
    },
    # Of the merged file: the lowest level is eight times as fast as ctapipe's and saves
    # 3 % less. Tenths of photo-electrons and of ns are exact enough.
    "DataWriter": {
        "write_dl1_images": True,
        "write_dl1_parameters": True,
        "compression_level": 1,
        "transform_image": True,
        "image_dtype": "int32",
        "image_scale": 10.0,
        "transform_peak_time": True,
        "peak_time_dtype": "int16",
        "peak_time_scale": 10.0,
    },
}
UNKNOWN_TRUE_PARAMETERS = copy.deepcopy(DEFAULT_TRUE_IMAGE_PARAMETERS)
for container in UNKNOWN_TRUE_PARAMETERS.values():
    container.prefix = f"true_{container.default_prefix}"
ATMOSPHERE_PROFILE = "/simulation/service/atmosphere_density_profile"
CARD_ATTRIBUTE = "CONTEXT SIMULATION CARD"
MOST_EMPTY_RUNS = 10
PACKAGES = ("ctapipe", "ctapipe_gphysnet")  # results may depend on their versions


class VerifyingWriter(DataWriter):
    """ctapipe's writer, which also sees to it that all went to disk."""

    def finish(self):
        """Write the header and close the file."""
        file = self._writer.h5file
        file.flush()  # rows that are waiting are counted then
        self._writer.close = partial(close_verified, file)
        super().finish()


class RunSimulator(Component):
    """Simulates runs, with images and image parameters, each to a file.

    Parameters
    ----------
    card : path-like
        Run card.
    config, parent
        See `ctapipe.core.Component`. Goes before the card, and before `DEFAULTS`.
    """

    true_parameters = Bool(
        False,
        help=(
            "Whether to compute the parameters of true images, which takes as long as"
            " those of the others. ctapipe needs the table; they are NaN without."
        ),
    ).tag(config=True)

    def __init__(self, card, config=None, parent=None):
        super().__init__(config=config, parent=parent)
        options = Config(copy.deepcopy(DEFAULTS))
        options.merge(self.config)
        self.config = options
        self.source = AirShowerSource(card, parent=self, extract_images=True)

    @property
    def compression_level(self):
        """Of the file that is made of the runs."""
        return int(self.config["DataWriter"]["compression_level"])

    @property
    def processing(self):
        """Configuration of all but the source, `traitlets.config.Config`."""
        sources = {cls.__name__ for cls in (EventSource, AirShowerSource)}
        sources |= {cls.__name__ for cls in AirShowerSource.classes}
        return Config({k: v for k, v in self.config.items() if k not in sources})

    def warm_up(self):
        """Simulate one event, so that all code is compiled and in numba's cache."""
        process = ImageProcessor(self.source.subarray, parent=self)
        for event in self.source:
            process(event)
            break

    def __call__(self, run_number, path, advance):
        """Simulate a run.

        Parameters
        ----------
        run_number : int
        path : path-like
            File to write; it appears when it is whole.
        advance : callable
            Called after every event; may raise an exception to stop.

        Returns
        -------
        n_events : int
        """
        self.source.run_number = run_number
        # ctapipe fits time gradients to points that it draws
        drawn = np.random.default_rng([self.source.seed, run_number])
        FIT_RNG.bit_generator.state = drawn.bit_generator.state
        process = ImageProcessor(self.source.subarray, parent=self)
        with replaced_when_whole(path) as aside:
            aside.unlink()  # ctapipe's writer makes files itself
            n_events = self._write(aside, process, advance)
            write_table(
                process.check_image.to_table(functions=True),
                aside,
                DL1_IMAGE_STATISTICS_TABLE,
            )
        return n_events

    def _write(self, path, process, advance):
        n_events = 0
        # compressed later, when runs are put together, and only then
        writer = VerifyingWriter(
            self.source, output_path=path, parent=self, compression_level=0
        )
        with writer as write:
            for event in self.source:
                self._parametrize(event, process)
                write(event)
                n_events += 1
                advance()
            write.write_simulated_shower_distributions(
                self.source.simulated_shower_distributions
            )
        return n_events

    def _parametrize(self, event, process):
        if self.true_parameters:
            process(event)
            return
        truth, event.simulation = event.simulation, None
        process(event)
        event.simulation = truth
        for camera in truth.tel.values():
            camera.true_parameters = UNKNOWN_TRUE_PARAMETERS


class PartsFolder:
    """Folder beside an output file, where finished runs wait to be merged.

    Parameters
    ----------
    output : pathlib.Path
        File that is to be made of the runs.
    """

    CARD, PROCESSING = f"card{CARD_SUFFIX}", "processing.yaml"

    def __init__(self, output):
        self.path = output.with_name(f"{output.name}.parts")

    @property
    def card(self):
        """The run card, with all options."""
        return self.path / self.CARD

    def run_path(self, number):
        """File of a run."""
        return self.path / f"run{number:08}.dl1.h5"

    def open(self, simulator):
        """Make the folder, or verify that the runs in it are of the same simulation.

        Parameters
        ----------
        simulator : RunSimulator

        Returns
        -------
        n_events : dict of int: int
            Of the runs that are there, by their numbers.

        Raises
        ------
        ctapipe.core.ToolConfigurationError
            If the folder has something else; says what differs.
        """
        card = simulator.source.options()
        del card["AirShowerSource"]["run_number"]  # one card for all runs
        wanted = {
            self.CARD: card,
            self.PROCESSING: {
                "version": {name: version(name) for name in PACKAGES},
                **_as_text(simulator.processing),
            },
        }
        if self.path.exists():
            self._verify(wanted)
        else:
            self.path.mkdir()
        for name, content in wanted.items():
            with replaced_when_whole(self.path / name) as aside:
                aside.write_text(yaml.safe_dump(content), encoding="utf-8")
        return self._finished()

    def _verify(self, wanted):
        for name, content in wanted.items():
            path = self.path / name
            if not path.is_file():
                if any(self.path.iterdir()) and name == self.CARD:
                    raise ToolConfigurationError(
                        f"{self.path} is not a folder of simulated runs; choose another"
                        " output"
                    )
                continue
            there = yaml.safe_load(path.read_text(encoding="utf-8"))
            differences = _differences(there, content)
            if differences:
                raise ToolConfigurationError(
                    f"{self.path} has runs of another simulation ({differences}); remove"
                    " it, choose another output, or start with the same options"
                )

    def _finished(self):
        n_events = {}
        for path in self.path.glob("run*.dl1.h5"):
            with tables.open_file(path) as file:
                number = int(path.name[3:11])
                n_events[number] = _n_events(file)
        return n_events

    def remove(self):
        """Remove the folder with all runs."""
        shutil.rmtree(self.path)


def _n_events(file):
    """Array events in a DL1 file."""
    trigger = DL1_SUBARRAY_TRIGGER_TABLE
    return file.root[trigger].nrows if trigger in file.root else 0


def _as_text(value):
    """Nested options as text, as they may have come from the command line."""
    if isinstance(value, dict):
        return {name: _as_text(value[name]) for name in sorted(value)}
    return str(value)


def _differences(there, here):
    """Which options of sections differ, in words."""
    different = []
    for section in sorted(set(there) | set(here)):
        old, new = there.get(section, {}), here.get(section, {})
        for option in sorted(set(old) | set(new)):
            if old.get(option) != new.get(option):
                different.append(
                    f"{section}.{option} was {old.get(option)}, now it is"
                    f" {new.get(option)}"
                )
    return "; ".join(different)


def last_run(first, n_events, wanted_runs=None, wanted_events=None):
    """Number of the run with which a simulation is complete.

    Parameters
    ----------
    first : int
        Number of the first run.
    n_events : dict of int: int
        Array events of the finished runs, by their numbers.
    wanted_runs, wanted_events : int, optional
        How many are wanted, runs or events.

    Returns
    -------
    number : int or None
        None if it is not complete yet.

    Raises
    ------
    ctapipe.core.ToolConfigurationError
        If many runs have no event, where events are wanted.
    """
    number, total = first, 0
    while number in n_events:
        total += n_events[number]
        count = number - first + 1
        if wanted_events is None and count >= wanted_runs:
            return number
        if wanted_events is not None and total >= wanted_events:
            return number
        if wanted_events is not None and total == 0 and count >= MOST_EMPTY_RUNS:
            raise ToolConfigurationError(
                f"{count} runs had no event; what is simulated does not trigger"
            )
        number += 1
    return None


class PartsMerger(BlockMerger):
    """Puts runs together, those without an event as well.

    Parameters
    ----------
    output_path : path-like
    compression_level : int
    parent : ctapipe.core.Component
        Has the configuration of `HDF5Merger`.
    """

    def __init__(self, output_path, compression_level, parent):
        super().__init__(output_path, parent)
        self._compression_level = compression_level

    def __call__(self, path):
        """Append a run.

        Parameters
        ----------
        path : path-like
        """
        self.required_nodes = set()  # tables of events are not in files without events
        super().__call__(path)

    def _append(self, file):
        super()._append(file)
        # ctapipe's merger leaves it behind
        if ATMOSPHERE_PROFILE in file.root and ATMOSPHERE_PROFILE not in self.h5file:
            self._append_table(file, file.root[ATMOSPHERE_PROFILE])

    def _filters(self, table):
        return self.h5file.filters.copy(complevel=self._compression_level)

    def write_card(self, text):
        """Write the run card into the header."""
        metadata.write_to_hdf5({CARD_ATTRIBUTE: text}, self.h5file)
