"""gphysnet-robustness: how well reconstructions stand worse images."""

import hashlib
import json
import shutil
import warnings
from contextlib import closing
from functools import partial
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import astropy.units as u
import numpy as np
import tables
from astropy.utils.metadata import MergeConflictWarning
from ctapipe.core import Provenance, ToolConfigurationError
from ctapipe.core.expression_engine import ExpressionError
from ctapipe.core.traits import Bool, Float, Int, List, classes_with_traits, flag
from ctapipe.core.traits import Path as PathTrait
from ctapipe.image import ImageCleaner, ImageModifier, ImageProcessor, InvalidPixelHandler
from ctapipe.instrument import FocalLengthKind
from ctapipe.io.hdf5dataformat import SIMULATION_SHOWER_TABLE
from ctapipe.io.hdf5merger import CannotMerge
from ctapipe.reco import Reconstructor, StereoMeanCombiner
from ctapipe.tools.apply_models import ApplyModels
from tqdm.auto import tqdm

from ..bulk import reconstruct
from ..checkpoint import card_identity, read_card
from ..dl1 import DL1Error, DL1File
from ..evaluation.figures import save
from ..evaluation.reconstructors import EvaluationError, find_reconstructors
from ..evaluation.sample import read_sample
from ..files import replaced_folder_when_whole, replaced_when_whole
from ..perturbations import ImagePerturbation, PerturbedFile
from ..quality import GammaPhysNetQualityQuery
from ..reconstructor import GammaPhysNetReconstructor
from ..resources import find_model
from ..robustness_figures import make_figures
from ..robustness_levels import (
    PERTURBATIONS,
    Level,
    LevelWriter,
    compare_levels,
    is_finished,
    mark_finished,
    write_frame,
)
from .command_line import CommandLineTool
from .outputs import failures_of_writing

__all__ = ["RobustnessTool", "main"]

RESULTS, TABLE = "results", "robustness.ecsv"
FOCAL_LENGTH = FocalLengthKind.EFFECTIVE
N_VERIFIED = 100  # events whose image parameters are compared with those of the input


