"""Training of γ-PhysNet with Lightning."""

from dataclasses import asdict, dataclass
from pathlib import Path

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler
from torchmetrics.functional.classification import binary_auroc

from .losses import MultiTaskLoss, task_losses
from .tasks import TASKS

__all__ = ["GammaPhysNetTraining", "TrainingOptions", "train"]

VALIDATION_BATCH_SIZE = 256
TASK_WEIGHT_LEARNING_RATE = 0.025  # of the papers


@dataclass(frozen=True)
class TrainingOptions:
    """How to train.

    Attributes
    ----------
    epochs, batch_size, seed : int
    learning_rate : float
        The highest of the one-cycle schedule (Smith 2018,
        https://arxiv.org/abs/1803.09820).
    weight_decay : float
        Of AdamW.
    validation_fraction : float
        Share of the showers kept for validation.
    precision : {"32-true", "bf16-mixed"}
        As Lightning names it.
    device : str
        "auto", "cpu", "cuda" or "cuda:n".
    compile : bool
        Compile the network with torch.compile: half again as fast, after a
        minute.
    turn_images : bool
        Show every image in a random one of the orientations that map the
        camera onto itself, its direction and impact point turned along.
    """

    epochs: int = 10
    batch_size: int = 64
    seed: int = 0
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4
    validation_fraction: float = 0.1
    precision: str = "32-true"
    device: str = "auto"
    compile: bool = False
    turn_images: bool = True

    def __post_init__(self):
        for name in ("epochs", "batch_size", "learning_rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if not 0 < self.validation_fraction < 1:
            raise ValueError(
                f"validation_fraction must be in (0, 1), got {self.validation_fraction}"
            )


class _Batches(torch.utils.data.Dataset):
    """Events of a sample by lists of indices, as dicts of tensors."""

    def __init__(self, sample, events):
        self.events = torch.from_numpy(events)
        self.arrays = {
            "images": torch.from_numpy(sample.images),
            "is_signal": torch.from_numpy(sample.is_signal),
            "classified": torch.from_numpy(sample.classified),
            **{name: torch.from_numpy(value) for name, value in sample.targets.items()},
        }

    def __len__(self):
        return len(self.events)

    def __getitem__(self, indices):
        chosen = self.events[indices]
        return {name: array[chosen] for name, array in self.arrays.items()}


class GammaPhysNetTraining(lightning.LightningModule):
    """The network, its losses and its optimiser.

    Parameters
    ----------
    network : GammaPhysNet
    options : TrainingOptions
    class_weights : sequence of float
        Weight of background and signal in the cross-entropy.
    """

    def __init__(self, network, options, class_weights):
        super().__init__()
        self.network = network
        self.options = options
        self.balance = MultiTaskLoss(network.options.tasks)
        self.register_buffer("class_weights", torch.tensor(class_weights).float())
        self._register_symmetries(network.lattice.symmetries())
        # kept out of the module's registry: the same parameters, compiled
        self._forward = [torch.compile(network) if options.compile else network]
        self._validation = []

    def _register_symmetries(self, symmetries):
        permutations = np.stack([symmetry.permutation for symmetry in symmetries])
        self.register_buffer(
            "permutations", torch.from_numpy(permutations), persistent=False
        )
        # the turn of a unit matrix is what turns a target from the right
        self._turned = [
            task
            for task in self.network.options.tasks
            if TASKS[task].loss == "l1" and TASKS[task].n_outputs == 2
        ]
        for task in self._turned:
            turns = [TASKS[task].turn(np.eye(2), s.matrix) for s in symmetries]
            self.register_buffer(
                f"turns_{task}", torch.tensor(np.stack(turns)).float(), persistent=False
            )

    def turn(self, batch):
        """The batch with every event in a random orientation."""
        batch = dict(batch)
        images = batch["images"]
        choice = torch.randint(
            len(self.permutations), (len(images),), device=images.device
        )
        order = self.permutations[choice][:, None, :].expand(-1, images.shape[1], -1)
        batch["images"] = images.gather(2, order)
        for task in self._turned:
            turns = getattr(self, f"turns_{task}")[choice]
            batch[task] = (batch[task][:, None, :] @ turns)[:, 0]
        return batch

    def _losses(self, outputs, batch):
        return task_losses(
            outputs, batch, batch["is_signal"], batch["classified"], self.class_weights
        )

    def training_step(self, batch, _):
        if self.options.turn_images:
            batch = self.turn(batch)
        losses = self._losses(self._forward[0](batch["images"].float()), batch)
        total = self.balance(losses)
        if not torch.isfinite(total):
            values = {task: float(loss) for task, loss in losses.items()}
            raise FloatingPointError(f"the loss is not finite: {values}")
        self.log_dict(losses, prog_bar=True)
        return total

    def validation_step(self, batch, _):
        outputs = self.network(batch["images"].float())
        keep = {name: value.float().cpu() for name, value in outputs.items()}
        truth = {name: value.cpu() for name, value in batch.items() if name != "images"}
        self._validation.append((keep, truth))

    def on_validation_epoch_end(self):
        outputs, truth = (
            {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
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
        self.log_dict({f"validation_{task}": loss for task, loss in losses.items()})
        metrics = validation_metrics(outputs, truth)
        self.log_dict(metrics, prog_bar=True)

    def on_save_checkpoint(self, checkpoint):
        checkpoint["training_options"] = self._recipe()

    def on_load_checkpoint(self, checkpoint):
        before, now = checkpoint["training_options"], self._recipe()
        for name, value in now.items():
            if before.get(name) != value:
                raise ValueError(
                    f"{name} is {value}, but the training to resume had"
                    f" {before.get(name)}; resume with the same options"
                )

    def _recipe(self):
        """The options that decide the outcome."""
        recipe = asdict(self.options)
        return {k: v for k, v in recipe.items() if k not in ("device", "compile")}

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(
            [
                {"params": list(self.network.parameters())},
                {"params": list(self.balance.parameters()), "weight_decay": 0.0},
            ],
            weight_decay=self.options.weight_decay,
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            max_lr=[self.options.learning_rate, TASK_WEIGHT_LEARNING_RATE],
            total_steps=int(self.trainer.estimated_stepping_batches),
            pct_start=0.15,
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


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


def train(network, sample, options, directory, resume=False):
    """Train a network.

    Parameters
    ----------
    network : GammaPhysNet
        Trained in place.
    sample : EventSample
        Events to train on; a part is kept for validation.
    options : TrainingOptions
    directory : path-like
        Where checkpoints and logs go.
    resume : bool
        Go on from the last checkpoint in ``directory``, of the last whole
        epoch.

    Returns
    -------
    dict
        Events used, and the metrics of the validation events at the end.

    Raises
    ------
    ValueError
        If signal or background is missing, or if the training to resume had
        other options.
    FileNotFoundError
        If there is nothing to resume.
    FloatingPointError
        If the loss is not finite.
    """
    training, validation = sample.split(options.validation_fraction, options.seed)
    classes = np.bincount(
        sample.is_signal[training][sample.classified[training]].astype(int), minlength=2
    )
    classifies = "particle_type" in network.options.tasks
    for name, count in (
        ("signal", sample.is_signal[training].sum()),
        ("background", classes[0] if classifies else None),
    ):
        if count == 0:
            raise ValueError(f"no {name} events to train on after the selection")
    lightning.seed_everything(options.seed, verbose=False)
    module = GammaPhysNetTraining(
        network, options, class_weights=classes.sum() / (2 * np.maximum(classes, 1))
    )
    checkpoint = Path(directory) / "last.ckpt"
    if resume and not checkpoint.is_file():
        raise FileNotFoundError(f"{checkpoint} does not exist: nothing to resume")
    # without a quantity to monitor, the newest checkpoint replaces the one before
    newest = ModelCheckpoint(
        directory, filename=checkpoint.stem, save_top_k=1, enable_version_counter=False
    )
    trainer = lightning.Trainer(
        max_epochs=options.epochs,
        precision=options.precision,
        gradient_clip_val=1.0,
        logger=CSVLogger(directory, name="log"),
        callbacks=[newest, LearningRateMonitor("epoch")],
        num_sanity_val_steps=0,
        log_every_n_steps=50,
        enable_model_summary=False,
        **_accelerator(options.device),
    )
    trainer.fit(
        module,
        _loader(sample, training, options.batch_size, shuffle=True),
        _loader(sample, validation, VALIDATION_BATCH_SIZE, shuffle=False),
        ckpt_path=checkpoint if resume else None,
    )
    if trainer.interrupted:
        raise KeyboardInterrupt
    names = ("auc", "angle_68", "energy_68")
    return {
        "n_training": len(training),
        "n_validation": len(validation),
        "metrics": {
            # JSON knows no NaN
            name: float(value) if torch.isfinite(value) else None
            for name, value in trainer.callback_metrics.items()
            if name in names or name.startswith("validation_")
        },
    }


def _loader(sample, events, batch_size, shuffle):
    dataset = _Batches(sample, events)
    order = RandomSampler(dataset) if shuffle else SequentialSampler(dataset)
    # an incomplete batch of one event has no batch statistics
    batches = BatchSampler(order, batch_size, drop_last=shuffle)
    return DataLoader(dataset, sampler=batches, batch_size=None)


def _accelerator(device):
    from .inference import select_device

    device = select_device(device)
    if device.type == "cpu":
        return {"accelerator": "cpu", "devices": 1}
    return {"accelerator": "gpu", "devices": [device.index or 0]}
