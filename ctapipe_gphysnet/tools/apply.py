"""gphysnet-apply: apply γ-PhysNet to DL1 files in bulk."""

from functools import partial

from ctapipe.core import Provenance, ToolConfigurationError
from ctapipe.core.expression_engine import ExpressionError
from ctapipe.core.traits import Bool, CaselessStrEnum, List, UseEnum, flag
from ctapipe.core.traits import Path as PathTrait
from ctapipe.instrument import FocalLengthKind
from ctapipe.io import HDF5Merger
from ctapipe.io.hdf5merger import CannotMerge
from ctapipe.monitoring.interpolation import PointingInterpolator
from ctapipe.reco import StereoMeanCombiner
from tqdm.auto import tqdm

from ..bulk import DL2Writer, reconstruct
from ..dl1 import DL1Error
from ..files import replaced_when_whole
from ..lstchain import LstchainDL2Writer, open_dl1
from ..merging import DL1Merger
from ..products import PRODUCTS, named_products
from ..quality import GammaPhysNetQualityQuery
from ..reconstructor import GammaPhysNetReconstructor
from .command_line import CommandLineTool
from .merge import MERGER_FLAGS
from .outputs import common_format, failures_of_writing, verify_inputs_and_output

__all__ = ["ApplyTool", "main"]

FORMATS = ("ctapipe", "lstchain")


class ApplyTool(CommandLineTool):
    """Apply γ-PhysNet to DL1 files with images, in bulk.

    Does what ctapipe-process does with GammaPhysNetReconstructor, and writes the
    same tables, but many events at a time. The rest of the input is copied as
    ctapipe-merge does.

    Of DL1 files of lstchain it makes DL2 files of lstchain, as lstchain_dl1_to_dl2 does.
    """

    name = "gphysnet-apply"
    description = __doc__
    examples = """
    gphysnet-apply -i run.dl1.h5 -o run.dl2.h5 --no-dl1-images
    gphysnet-apply -i run1.dl1.h5 -i run2.dl1.h5 -m lst.safetensors \\
        -m nectarcam.safetensors -o runs.dl2.h5
    gphysnet-apply -i dl1_LST-1.Run02965.h5 -o dl2_LST-1.Run02965.h5
    """

    inputs = List(
        PathTrait(exists=True, directory_ok=False),
        help="DL1 files with images; several are merged",
    ).tag(config=True)
    output = PathTrait(
        default_value=None,
        allow_none=True,
        directory_ok=False,
        help="DL2 file to write; it appears when it is whole",
    ).tag(config=True)
    output_format = CaselessStrEnum(
        list(FORMATS),
        default_value=None,
        allow_none=True,
        help="Whose DL2 file to write: by default that of the input",
    ).tag(config=True)
    overwrite = Bool(False, help="Overwrite the output file").tag(config=True)
    progress_bar = Bool(True, help="Show a progress bar").tag(config=True)
    focal_length_choice = UseEnum(
        FocalLengthKind,
        default_value=FocalLengthKind.EFFECTIVE,
        help="See the option of the same name of ctapipe's HDF5EventSource",
    ).tag(config=True)

    classes = [
        GammaPhysNetReconstructor,
        GammaPhysNetQualityQuery,
        StereoMeanCombiner,
        HDF5Merger,
        PointingInterpolator,
    ]
    aliases = {
        ("i", "input"): "ApplyTool.inputs",
        ("o", "output"): "ApplyTool.output",
        "output-format": "ApplyTool.output_format",
        ("m", "model"): "GammaPhysNetReconstructor.models",
        "prefix": "GammaPhysNetReconstructor.prefix",
        "device": "GammaPhysNetReconstructor.device",
        "precision": "GammaPhysNetReconstructor.precision",
        "batch-size": "GammaPhysNetReconstructor.batch_size",
        "n-jobs": "GammaPhysNetReconstructor.n_jobs",
        "stereo-weights": "GammaPhysNetReconstructor.stereo_weights",
    }
    flags = {
        "overwrite": ({"ApplyTool": {"overwrite": True}}, "Overwrite the output file"),
        **flag(
            "progress",
            "ApplyTool.progress_bar",
            "Show a progress bar",
            "Do not show a progress bar",
        ),
        **MERGER_FLAGS,
    }

    def setup(self):
        verify_inputs_and_output(self.inputs, self.output, self.overwrite)
        self._kind = common_format(self.inputs, self.output_format)
        try:
            self.n_events, subarray = self._verify_inputs()
        except DL1Error as error:
            raise ToolConfigurationError(str(error)) from error
        try:
            self.reconstructor = GammaPhysNetReconstructor(subarray, parent=self)
        except ToolConfigurationError as error:
            raise ToolConfigurationError(f"{self.inputs[0]}: {error}") from error
        if self._kind == "lstchain":
            self._verify_tasks()

    def _verify_tasks(self):
        known = {product.task for product in self.reconstructor.products}
        missing = {product.task for product in PRODUCTS} - known
        if missing:
            raise ToolConfigurationError(
                f"{', '.join(self.reconstructor.models)}: the model does not know the"
                f" {' and '.join(sorted(missing))}, which files of lstchain have"
            )

    def _verify_inputs(self):
        """Number of array events, and the subarray that all files have."""
        n_events, subarray, version = 0, None, None
        for path in self.inputs:
            with self._open(path) as dl1:
                n_events += len(dl1)
                subarray = subarray or dl1.subarray
                version = version or dl1.data_model_version
                for what, same in (
                    ("subarray", dl1.subarray == subarray),
                    ("data model version", dl1.data_model_version == version),
                ):
                    if not same:
                        raise DL1Error(
                            f"{path}: its {what} is not that of {self.inputs[0]};"
                            " apply to each file on its own"
                        )
        return n_events, subarray

    def _open(self, path):
        return open_dl1(path, self.focal_length_choice, parent=self)

    def start(self):
        try:
            with (
                failures_of_writing(self.output),
                replaced_when_whole(self.output) as aside,
            ):
                self._reconstruct(self._writer(aside))
        except (DL1Error, CannotMerge, ExpressionError) as error:
            raise ToolConfigurationError(str(error)) from error

    def _writer(self, aside):
        """Writer of the results, with all that is not reconstructed in its file."""
        if self._kind == "lstchain":
            self.log.info("Copying what is not images of %s", self.inputs)
            return LstchainDL2Writer(aside, self.reconstructor, self.inputs)
        telescope_wise, array_wise = self._merge(aside)
        return DL2Writer(aside, self.reconstructor, telescope_wise, array_wise)

    def _merge(self, aside):
        """Copy the inputs; returns which tables are wanted, telescope- and array-wise."""
        products = named_products(self.reconstructor.prefix)
        statistics = self.reconstructor.statistics_name
        with DL1Merger(aside, products, statistics, parent=self) as merger:
            for path in self.inputs:
                self.log.info("Copying %s", path)
                merger(path)
            merger.finish()
            telescope_wise = merger.telescope_events and merger.dl2_telescope
            return telescope_wise, merger.dl2_subarray

    def _reconstruct(self, writer):
        bar = tqdm(total=self.n_events, unit="event", disable=not self.progress_bar)
        with writer, bar:
            files = [partial(self._open, path) for path in self.inputs]
            reconstruct(files, self.reconstructor, writer, bar.update)
            writer.finish()
        self.log.info("\n%s", self.reconstructor.quality_query.to_table())

    def finish(self):
        Provenance().add_output_file(self.output, role="DL2/Event")


def main():
    """Run the tool from the command line."""
    ApplyTool().run()


if __name__ == "__main__":
    main()
