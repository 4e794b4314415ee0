"""Training of γ-PhysNet with Lightning."""

import math
import os
import shutil
import signal
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path

import lightning
import numpy as np
import torch
from joblib import cpu_count
from lightning.pytorch.callbacks import (
    Callback,
    EarlyStopping,
    LearningRateMonitor,
    ModelCheckpoint,
)
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities import rank_zero_only
from torch.utils.data import DataLoader
from torchmetrics.functional.classification import binary_auroc
from torchmetrics.utilities.distributed import gather_all_tensors

from .averaging import AveragedWeights
from .balance import Balance
from .batches import Augmentation, Batches, OrderedBatches, Share, ShuffledBatches
from .losses import gradient_penalty, mean_of_processes, task_losses
from .network.pixels import threads_for_images
from .optimization import OPTIMIZERS, SCHEDULES, make_optimizer, make_schedule
from .resuming import (
    CHECKPOINTS,
    LAST,
    BestCheckpoint,
    SavingWhenStopped,
    WholeCheckpoints,
    configuration,
    read_checkpoint,
    remove_partial_checkpoints,
    signals_reported,
)

__all__ = [
    "GammaPhysNetTraining",
    "TrainingOptions",
    "hardware",
    "monitored_quantities",
    "n_local_processes",
    "train",
]

VALIDATION_BATCH_SIZE = 256
MOST_WORKERS = 12
# The first process reads all events before it starts the others, which then read them.
LONGEST_READING = timedelta(days=1)
LOG = "log"  # folder beside the checkpoints
CLASS_BALANCES = ("weights", "none")
# what is better of the metrics of a task
METRICS = {
    "auc": ("particle_type", "max"),
    "angle_68": ("direction", "min"),
    "energy_68": ("energy", "min"),
}


