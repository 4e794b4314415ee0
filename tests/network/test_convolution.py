import numpy as np
import pytest
import torch
from torch import nn

from ctapipe_gphysnet.lattice import CameraLattice
from ctapipe_gphysnet.network.convolution import (
    LatticeBatchNorm,
    lattice_conv,
    pointwise_conv,
)
from ctapipe_gphysnet.network.layout import LAYOUTS, make_layout

backends = pytest.mark.parametrize("backend", LAYOUTS)


def images_of(lattice, channels, batch=3):
    generator = torch.Generator().manual_seed(5)
    size = (batch, channels, lattice.n_pixels)
    return torch.randn(size, generator=generator, dtype=torch.float64)


def naive_conv(images, neighbors, weight, bias):
    """Sum over channels and taps, one pixel at a time."""
    out = np.zeros((len(images), len(weight), neighbors.shape[1]))
    for pixel, taps in enumerate(neighbors.T):
        for tap, neighbor in enumerate(taps):
            if neighbor >= 0:
                out[:, :, pixel] += images[:, :, neighbor] @ weight[:, :, tap].T
    return out + bias[:, None]


@backends
def test_layout_round_trip(backend, lattice):
    layout = make_layout(backend, lattice)
    images = images_of(lattice, 4)
    maps = layout.from_pixels(images)
    assert torch.equal(layout.to_pixels(maps), images)
    torch.testing.assert_close(layout.mean(maps), images.mean(dim=2))
    factor = torch.arange(4.0)
    scaled = layout.to_pixels(maps * layout.per_channel(factor))
    torch.testing.assert_close(scaled, images * factor[:, None])


def test_unknown_backend(lattice):
    with pytest.raises(ValueError, match="'sparse'"):
        make_layout("sparse", lattice)


@backends
@pytest.mark.parametrize("stride", [1, 2])
def test_convolution_against_loops(backend, lattice, stride, randomize):
    layout = make_layout(backend, lattice)
    coarse, neighbors, coarse_layout = lattice, lattice.neighbors, None
    if stride == 2:
        coarse, neighbors = lattice.subsample()
        coarse_layout = make_layout(backend, coarse)
    conv = randomize(lattice_conv(layout, 3, 5, coarse_layout).double())
    assert list(conv.state_dict()) == ["weight", "bias"]
    images = images_of(lattice, 3)
    maps = conv(layout.from_pixels(images))
    expected = naive_conv(
        images.numpy(),
        neighbors,
        conv.weight.detach().numpy(),
        conv.bias.detach().numpy(),
    )
    out = (coarse_layout or layout).to_pixels(maps)
    np.testing.assert_allclose(out.detach(), expected, rtol=1e-12, atol=1e-12)
    if backend == "dense":
        assert torch.equal(maps != 0, torch.tensor(coarse.mask).expand_as(maps))


@backends
def test_initial_weights_are_those_of_indexedconv(backend, lattice):
    """Uniform within one over the root of the number of inputs."""
    torch.manual_seed(9)
    conv = lattice_conv(make_layout(backend, lattice), 32, 64)
    bound = (32 * lattice.kernel.sum()) ** -0.5
    for values in (conv.weight, conv.bias):
        assert 0.9 * bound < values.abs().max() <= bound
    assert abs(conv.weight.mean()) < 0.05 * bound


@backends
@pytest.mark.parametrize("bias", [True, False])
def test_pointwise_convolution_is_linear_in_each_pixel(backend, lattice, bias, randomize):
    layout = make_layout(backend, lattice)
    conv = randomize(pointwise_conv(layout, 4, 3, bias).double())
    images = images_of(lattice, 4)
    out = layout.to_pixels(conv(layout.from_pixels(images))).detach().numpy()
    expected = np.einsum("oc,ncp->nop", conv.weight.detach().numpy(), images)
    if bias:
        expected += conv.bias.detach().numpy()[:, None]
    np.testing.assert_allclose(out, expected, atol=1e-12)


@backends
@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_is_torchs_over_the_pixels(backend, lattice, training, randomize):
    layout = make_layout(backend, lattice)
    norm = randomize(LatticeBatchNorm(layout, 4).double()).train(training)
    expected = randomize(nn.BatchNorm1d(4).double()).train(training)
    images = 3 + 2 * images_of(lattice, 4)
    weight = images_of(lattice, 4).flip(0)
    results = []
    for module in (norm, expected):
        x = images.clone().requires_grad_()
        if module is norm:
            y = layout.to_pixels(module(layout.from_pixels(x)))
        else:
            y = module(x)
        (y * weight).sum().backward()
        results.append([y, x.grad, module.weight.grad, module.bias.grad])
    for ours, theirs in zip(*results):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)
    state = norm.state_dict()
    assert list(state) == list(expected.state_dict())
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(state[name], value, rtol=1e-12, atol=0)


def test_batch_norm_statistics_of_bfloat16_maps_are_float32(lst_lattice):
    layout = make_layout("dense", lst_lattice)
    norm, exact = LatticeBatchNorm(layout, 2), LatticeBatchNorm(layout, 2)
    maps = layout.from_pixels(10 + images_of(lst_lattice, 2)).bfloat16()
    assert norm(maps).dtype == torch.bfloat16
    exact(maps.float())
    assert torch.equal(norm.running_mean, exact.running_mean)
    assert torch.equal(norm.running_var, exact.running_var)


@backends
def test_convolution_turns_with_the_camera(backend, hex_positions, randomize):
    """Turning the image and the taps of the kernel turns the result."""
    lattice = CameraLattice.from_positions(hex_positions)
    layout = make_layout(backend, lattice)
    conv = randomize(lattice_conv(layout, 2, 3).double())
    images = images_of(lattice, 2)
    out = layout.to_pixels(conv(layout.from_pixels(images)))
    weight = conv.weight.detach().clone()
    taps = lattice.neighbors[:, 30].tolist()  # pixel 30 is the central one
    symmetries = lattice.symmetries()
    assert len(symmetries) == 12
    for symmetry in symmetries:
        source = [taps.index(symmetry.permutation[pixel]) for pixel in taps]
        conv.weight.data = weight[:, :, source]
        turned = layout.from_pixels(images[:, :, symmetry.permutation])
        torch.testing.assert_close(
            layout.to_pixels(conv(turned)), out[:, :, symmetry.permutation]
        )
