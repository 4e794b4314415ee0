import math

import numpy as np
import pytest
import torch

from ctapipe_gphysnet.losses import MultiTaskLoss, task_losses


@pytest.fixture
def batch():
    rng = np.random.default_rng(5)
    outputs = {
        "energy": torch.tensor(rng.normal(size=(6, 1))),
        "direction": torch.tensor(rng.normal(size=(6, 2))),
        "particle_type": torch.tensor(rng.normal(size=(6, 2))),
    }
    targets = {
        "energy": torch.tensor(rng.normal(size=(6, 1))).float(),
        "direction": torch.tensor(rng.normal(size=(6, 2))).float(),
        "particle_type": torch.tensor([1, 1, 0, 0, 1, 0]),
    }
    signal = torch.tensor([True, True, False, False, True, False])
    classified = torch.tensor([True, True, True, True, False, True])
    return outputs, targets, signal, classified


def test_losses_against_their_formulas(batch):
    outputs, targets, signal, classified = batch
    weights = torch.tensor([0.5, 2.0])
    losses = task_losses(outputs, targets, signal, classified, weights)
    rows = [0, 1, 4]
    for task in ("energy", "direction"):
        difference = outputs[task].numpy() - targets[task].numpy()
        expected = np.abs(difference[rows]).mean()
        assert float(losses[task]) == pytest.approx(expected, rel=1e-5)
    expected = 0
    for row in (0, 1, 2, 3, 5):
        logits = outputs["particle_type"][row].numpy()
        label = int(targets["particle_type"][row])
        probability = np.exp(logits[label]) / np.exp(logits).sum()
        expected -= float(weights[label]) * math.log(probability) / 5
    assert float(losses["particle_type"]) == pytest.approx(expected, rel=1e-5)


def test_background_has_no_say_in_the_regressions(batch):
    outputs, targets, signal, classified = batch
    outputs["energy"].requires_grad_()
    task_losses(outputs, targets, signal, classified)["energy"].backward()
    gradient = outputs["energy"].grad[:, 0]
    assert (gradient[~signal] == 0).all()
    assert (gradient[signal] != 0).all()


def test_a_batch_without_signal_gives_zero(batch):
    outputs, targets, signal, classified = batch
    losses = task_losses(outputs, targets, torch.zeros_like(signal), classified)
    assert float(losses["energy"]) == 0
    assert float(losses["particle_type"]) > 0


def test_balance_finds_the_analytic_optimum():
    # 2 exp(-s) L + s is least at s = log(2 L), 0.5 exp(-s) L + s at log(L / 2)
    balance = MultiTaskLoss(["energy", "particle_type"])
    losses = {"energy": torch.tensor(0.3), "particle_type": torch.tensor(0.7)}
    start = (2 * 0.3 + 0.5 * 0.7) / math.e + 2
    assert balance(losses).item() == pytest.approx(start)
    optimizer = torch.optim.Adam(balance.parameters(), lr=0.05)
    for _ in range(500):
        optimizer.zero_grad()
        balance(losses).backward()
        optimizer.step()
    values = {task: s.item() for task, s in balance.log_variance.items()}
    assert values["energy"] == pytest.approx(math.log(0.6), abs=1e-3)
    assert values["particle_type"] == pytest.approx(math.log(0.35), abs=1e-3)