class RobustnessTool(CommandLineTool):
    """Measure how resolution and separation suffer from worse images.

    Adds night sky, kills pixels and errs in the scale of the charge, on simulated DL1
    files with images. At every level, image cleaning and parameters are done anew, and
    γ-PhysNet and random forests are applied to the same images.
    """

    name = "gphysnet-robustness"
    description = __doc__
    examples = """
    gphysnet-robustness -i gamma.dl1.h5 -i proton.dl1.h5 -o robustness \\
        -c examples/robustness.yaml
    gphysnet-robustness -i gamma.dl1.h5 -i proton.dl1.h5 -o robustness \\
        -c examples/robustness.yaml -m lst.safetensors --max-events 5000 \\
        -r energy.pkl -r disp.pkl -r classifier.pkl
    """

    inputs = List(
        PathTrait(exists=True, directory_ok=False),
        help=(
            "Simulated DL1 files of gamma rays and of protons, with images and image"
            " parameters"
        ),
    ).tag(config=True)
    output = PathTrait(
        default_value=None,
        allow_none=True,
        file_ok=False,
        help=(
            "Folder to write to. Levels that stand there already, made from the same"
            " inputs with the same options, are not made again."
        ),
    ).tag(config=True)
    random_forests = List(
        PathTrait(exists=True, directory_ok=False),
        help=(
            "Reconstructors that ctapipe-train-* tools have made, in the order in which"
            " they have to be applied. The names of their results have to end in Energy,"
            " Geometry or Classifier."
        ),
    ).tag(config=True)
    max_events = Int(
        2000,
        min=1,
        allow_none=True,
        help="Array events of each input to study at most, the first ones; None: all",
    ).tag(config=True)
    night_sky = List(
        Float(min=0),
        [0.5, 1.0, 2.0, 4.0],
        help="Levels, see ImagePerturbation.night_sky. No change is always a level.",
    ).tag(config=True)
    dead_pixels = List(
        Float(min=0, max=1),
        [0.01, 0.03, 0.1],
        help="Levels, see ImagePerturbation.dead_pixels. No change is always a level.",
    ).tag(config=True)
    charge_scale = List(
        Float(min=0),
        [0.8, 0.9, 1.1, 1.25],
        help="Levels, see ImagePerturbation.charge_scale. No change is always a level.",
    ).tag(config=True)
    energy_edges = List(
        Float(min=0),
        [0.02, 0.1, 0.3, 10],
        minlen=2,
        help="Edges of bins in true energy [TeV], in which resolutions are given as well",
    ).tag(config=True)
    overwrite = Bool(False, help="Make the results anew that are there already").tag(
        config=True
    )
    progress_bar = Bool(True, help="Show a progress bar").tag(config=True)

    classes = (
        [
            ImagePerturbation,
            ImageModifier,
            ImageProcessor,
            GammaPhysNetReconstructor,
            GammaPhysNetQualityQuery,
            StereoMeanCombiner,
        ]
        + classes_with_traits(ImageCleaner)
        + classes_with_traits(InvalidPixelHandler)
    )
    file_lists = ("inputs", "random_forests")
    aliases = {
        ("i", "input"): "RobustnessTool.inputs",
        ("o", "output"): "RobustnessTool.output",
        ("m", "model"): "GammaPhysNetReconstructor.models",
        ("r", "random-forest"): "RobustnessTool.random_forests",
        "max-events": "RobustnessTool.max_events",
        "seed": "ImagePerturbation.seed",
        "device": "GammaPhysNetReconstructor.device",
        "n-jobs": "GammaPhysNetReconstructor.n_jobs",
    }
    flags = {
        "overwrite": (
            {"RobustnessTool": {"overwrite": True}},
            "Make the results anew that are there already",
        ),
        **flag(
            "progress",
            "RobustnessTool.progress_bar",
            "Show a progress bar",
            "Do not show a progress bar",
        ),
    }

    def setup(self):
        self._verify_options()
        self.levels = [
            Level(perturbation, value)
            for perturbation, neutral in PERTURBATIONS.items()
            for value in sorted({neutral, *getattr(self, perturbation)})
        ]
        try:
            self.subarray = self._verify_inputs()
        except DL1Error as error:
            raise ToolConfigurationError(str(error)) from error
        # so that what is wrong with models shows before anything is done
        models = GammaPhysNetReconstructor(self.subarray, parent=self).models
        self.prefixes = {path: self._read_prefix(path) for path in self.random_forests}
        self.made_from = self._describe(models)
        self.output.mkdir(parents=True, exist_ok=True)

    def _verify_options(self):
        if not self.inputs:
            raise ToolConfigurationError("no input: give DL1 files with --input")
        if self.output is None:
            raise ToolConfigurationError("no output: give a folder with --output")
        if any(np.diff(self.energy_edges) <= 0):
            raise ToolConfigurationError(
                f"energy_edges have to ascend, got {self.energy_edges}"
            )
        for i, path in enumerate(self.inputs):
            for other in self.inputs[:i]:
                if _short_name(path) == _short_name(other):
                    raise ToolConfigurationError(
                        f"{other} and {path} have the same name up to the first dot, by"
                        " which their results are told apart: rename one"
                    )

    def _verify_inputs(self):
        """The subarray that all inputs have; counts their events."""
        self.n_events, subarray = {}, None
        for path in self.inputs:
            with PerturbedFile(path, FOCAL_LENGTH, self, self.max_events) as dl1:
                self.n_events[path] = len(dl1)
                subarray = subarray or dl1.subarray
                if dl1.subarray != subarray:
                    raise DL1Error(
                        f"{path}: its subarray is not that of {self.inputs[0]}"
                    )
            if self.n_events[path] == 0:
                raise DL1Error(f"{path} has no events")
            with tables.open_file(path) as file:
                if SIMULATION_SHOWER_TABLE not in file.root:
                    raise DL1Error(
                        f"{path}: no {SIMULATION_SHOWER_TABLE}; the study needs the"
                        " truth of simulated events"
                    )
            self._verify_cleaning(path, list(subarray.tel))
        return subarray

    def _verify_cleaning(self, path, tel_ids):
        """Raise if image parameters made anew are not those in the file."""
        with PerturbedFile(path, FOCAL_LENGTH, self, N_VERIFIED) as dl1:
            anew = _first_telescope(dl1, tel_ids)
        with DL1File(path, FOCAL_LENGTH, parent=self) as dl1:
            original = _first_telescope(dl1, [anew.tel_id])
        found = np.asarray(anew.parameters["hillas_intensity"])
        expected = np.asarray(original.parameters["hillas_intensity"])[: len(found)]
        # images that were rounded in the file give slightly other parameters
        same = np.isclose(found, expected, rtol=0.05, equal_nan=True)
        if np.mean(same) < 0.9:
            raise DL1Error(
                f"{path}: its image parameters were made with another image cleaning."
                f" The intensity of {np.count_nonzero(~same)} of {len(same)} images is"
                " not what the configuration gives: set the options of ImageProcessor"
                " as they were when the file was made, with --config"
            )

    def _read_prefix(self, path):
        """Name of the results of a random forest."""
        try:
            return Reconstructor.read(path, parent=self, subarray=self.subarray).prefix
        except Exception as error:  # unpickling raises anything
            raise ToolConfigurationError(
                f"{path} is not a reconstructor of this version of ctapipe: {error}"
            ) from error

    def _describe(self, models):
        """What results depend on, apart from input and level."""
        return {
            "versions": {name: version(name) for name in ("ctapipe_gphysnet", "ctapipe")},
            "max_events": self.max_events,
            "models": {
                model: card_identity(read_card(find_model(model))) for model in models
            },
            "random_forests": [
                hashlib.sha256(path.read_bytes()).hexdigest()
                for path in self.random_forests
            ],
            "options": {
                name: options
                for name, options in self.config.items()
                if name not in ("Tool", type(self).__name__)
            },
        }

    def _file(self, level, path):
        """Results of an input at a level."""
        return self.output / "levels" / level.name / f"{_short_name(path)}.dl2.h5"

    def _made_from(self, level, path):
        status = path.stat()
        return {
            **self.made_from,
            "level": level.name,
            "input": [path.name, status.st_size, status.st_mtime_ns],
        }

    def start(self):
        try:
            with (
                failures_of_writing(self.output),
                TemporaryDirectory(prefix=".", dir=self.output) as scratch,
                warnings.catch_warnings(),
            ):
                # files of one version of ctapipe, processed by another
                warnings.simplefilter("ignore", MergeConflictWarning)
                self._make_levels(Path(scratch))
                self._write_results()
        except (DL1Error, EvaluationError, CannotMerge, ExpressionError) as error:
            raise ToolConfigurationError(str(error)) from error

    def _make_levels(self, scratch):
        """Make the files that are not there yet."""
        files = {
            self._file(level, path): (level, path)
            for level in self.levels
            for path in self.inputs
        }
        missing = {
            file: (level, path)
            for file, (level, path) in files.items()
            if self.overwrite or not is_finished(file, self._made_from(level, path))
        }
        if missing:  # earlier results are not those of this study
            shutil.rmtree(self.output / RESULTS, ignore_errors=True)
        bar = tqdm(
            total=sum(self.n_events[path] for _, path in missing.values()),
            unit="event",
            disable=not (missing and self.progress_bar),
        )
        with bar:
            for file, (level, path) in missing.items():
                bar.set_description(f"{level.name}, {path.name}")
                file.parent.mkdir(parents=True, exist_ok=True)
                with replaced_when_whole(file) as aside:
                    self._make(level, path, aside, scratch, bar.update)
                    mark_finished(aside, self._made_from(level, path))

    def _make(self, level, path, output, scratch, progress):
        """Make the DL2 file of an input at a level."""
        frame = scratch / f"{_short_name(path)}.h5"
        if not frame.exists():
            write_frame(path, frame, self.n_events[path], parent=self)
        changed = scratch / "changed.dl2.h5"
        shutil.copyfile(frame, changed)
        reconstructor = GammaPhysNetReconstructor(self.subarray, parent=self)
        perturbed = partial(
            PerturbedFile,
            path,
            FOCAL_LENGTH,
            self,
            self.n_events[path],
            **PERTURBATIONS | {level.perturbation: level.value},
        )
        with LevelWriter(changed, reconstructor) as writer:
            reconstruct([perturbed], reconstructor, writer, progress)
            writer.finish()
        if self.random_forests:
            changed = self._with_random_forests(changed)
        shutil.copyfile(changed, output)

    def _with_random_forests(self, path):
        """Apply the random forests to a file; the path of the result beside it."""
        output = path.with_stem("with_random_forests")
        output.unlink(missing_ok=True)
        options = {
            "input_url": path,
            "output_path": output,
            "reconstructor_paths": self.random_forests,
            "progress_bar": False,
        }
        config = self.config.copy()
        config.merge({"ApplyModels": options})
        with ApplyModels(config=config) as tool:
            tool.setup()
            tool.start()
        found = {
            prefix
            for reconstructor in find_reconstructors(output).values()
            for prefix in reconstructor.prefixes.values()
        }
        for forest, prefix in self.prefixes.items():
            if prefix not in found:
                raise ToolConfigurationError(
                    f"{forest} gives no results {prefix} that can be compared: it has to"
                    " be for these telescopes, and its prefix has to end in Energy,"
                    " Geometry or Classifier, by what it reconstructs"
                )
        return output

    def _write_results(self):
        samples, read = {}, {}
        for level in self.levels:
            if level.name not in read:
                files = [self._file(level, path) for path in self.inputs]
                read[level.name] = read_sample(files, {"all": []})
            samples[level] = read[level.name]
        table = compare_levels(samples, u.Quantity(self.energy_edges, u.TeV))
        table.meta = {"inputs": [p.name for p in self.inputs], **_plain(self.made_from)}
        with replaced_folder_when_whole(self.output / RESULTS) as folder:
            table.write(folder / TABLE, format="ascii.ecsv")
            for name, figure in make_figures(table).items():
                save(figure, folder, name)

    def finish(self):
        Provenance().add_output_file(self.output / RESULTS / TABLE, role="robustness")


def _short_name(path):
    return path.name.split(".")[0]


def _plain(description):
    """A description in the types of JSON."""
    return json.loads(json.dumps(description, default=str))


def _first_telescope(dl1, tel_ids):
    """The first events of the first telescope that has some."""
    with closing(dl1.blocks(tel_ids, with_parameters=True)) as blocks:
        return next(blocks).telescopes[0]


def main():
    """Run the tool from the command line."""
    RobustnessTool().run()


if __name__ == "__main__":
    main()
