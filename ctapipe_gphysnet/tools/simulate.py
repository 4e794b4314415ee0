"""gphysnet-simulate: simulate air showers and images of them."""

import signal
import sys
from contextlib import contextmanager

import tables
from ctapipe.core import Provenance, ToolConfigurationError
from ctapipe.core.traits import Bool, Int, classes_with_traits, flag
from ctapipe.core.traits import Path as PathTrait
from ctapipe.image import ImageCleaner, ImageProcessor
from ctapipe.io import DataWriter
from tqdm.auto import tqdm
from traitlets.config import Config

from ..files import replaced_when_whole
from ..simulation.card import find_card, preset_names
from ..simulation.processes import simulate_runs
from ..simulation.runs import PartsFolder, PartsMerger, RunSimulator, last_run
from ..simulation.source import AirShowerSource
from .command_line import CommandLineTool
from .outputs import failures_of_writing, verify_output

__all__ = ["SimulateTool", "main"]


class SimulateTool(CommandLineTool):
    """Simulate air showers, and the images that telescopes take of them.

    CARD is a run card, a YAML file whose name ends in .airshower.yaml, or the name of
    one that comes with the package.

    Whole runs are simulated, by several processes if wanted, and put together in the
    order of their numbers. So the result depends on the card, its seed and the number of
    runs only. Finished runs wait in the folder OUTPUT.parts. After an interruption, the
    same command goes on from there.
    """

    name = "gphysnet-simulate"
    description = f"{__doc__}\n    Names: {', '.join(preset_names())}.\n"
    examples = """
    gphysnet-simulate gamma_diffuse -o gamma.dl1.h5
    gphysnet-simulate proton -o proton.dl1.h5 --n-events 100000 --seed 7 --processes 2
    gphysnet-simulate my.airshower.yaml -o my.dl1.h5 --n-runs 20 --run-number 101 \\
        --ParticleGenerator.energy_min='100 GeV'
    """

    output = PathTrait(
        default_value=None,
        allow_none=True,
        directory_ok=False,
        help="DL1 file to write; it appears when it is whole",
    ).tag(config=True)
    n_runs = Int(
        None, allow_none=True, min=1, help="How many runs to simulate; one by default"
    ).tag(config=True)
    n_events = Int(
        None,
        allow_none=True,
        min=1,
        help="Instead of n_runs: stop after the run with which there are as many events",
    ).tag(config=True)
    processes = Int(1, min=1, help="How many runs to simulate at the same time").tag(
        config=True
    )
    overwrite = Bool(False, help="Overwrite the output file").tag(config=True)
    progress_bar = Bool(True, help="Show a progress bar").tag(config=True)

    classes = [
        *classes_with_traits(AirShowerSource),
        ImageProcessor,
        *classes_with_traits(ImageCleaner),
        RunSimulator,
        DataWriter,
    ]
    file_lists = ()
    takes_arguments = True  # the run card
    aliases = {
        ("o", "output"): "SimulateTool.output",
        "n-runs": "SimulateTool.n_runs",
        "n-events": "SimulateTool.n_events",
        "n-showers": "AirShowerSource.n_showers",
        "run-number": "AirShowerSource.run_number",
        "seed": "AirShowerSource.seed",
        "processes": "SimulateTool.processes",
    }
    flags = {
        "overwrite": (
            {"SimulateTool": {"overwrite": True}},
            "Overwrite the output file",
        ),
        **flag(
            "progress",
            "SimulateTool.progress_bar",
            "Show a progress bar",
            "Do not show a progress bar",
        ),
    }

    def setup(self):
        card = self._find_card()
        if self.output is None:
            raise ToolConfigurationError("no output: give a DL1 file with --output")
        verify_output(self.output, self.overwrite)
        if self.n_runs is not None and self.n_events is not None:
            raise ToolConfigurationError("give --n-runs or --n-events, not both")
        self.simulator = RunSimulator(card, config=self._component_options())
        source = self.simulator.source
        if source.max_events is not None:
            raise ToolConfigurationError(
                f"AirShowerSource.max_events is {source.max_events}: effective areas"
                " would be wrong; only whole runs are simulated, see --n-showers"
            )
        self.first = source.run_number
        Provenance().add_input_file(card, role="run card", add_meta=False)

    def _find_card(self):
        if len(self.extra_args) != 1:
            raise ToolConfigurationError(
                "give one run card, a file or one of those that come with the package:"
                f" {', '.join(preset_names())}"
            )
        return find_card(self.extra_args[0])

    def _component_options(self):
        """The configuration without what is the tool's own."""
        options, nested = Config(), Config()
        for name, section in self.config.items():
            if name == type(self).__name__:
                nested = Config(
                    {k: v for k, v in section.items() if isinstance(v, Config)}
                )
            elif name not in ("Tool", "Application"):
                options[name] = section
        options.merge(nested)
        return options

    def start(self):
        self.parts = PartsFolder(self.output)
        with failures_of_writing(self.output):
            n_events = self._open_parts()
            with self._told_how_to_go_on():
                last = self._simulate(n_events)
            self._merge(range(self.first, last + 1))
            self.parts.remove()
        total = sum(n_events[number] for number in range(self.first, last + 1))
        self.log.info(
            "%s: %d events in runs %d to %d", self.output, total, self.first, last
        )

    def _open_parts(self):
        """Number of events of every run that is there already."""
        n_events = self.parts.open(self.simulator)
        if n_events:
            self.log.info("%d runs are there already", len(n_events))
        return n_events

    @contextmanager
    def _told_how_to_go_on(self):
        """Leave in order at SIGTERM as well, and say what becomes of finished runs."""
        before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
        try:
            yield
        except BaseException:
            self.log.warning(
                "Not finished. Runs that are finished stay in %s; the same command goes"
                " on from there",
                self.parts.path,
            )
            raise
        finally:
            signal.signal(signal.SIGTERM, before)

    def _simulate(self, n_events):
        """Simulate the runs that are missing; returns the number of the last one."""
        wanted_runs = self.n_runs
        if self.n_events is None and wanted_runs is None:
            wanted_runs = 1
        bar = tqdm(
            total=self.n_events,
            initial=min(sum(n_events.values()), self.n_events or sys.maxsize),
            unit="event",
            disable=not self.progress_bar,
        )
        with bar:
            return simulate_runs(
                self.simulator,
                self.parts,
                n_events,
                lambda: last_run(self.first, n_events, wanted_runs, self.n_events),
                self.processes,
                bar.update,
            )

    def _merge(self, numbers):
        self.log.info("Putting %d runs together", len(numbers))
        tables.set_blosc_max_threads(self.processes)  # to compress with
        level = self.simulator.compression_level
        with replaced_when_whole(self.output) as aside:
            with PartsMerger(aside, level, parent=self) as merger:
                bar = tqdm(numbers, unit="run", disable=not self.progress_bar)
                for number in bar:
                    merger(self.parts.run_path(number))
                merger.write_card(self.parts.card.read_text(encoding="utf-8"))
                merger.finish()

    def finish(self):
        Provenance().add_output_file(self.output, role="DL1/Event")


def main():
    """Run the tool from the command line."""
    SimulateTool().run()


if __name__ == "__main__":
    main()
