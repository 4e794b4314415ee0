"""Convolution and batch normalization on a camera lattice.

Each layer has three exact implementations with the same parameters: one on
the IndexedConv package (Jacquemont et al. 2019, the reference), one on
the dense axial grid, where a lattice kernel is an ordinary 3 x 3 kernel
whose taps off the lattice's neighbourhood are zero, and one on the pixels
themselves, in machine code for the CPU.
"""

import math

import numpy as np
import torch
from indexedconv.engine import IndexedConv
from torch import nn
from torch.nn import functional

from . import pixels

__all__ = ["lattice_conv", "pointwise_conv", "LatticeBatchNorm"]


def lattice_conv(layout, in_channels, out_channels, coarse_layout=None):
    """Convolution over a pixel and its neighbours, with bias.

    Parameters
    ----------
    layout : IndexedLayout or DenseLayout
        Layout of the input maps.
    in_channels, out_channels : int
        Channels of input and output.
    coarse_layout : layout, optional
        Layout of the output maps, of ``layout.lattice.subsample()``, for a
        convolution of stride 2. Without it the stride is 1.

    Returns
    -------
    torch.nn.Module
        Parameters ``weight`` (out, in, K) and ``bias`` (out). Called with maps, with an
        activation to apply to them before (batch normalization and ReLU in an
        `nn.Sequential`) or None, and with a shortcut to add afterwards or None.
    """
    if layout.backend == "dense":
        return _DenseConv(layout, in_channels, out_channels, coarse_layout)
    if layout.backend == "pixels":
        return _PixelConv(layout, in_channels, out_channels, coarse_layout)
    if coarse_layout is None:
        neighbors = layout.lattice.neighbors
    else:
        _, neighbors = layout.lattice.subsample()
    return _ReferenceConv(in_channels, out_channels, torch.from_numpy(neighbors))


def _activated(convolve, maps, activation, shortcut):
    """A convolution with what comes before and after it."""
    out = convolve(maps if activation is None else activation(maps))
    return out if shortcut is None else out + shortcut


class _ReferenceConv(IndexedConv):
    """IndexedConv, its index tables kept out of the state dict."""

    def __init__(self, in_channels, out_channels, neighbors):
        super().__init__(in_channels, out_channels, neighbors)
        for name in ("indices_", "mask_"):
            self.register_buffer(name, getattr(self, name), persistent=False)

    def forward(self, maps, activation=None, shortcut=None):
        return _activated(super().forward, maps, activation, shortcut)


class _LatticeConv(nn.Module):
    """Parameters of a convolution, initialized as IndexedConv does."""

    def __init__(self, layout, in_channels, out_channels, coarse_layout):
        super().__init__()
        self.stride = 1 if coarse_layout is None else 2
        n_taps = int(layout.lattice.kernel.sum())
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, n_taps))
        self.bias = nn.Parameter(torch.empty(out_channels))
        bound = 1 / math.sqrt(in_channels * n_taps)
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)


class _DenseConv(_LatticeConv):
    """The same convolution on the dense axial grid."""

    def __init__(self, layout, in_channels, out_channels, coarse_layout):
        super().__init__(layout, in_channels, out_channels, coarse_layout)
        kernel = torch.from_numpy(layout.lattice.kernel)
        # the tap of every kernel cell; corners read the zero appended behind
        taps = torch.full((9,), int(kernel.sum()))
        taps[kernel.flatten()] = torch.arange(int(kernel.sum()))
        self.register_buffer("taps", taps, persistent=False)
        mask = (coarse_layout or layout).mask
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, maps, activation=None, shortcut=None):
        return _activated(self._convolve, maps, activation, shortcut)

    def _convolve(self, maps):
        kernel = functional.pad(self.weight, (0, 1))[..., self.taps].unflatten(-1, (3, 3))
        kernel = kernel.contiguous(memory_format=torch.channels_last)
        out = functional.conv2d(maps, kernel, self.bias, self.stride, padding=1)
        # the last coarse row or column may hold no pixel and is then left out
        rows, columns = self.mask.shape
        return out[..., :rows, :columns] * self.mask.to(out.dtype)


