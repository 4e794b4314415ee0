import numpy as np
import pytest
import torch

pytest.importorskip("lightning", reason="the extra train is not installed")

from ctapipe_gphysnet import inference  # noqa: E402
from ctapipe_gphysnet.balance import Balance  # noqa: E402
from ctapipe_gphysnet.training import (  # noqa: E402
    TrainingOptions,
    hardware,
    validation_metrics,
)


def test_metrics_against_their_definitions():
    rng = np.random.default_rng(8)
    n = 400
    signal = rng.random(n) < 0.5
    logits = rng.normal(size=(n, 2))
    direction, energy = rng.normal(size=(2, n, 2)), rng.normal(size=(2, n, 1))
    metrics = validation_metrics(
        {
            "particle_type": torch.tensor(logits),
            "direction": torch.tensor(direction[0]),
            "energy": torch.tensor(energy[0]),
        },
        {
            "is_signal": torch.tensor(signal),
            "classified": torch.ones(n, dtype=bool),
            "particle_type": torch.tensor(signal.astype(int)),
            "direction": torch.tensor(direction[1]),
            "energy": torch.tensor(energy[1]),
        },
    )
    score = logits[:, 1] - logits[:, 0]
    pairs = score[signal][:, None] > score[~signal][None, :]
    assert metrics["auc"] == pytest.approx(pairs.mean(), abs=1e-4)
    miss = np.hypot(*(direction[0] - direction[1])[signal].T)
    assert metrics["angle_68"] == pytest.approx(np.quantile(miss, 0.68), rel=1e-5)
    ratio = 10 ** (energy[0] - energy[1])[signal, 0]
    expected = np.quantile(np.abs(ratio - 1), 0.68)
    assert metrics["energy_68"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    "option",
    [
        {"epochs": 0},
        {"batch_size": 0},
        {"learning_rate": 0.0},
        {"validation_fraction": 1.0},
        {"devices": 0},
        {"nodes": 0},
        {"weight_decay": -1.0},
        {"balance_learning_rate": 0.0},
        {"balance_weight_decay": -1.0},
        {"optimizer": "magic"},
        {"schedule": "magic"},
        {"step_epochs": 0},
        {"class_balance": "magic"},
        {"label_smoothing": 1.0},
        {"gradient_penalty": -1.0},
        {"gradient_penalty": float("nan")},
        {"gradient_penalty": 1.0, "compile": True},
        {"balance": Balance("gradnorm"), "compile": True},
    ],
)
def test_bad_options_are_named(option):
    with pytest.raises(ValueError, match=next(iter(option))):
        TrainingOptions(**option)


def test_who_needs_second_derivatives():
    assert TrainingOptions(gradient_penalty=0.1).needs_double_backward
    assert not TrainingOptions(balance=Balance("gradnorm")).needs_double_backward


def test_batch_that_cannot_be_shared():
    with pytest.raises(ValueError, match="a batch of 64 .* 3 devices on 1 machine"):
        hardware(TrainingOptions(device="cpu", devices=3))


def test_one_gpu_is_not_several(monkeypatch):
    monkeypatch.setattr(inference, "select_device", torch.device)
    assert hardware(TrainingOptions(device="cuda:1"))["devices"] == [1]
    with pytest.raises(ValueError, match="cuda:1 is one GPU, but devices is 2"):
        hardware(TrainingOptions(device="cuda:1", devices=2))


def test_machines_need_processes(monkeypatch):
    options = TrainingOptions(device="cpu", devices=1, nodes=2)
    monkeypatch.delenv("SLURM_NTASKS", raising=False)
    with pytest.raises(ValueError, match="2 processes, not 1; .*--nodes=2 --ntasks"):
        hardware(options)
    monkeypatch.setenv("SLURM_NTASKS", "2")
    assert hardware(options)["num_nodes"] == 2
