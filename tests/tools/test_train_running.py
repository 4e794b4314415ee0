"""Trainings that are interrupted, and several in one go."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from astropy.table import Table
from running import run

from ctapipe_gphysnet.checkpoint import read_card, read_model

pytest.importorskip("lightning", reason="the extra train is not installed")

SMALL = [
    "--blocks=1",
    "--TrainTool.channels=4",
    "--TrainTool.channels=4",
    "--TrainTool.head_width=4",
    "--TrainTool.tasks=direction",
    "--TrainTool.tasks=particle_type",
    "--attention=none",
    "--batch-size=32",
    "--device=cpu",
]

pytestmark = pytest.mark.filterwarnings("ignore:::lightning")


@pytest.fixture(scope="module")
def train(sample_path):
    """Function: exit code of gphysnet-train with a small network."""
    from ctapipe_gphysnet.tools.train import TrainTool

    def run_tool(output, *arguments, raises=True):
        arguments = [f"--input={sample_path}", f"--output={output}", *SMALL, *arguments]
        return run(TrainTool(), *arguments, cwd=output.parent, raises=raises)

    return run_tool


AVERAGED = ["--epochs=2", "--TrainTool.average_weights=0.9"]


@pytest.fixture(scope="module")
def uninterrupted(train, tmp_path_factory):
    output = tmp_path_factory.mktemp("uninterrupted") / "model.safetensors"
    train(output, *AVERAGED)
    return output


# what a killed process does until its end
KILLED = """
import os, signal, sys
from ctapipe_gphysnet import files
from ctapipe_gphysnet.tools.train import TrainTool
from ctapipe_gphysnet.training import GammaPhysNetTraining

def kill(*_):
    os.kill(os.getpid(), signal.SIGKILL)

step = GammaPhysNetTraining.training_step

def training_step(self, batch, index):
    if self.current_epoch == 1:
        if {in_step} and index == 2:
            kill()
        os.fsync = kill  # when the next checkpoint is written, but not yet in its place
    return step(self, batch, index)

