import numpy as np
import pytest
import torch

from ctapipe_gphysnet.network.attention import (
    DualAttention,
    SelfAttention,
    SqueezeExcitation,
)
from ctapipe_gphysnet.network.layout import LAYOUTS, make_layout

pytestmark = pytest.mark.parametrize("backend", LAYOUTS)


@pytest.fixture
def images(lattice):
    return np.random.default_rng(2).normal(size=(3, 12, lattice.n_pixels))


def apply(module, layout, images):
    maps = module(layout.from_pixels(torch.from_numpy(images)))
    return layout.to_pixels(maps).detach().numpy()


def parameters(module):
    return {name: value.detach().numpy() for name, value in module.state_dict().items()}


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def squeeze_excitation(images, p, prefix=""):
    squeeze = images.mean(axis=2) @ p[f"{prefix}squeeze.weight"].T
    squeeze = np.maximum(squeeze + p[f"{prefix}squeeze.bias"], 0)
    gate = squeeze @ p[f"{prefix}excite.weight"].T + p[f"{prefix}excite.bias"]
    return images * sigmoid(gate)[:, :, None]


def test_squeeze_excitation(backend, lattice, images, randomize):
    layout = make_layout(backend, lattice)
    module = randomize(SqueezeExcitation(layout, 12, 4).double())
    assert module.squeeze.weight.shape == (3, 12)
    expected = squeeze_excitation(images, parameters(module))
    np.testing.assert_allclose(apply(module, layout, images), expected, rtol=1e-11)


def test_dual_attention(backend, lattice, images, randomize):
    layout = make_layout(backend, lattice)
    module = randomize(DualAttention(layout, 12, 4).double()).eval()
    p = parameters(module)
    hidden = np.einsum("oc,ncp->nop", p["reduce.weight"], images)
    hidden = (hidden - p["norm.running_mean"][:, None]) / np.sqrt(
        p["norm.running_var"][:, None] + 1e-5
    )
    hidden = hidden * p["norm.weight"][:, None] + p["norm.bias"][:, None]
    spatial = np.einsum("oc,ncp->nop", p["spatial.weight"], np.maximum(hidden, 0))
    spatial = 1 + sigmoid(spatial + p["spatial.bias"][:, None])
    expected = squeeze_excitation(images, p, "channel.") * spatial
    np.testing.assert_allclose(apply(module, layout, images), expected, rtol=1e-11)


def test_spatial_map_lies_between_one_and_two(backend, lattice, images, randomize):
    layout = make_layout(backend, lattice)
    module = randomize(DualAttention(layout, 12, 4).double())
    maps = layout.from_pixels(torch.from_numpy(100 * images))
    with torch.no_grad():
        module.spatial.weight *= 20
        spatial = layout.to_pixels(module.spatial_map(maps))
    assert spatial.shape == (3, 1, lattice.n_pixels)
    assert 1 <= spatial.min() < 1.01
    assert 1.99 < spatial.max() <= 2


def test_self_attention(backend, lattice, images, randomize):
    layout = make_layout(backend, lattice)
    module = randomize(SelfAttention(layout, 12, 4).double())
    p = parameters(module)
    query, key, value = (
        np.einsum("oc,ncp->npo", p[f"{name}.weight"], images)
        for name in ("query", "key", "value")
    )
    assert query.shape == (3, lattice.n_pixels, 3)
    score = np.exp(np.einsum("npc,nqc->npq", query, key))
    score /= score.sum(axis=2, keepdims=True)
    attended = np.einsum("npq,nqc,oc->nop", score, value, p["output.weight"])
    assert abs(p["gamma"]) > 0.1
    expected = images + p["gamma"] * attended
    np.testing.assert_allclose(apply(module, layout, images), expected, rtol=1e-10)


def test_self_attention_starts_as_identity(backend, lattice, images):
    layout = make_layout(backend, lattice)
    module = SelfAttention(layout, 12, 4).double()
    np.testing.assert_array_equal(apply(module, layout, images), images)
    maps = layout.from_pixels(torch.from_numpy(images))
    module(maps).square().sum().backward()
    assert module.gamma.grad != 0


@pytest.mark.parametrize("attention", [SqueezeExcitation, SelfAttention])
def test_bottleneck_keeps_one_channel(backend, lattice, images, attention):
    layout = make_layout(backend, lattice)
    module = attention(layout, 12, 100).double()
    assert min(min(p.shape) for p in module.parameters() if p.ndim == 2) == 1
    assert np.isfinite(apply(module, layout, images)).all()
