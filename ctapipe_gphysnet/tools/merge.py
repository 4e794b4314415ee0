"""gphysnet-merge: put files of runs together."""

from ctapipe.core import Provenance, ToolConfigurationError
from ctapipe.core.traits import Bool, List, flag
from ctapipe.core.traits import Path as PathTrait
from ctapipe.io import HDF5Merger
from ctapipe.io.hdf5merger import CannotMerge
from ctapipe.tools.merge import MergeTool as StockMergeTool
from tqdm.auto import tqdm

from ..dl1 import DL1Error
from ..files import replaced_when_whole
from ..lstchain import LstchainMerger
from ..merging import BlockMerger
from .command_line import CommandLineTool
from .outputs import common_format, failures_of_writing, verify_inputs_and_output

__all__ = ["MERGER_FLAGS", "MergeTool", "main"]

# ctapipe-merge's switches, but for those that are about its output file, and for
# attaching a file that has no events
MERGER_FLAGS = {
    name: definition
    for name, definition in StockMergeTool.flags.items()
    if list(definition[0]) == ["HDF5Merger"]
    and name not in ("append", "overwrite", "attach-monitoring")
}


class MergeTool(CommandLineTool):
    """Put DL1 or DL2 files into one, those of ctapipe or those of lstchain.

    Does what ctapipe-merge does, but the output appears when it is whole, tables are
    copied in bounded memory, and results of different models are not mixed. Files of
    lstchain become one of lstchain; the options of HDF5Merger have no effect on them.
    """

    name = "gphysnet-merge"
    description = __doc__
    examples = """
    gphysnet-merge -i run1.dl2.h5 run2.dl2.h5 -o runs.dl2.h5 --no-dl1-images
    """

    inputs = List(
        PathTrait(exists=True, directory_ok=False), help="Files to put together"
    ).tag(config=True)
    output = PathTrait(
        default_value=None,
        allow_none=True,
        directory_ok=False,
        help="File to write; it appears when it is whole",
    ).tag(config=True)
    overwrite = Bool(False, help="Overwrite the output file").tag(config=True)
    progress_bar = Bool(True, help="Show a progress bar").tag(config=True)

    classes = [HDF5Merger]
    aliases = {
        ("i", "input"): "MergeTool.inputs",
        ("o", "output"): "MergeTool.output",
    }
    flags = {
        "overwrite": ({"MergeTool": {"overwrite": True}}, "Overwrite the output file"),
        **flag(
            "progress",
            "MergeTool.progress_bar",
            "Show a progress bar",
            "Do not show a progress bar",
        ),
        **MERGER_FLAGS,
    }

    def setup(self):
        verify_inputs_and_output(self.inputs, self.output, self.overwrite)
        self._format = common_format(self.inputs)

    def start(self):
        merge = self._merge_lstchain if self._format == "lstchain" else self._merge
        inputs = tqdm(self.inputs, unit="file", disable=not self.progress_bar)
        try:
            with (
                failures_of_writing(self.output),
                replaced_when_whole(self.output) as aside,
            ):
                merge(inputs, aside)
        except (DL1Error, CannotMerge) as error:
            raise ToolConfigurationError(str(error)) from error

    def _merge(self, inputs, path):
        with BlockMerger(path, parent=self) as merger:
            for source in inputs:
                merger(source)
            merger.finish()

    def _merge_lstchain(self, inputs, path):
        with LstchainMerger(path) as merger:
            for source in inputs:
                merger.copy(source)
                Provenance().add_input_file(source, role="DL1/DL2 of lstchain")
            merger.finish()

    def finish(self):
        Provenance().add_output_file(self.output, role="Merged file")


def main():
    """Run the tool from the command line."""
    MergeTool().run()


if __name__ == "__main__":
    main()
