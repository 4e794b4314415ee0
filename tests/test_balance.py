import math

import numpy as np
import pytest
import torch
from torch import distributed, multiprocessing
from torch.nn import functional

from ctapipe_gphysnet.balance import Balance, GradNormBalance
from ctapipe_gphysnet.network.model import GammaPhysNet, NetworkOptions

LOSSES = {"energy": torch.tensor(0.3), "particle_type": torch.tensor(0.7)}


@pytest.mark.parametrize(
    ("balance", "expected"),
    [
        (Balance(), (2 * 0.3 + 0.5 * 0.7) / math.e + 2),
        (Balance("equal"), 0.3 + 0.7),
        (Balance("fixed", {"particle_type": 3.0, "energy": 0.5}), 0.5 * 0.3 + 3 * 0.7),
    ],
)
def test_one_loss_of_all_tasks(balance, expected):
    module = balance.make(list(LOSSES), shared=None)
    assert module(LOSSES).item() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("justice",), "balance must be one of .*'justice'"),
        (("fixed",), "task_weights belong to the balance 'fixed', which needs them"),
        (("equal", {"energy": 2.0}), "task_weights belong to .*'energy': 2.0.*'equal'"),
        (("fixed", {"energy": 0.0}), "task_weights must be positive"),
        (("gradnorm", {}, -1.0), "gradnorm_alpha must not be negative, got -1.0"),
    ],
)
def test_bad_balance(arguments, message):
    with pytest.raises(ValueError, match=message):
        Balance(*arguments)


def test_weights_of_other_tasks():
    balance = Balance("fixed", {"energy": 1.0, "impact": 1.0})
    with pytest.raises(ValueError, match=r"\['energy', 'impact'\], but the tasks are"):
        balance.verify(["energy", "direction"])


def settled(alpha, norms, first_losses=(0.0, 0.0)):
    """Weights of two losses that are 1 and whose gradients have these norms for ever."""
    shared = torch.nn.Parameter(torch.tensor([0.0]))
    balance = GradNormBalance(["a", "b"], shared, alpha)
    balance.first_losses.copy_(torch.tensor(first_losses))
    optimizer = torch.optim.SGD(balance.parameters(), lr=2e-3)
    for _ in range(300):
        optimizer.zero_grad()
        losses = {name: 1 + norm * shared.sum() for name, norm in zip("ab", norms)}
        balance(losses).backward()
        optimizer.step()
    weights = balance.weights.detach()
    return (2 * weights / weights.sum()).tolist()


def test_gradnorm_evens_out_the_norms():
    # 6 w1 = 2 w2 and w1 + w2 = 2
    assert settled(alpha=0.0, norms=(6.0, 2.0)) == pytest.approx([0.5, 1.5], abs=0.01)


@pytest.mark.parametrize(
    ("alpha", "expected"),
    # The losses are 1/2 and 1/4 of their first ones, at relative rates of 4/3 and 2/3.
    # With alpha = 1 these are the weights. With alpha = 2 the norms should be 16/9 and
    # 4/9, which is more than 2 in all: |w1 - 16/9| + |w2 - 4/9| is least with w2 = 4/9.
    [(0.0, [1, 1]), (1.0, [4 / 3, 2 / 3]), (2.0, [14 / 9, 4 / 9])],
)
def test_gradnorm_furthers_what_learns_slowly(alpha, expected):
    weights = settled(alpha, norms=(1.0, 1.0), first_losses=(2.0, 4.0))
    assert weights == pytest.approx(expected, abs=0.01)


@pytest.fixture
def gradnorm():
    """A linear network of two outputs with two losses, and a GradNorm balance of it."""
    generator = torch.Generator().manual_seed(4)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    shared = torch.nn.Parameter(draw(3, 5))
    balance = GradNormBalance(["a", "b"], shared, alpha=1.5).double()
    with torch.no_grad():
        balance.weights.copy_(torch.tensor([1.4, 0.6]))
    balance.first_losses.copy_(torch.tensor([3.0, 0.5]))
    images, heads = draw(8, 5), draw(2, 3)

    def losses(weight):
        features = images @ weight.T
        return {
            "a": functional.l1_loss(features @ heads[0], torch.ones(8).double()),
            "b": (features @ heads[1]).square().mean(),
        }

    return balance, shared, losses


