"""Attention modules of γ-PhysNet, placed after each stage of the backbone."""

import torch
from torch import nn
from torch.nn import functional

from .convolution import LatticeBatchNorm, pointwise_conv

__all__ = ["ATTENTIONS", "DualAttention", "SelfAttention", "SqueezeExcitation"]


def _reduced(channels, ratio):
    """Channels of a bottleneck, at least one."""
    return max(channels // ratio, 1)


class SqueezeExcitation(nn.Module):
    """Scale every channel by a gate computed from the channels' means.

    Hu et al. 2018, https://arxiv.org/abs/1709.01507.
    """

    def __init__(self, layout, channels, ratio):
        super().__init__()
        self.layout = layout
        self.squeeze = nn.Linear(channels, _reduced(channels, ratio))
        self.excite = nn.Linear(_reduced(channels, ratio), channels)

    def forward(self, maps):
        gate = functional.relu(self.squeeze(self.layout.mean(maps)))
        gate = torch.sigmoid(self.excite(gate))
        return maps * self.layout.per_channel(gate).to(maps.dtype)


class DualAttention(nn.Module):
    """Channel attention times one plus a spatial gate.

    SE(x) * (1 + s(x)) with s in [0, 1]: Sun et al. 2020,
    https://doi.org/10.1109/TGRS.2020.2979011, as in Jacquemont et al. 2021.
    """

    def __init__(self, layout, channels, ratio):
        super().__init__()
        self.channel = SqueezeExcitation(layout, channels, ratio)
        inner = _reduced(channels, 2)
        self.reduce = pointwise_conv(layout, channels, inner, bias=False)
        self.norm = LatticeBatchNorm(layout, inner)
        self.spatial = pointwise_conv(layout, inner, 1)

    def spatial_map(self, maps):
        """The factor 1 + s(x) of every pixel, in [1, 2]; one channel."""
        hidden = functional.relu(self.norm(self.reduce(maps)))
        return 1 + torch.sigmoid(self.spatial(hidden))

    def forward(self, maps):
        # a zero cell of the dense grid stays zero: it is only multiplied
        return self.channel(maps) * self.spatial_map(maps)


class SelfAttention(nn.Module):
    """Every pixel attends to every other, added with a learnt weight.

    Zhang et al. 2019 (SAGAN), https://arxiv.org/abs/1805.08318: query, key
    and value in C / ratio channels, output back to C, weight from zero.
    """

    def __init__(self, layout, channels, ratio):
        super().__init__()
        self.layout = layout
        inner = _reduced(channels, ratio)
        self.query = nn.Linear(channels, inner, bias=False)
        self.key = nn.Linear(channels, inner, bias=False)
        self.value = nn.Linear(channels, inner, bias=False)
        self.output = nn.Linear(inner, channels, bias=False)
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, maps):
        pixels = self.layout.to_pixels(maps).transpose(1, 2)  # (N, P, C)
        attended = functional.scaled_dot_product_attention(
            self.query(pixels), self.key(pixels), self.value(pixels), scale=1.0
        )
        attended = self.output(attended).transpose(1, 2).to(maps.dtype)
        return maps + self.gamma.to(maps.dtype) * self.layout.from_pixels(attended)


ATTENTIONS = {
    "squeeze-excitation": SqueezeExcitation,
    "self": SelfAttention,
    "dual": DualAttention,
}
