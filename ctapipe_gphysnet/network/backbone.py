"""ResNet of lattice convolutions with full pre-activation.

He et al. 2016, https://arxiv.org/abs/1603.05027, in the CIFAR form with
three stages; nine blocks a stage make the ResNet-56 of γ-PhysNet.
"""

from torch import nn
from torch.nn import functional

from .attention import ATTENTIONS
from .convolution import LatticeBatchNorm, lattice_conv
from .layout import make_layout

__all__ = ["ResidualBackbone", "ResidualBlock"]


class _Activation(nn.Sequential):
    """Batch normalization and ReLU."""

    def __init__(self, layout, channels):
        super().__init__(LatticeBatchNorm(layout, channels), nn.ReLU())


class _ActivatedConv(nn.Sequential):
    """An activation and the convolution that applies it."""

    def forward(self, maps):
        activation, conv = self
        return conv(maps, activation)


class ResidualBlock(nn.Module):
    """Two activated convolutions beside a shortcut.

    Parameters
    ----------
    layout : layout
        Of the input maps.
    in_channels, out_channels : int
        Channels of input and output.
    coarse_layout : layout, optional
        Of the output maps, if the block subsamples by two. The shortcut is
        then BN, ReLU and a convolution of stride 2.
    activate_input : bool
        False for the very first block, which the first convolution's ReLU
        has activated.
    """

    def __init__(
        self, layout, in_channels, out_channels, coarse_layout=None, activate_input=True
    ):
        super().__init__()
        out_layout = coarse_layout or layout
        self.activation1 = _Activation(layout, in_channels) if activate_input else None
        self.conv1 = lattice_conv(layout, in_channels, out_channels, coarse_layout)
        self.activation2 = _Activation(out_layout, out_channels)
        self.conv2 = lattice_conv(out_layout, out_channels, out_channels)
        if coarse_layout is None and in_channels == out_channels:
            self.shortcut = None
        else:
            self.shortcut = _ActivatedConv(
                _Activation(layout, in_channels),
                lattice_conv(layout, in_channels, out_channels, coarse_layout),
            )

    def forward(self, maps):
        branch = self.conv1(maps, self.activation1)
        shortcut = maps if self.shortcut is None else self.shortcut(maps)
        return self.conv2(branch, self.activation2, shortcut)


class ResidualBackbone(nn.Module):
    """Images to feature maps on the lattice of the last stage.

    Parameters
    ----------
    lattice : CameraLattice
        The camera.
    in_channels : int
        Channels of the images.
    channels : sequence of int
        Width of every stage; each stage after the first subsamples by two.
    blocks : int
        Residual blocks a stage.
    attention : str
        "none", or a key of ``ATTENTIONS``: the module after every stage.
    ratio : int
        Reduction ratio of the attention's bottleneck.
    backend : {"dense", "indexedconv", "pixels"}
        Implementation of the convolutions.
    """

    def __init__(self, lattice, in_channels, channels, blocks, attention, ratio, backend):
        super().__init__()
        self.input_layout = layout = make_layout(backend, lattice)
        self.conv = lattice_conv(layout, in_channels, channels[0])
        self.stages = nn.ModuleList()
        self.attentions = nn.ModuleList()
        width = channels[0]
        for stage, out_width in enumerate(channels):
            coarse = None
            if stage > 0:
                coarse = make_layout(backend, layout.lattice.subsample()[0])
            stage_blocks = [
                ResidualBlock(layout, width, out_width, coarse, activate_input=stage > 0)
            ]
            layout, width = coarse or layout, out_width
            stage_blocks += [
                ResidualBlock(layout, width, width) for _ in range(blocks - 1)
            ]
            self.stages.append(nn.Sequential(*stage_blocks))
            self.attentions.append(
                nn.Identity()
                if attention == "none"
                else ATTENTIONS[attention](layout, width, ratio)
            )
        self.output_layout = layout
        self.out_channels = width

    def forward(self, images):
        """Feature maps, in the backend's layout, of images (N, C, P)."""
        maps = functional.relu(self.conv(self.input_layout.from_pixels(images)))
        for stage, attention in zip(self.stages, self.attentions):
            maps = attention(stage(maps))
        return functional.relu(maps)
