"""gphysnet-train: train γ-PhysNet on simulated DL1 files."""

import logging
import warnings
from dataclasses import fields, replace

import numpy as np
from ctapipe.core import ToolConfigurationError
from ctapipe.core.traits import (
    Bool,
    CaselessStrEnum,
    Dict,
    Float,
    Int,
    List,
    Unicode,
    UseEnum,
)
from ctapipe.core.traits import Path as PathTrait
from ctapipe.instrument import FocalLengthKind
from traitlets import Union

from ..events import EventError, EventSelection, read_events, shower_numbers
from ..files import remove_leftovers
from ..image_store import ImageStore, ImageStoreError, available_memory
from ..preprocessing import Preprocessing
from ..resources import MODEL_SUFFIX, find_recipe, recipe_names
from ..seeds import (
    index_path,
    seed_outputs,
    training_folder,
    unfinished_seeds,
    write_index,
)
from ..tasks import TASKS
from ..training_card import (
    git_revision,
    other_validation,
    sources_of_training,
    training_information,
)
from .command_line import CommandLineTool
from .export import apply_models_command
from .outputs import failures_of_writing, verify_inputs_and_output

__all__ = ["TrainTool", "main"]


# of no use to who trains: of its insides, of short trainings, of a folder to go on in
LIGHTNING_WARNINGS = (
    ".*LeafSpec",
    "The number of training batches",
    "Checkpoint directory .* exists",
)
RESUME = "Go on where a training was stopped, or after its last whole epoch"


class RecipePath(PathTrait):
    """A configuration file, or the name of one that comes with the package."""

    info_text = f"an existing file, or one of {', '.join(recipe_names())}"

    def validate(self, obj, value):
        """The path of a name, too."""
        return super().validate(obj, find_recipe(value))