class _PixelConv(_LatticeConv):
    """The same convolution on the pixels."""

    def __init__(self, layout, in_channels, out_channels, coarse_layout):
        super().__init__(layout, in_channels, out_channels, coarse_layout)
        self._plan = layout.plan(self.stride, in_channels, out_channels)

    def forward(self, maps, activation=None, shortcut=None):
        norm = None
        if activation is not None:
            batch_norm = activation[0]
            norm = (batch_norm.statistics(maps), batch_norm.weight, batch_norm.bias)
        return pixels.convolve(self._plan, maps, self.weight, self.bias, norm, shortcut)


def pointwise_conv(layout, in_channels, out_channels, bias=True):
    """Linear map of the channels of each pixel; zero off the camera."""
    if layout.backend == "dense":
        return _DensePointwiseConv(layout, in_channels, out_channels, bias)
    if layout.backend == "pixels":
        return nn.Linear(in_channels, out_channels, bias)
    return _PointwiseConv(in_channels, out_channels, bias)


class _PointwiseConv(nn.Linear):
    """Weight (out, in) on maps (N, C, P)."""

    def forward(self, maps):
        return functional.linear(maps.transpose(1, -1), self.weight, self.bias).transpose(
            1, -1
        )


class _DensePointwiseConv(nn.Linear):
    """Weight (out, in) on maps (N, C, rows, columns)."""

    def __init__(self, layout, in_channels, out_channels, bias):
        super().__init__(in_channels, out_channels, bias)
        self.register_buffer("mask", layout.mask, persistent=False)

    def forward(self, maps):
        out = functional.conv2d(maps, self.weight[..., None, None], self.bias)
        return out * self.mask.to(out.dtype)


class LatticeBatchNorm(nn.BatchNorm1d):
    """Batch normalization whose statistics run over the pixels alone.

    On the dense layout cells without a pixel neither count nor become
    anything but zero. Statistics are taken in at least float32.
    """

    def __init__(self, layout, channels):
        super().__init__(channels)
        mask = layout.mask if layout.backend == "dense" else None
        self.register_buffer("mask", mask, persistent=False)
        self._channels_last = layout.backend == "pixels"

    def forward(self, maps):
        if self._channels_last:
            return super().forward(maps.flatten(0, 1)).view_as(maps)
        if self.mask is None:
            return super().forward(maps)
        dtype = torch.promote_types(maps.dtype, torch.float32)
        mask = self.mask.to(dtype)
        values = maps.to(dtype)
        if self.training:
            count = maps.shape[0] * mask.sum()
            mean = values.sum(dim=(0, 2, 3)) / count
            centered = (values - mean[:, None, None]) * mask
            variance = centered.square().sum(dim=(0, 2, 3)) / count
            self._track(mean, variance, count)
        else:
            mean, variance = self.running_mean.to(dtype), self.running_var.to(dtype)
            centered = (values - mean[:, None, None]) * mask
        scale = self.weight * torch.rsqrt(variance + self.eps)
        out = centered * scale[:, None, None] + self.bias[:, None, None] * mask
        return out.to(maps.dtype)

    @torch.no_grad()
    def statistics(self, maps):
        """What maps (N, P, C) are normalized with, tracked in training.

        Returns
        -------
        ctapipe_gphysnet.network.pixels.Activation
        """
        if self.training:
            mean, variance = pixels.batch_moments(maps)
            self._track(mean, variance, maps.shape[0] * maps.shape[1])
        else:
            mean, variance = self.running_mean, self.running_var
        deviation = np.sqrt(variance.numpy() + self.eps)
        return pixels.Activation(mean.numpy(), deviation, self.training)

    @torch.no_grad()
    def _track(self, mean, variance, count):
        """Update the running statistics as torch does."""
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
        unbiased = variance * (count / (count - 1))
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), self.momentum)