def test_gradients_of_gradnorm_are_those_of_its_paper(gradnorm):
    """Equations 1 to 3 of the paper by numerical derivatives, target held fixed."""
    balance, shared, losses = gradnorm
    balance(losses(shared)).backward()
    ratios = np.array([losses(shared)[name].item() for name in "ab"]) / [3.0, 0.5]
    rates = ratios / ratios.mean()

    def norms(weights):
        found = []
        for weight, name in zip(weights, "ab"):
            copy = shared.detach().clone().requires_grad_()
            (weight * losses(copy)[name]).backward()
            found.append(copy.grad.norm().item())
        return np.array(found)

    start = np.array([1.4, 0.6])
    target = norms(start).mean() * rates**1.5
    step = 1e-6
    for i, shift in enumerate(step * np.eye(2)):
        up = np.abs(norms(start + shift) - target).sum()
        down = np.abs(norms(start - shift) - target).sum()
        expected = (up - down) / (2 * step)
        assert balance.weights.grad[i].item() == pytest.approx(expected, rel=1e-6)
    copy = shared.detach().clone().requires_grad_()
    found = losses(copy)
    (1.4 * found["a"] + 0.6 * found["b"]).backward()
    torch.testing.assert_close(shared.grad, copy.grad)


def test_gradnorm_shows_the_weighted_loss(gradnorm):
    balance, shared, losses = gradnorm
    found = losses(shared)
    expected = 1.4 * found["a"] + 0.6 * found["b"]
    assert balance(losses(shared)).item() == pytest.approx(expected.item())


def test_gradnorm_scales_its_weights_and_keeps_them_positive(gradnorm):
    balance, shared, losses = gradnorm
    with torch.no_grad():
        balance.weights.copy_(torch.tensor([3.0, -0.5]))
    balance(losses(shared))
    assert balance.weights.sum().item() == pytest.approx(2)
    assert 0 < balance.weights[1].item() < 0.001


def test_gradnorm_waits_for_events_of_a_task():
    shared = torch.nn.Parameter(torch.ones(1))
    balance = GradNormBalance(["a", "b"], shared, alpha=1.0)
    balance({"a": shared.sum(), "b": 0 * shared.sum()}).backward()
    assert balance.first_losses.tolist() == [1, 0]
    assert torch.isfinite(balance.weights.grad).all()
    balance({"a": 5 * shared.sum(), "b": 7 * shared.sum()})
    assert balance.first_losses.tolist() == [1, 7]


def test_gradnorm_goes_on_from_its_state(gradnorm):
    balance, shared, losses = gradnorm
    other = GradNormBalance(["a", "b"], shared, alpha=1.5).double()
    other.load_state_dict(balance.state_dict())
    assert "shared" not in " ".join(balance.state_dict())
    assert len(list(balance.parameters())) == 1
    assert other(losses(shared)).item() == balance(losses(shared)).item()


def test_gradnorm_on_the_network(ragged_lattice):
    """Every task's gradient reaches the last convolution, and all parameters learn."""
    options = NetworkOptions(blocks=1, channels=(4, 4), head_width=4, reduction_ratio=2)
    torch.manual_seed(0)
    network = GammaPhysNet(ragged_lattice, options)
    shared = network.backbone.stages[-1][-1].conv2.weight
    balance = Balance("gradnorm").make(options.tasks, shared)
    outputs = network(torch.randn(3, 2, ragged_lattice.n_pixels))
    balance({task: out.square().mean() for task, out in outputs.items()}).backward()
    assert (balance.weights.grad != 0).all()
    assert all(p.grad is not None for p in network.parameters())


def train_gradnorm(rank, n_processes, meeting, folder):
    """A step of GradNorm by one of several processes, each with a part of the events."""
    distributed.init_process_group(
        "gloo", init_method=f"file://{meeting}", rank=rank, world_size=n_processes
    )
    torch.save(gradnorm_step(rank, n_processes), folder / f"{rank}.pt")
    distributed.destroy_process_group()


def gradnorm_step(rank, n_processes):
    """Gradient of the weights, and first losses, for every n-th of four events."""
    shared = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    balance = GradNormBalance(["a", "b"], shared, alpha=1.5)
    events = torch.tensor([[1.0, 2.0], [-3.0, 1.0], [0.5, 0.5], [2.0, -1.0]])
    features = (events * shared)[rank::n_processes]
    balance({"a": features.square().mean(), "b": features[:, 0].square().mean()})
    loss = balance({"a": features.square().mean(), "b": 9 * features.square().mean()})
    loss.backward()
    return balance.weights.grad, balance.first_losses


def test_processes_have_the_weights_of_one(tmp_path):
    multiprocessing.spawn(train_gradnorm, (2, tmp_path / "meeting", tmp_path), nprocs=2)
    gradient, first_losses = gradnorm_step(0, 1)
    for rank in range(2):
        its_gradient, its_first_losses = torch.load(tmp_path / f"{rank}.pt")
        torch.testing.assert_close(its_gradient, gradient)
        torch.testing.assert_close(its_first_losses, first_losses)
    alone = gradnorm_step(0, 2)
    assert not torch.allclose(alone[0], gradient)
