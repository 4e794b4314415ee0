"""Checkpoints of a training, from which it goes on after an interruption."""

import errno
import io
import json
import shutil
import signal
import sys
import threading
import zipfile
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities.exceptions import SIGTERMException

from .files import reason, remove_leftovers, replaced_when_whole

__all__ = [
    "BEST",
    "CHECKPOINTS",
    "LAST",
    "BestCheckpoint",
    "CheckpointError",
    "SavingWhenStopped",
    "TrainingStopped",
    "WholeCheckpoints",
    "configuration",
    "first_difference",
    "read_checkpoint",
    "remove_partial_checkpoints",
    "signals_reported",
]

LAST = "last.ckpt"  # of the last whole epoch, or of the step that was stopped after
BEST = "best.ckpt"  # of the best epoch by the monitored quantity
CHECKPOINTS = {"last": LAST, "best": BEST}
FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class CheckpointError(OSError):
    """A checkpoint cannot be written, or a training cannot go on from one."""


class TrainingStopped(Exception):
    """Ctrl-C or a signal to end stopped the training.

    Attributes
    ----------
    exit_code : int
        Of the process, as shells have it: 128 and the number of the signal.
    """

    def __init__(self, message, exit_code):
        super().__init__(message)
        self.exit_code = exit_code


def configuration(options, network, preprocessing, inputs):
    """All that makes a training what it is.

    A training may only go on with the same configuration.

    Parameters
    ----------
    options : ctapipe_gphysnet.training.TrainingOptions
    network : ctapipe_gphysnet.network.model.NetworkOptions
    preprocessing : ctapipe_gphysnet.preprocessing.Preprocessing
    inputs : dict
        What else must be the same, such as the identities of the input files.

    Returns
    -------
    dict
        JSON values.
    """
    values = {
        **options.recipe,
        "network": asdict(network),
        "preprocessing": preprocessing.to_dict(),
        **inputs,
    }
    return json.loads(json.dumps(values))


def first_difference(before, now, name=""):
    """Where two configurations differ.

    Parameters
    ----------
    before, now : dict
        JSON values.

    Returns
    -------
    tuple of (str, object, object), or None
        Name of the first entry that differs, and its values before and now.
    """
    if isinstance(before, dict) and isinstance(now, dict):
        keys = [*now, *(key for key in before if key not in now)]
        pairs = [(f"{name}.{key}", before.get(key), now.get(key)) for key in keys]
    elif isinstance(before, list) and isinstance(now, list):
        if len(before) != len(now):
            return f"number of {name}", len(before), len(now)
        pairs = [(f"{name}[{i}]", *pair) for i, pair in enumerate(zip(before, now))]
    else:
        return None if before == now else (name, before, now)
    for key, *values in pairs:
        if difference := first_difference(*values, key.lstrip(".")):
            return difference
    return None


