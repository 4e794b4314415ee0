import math

import pytest
import torch
from torch import nn

from ctapipe_gphysnet.balance import FixedBalance
from ctapipe_gphysnet.losses import MultiTaskLoss
from ctapipe_gphysnet.optimization import make_optimizer, make_schedule

pytest.importorskip("lightning", reason="the extra train is not installed")

from ctapipe_gphysnet.training import TrainingOptions  # noqa: E402

PAPER = TrainingOptions(
    learning_rate=1e-3,
    weight_decay=1e-4,
    optimizer="adam",
    schedule="steps",
    balance_weight_decay=1e-4,
)


def linear(value):
    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, value)
    return layer


def rates(options, n_epochs, steps_per_epoch):
    """Learning rates of network and balance at the start of every epoch."""
    optimizer = make_optimizer(linear(1.0), MultiTaskLoss(["energy"]), options)
    schedule = make_schedule(optimizer, options, n_epochs * steps_per_epoch)
    found = []
    for _ in range(n_epochs):
        found.append([group["lr"] for group in optimizer.param_groups])
        for _ in range(steps_per_epoch if schedule["interval"] == "step" else 1):
            optimizer.step()
            schedule["scheduler"].step()
    return found


def test_steps_of_the_paper():
    found = rates(PAPER, n_epochs=25, steps_per_epoch=3)
    expected = [1e-3] * 10 + [1e-4] * 10 + [1e-5] * 5
    assert [network for network, _ in found] == pytest.approx(expected)
    assert [balance for _, balance in found] == [0.025] * 25


def test_one_cycle_goes_up_and_down():
    options = TrainingOptions(learning_rate=0.01)
    found = rates(options, n_epochs=100, steps_per_epoch=1)
    for column, highest in ((0, 0.01), (1, 0.025)):
        values = [row[column] for row in found]
        assert values[0] == pytest.approx(highest / 25)
        assert max(values) == pytest.approx(highest, rel=1e-3)
        assert values.index(max(values)) == 14  # 15 % of the steps
        assert values[-1] < 1e-3 * highest


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_first_step_against_its_formula(optimizer):
    """Adam normalizes gradient plus decay, AdamW decays the weight by itself."""
    options = TrainingOptions(
        learning_rate=0.1,
        weight_decay=0.5,
        optimizer=optimizer,
        balance_learning_rate=0.2,
        balance_weight_decay=0.25,
    )
    network, balance = linear(2.0), MultiTaskLoss(["energy"])
    made = make_optimizer(network, balance, options)
    # chosen against the decay: Adam's steps then have opposite directions
    network.weight.grad = torch.full((1, 1), -0.75)
    (s,) = balance.parameters()
    s.grad = torch.tensor(-0.125)
    made.step()
    for found, value, gradient, rate, decay in (
        (network.weight.item(), 2.0, -0.75, 0.1, 0.5),
        (s.item(), 1.0, -0.125, 0.2, 0.25),
    ):
        if optimizer == "adam":
            gradient += decay * value
            expected = value - rate * math.copysign(1, gradient)
        else:
            expected = value * (1 - rate * decay) - rate * math.copysign(1, gradient)
        assert found == pytest.approx(expected, rel=1e-5)


def test_balance_without_parameters_has_no_group():
    optimizer = make_optimizer(linear(1.0), FixedBalance({"energy": 1.0}), PAPER)
    assert len(optimizer.param_groups) == 1
    make_schedule(optimizer, PAPER, 10)