@dataclass(frozen=True)
class TrainingOptions:
    """How to train.

    Attributes
    ----------
    epochs, batch_size, seed : int
        The batch is that of all processes together.
    learning_rate : float
        The highest of the schedule.
    weight_decay : float
        Of the optimizer.
    optimizer : {"adamw", "adam"}
        See `ctapipe_gphysnet.optimization.OPTIMIZERS`.
    schedule : {"one-cycle", "steps"}
        Up and down once (Smith 2018, https://arxiv.org/abs/1803.09820), or divided by 10
        every ``step_epochs`` epochs.
    step_epochs : int
        Of the schedule "steps".
    balance : Balance
        Of the tasks.
    balance_learning_rate, balance_weight_decay : float
        Of what the balance learns. Steps of the learning rate leave this one as it is.
    class_balance : {"weights", "none"}
        Weigh background and signal in the cross-entropy by the inverse of their numbers,
        or not at all.
    label_smoothing : float
        Of the particle type in training.
    gradient_penalty : float
        Weight of `ctapipe_gphysnet.losses.gradient_penalty` in the loss.
    validation_fraction : float
        Share of the showers kept for validation.
    precision : {"32-true", "bf16-mixed"}
        As Lightning names it.
    gradient_clip : float
        Greatest norm of the gradient of all parameters; 0 for no limit.
    average_weights : float
        Decay of `ctapipe_gphysnet.averaging.AveragedWeights`; 0 for no average.
    monitor : str
        One of `monitored_quantities`, to tell better epochs from worse.
    keep : {"last", "best"}
        Epoch whose weights the network gets at the end.
    patience : int
        Stop after so many epochs without a better one; 0 for never.
    device : str
        "auto", "cpu", "cuda" or "cuda:n".
    devices : int, optional
        GPUs of a machine, or processes on its CPU. By default all GPUs, or one process.
    nodes : int
        Machines that train together.
    compile : bool
        Compile the network with torch.compile. Pays on a GPU; on a CPU `backend` is
        faster without.
    augmentation : Augmentation
        Random changes of the images.
    """

    epochs: int = 10
    batch_size: int = 64
    seed: int = 0
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4
    optimizer: str = "adamw"
    schedule: str = "one-cycle"
    step_epochs: int = 10
    balance: Balance = Balance()
    balance_learning_rate: float = 0.025
    balance_weight_decay: float = 0.0
    class_balance: str = "weights"
    label_smoothing: float = 0.0
    gradient_penalty: float = 0.0
    validation_fraction: float = 0.1
    precision: str = "32-true"
    gradient_clip: float = 1.0
    average_weights: float = 0.0
    monitor: str = "validation_loss"
    keep: str = "last"
    patience: int = 0
    device: str = "auto"
    devices: int | None = None
    nodes: int = 1
    compile: bool = False
    augmentation: Augmentation = Augmentation()

    def __post_init__(self):
        for name in ("epochs", "batch_size", "learning_rate", "nodes", "devices"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be positive, got {value}")
        if not 0 < self.validation_fraction < 1:
            raise ValueError(
                f"validation_fraction must be in (0, 1), got {self.validation_fraction}"
            )
        self._verify_optimization()
        self._verify_running()

    def _verify_optimization(self):
        for name in ("balance_learning_rate", "step_epochs"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        for name in ("weight_decay", "balance_weight_decay", "gradient_penalty"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(
                f"label_smoothing must be in [0, 1), got {self.label_smoothing}"
            )
        for name, choices in (
            ("optimizer", OPTIMIZERS),
            ("schedule", SCHEDULES),
            ("class_balance", CLASS_BALANCES),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"{name} must be one of {tuple(choices)}, got {getattr(self, name)!r}"
                )
        if self.compile and self.needs_double_backward:
            raise ValueError(
                "gradient_penalty needs second derivatives, which torch.compile does not"
                " have; train without compile"
            )
        if self.compile and self.balance.name == "gradnorm":
            raise ValueError(
                "balance gradnorm needs the gradients of single tasks, which"
                " torch.compile does not have; train without compile"
            )

    def _verify_running(self):
        for name in ("gradient_clip", "average_weights", "patience"):
            value = getattr(self, name)
            if not value >= 0:
                raise ValueError(f"{name} must be 0 or more, got {value}")
        if not self.average_weights < 1:
            raise ValueError(
                f"average_weights must be below 1, got {self.average_weights}"
            )
        if self.keep not in CHECKPOINTS:
            raise ValueError(f"keep must be last or best, got {self.keep}")

    @property
    def needs_double_backward(self):
        """Whether gradients of gradients of the network are taken."""
        return self.gradient_penalty > 0

    @property
    def recipe(self):
        """The options as a dict, without those that say where to train."""
        recipe = asdict(self)
        for name in ("device", "devices", "nodes", "compile"):
            del recipe[name]
        return recipe

    @property
    def backend(self):
        """Implementation of the convolutions, of those of `GammaPhysNet`."""
        from .inference import select_device

        on_cpu = select_device(self.device).type == "cpu"
        exact = self.precision == "32-true" and not self.compile
        # the machine code has first derivatives alone
        machine_code = on_cpu and exact and not self.needs_double_backward
        return "pixels" if machine_code else "dense"


class GammaPhysNetTraining(lightning.LightningModule):
    """The network, its losses and its optimizer.

    Parameters
    ----------
    network : GammaPhysNet
    options : TrainingOptions
    class_weights : sequence of float
        Weight of background and signal in the cross-entropy.
    configuration : dict
        Of the training, to store in its checkpoints.
    """

    def __init__(self, network, options, class_weights, configuration):
        super().__init__()
        self.network = network
        self.options = options
        self.balance = options.balance.make(
            network.options.tasks, network.backbone.stages[-1][-1].conv2.weight
        )
        self.configuration = configuration
        self.register_buffer("class_weights", torch.tensor(class_weights).float())
        # kept out of the module's registry: the same parameters, compiled
        self._forward = [torch.compile(network) if options.compile else network]
        self._validation = []
        self._began, self._seconds_before = time.monotonic(), 0.0

    def _losses(self, outputs, batch):
        return task_losses(
            outputs,
            batch,
            batch["is_signal"],
            batch["classified"],
            self.class_weights,
            self.options.label_smoothing,
            shared=True,
        )

    def training_step(self, batch, _):
        images = batch["images"].requires_grad_(self.options.needs_double_backward)
        losses = self._losses(self._forward[0](images), batch)
        total = self.balance(losses)
        if self.options.needs_double_backward:
            penalty = gradient_penalty(total, images)
            total = total + self.options.gradient_penalty * penalty
            losses["gradient_penalty"] = penalty
        found = {"total": total, **losses}
        # of the whole batch, so that all processes notice what one of them meets
        values = mean_of_processes(torch.stack([v.detach() for v in found.values()]))
        found = dict(zip(found, values))
        if not torch.isfinite(found.pop("total")):
            raise self._not_finite(found)
        self.log_dict(found, prog_bar=True)
        return total

    def validation_step(self, batch, _):
        outputs = self.network(batch["images"])
        keep = {name: value.float().cpu() for name, value in outputs.items()}
        truth = {name: value.cpu() for name, value in batch.items() if name != "images"}
        self._validation.append((keep, truth))

    def on_validation_epoch_end(self):
        outputs, truth = (
            {name: self._gathered([part[name] for part in parts]) for name in parts[0]}
            for parts in zip(*self._validation)
        )
        self._validation.clear()
        losses = task_losses(
            outputs,
            truth,
            truth["is_signal"],
            truth["classified"],
            self.class_weights.cpu(),
        )
        total = sum(losses.values())
        if not torch.isfinite(total):  # before these weights become a checkpoint
            raise self._not_finite(losses)
        # numbers, which Lightning brings to the device that processes talk through
        metrics = {f"validation_{task}": float(loss) for task, loss in losses.items()}
        metrics["validation_loss"] = float(total)
        self.log_dict(metrics, sync_dist=True)
        self.log_dict(validation_metrics(outputs, truth), prog_bar=True, sync_dist=True)

    def _gathered(self, parts):
        """One tensor of the parts that all processes have."""
        tensor = torch.cat(parts)
        if self.trainer.world_size > 1:
            every = gather_all_tensors(tensor.to(self.device))
            tensor = torch.cat([part.cpu() for part in every])
        return tensor

    def _not_finite(self, losses):
        values = {task: float(loss) for task, loss in losses.items()}
        return FloatingPointError(
            f"the loss is not finite in epoch {self.current_epoch + 1}: {values}."
            " Resumed, it would be so again: train anew with a lower learning_rate or"
            " gradient_clip, and look for outliers in the inputs"
        )

    def on_save_checkpoint(self, checkpoint):
        checkpoint["configuration"] = self.configuration
        seconds = time.monotonic() - self._began
        checkpoint["wall_time_s"] = self._seconds_before + seconds
        n_steps = self.trainer.fit_loop.epoch_loop.batch_progress.current.processed
        whole = n_steps == self.trainer.num_training_batches
        checkpoint["n_steps"] = 0 if whole else n_steps  # of an epoch that is not whole
        checkpoint["complete"] = whole and (
            self.trainer.should_stop or self.current_epoch + 1 >= self.options.epochs
        )
        checkpoint["metrics"] = {
            name: float(value)
            for name, value in self.trainer.callback_metrics.items()
            if name in METRICS or name.startswith("validation_")
        }

    def on_load_checkpoint(self, checkpoint):
        self._seconds_before = checkpoint["wall_time_s"]

    def configure_optimizers(self):
        optimizer = make_optimizer(self.network, self.balance, self.options)
        n_steps = int(self.trainer.estimated_stepping_batches)
        schedule = make_schedule(optimizer, self.options, n_steps)
        return {"optimizer": optimizer, "lr_scheduler": schedule}


def validation_metrics(outputs, truth):
    """What the card reports: AUC and 68 % containments of all events.

    Parameters
    ----------
    outputs, truth : dict of str to Tensor

    Returns
    -------
    dict of str to float
        ``auc``; ``angle_68`` in degrees; ``energy_68``, of the relative
        error. Only those of the network's tasks.
    """
    signal = truth["is_signal"]
    metrics = {}
    if "particle_type" in outputs:
        counts = truth["classified"]
        logits = outputs["particle_type"][counts]
        metrics["auc"] = float(
            binary_auroc(logits[:, 1] - logits[:, 0], truth["particle_type"][counts])
        )
    if "direction" in outputs:
        miss = (outputs["direction"] - truth["direction"])[signal].norm(dim=1)
        metrics["angle_68"] = float(torch.quantile(miss, 0.68))
    if "energy" in outputs:
        ratio = 10 ** (outputs["energy"] - truth["energy"])[signal][:, 0]
        metrics["energy_68"] = float(torch.quantile((ratio - 1).abs(), 0.68))
    return metrics


def monitored_quantities(tasks):
    """Quantities that tell which epoch is the best.

    Parameters
    ----------
    tasks : iterable of str

    Returns
    -------
    dict of str to {"min", "max"}
        Whether less is better, or more. ``validation_loss`` is the sum of those of all
        tasks.
    """
    losses = dict.fromkeys(["loss", *tasks], "min")
    return {
        **{f"validation_{name}": mode for name, mode in losses.items()},
        **{name: mode for name, (task, mode) in METRICS.items() if task in tasks},
    }


def train(network, sample, preprocessing, options, directory, resume=False, inputs=None):
    """Train a network.

    Parameters
    ----------
    network : GammaPhysNet
        Trained in place.
    sample : EventSample
        Events to train on; a part is kept for validation.
    preprocessing : Preprocessing
    options : TrainingOptions
    directory : path-like
        Where checkpoints and logs go. Processes that train together share it.
    resume : bool
        Go on from the last checkpoint in ``directory``, of the step that the training
        was stopped after, or of the last whole epoch.
    inputs : dict, optional
        What else has to be the same at a resume, as for
        `ctapipe_gphysnet.resuming.configuration`.

    Returns
    -------
    dict or None
        Processes, events used, epochs of the weights that were kept, their metrics of the
        validation events, and the time that it took, stops left out. In the first process
        alone, if several train together.

    Raises
    ------
    ValueError
        If signal or background is missing, to train on or to validate with, if there are
        too few events, or not as many processes as the options say.
    FileNotFoundError
        If there is nothing to resume.
    CheckpointError
        If the training to resume had another configuration, if its checkpoint is
        damaged, or if one cannot be written.
    FloatingPointError
        If the loss is not finite.
    TrainingStopped
        By Ctrl-C or SIGTERM.
    """
    training, validation = sample.split(options.validation_fraction, options.seed)
    _verify_numbers(network, sample, training, validation, options)
    lightning.seed_everything(options.seed, verbose=False)
    plan = configuration(options, network.options, preprocessing, inputs or {})
    class_weights = _class_weights(sample, training, options)
    module = GammaPhysNetTraining(network, options, class_weights, plan)
    last = Path(directory) / LAST
    before = read_checkpoint(last, plan) if resume else None
    if not (resume or rank_zero_only.rank):
        shutil.rmtree(Path(directory) / LOG, ignore_errors=True)
    trainer = _trainer(network, options, directory)
    if trainer.is_global_zero:
        remove_partial_checkpoints(directory)
    if not (resume and before["complete"]):
        batches = Batches(sample, training, preprocessing, options.augmentation)
        kept = Batches(sample, validation, preprocessing)
        share = Share(trainer.global_rank, trainer.world_size)
        with signals_reported(directory, plan):
            trainer.fit(
                module,
                _loader(batches, _order(len(training), options, share, before), options),
                _loader(
                    kept,
                    OrderedBatches(len(validation), VALIDATION_BATCH_SIZE, share),
                    options,
                ),
                ckpt_path=last if resume else None,
            )
    if not trainer.is_global_zero:
        return None
    chosen = read_checkpoint(Path(directory) / CHECKPOINTS[options.keep], plan)
    module.load_state_dict(chosen["state_dict"])
    return {
        "n_processes": trainer.world_size,
        "n_training": len(training),
        "n_validation": len(validation),
        "epochs": chosen["epoch"] + 1,
        "wall_time_s": round(read_checkpoint(last)["wall_time_s"], 1),
        "metrics": {
            # JSON knows no NaN
            name: value if math.isfinite(value) else None
            for name, value in chosen["metrics"].items()
        },
    }


def _verify_numbers(network, sample, training, validation, options):
    """Make sure that there are enough events of all kinds.

    Raises
    ------
    ValueError
        If there are not.
    """
    n_processes = n_local_processes(options) * options.nodes
    if len(training) < options.batch_size or len(validation) < n_processes:
        raise ValueError(
            f"{len(training)} events to train on and {len(validation)} to validate with"
            f" are too few for a batch_size of {options.batch_size}, a"
            f" validation_fraction of {options.validation_fraction} and {n_processes}"
            " processes; give more with --input"
        )
    kinds = {"signal": sample.is_signal}
    if "particle_type" in network.options.tasks:
        kinds["background"] = sample.classified & ~sample.is_signal
        kinds["signal to classify"] = sample.classified & sample.is_signal
    for name, chosen in kinds.items():
        for events, purpose in ((training, "train on"), (validation, "validate with")):
            if not chosen[events].any():
                raise ValueError(
                    f"no {name} events to {purpose} after the selection, of"
                    f" {chosen.sum()} in all, with a validation_fraction of"
                    f" {options.validation_fraction}; give files that have them with"
                    " --input, or loosen the quality_criteria"
                )


def _class_weights(sample, training, options):
    """Weights of background and signal in the cross-entropy."""
    if options.class_balance == "none":
        return np.ones(2)
    classes = np.bincount(
        sample.is_signal[training][sample.classified[training]].astype(int), minlength=2
    )
    return classes.sum() / (2 * np.maximum(classes, 1))


def _order(n_events, options, share, before):
    """Order of the batches, from where a training before stopped."""
    order = ShuffledBatches(n_events, options.batch_size, options.seed, share)
    if before is not None:
        order.skip(before["epoch"], before["n_steps"])
        # processes that load batches want the first ones before Lightning tells the epoch
        order.set_epoch(before["epoch"] + (before["n_steps"] == 0))
    return order


def _trainer(network, options, directory):
    """Lightning's trainer, which logs as CSV and for TensorBoard."""
    where = hardware(options)
    # written at once: a checkpoint must not know an epoch that the log does not
    log = CSVLogger(directory, name=LOG, flush_logs_every_n_steps=1)
    curves = TensorBoardLogger(
        directory, name=LOG, version=log.version, default_hp_metric=False
    )
    return lightning.Trainer(
        max_epochs=options.epochs,
        precision=options.precision,
        gradient_clip_val=options.gradient_clip or None,
        logger=[log, curves],
        callbacks=[
            LearningRateMonitor("epoch"),
            *_callbacks(network, options, directory),
        ],
        num_sanity_val_steps=0,
        log_every_n_steps=50,
        enable_model_summary=False,
        use_distributed_sampler=False,
        plugins=[WholeCheckpoints(), *where.pop("plugins", [])],
        **where,
    )


def _callbacks(network, options, directory):
    """What happens between the steps and the epochs."""
    callbacks = [ThreadsForImages()] if options.backend == "pixels" else []
    mode = monitored_quantities(network.options.tasks)[options.monitor]
    if options.average_weights:
        callbacks.append(AveragedWeights(options.average_weights))
    if options.patience:
        stopping = EarlyStopping(options.monitor, mode=mode, patience=options.patience)
        callbacks.append(stopping)
    callbacks.append(SavingWhenStopped(directory))  # behind what a step changes
    callbacks.append(BestCheckpoint(directory, options.monitor, mode))
    # The last comes last, for it stores what the others know. Without a quantity to
    # monitor, the newest replaces the one before.
    newest = ModelCheckpoint(
        directory, filename=Path(LAST).stem, save_top_k=1, enable_version_counter=False
    )
    return [*callbacks, newest]


class ThreadsForImages(Callback):
    """Leaves the threads to the images of a batch while a training runs.

    Lightning shares the threads between the processes before `setup`.
    """

    def __init__(self):
        self._stack = ExitStack()

    def setup(self, trainer, pl_module, stage):
        batch_size = pl_module.options.batch_size // trainer.world_size
        self._stack.enter_context(threads_for_images(batch_size))

    def teardown(self, trainer, pl_module, stage):
        self._stack.close()

    def on_exception(self, trainer, pl_module, exception):
        self._stack.close()


class ResumableLoader(DataLoader):
    """Loads batches in an order that knows by itself where to go on."""

    def state_dict(self):
        """Nothing: see `ctapipe_gphysnet.batches.ShuffledBatches.skip`."""
        return {}

    def load_state_dict(self, state):
        """Nothing to do."""


def ignore_interrupts(worker):
    """Let a process that loads batches leave Ctrl-C, which it hears too, to the training.

    Parameters
    ----------
    worker : int
        Number of the process, as torch's `DataLoader` tells it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _loader(batches, order, options):
    """Loader with processes that prepare batches, but on a CPU, which is busy anyway.

    The processes that train on this machine share its cores.
    """
    from .inference import select_device

    workers = {}
    if select_device(options.device).type != "cpu":
        n_local = n_local_processes(options)
        workers = {
            "num_workers": min(MOST_WORKERS, max(1, cpu_count() // n_local - 1)),
            "worker_init_fn": ignore_interrupts,
            "persistent_workers": True,
            "pin_memory": True,
        }
    return ResumableLoader(batches, sampler=order, batch_size=None, **workers)


def n_local_processes(options):
    """Number of processes that train on one machine.

    Parameters
    ----------
    options : TrainingOptions

    Returns
    -------
    int

    Raises
    ------
    ValueError
        As `hardware` does.
    """
    devices = hardware(options)["devices"]
    return devices if isinstance(devices, int) else len(devices)


def hardware(options):
    """Where to train, in the terms of Lightning's trainer.

    Parameters
    ----------
    options : TrainingOptions

    Returns
    -------
    dict
        Arguments of the trainer.

    Raises
    ------
    ValueError
        If there are not as many processes as the options say, or if they cannot share
        a batch evenly.
    """
    from .inference import select_device

    device = select_device(options.device)
    devices = options.devices or 1
    if device.index is not None and devices > 1:
        raise ValueError(
            f"device {options.device} is one GPU, but devices is {devices}; for several"
            " give the device cuda"
        )
    arguments = {"accelerator": "cpu", "devices": devices}
    if device.type != "cpu":
        if options.devices is None and device.index is None:
            devices = torch.cuda.device_count()
        chosen = devices if device.index is None else [device.index]
        arguments = {"accelerator": "gpu", "devices": chosen}
    n_processes = devices * options.nodes
    if options.batch_size % n_processes:
        raise ValueError(
            f"a batch of {options.batch_size} images cannot be shared evenly by"
            f" {devices} devices on {options.nodes} machines"
        )
    started = int(os.environ.get("SLURM_NTASKS", os.environ.get("WORLD_SIZE", 1)))
    if options.nodes > 1 and started != n_processes:
        raise ValueError(
            f"training on {options.nodes} machines with {devices} devices each needs"
            f" {n_processes} processes, not {started}; start them with srun"
            f" --nodes={options.nodes} --ntasks-per-node={devices} gphysnet-train ..."
        )
    if options.nodes == 1 and started == 1:
        # in a job of Slurm with one task Lightning would wait for others to be started
        arguments["plugins"] = [LightningEnvironment()]
    if n_processes > 1:
        arguments["strategy"] = DDPStrategy(timeout=LONGEST_READING)
    return {**arguments, "num_nodes": options.nodes}