def read_checkpoint(path, configuration=None):
    """Read a checkpoint.

    Parameters
    ----------
    path : path-like
    configuration : dict, optional
        What the training must have been.

    Returns
    -------
    dict

    Raises
    ------
    FileNotFoundError
    CheckpointError
        If the file is damaged, or of a training of another configuration.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} does not exist: nothing to resume")
    try:
        with zipfile.ZipFile(path) as file:  # torch does not look at the checksums
            if damaged := file.testzip():
                raise ValueError(f"{damaged} is damaged")
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        before = checkpoint["configuration"]
    except Exception as error:  # zipfile, pickle and torch each raise their own
        raise CheckpointError(
            f"{path} cannot be read as a checkpoint of this version: {reason(error)};"
            " to begin anew give --overwrite instead of --resume"
        ) from error
    if configuration is not None:
        if difference := first_difference(before, configuration):
            name, old, new = difference
            raise CheckpointError(
                f"{name} is {new}, but the training to resume had {old}; resume with the"
                f" same options, or begin anew with --overwrite instead ({path})"
            )
    return checkpoint


def remove_partial_checkpoints(directory):
    """Remove what a killed process left of checkpoints that it was writing."""
    for name in (LAST, BEST):
        remove_leftovers(Path(directory) / name)


class WholeCheckpoints(TorchCheckpointIO):
    """Writes checkpoints that are whole or not there at all.

    Lightning's own way leads over the folder for temporary files. From there to another
    file system a checkpoint is copied onto the one before, and a full disk or a killed
    process leaves neither.
    """

    def save_checkpoint(self, checkpoint, path, storage_options=None):
        """Replace a checkpoint."""
        content = io.BytesIO()  # torch hides why a file cannot be written
        torch.save(checkpoint, content)
        path = Path(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replaced_when_whole(path) as aside:
                aside.write_bytes(content.getbuffer())
        except OSError as error:
            raise _not_written(path, error, path.exists()) from error


class BestCheckpoint(ModelCheckpoint):
    """The checkpoint of the best epoch.

    Parameters
    ----------
    directory : path-like
    monitor : str
        Quantity to judge by.
    mode : {"min", "max"}
        Whether less of it is better, or more.
    """

    def __init__(self, directory, monitor, mode):
        super().__init__(
            directory,
            filename=Path(BEST).stem,
            monitor=monitor,
            mode=mode,
            save_top_k=1,
            enable_version_counter=False,
        )

    def load_state_dict(self, state_dict):
        """Take the best so far over, also if the folder has been moved."""
        if state_dict["best_model_score"] is None:  # stopped in the first epoch
            return
        path = str(Path(self.dirpath) / BEST)
        moved = {
            "dirpath": self.dirpath,
            "best_model_path": path,
            "kth_best_model_path": path,
            "best_k_models": {path: state_dict["best_model_score"]},
        }
        super().load_state_dict({**state_dict, **moved})


class SavingWhenStopped(Callback):
    """Saves after the step in which Ctrl-C or SIGTERM stops the training.

    Between the last step of an epoch and the first of the next nothing is saved: Ctrl-C
    waits for that step, or for the end of the training. A second Ctrl-C does not wait.

    Parameters
    ----------
    directory : path-like
        Of the checkpoints.
    """

    def __init__(self, directory):
        self._path = Path(directory) / LAST
        self._interrupted = False

    def on_train_start(self, trainer, pl_module):
        """Heed Ctrl-C from now on; Lightning's trainer puts back what was before."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self._interrupt)

    def _interrupt(self, *_):
        if self._interrupted:
            raise KeyboardInterrupt
        self._interrupted = True
        print("\nCtrl-C: saving after this step; again, to stop at once", file=sys.stderr)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        """Save, and let Lightning stop, in all processes at the same step."""
        interrupted, terminated = self._interrupted, trainer.received_sigterm
        if trainer.world_size > 1:
            interrupted = trainer.strategy.reduce_boolean_decision(interrupted, all=False)
            terminated = False  # each process gets it at a step of its own
        if (interrupted or terminated) and not trainer.is_last_batch:
            trainer.save_checkpoint(self._path)
            if interrupted:
                raise KeyboardInterrupt

    def on_train_end(self, trainer, pl_module):
        """Nothing else is to begin after a training that ended meanwhile."""
        if self._interrupted:
            raise KeyboardInterrupt


@contextmanager
def signals_reported(directory, configuration):
    """Say how a training in the body goes on after Ctrl-C, SIGTERM or a full disk.

    Parameters
    ----------
    directory : path-like
        Of the checkpoints.
    configuration : dict
        Of the training.

    Raises
    ------
    TrainingStopped
    CheckpointError
    """
    try:
        yield
    except SystemExit as error:  # what Lightning makes of both signals
        terminated = isinstance(error, SIGTERMException)
        number = signal.SIGTERM if terminated else signal.SIGINT
        path = Path(directory) / LAST
        try:
            checkpoint = read_checkpoint(path, configuration)
        except OSError:
            goes_on = "there is nothing to resume from"
        else:
            place = f"epoch {checkpoint['epoch'] + 1}"
            if checkpoint["n_steps"]:
                place = f"step {checkpoint['n_steps']} of {place}"
            goes_on = f"--resume goes on after {place}, from {path}"
        name = "SIGTERM" if terminated else "Ctrl-C"
        raise TrainingStopped(
            f"{name} stopped the training; {goes_on}", 128 + number
        ) from None
    except OSError as error:  # a log may be what does not fit any more
        if isinstance(error, CheckpointError) or error.errno not in FULL_DISK:
            raise
        kept = (Path(directory) / LAST).exists()
        raise _not_written(directory, error, kept) from error


def _not_written(path, error, kept):
    folder = next(p for p in Path(path).resolve().parents if p.is_dir())
    advice = "go on with --resume from the checkpoint before" if kept else "begin anew"
    return CheckpointError(
        f"{path} cannot be written: {error.strerror or error};"
        f" {shutil.disk_usage(folder).free / 1e9:.1f} GB are free there; make room and"
        f" {advice}"
    )
