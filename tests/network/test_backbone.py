import pytest
import torch
from torch import nn
from torch.nn import functional

from ctapipe_gphysnet.network.attention import ATTENTIONS
from ctapipe_gphysnet.network.backbone import ResidualBackbone
from ctapipe_gphysnet.network.convolution import LatticeBatchNorm
from ctapipe_gphysnet.network.layout import LAYOUTS


def make(lattice, attention, backend="dense", channels=(4, 8, 8), blocks=2):
    backbone = ResidualBackbone(lattice, 2, channels, blocks, attention, 4, backend)
    return backbone.double()


def images_of(lattice, batch=3):
    generator = torch.Generator().manual_seed(6)
    size = (batch, 2, lattice.n_pixels)
    return torch.randn(size, generator=generator, dtype=torch.float64)


def reference(images, lattice, state, blocks):
    """The backbone without attention as written in the papers, by functions."""

    def conv(x, neighbors, name):
        taps = functional.pad(x, (0, 1))[:, :, neighbors]  # -1 reads the padding
        out = torch.einsum("nckp,ock->nop", taps, state[f"{name}.weight"])
        return out + state[f"{name}.bias"][:, None]

    def activate(x, name):
        p = [
            state[f"{name}.0.{key}"]
            for key in ("running_mean", "running_var", "weight", "bias")
        ]
        return functional.batch_norm(x, *p).relu()

    x = conv(images, lattice.neighbors, "conv").relu()
    for stage in range(3):
        for block in range(blocks):
            name = f"stages.{stage}.{block}"
            shortcut, first = x, lattice.neighbors
            if stage > 0 and block == 0:
                lattice, first = lattice.subsample()
                shortcut = activate(x, f"{name}.shortcut.0")
                shortcut = conv(shortcut, first, f"{name}.shortcut.1")
            if stage > 0 or block > 0:
                x = activate(x, f"{name}.activation1")
            x = activate(conv(x, first, f"{name}.conv1"), f"{name}.activation2")
            x = conv(x, lattice.neighbors, f"{name}.conv2") + shortcut
    return x.relu()


@pytest.mark.parametrize("backend", LAYOUTS)
def test_architecture_of_the_papers(backend, lattice, randomize):
    backbone = randomize(make(lattice, "none", backend)).eval()
    images = images_of(lattice)
    out = backbone.output_layout.to_pixels(backbone(images))
    expected = reference(images, lattice, backbone.state_dict(), blocks=2)
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("attention", ["none", *ATTENTIONS])
def test_nothing_leaves_the_camera(lattice, attention, randomize):
    """Cells of the dense grid without a pixel are zero behind every module."""
    backbone = randomize(make(lattice, attention))
    masks = []
    for _ in range(3):
        masks.append(torch.from_numpy(lattice.mask))
        lattice = lattice.subsample()[0]
    assert len({mask.shape for mask in masks}) == 3
    masks = {mask.shape: mask for mask in masks}
    seen = []

    def check(name):
        def hook(module, inputs, output):
            if output.ndim == 4:
                seen.append(name)
                assert (output[..., ~masks[output.shape[2:]]] == 0).all(), name

        return hook

    for name, module in backbone.named_modules():
        module.register_forward_hook(check(name))
    backbone(images_of(backbone.input_layout.lattice))
    kinds = (LatticeBatchNorm, nn.ReLU, *ATTENTIONS.values())
    expected = {
        name
        for name, module in backbone.named_modules()
        if isinstance(module, kinds) or "conv" in name.rpartition(".")[2]
    }
    assert expected <= set(seen)


def test_resnet_56_on_lstcam(lst_lattice):
    backbone = ResidualBackbone(lst_lattice, 2, (16, 32, 64), 9, "none", 1, "dense")
    convolutions = [p for p in backbone.parameters() if p.ndim == 3]
    # 1 + 3 stages x 9 blocks x 2, and the shortcuts of two stages
    assert len(convolutions) == 1 + 54 + 2
    sizes = []
    for stage in backbone.stages:
        stage.register_forward_hook(lambda module, x, y: sizes.append(tuple(y.shape[1:])))
    with torch.no_grad():
        maps = backbone(torch.zeros(1, 2, 1855))
    assert sizes == [(16, 55, 55), (32, 28, 28), (64, 14, 14)]
    assert backbone.output_layout.to_pixels(maps).shape == (1, 64, 117)