class TrainTool(CommandLineTool):
    """Train γ-PhysNet on simulated DL1 files with images."""

    name = "gphysnet-train"
    description = __doc__
    examples = """
    gphysnet-train -i gamma_*.dl1.h5 -i proton_*.dl1.h5 -o model.safetensors \\
        --blocks 3 --epochs 10
    gphysnet-train --config paper-2021 --config selection-low-cuts ...
    """

    config_files = List(
        RecipePath(exists=True, directory_ok=False),
        help=(
            "Configuration files, or names of those that come with the package:"
            f" {', '.join(recipe_names())}. A later one goes before an earlier one, and"
            " the command line before all"
        ),
    ).tag(config=True)

    inputs = List(
        PathTrait(exists=True, directory_ok=False),
        help="DL1 files of simulated gamma rays and background, one or several",
    ).tag(config=True)
    regression_inputs = List(
        PathTrait(exists=True, directory_ok=False),
        help=(
            "DL1 files to learn energy, direction and impact from, but not the particle"
            " type: gamma rays of another spectrum than in the other files"
        ),
    ).tag(config=True)
    allowed_tels = List(
        Union([Int(), Unicode()]),
        help=(
            "Telescopes to train on, by their numbers or types such as LST_LST_LSTCam; by"
            " default all that have the camera of the first one"
        ),
    ).tag(config=True)
    focal_length_choice = UseEnum(
        FocalLengthKind,
        default_value=FocalLengthKind.EFFECTIVE,
        help="See the option of the same name of ctapipe's HDF5EventSource",
    ).tag(config=True)
    output = PathTrait(
        default_value=None,
        allow_none=True,
        directory_ok=False,
        help="Model file to write (.safetensors)",
    ).tag(config=True)
    memory_limit = Float(
        default_value=None,
        allow_none=True,
        help=(
            "GB of images that all processes of a machine hold in memory, by default half"
            " of the memory that is available; more images go to a file"
        ),
    ).tag(config=True)
    image_folder = PathTrait(
        default_value=None,
        allow_none=True,
        exists=True,
        file_ok=False,
        help=(
            "Folder for images that do not fit in memory, best on a fast local disk; by"
            " default that of the output"
        ),
    ).tag(config=True)
    export_ctapipe = PathTrait(
        default_value=None,
        allow_none=True,
        file_ok=False,
        help=(
            "Folder for pickled reconstructors, with which ctapipe-apply-models applies"
            " the model; see gphysnet-export"
        ),
    ).tag(config=True)
    overwrite = Bool(False, help="Overwrite what is written").tag(config=True)
    resume = Bool(False, help=RESUME).tag(config=True)
    initial_model = PathTrait(
        default_value=None,
        allow_none=True,
        exists=True,
        directory_ok=False,
        help="Model file to start from, of the same camera, network and preprocessing",
    ).tag(config=True)
    uncertainty = Bool(
        False,
        help=(
            "Also fit the uncertainty of every energy and direction, to the gamma rays"
            " kept for validation"
        ),
    ).tag(config=True)
    only_uncertainty = Bool(
        False,
        help=(
            "Train nothing, but fit the uncertainty for the initial model; it must not"
            " have been trained on the showers kept for validation"
        ),
    ).tag(config=True)
    model_name = Unicode(help="Name on the model card; by default the file's").tag(
        config=True
    )
    model_description = Unicode(help="Text on the model card").tag(config=True)

    tasks = List(
        CaselessStrEnum(list(TASKS)), default_value=list(TASKS), help="What to learn"
    ).tag(config=True)
    blocks = Int(9, help="Residual blocks a stage; 9 is ResNet-56").tag(config=True)
    channels = List(
        Int(), default_value=[16, 32, 64], help="Channels of every stage"
    ).tag(config=True)
    head_width = Int(256, help="Width of the multi-task block").tag(config=True)
    attention = CaselessStrEnum(
        ["none", "squeeze-excitation", "self", "dual"],
        default_value="dual",
        help="Attention module after every stage",
    ).tag(config=True)
    reduction_ratio = Int(16, help="Reduction ratio of the attention").tag(config=True)
    preprocessing = Dict(
        help="Options of ctapipe_gphysnet.preprocessing.Preprocessing"
    ).tag(config=True)

    epochs = Int(10, help="Passes over the training events").tag(config=True)
    batch_size = Int(64, help="Images a step").tag(config=True)
    learning_rate = Float(2e-3, help="Highest learning rate of the schedule").tag(
        config=True
    )
    weight_decay = Float(1e-4, help="Weight decay of the optimizer").tag(config=True)
    optimizer = CaselessStrEnum(
        ["adamw", "adam"],
        default_value="adamw",
        help="Whether the weight decay stands beside the gradient or is added to it",
    ).tag(config=True)
    schedule = CaselessStrEnum(
        ["one-cycle", "steps"],
        default_value="one-cycle",
        help="Of the learning rate: up and down once, or divided by 10 now and then",
    ).tag(config=True)
    step_epochs = Int(10, help="Epochs between the steps of the schedule").tag(
        config=True
    )
    balance = CaselessStrEnum(
        ["uncertainty", "gradnorm", "fixed", "equal"],
        default_value="uncertainty",
        help=(
            "Weights of the tasks: by learnt uncertainty, by the norms of the gradients,"
            " those of task_weights, or 1"
        ),
    ).tag(config=True)
    task_weights = Dict(
        value_trait=Float(), help="Weight of every task, for the balance 'fixed'"
    ).tag(config=True)
    gradnorm_alpha = Float(
        1.5, help="How much gradnorm furthers the tasks that learn slowly"
    ).tag(config=True)
    balance_learning_rate = Float(
        0.025, help="Learning rate of what the balance of the tasks learns"
    ).tag(config=True)
    balance_weight_decay = Float(
        0.0, help="Weight decay of what the balance of the tasks learns"
    ).tag(config=True)
    class_balance = CaselessStrEnum(
        ["weights", "none"],
        default_value="weights",
        help="Weigh background and signal by the inverse of their numbers, or not",
    ).tag(config=True)
    label_smoothing = Float(
        0.0, help="Share of the particle's label that goes to both types alike"
    ).tag(config=True)
    gradient_penalty = Float(
        0.0, help="Weight of the squared gradient of the loss in the images; 0: none"
    ).tag(config=True)
    validation_fraction = Float(0.1, help="Share of showers kept for validation").tag(
        config=True
    )
    seed = Int(0, min=0, help="Seed of weights, split and order of the events").tag(
        config=True
    )
    n_seeds = Int(
        1,
        min=1,
        help=(
            "Models to train, with seed, seed + 1 and so on: NAME_seed0.safetensors ..."
            " and the table NAME_seeds.ecsv. What is complete is not trained again"
        ),
    ).tag(config=True)
    gradient_clip = Float(
        1.0, help="Greatest norm of the gradient of all parameters; 0 for no limit"
    ).tag(config=True)
    average_weights = Float(
        0.0,
        help=(
            "Decay of an exponential moving average of the weights over the steps, such"
            " as 0.999; the average is validated and kept. 0 for none"
        ),
    ).tag(config=True)
    monitor = Unicode(
        "validation_loss",
        help=(
            "What tells the best epoch: validation_loss, the sum of those of the tasks,"
            " or validation_TASK, auc, angle_68, energy_68"
        ),
    ).tag(config=True)
    keep = CaselessStrEnum(
        ["last", "best"], default_value="last", help="Epoch that becomes the model file"
    ).tag(config=True)
    patience = Int(
        0,
        help=(
            "Stop after so many epochs without a better one; 0 for never. Of little use"
            " with the one-cycle schedule, where the last epochs are the best"
        ),
    ).tag(config=True)
    device = Unicode("auto", help="auto, cpu, cuda or cuda:n").tag(config=True)
    devices = Int(
        default_value=None,
        allow_none=True,
        help=(
            "GPUs of a machine to use, or processes on its CPU; by default all GPUs, or"
            " one process"
        ),
    ).tag(config=True)
    nodes = Int(
        1, help="Machines that train together; start as many processes with srun"
    ).tag(config=True)
    precision = CaselessStrEnum(
        ["32-true", "bf16-mixed"], default_value="32-true", help="Of the arithmetic"
    ).tag(config=True)
    compile_network = Bool(
        False, help="Compile the network, for a GPU; takes a minute, needs a C++ compiler"
    ).tag(config=True)
    turn_images = Bool(
        True, help="Show images in random exact orientations of the camera"
    ).tag(config=True)
    night_sky = Float(
        0.0,
        help=(
            "Most photo-electrons of night sky to add to every pixel, as expected; the"
            " number is drawn for every event"
        ),
    ).tag(config=True)
    dead_pixels = Float(
        0.0, help="Greatest probability of a pixel to be dead, drawn for every event"
    ).tag(config=True)
    charge_error = Float(
        0.0, help="Greatest relative error of the charge's scale, drawn for every event"
    ).tag(config=True)

    classes = [EventSelection]
    file_lists = ("config_files", "inputs", "regression_inputs")
    aliases = {
        ("c", "config"): "TrainTool.config_files",
        ("i", "input"): "TrainTool.inputs",
        "regression-input": "TrainTool.regression_inputs",
        "allowed-tels": "TrainTool.allowed_tels",
        "focal-length-choice": "TrainTool.focal_length_choice",
        ("o", "output"): "TrainTool.output",
        "memory-limit": "TrainTool.memory_limit",
        "image-folder": "TrainTool.image_folder",
        "export-ctapipe": "TrainTool.export_ctapipe",
        "blocks": "TrainTool.blocks",
        "attention": "TrainTool.attention",
        "epochs": "TrainTool.epochs",
        "batch-size": "TrainTool.batch_size",
        "learning-rate": "TrainTool.learning_rate",
        "night-sky": "TrainTool.night_sky",
        "dead-pixels": "TrainTool.dead_pixels",
        "charge-error": "TrainTool.charge_error",
        "seed": "TrainTool.seed",
        "n-seeds": "TrainTool.n_seeds",
        "device": "TrainTool.device",
        "devices": "TrainTool.devices",
        "nodes": "TrainTool.nodes",
        "initial-model": "TrainTool.initial_model",
    }
    flags = {
        "overwrite": ({"TrainTool": {"overwrite": True}}, "Overwrite what is written"),
        "resume": (
            {"TrainTool": {"resume": True}},
            RESUME,
        ),
        "uncertainty": (
            {"TrainTool": {"uncertainty": True}},
            "Also fit the uncertainty of every energy and direction",
        ),
        "only-uncertainty": (
            {"TrainTool": {"uncertainty": True, "only_uncertainty": True}},
            "Train nothing, but fit the uncertainty for the initial model",
        ),
        "compile": (
            {"TrainTool": {"compile_network": True}},
            "Compile the network, for a GPU; takes a minute, needs a C++ compiler",
        ),
    }

    def setup(self):
        self._verify_arguments()
        self._make_options()
        self.selection = EventSelection(parent=self)
        # now, for the checkout may change while the training runs
        self.git_revision = git_revision()
        self.sources = self._sources()
        self.initial = self._read_initial()
        self.unfinished = self._unfinished()

    def _verify_arguments(self):
        """Make sure that the options go together, and that outputs can be written."""
        # torch and lightning take seconds to import: not for --help. Beside another torch
        # than its own, torchvision raises a RuntimeError.
        try:
            from ..training import monitored_quantities
        except (ImportError, RuntimeError) as error:
            raise ToolConfigurationError(
                f"{error}; install the extra: pip install 'ctapipe_gphysnet[train]', and"
                " remove torchvision: pip uninstall torchvision"
            ) from error
        if not self.inputs:
            raise ToolConfigurationError("no input: give DL1 files with --input")
        if self.output is None:
            raise ToolConfigurationError("no output: give a model file with --output")
        if self.output.suffix != MODEL_SUFFIX:
            raise ToolConfigurationError(
                f"{self.output} is no name of a model file: it must end in {MODEL_SUFFIX}"
            )
        if self.only_uncertainty and not (self.uncertainty and self.initial_model):
            raise ToolConfigurationError(
                "only_uncertainty needs the option uncertainty, and a model file with"
                " --initial-model"
            )
        self.outputs = seed_outputs(
            self.output, range(self.seed, self.seed + self.n_seeds)
        )
        inputs = [*self.inputs, *self.regression_inputs]
        for output in self.outputs.values():
            verify_inputs_and_output(inputs, output, self.overwrite or self.n_seeds > 1)
        if self.n_seeds > 1 and self.only_uncertainty:
            raise ToolConfigurationError(
                "only_uncertainty is for one model, not for n_seeds: the showers kept for"
                " validation are those of one seed"
            )
        if self.n_seeds > 1 and self.export_ctapipe is not None:
            raise ToolConfigurationError(
                "export_ctapipe is for one model, not for n_seeds; choose one of them and"
                " use gphysnet-export"
            )
        quantities = monitored_quantities(self.tasks)
        if self.monitor not in quantities:
            raise ToolConfigurationError(
                f"monitor is {self.monitor}, but with the tasks {', '.join(self.tasks)}"
                f" it can be {', '.join(quantities)}"
            )
        if self.memory_limit is not None and not self.memory_limit >= 0:
            raise ToolConfigurationError(
                f"memory_limit is {self.memory_limit} GB; it must be 0 or more"
            )

    def _make_options(self):
        """Turn the traits into options of the network and of its training."""
        from ..balance import Balance
        from ..batches import Augmentation
        from ..inference import select_device
        from ..network.model import NetworkOptions
        from ..pickled import pickle_paths
        from ..training import TrainingOptions, n_local_processes

        try:
            if self.export_ctapipe is not None:  # now, not after hours of training
                pickle_paths(self.export_ctapipe, self.overwrite)
            select_device(self.device)
            self.network_options = self._options(NetworkOptions)
            self.preparation = Preprocessing(**self.preprocessing)
            self.training_options = self._options(
                TrainingOptions,
                balance=Balance(self.balance, self.task_weights, self.gradnorm_alpha),
                compile=self.compile_network,
                augmentation=self._options(Augmentation, turn=self.turn_images),
            )
            self.training_options.balance.verify(self.tasks)
            self.n_local = n_local_processes(self.training_options)
        except (TypeError, ValueError, FileExistsError) as error:
            raise ToolConfigurationError(str(error)) from None

    def _options(self, cls, **others):
        """Options of a dataclass: the traits of their names, but for these others."""
        names = {field.name for field in fields(cls)} - others.keys()
        return cls(**{name: getattr(self, name) for name in names}, **others)

    def start(self):
        from lightning.pytorch.utilities import rank_zero_only

        quieten_lightning()
        if rank_zero_only.rank:  # the first process tells and writes what there is
            self.log.setLevel("WARNING")
        if self.unfinished:
            self._train_all()
        if self.n_seeds > 1 and not rank_zero_only.rank:
            index = index_path(self.output)
            with failures_of_writing(index):
                write_index(index, self.outputs)
            self.log.info("wrote %s", index)

    def _sources(self):
        """What a training has to have in common with one that it goes on with."""
        from ..checkpoint import ModelFileError

        try:
            return sources_of_training(
                self.inputs,
                self.regression_inputs,
                self.selection.quality_criteria,
                self.initial_model,
                self.allowed_tels,
                self.focal_length_choice.name,
            )
        except ModelFileError as error:
            raise ToolConfigurationError(str(error)) from None

    def _read_initial(self):
        """The model to start from, None without one."""
        from ..checkpoint import ModelFileError, read_card, read_model

        if self.initial_model is None:
            return None
        try:
            initial = read_model(self.initial_model)
        except ModelFileError as error:
            raise ToolConfigurationError(str(error)) from None
        options = initial.network.options
        if self.uncertainty:
            options = replace(options, uncertainty=True)
        for what, ours, theirs in (
            ("network", self.network_options, options),
            ("preprocessing", self.preparation, initial.preprocessing),
        ):
            if ours != theirs:
                raise ToolConfigurationError(
                    f"{self.initial_model}: its {what} is {theirs}, asked for is {ours}"
                )
        self._verify_validation(read_card(self.initial_model))
        return initial

    def _verify_validation(self, card):
        """Make sure that the initial model does not know the showers for validation."""
        for seed in self.outputs:
            options = replace(self.training_options, seed=seed)
            difference = other_validation(card, self.sources, options)
            if difference is None:
                continue
            name, old, new = difference
            message = (
                f"{self.initial_model} was trained on the same files with {name} {old},"
                f" not {new}: it knows showers that are kept for validation now"
            )
            if self.uncertainty:
                raise ToolConfigurationError(
                    f"{message}, so that uncertainties would come out too small; give"
                    " the options of its training, or files that it does not know"
                )
            self.log.warning("%s; validation will look too good", message)

    def _unfinished(self):
        """Seeds to train, and whether they go on from a checkpoint."""
        from ..resuming import configuration

        plans = {
            seed: configuration(
                replace(self.training_options, seed=seed),
                self.network_options,
                self.preparation,
                self.sources,
            )
            for seed in self.outputs
        }
        try:
            found = unfinished_seeds(self.outputs, plans, self.resume, self.overwrite)
        except (ValueError, OSError) as error:
            raise ToolConfigurationError(str(error)) from None
        for seed in self.outputs.keys() - found:
            self.log.info("%s is complete", self.outputs[seed])
        return found

    def _train_all(self):
        from lightning.pytorch.utilities import rank_zero_only

        from ..resuming import CheckpointError, TrainingStopped

        # the images are needed until the end, when the tool closes what it has entered
        sample = self._read(self.enter_context(self._image_store()))
        if not rank_zero_only.rank:
            print(f"{len(sample)} images pass, {sample.is_signal.sum()} of gamma rays:")
            self.selection.to_table().pprint(max_lines=-1, max_width=-1)
        for seed, resume in self.unfinished.items():
            try:
                self._train(sample, seed, resume)
            except TrainingStopped as stopped:
                self.log.error("%s", stopped)
                raise SystemExit(stopped.exit_code) from None
            except (CheckpointError, FloatingPointError, ValueError) as error:
                raise ToolConfigurationError(str(error)) from error

    def _train(self, sample, seed, resume):
        """Train one model and write its file."""
        import torch

        from ..checkpoint import Model, write_model
        from ..network.model import GammaPhysNet
        from ..pickled import export
        from ..training import train

        options, output = replace(self.training_options, seed=seed), self.outputs[seed]
        torch.manual_seed(seed)
        network = GammaPhysNet(
            sample.camera.lattice, self.network_options, options.backend
        )
        start = self._load_initial(network)
        validation = sample.split(self.validation_fraction, seed)[1]
        if self.uncertainty:  # now, not after hours of training
            from ..uncertainty import verify_number

            verify_number(np.count_nonzero(sample.is_signal[validation]))
        if self.only_uncertainty:
            result = {
                **dict.fromkeys(("epochs", "n_training", "wall_time_s"), 0),
                "n_processes": 1,
                "n_validation": len(validation),
                "metrics": {},
            }
        else:
            result = train(
                network,
                sample,
                self.preparation,
                options,
                training_folder(output),
                resume,
                self.sources,
            )
        if result is None:  # the first process has it
            return
        information = {
            "name": self._name(output),
            "description": self.model_description,
            **training_information(
                sample, self.selection, self.sources, options, result, start
            ),
        }
        information["software"]["git_revision"] = self.git_revision
        model = Model(network, sample.camera, self.preparation, information)
        if self.uncertainty:
            information["training"]["only_uncertainty"] = self.only_uncertainty
            information["validation"]["uncertainty"] = self._fit_uncertainty(
                model, sample, validation
            )
        remove_leftovers(output)
        with failures_of_writing(output):
            write_model(output, model)
        self.log.info("wrote %s: %s", output, information["validation"])
        if self.export_ctapipe is not None:
            paths = export(output, self.export_ctapipe, self.overwrite)
            self.log.info("wrote pickles for\n%s", apply_models_command(paths))

    def _fit_uncertainty(self, model, sample, events):
        """Fit the uncertainties of a model; returns their entry in the card."""
        from ..batches import Batches, OrderedBatches
        from ..inference import Predictor
        from ..training import VALIDATION_BATCH_SIZE
        from ..uncertainty import fit_uncertainties

        batches = Batches(sample, events, self.preparation)
        order = OrderedBatches(len(events), VALIDATION_BATCH_SIZE)
        return fit_uncertainties(
            Predictor(model, device=self.device),
            (batches[batch] for batch in order),
            shower_numbers(sample.truth)[events],
        )

    def _load_initial(self, network):
        """Take the weights of the initial model; returns its entry in the card."""
        initial = self.initial
        if initial is None:
            return None
        # the layers of the uncertainty, which it may not have, are as they are made
        network.load_state_dict(network.state_dict() | initial.network.state_dict())
        return {
            "name": initial.name,
            "identity": initial.identity,
            "training": initial.information.get("training"),
            "validation": initial.information.get("validation"),
        }

    def _image_store(self):
        """Where the images go, of this process as one of those on the machine."""
        limit = available_memory() / 2
        if self.memory_limit is not None:
            limit = self.memory_limit * 1e9
        folder = self.image_folder or self.output.resolve().parent
        return ImageStore(limit / self.n_local, folder)

    def _read(self, store):
        try:
            sample = read_events(
                self.inputs,
                self.selection,
                self.tasks,
                regression_paths=self.regression_inputs,
                camera=self.initial and self.initial.camera,
                telescopes=self.allowed_tels,
                focal_length_choice=self.focal_length_choice,
                store=store,
            )
        except (EventError, ImageStoreError) as error:
            raise ToolConfigurationError(str(error)) from None
        self.log.info("%.2f GB of images are in %s", store.n_bytes / 1e9, store.place)
        return sample

    def _name(self, output):
        """Name on the card of one of the outputs."""
        stem = self.output.stem
        return (self.model_name or stem) + output.stem.removeprefix(stem)


def quieten_lightning():
    """Leave Lightning's advertisements and hints to its developers out of the output."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for message in LIGHTNING_WARNINGS:
        warnings.filterwarnings("ignore", message=message)


def main():
    """Run the tool from the command line."""
    TrainTool().run()


if __name__ == "__main__":
    main()
