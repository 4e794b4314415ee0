import math

import numpy as np
import pytest
import torch

from ctapipe_gphysnet.losses import MultiTaskLoss, gradient_penalty, task_losses
from ctapipe_gphysnet.network.model import GammaPhysNet, NetworkOptions


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


def losses_of_a_part(rank, folder, batch):
    """A process with every second event; writes gradient and losses, which it means."""
    store = torch.distributed.FileStore(str(folder / "store"), 2)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    outputs, targets, signal, classified = batch
    part = {
        name: value[rank::2].clone().requires_grad_() for name, value in outputs.items()
    }
    truth = {name: value[rank::2] for name, value in targets.items()}
    losses = task_losses(part, truth, signal[rank::2], classified[rank::2], shared=True)
    sum(losses.values()).backward()
    found = {name: value.grad / 2 for name, value in part.items()}  # mean of processes
    torch.save(found, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def test_processes_have_the_gradients_of_the_whole_batch(batch, tmp_path):
    """One of them has two events of the signal, the other one."""
    outputs, targets, signal, classified = batch
    assert signal[::2].sum() != signal[1::2].sum()
    torch.multiprocessing.spawn(losses_of_a_part, (tmp_path, batch), nprocs=2)
    whole = {name: value.clone().requires_grad_() for name, value in outputs.items()}
    sum(task_losses(whole, targets, signal, classified).values()).backward()
    for rank in range(2):
        for name, gradient in torch.load(tmp_path / f"{rank}.pt").items():
            torch.testing.assert_close(gradient, whole[name].grad[rank::2])


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


def test_label_smoothing_against_its_formula(batch):
    # of a label, the share 0.2 goes to both classes alike: 0.9 and 0.1
    outputs, targets, signal, classified = batch
    smooth = task_losses(outputs, targets, signal, classified, label_smoothing=0.2)
    expected = 0
    for row in (0, 1, 2, 3, 5):
        logits = outputs["particle_type"][row].numpy()
        label = int(targets["particle_type"][row])
        log_p = logits - math.log(np.exp(logits).sum())
        expected -= (0.9 * log_p[label] + 0.1 * log_p[1 - label]) / 5
    assert float(smooth["particle_type"]) == pytest.approx(expected, rel=1e-5)
    plain = task_losses(outputs, targets, signal, classified)
    assert torch.equal(smooth["energy"], plain["energy"])


@pytest.fixture
def network(ragged_lattice, randomize):
    options = NetworkOptions(blocks=1, channels=(3, 3), head_width=3, reduction_ratio=2)
    return randomize(GammaPhysNet(ragged_lattice, options)).double()


def loss_of(network, images):
    """A smooth loss of all outputs, per image."""
    return sum(out.square().mean(dim=1) for out in network(images).values())


def test_gradient_penalty_against_finite_differences(network):
    n, n_pixels = 3, network.lattice.n_pixels
    images = torch.randn(n, 2, n_pixels, generator=torch.manual_seed(3)).double()
    images.requires_grad_()
    network.eval()  # images then know nothing of each other
    penalty = gradient_penalty(loss_of(network, images).mean(), images)
    step = 1e-6
    shifts = step * torch.eye(2 * n_pixels).double().view(-1, 2, n_pixels)
    with torch.no_grad():
        squares = [
            (loss_of(network, image + shifts) - loss_of(network, image - shifts))
            .div(2 * step)
            .square()
            .sum()
            .item()
            for image in images
        ]
    assert penalty.item() == pytest.approx(np.mean(squares), rel=1e-6)


def test_gradient_of_the_penalty_against_finite_differences(network):
    """What needs second derivatives of every layer, batch statistics among them."""
    generator = torch.manual_seed(3)
    images = torch.randn(3, 2, network.lattice.n_pixels, generator=generator).double()
    images.requires_grad_()
    parameters = list(network.parameters())
    directions = [torch.randn(p.shape, generator=generator).double() for p in parameters]

    def penalty():
        return gradient_penalty(loss_of(network, images).mean(), images)

    penalty().backward()
    # biases of the last layers have no say in it
    slope = sum(
        (p.grad * d).sum() for p, d in zip(parameters, directions) if p.grad is not None
    )
    step, values = 1e-7, []
    for shift in (step, -2 * step):
        with torch.no_grad():
            for parameter, direction in zip(parameters, directions):
                parameter += shift * direction
        values.append(penalty().item())
    expected = (values[0] - values[1]) / (2 * step)
    assert abs(expected) > 1e-3
    assert slope.item() == pytest.approx(expected, rel=1e-5)


def test_gradient_penalty_does_not_depend_on_the_batch_size():
    # |w . x - 0| of every image has the gradient w: its square is 5
    weight = torch.tensor([1.0, 2.0], requires_grad=True)
    for n in (2, 6):
        images = torch.ones(n, 2, 1, requires_grad=True)
        loss = (images[..., 0] @ weight).abs().mean()
        assert gradient_penalty(loss, images).item() == pytest.approx(5)