GammaPhysNetTraining.training_step = training_step
TrainTool().run(sys.argv[1:])
"""


def validated(logs):
    """Epochs whose validation is in the logs."""
    tables = [np.genfromtxt(log, delimiter=",", names=True) for log in logs]
    rows = [table[np.isfinite(table["validation_loss"])] for table in tables]
    return sorted(np.concatenate([row["epoch"] for row in rows]).astype(int))


@pytest.mark.parametrize(
    "in_step",
    [True, pytest.param(False, marks=pytest.mark.slow)],
    ids=["step", "write"],
)
def test_killed_and_resumed(train, uninterrupted, sample_path, tmp_path, in_step):
    output = tmp_path / "model.safetensors"
    arguments = [f"--input={sample_path}", f"--output={output}", *SMALL, *AVERAGED]
    killed = subprocess.run(
        [sys.executable, "-c", KILLED.format(in_step=in_step), *arguments],
        cwd=tmp_path,
        capture_output=True,
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
    assert not output.exists()
    folder = tmp_path / "model.training"
    # what the checkpoint knows is in the log
    logs = sorted(folder.glob("log/*/metrics.csv"))
    assert validated(logs) == ([0] if in_step else [0, 1])
    leftovers = {path.name.rsplit(".", 1)[0] for path in folder.glob(".*")}
    assert leftovers == (set() if in_step else {".best.ckpt"})
    with pytest.raises(Exception, match="give --resume, or --overwrite to begin anew"):
        train(output, *AVERAGED)
    train(output, *AVERAGED, "--resume")
    assert not list(folder.glob(".*"))
    expected = read_model(uninterrupted).network.state_dict()
    for name, value in read_model(output).network.state_dict().items():
        assert torch.equal(value, expected[name]), name
    assert read_card(output)["validation"] == read_card(uninterrupted)["validation"]


@pytest.mark.parametrize(
    ("name", "number", "code"),
    [("Ctrl-C", signal.SIGINT, 130), ("SIGTERM", signal.SIGTERM, 143)],
)
def test_stopped_and_resumed(
    train, uninterrupted, tmp_path, monkeypatch, capsys, name, number, code
):
    """In the middle of an epoch: not a step of it is lost."""
    from ctapipe_gphysnet.training import GammaPhysNetTraining

    steps, step = [], GammaPhysNetTraining.training_step

    def training_step(self, batch, index):
        steps.append((self.current_epoch, index))
        if steps[-1] == (1, 2):
            os.kill(os.getpid(), number)
        return step(self, batch, index)

    output = tmp_path / "model.safetensors"
    monkeypatch.setattr(GammaPhysNetTraining, "training_step", training_step)
    assert train(output, *AVERAGED, raises=False) == code
    message = f"{name} stopped the training; --resume goes on after step 3 of epoch 2"
    assert message in capsys.readouterr().err
    assert not output.exists()
    n_steps = len(steps)
    train(output, *AVERAGED, "--resume")
    assert steps[n_steps - 1 : n_steps + 1] == [(1, 2), (1, 3)]
    expected = read_model(uninterrupted).network.state_dict()
    for parameter, value in read_model(output).network.state_dict().items():
        assert torch.equal(value, expected[parameter]), parameter
    assert read_card(output)["validation"] == read_card(uninterrupted)["validation"]


@pytest.mark.slow
def test_two_processes_are_stopped_and_resumed(sample_path, tmp_path):
    """Ctrl-C reaches both, and the one that Lightning has started loses no step."""
    command = [sys.executable, "-m", "ctapipe_gphysnet.tools.train", *SMALL]
    command += [f"--input={sample_path}", "--devices=2", "--epochs=40"]
    command += ["--TrainTool.average_weights=0.9", "--TrainTool.keep=best"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SLURM")}
    options = {"cwd": tmp_path, "env": {**environment, "OMP_NUM_THREADS": "1"}}
    names = ("whole", "stopped")
    outputs = [tmp_path / f"{name}.safetensors" for name in names]
    subprocess.run([*command, f"--output={outputs[0]}"], check=True, **options)
    command.append(f"--output={outputs[1]}")
    with subprocess.Popen(
        command, start_new_session=True, stderr=subprocess.PIPE, text=True, **options
    ) as process:
        last = tmp_path / "stopped.training" / "last.ckpt"
        while not last.exists():
            assert process.poll() is None, process.stderr.read()[-2000:]
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        messages = process.communicate(timeout=100)[1]
    assert process.returncode == 130, messages[-2000:]
    assert "Ctrl-C stopped the training; --resume goes on after" in messages
    assert not outputs[1].exists()
    subprocess.run([*command, "--resume"], check=True, **options)
    expected, found = (read_model(output).network.state_dict() for output in outputs)
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_ctrl_c_twice(train, tmp_path, monkeypatch, capsys):
    from ctapipe_gphysnet.training import GammaPhysNetTraining

    def press(*_):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    output = tmp_path / "model.safetensors"
    monkeypatch.setattr(GammaPhysNetTraining, "on_validation_start", press)
    assert train(output, raises=False) == 130
    assert "Ctrl-C stopped the training; there is nothing" in capsys.readouterr().err
    assert not output.exists()


def test_failed_writing_of_the_model(train, tmp_path, monkeypatch):
    """The training need not be repeated, and the file is made without it."""
    from ctapipe_gphysnet.training import GammaPhysNetTraining

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    output = tmp_path / "model.safetensors"
    with monkeypatch.context() as patch:
        patch.setattr("ctapipe_gphysnet.checkpoint.save", full)
        with pytest.raises(Exception, match="model.safetensors cannot be written.*space"):
            train(output, "--epochs=1")
    assert not output.exists()
    monkeypatch.setattr(GammaPhysNetTraining, "training_step", full)
    train(output, "--epochs=1", "--resume")
    assert read_card(output)["validation"]["auc"] > 0


def test_several_seeds(train, tmp_path, monkeypatch):
    from ctapipe_gphysnet.training import GammaPhysNetTraining

    output = tmp_path / "model.safetensors"
    options = ["--epochs=2", "--n-seeds=2", "--seed=5"]
    step = GammaPhysNetTraining.training_step

    def fail_with_second_seed(self, batch, index):
        if self.options.seed == 6 and self.current_epoch == 1:
            raise RuntimeError("failed")
        return step(self, batch, index)

    config = tmp_path / "selection.json"
    criteria = {"quality_criteria": [["width", "hillas_width > 0"]]}
    config.write_text(json.dumps({"EventSelection": criteria}))
    with pytest.raises(Exception, match="model_seed5.*nothing to resume"):
        train(output, *options, "--resume")
    with monkeypatch.context() as patch:
        patch.setattr(GammaPhysNetTraining, "training_step", fail_with_second_seed)
        with pytest.raises(RuntimeError, match="failed"):
            train(output, *options)
    first, second = (tmp_path / f"model_seed{seed}.safetensors" for seed in (5, 6))
    before = first.stat()
    assert not second.exists()
    with pytest.raises(
        Exception, match="model_seed6.training/last.ckpt is of a training"
    ):
        train(output, *options)
    train(output, *options, "--resume")
    alone = tmp_path / "alone.safetensors"
    train(alone, "--epochs=2", "--seed=6")
    assert read_card(second)["weights_sha256"] == read_card(alone)["weights_sha256"]
    assert read_card(second)["name"] == "model_seed6"
    index = tmp_path / "model_seeds.ecsv"
    table = Table.read(index)
    assert list(table["file"]) == [first.name, second.name]
    assert table["auc"][1] == read_card(second)["validation"]["auc"]
    # what is complete is left as it is
    index.unlink()
    with monkeypatch.context() as patch:
        patch.setattr("ctapipe_gphysnet.training.train", None)
        train(output, *options)
        with pytest.raises(Exception, match="model_seed5.* but epochs is 3 and was 2"):
            train(output, "--epochs=3", *options[1:])
        with pytest.raises(Exception, match="number of quality_criteria is 1 and was 2"):
            train(output, *options, f"--config={config}")
    assert index.exists()
    assert first.stat().st_mtime_ns == before.st_mtime_ns
    assert not list(tmp_path.glob(".*"))


def test_seeds_overwritten_and_resumed(train, tmp_path):
    """Those of the configuration before are trained anew, the others are left."""
    output = tmp_path / "model.safetensors"
    options = ["--n-seeds=2", "--seed=5"]
    train(output, *options, "--epochs=1")
    first, second = (tmp_path / f"model_seed{seed}.safetensors" for seed in (5, 6))
    one_epoch = second.read_bytes()
    train(output, *options, "--epochs=2", "--overwrite")
    before = first.stat()
    second.write_bytes(one_epoch)
    old = tmp_path / "old.safetensors"
    train(old, "--seed=6", "--epochs=1")
    shutil.copy(tmp_path / "old.training/last.ckpt", tmp_path / "model_seed6.training")
    train(output, *options, "--epochs=2", "--overwrite", "--resume")
    assert first.stat().st_mtime_ns == before.st_mtime_ns
    assert read_card(second)["training"]["epochs"] == 2


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--n-seeds=0", "n_seeds"),
        ("--seed=-1", "seed"),
        ("--TrainTool.monitor=energy_68", "it can be .*auc, angle_68"),
        ("--TrainTool.patience=-1", "patience must be 0 or more"),
        ("--TrainTool.average_weights=1", "average_weights must be below 1"),
        ("--TrainTool.gradient_clip=-1", "gradient_clip must be 0 or more"),
    ],
)
def test_bad_options(train, tmp_path, argument, message):
    with pytest.raises(Exception, match=message):
        train(tmp_path / "model.safetensors", argument)


def test_pickles_are_of_one_model(train, tmp_path):
    with pytest.raises(Exception, match="use gphysnet-export"):
        train(
            tmp_path / "model.safetensors",
            "--n-seeds=2",
            f"--export-ctapipe={tmp_path / 'pickles'}",
        )


def test_model_file_has_its_suffix(train, tmp_path):
    """What comes after the last dot does not tell one training folder from another."""
    with pytest.raises(Exception, match="lr0.001 is no name .* end in .safetensors"):
        train(tmp_path / "lr0.001")


def test_no_file_is_trained_on_twice(train, sample_path, tmp_path):
    with pytest.raises(Exception, match="lst1_sample.dl1.h5 is given twice"):
        train(tmp_path / "model.safetensors", f"--regression-input={sample_path}")
