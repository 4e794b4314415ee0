"""Convolutions to train on a CPU: normalized, rectified and convolved in one go.

The maps stay on the pixels, in the order (image, pixel, channel); `gradients` has the
machine code.
"""

import math
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from threading import local
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from . import gradients, kernels
from .kernels import (
    N_POINTS,
    OPERATION,
    TILE,
    operation,
    pad_channels,
    padded,
    panels,
    tiles,
    working_memory,
)
from .patches import cover

__all__ = ["ConvolutionPlan", "batch_moments", "convolve", "threads_for_images"]

_thread = local()  # working memory


class _Workers:
    """Threads that share the images of a batch.

    They are as many as torch has, where `threads_for_images` does not say otherwise. The
    parts do not depend on the number of threads, so that sums over them do not either.
    """

    PART = 16  # images

    def __init__(self):
        self.number = None  # of threads, this one included
        self._pool, self._size = None, 0

    def __call__(self, function, n_images):
        """Results of the function for slices of the images, in their order."""
        starts = range(0, n_images, self.PART)
        parts = [slice(start, min(start + self.PART, n_images)) for start in starts]
        results, left = [None] * len(parts), count()

        def work():
            while (number := next(left)) < len(parts):
                results[number] = function(parts[number])

        # this thread works too, for the others take a while to wake up
        number = min(self.number or torch.get_num_threads(), len(parts))
        helpers = [self._submit(work, number - 1) for _ in range(number - 1)]
        work()
        for helper in helpers:
            if not helper.cancel():
                helper.result()
        return results

    def _submit(self, work, size):
        if self._size < size:
            self._pool, self._size = ThreadPoolExecutor(size), size
        return self._pool.submit(work)


_share = _Workers()


@contextmanager
def threads_for_images(batch_size):
    """Leave to torch only those threads that the images of a batch do not need.

    Threads of torch spin for a while when they have done their part, and would keep the
    cores from those that share the images.

    Parameters
    ----------
    batch_size : int
        Images of a batch in this process.
    """
    number = _share.number = torch.get_num_threads()
    parts = min(number, math.ceil(batch_size / _Workers.PART))
    torch.set_num_threads(number - parts + 1)  # this one works for both
    try:
        yield
    finally:
        _share.number = None
        torch.set_num_threads(number)


def _memory(plan, dtype):
    """Working memory of a thread for a plan, zero where nothing is ever written."""
    if not hasattr(_thread, "memory"):
        _thread.memory = WeakKeyDictionary()
    of_plan = _thread.memory.setdefault(plan, {})
    if dtype not in of_plan:
        of_plan[dtype] = working_memory(plan.memory_size, dtype)
    return of_plan[dtype]


@dataclass(frozen=True)
class _Taps:
    """Some taps of a kernel at pixels that lie behind one another.

    ``neighbors`` (K', n) are the inputs, -1 for none, of the outputs from row ``start``
    on; ``taps`` are those of the whole kernel.
    """

    neighbors: np.ndarray
    taps: np.ndarray
    start: int = 0


class ConvolutionPlan:
    """Where a convolution and its gradients find their numbers.

    Parameters
    ----------
    lattice : CameraLattice
        Of the input.
    stride : {1, 2}
    in_channels, out_channels : int
    """

    def __init__(self, lattice, stride, in_channels, out_channels):
        coarse, neighbors = (lattice, lattice.neighbors)
        if stride == 2:
            coarse, neighbors = lattice.subsample()
        self.n_inputs, self.n_outputs = lattice.n_pixels, coarse.n_pixels
        self.n_taps = len(neighbors)
        self.in_channels, self.out_channels = in_channels, out_channels
        self._in_width, self._out_width = padded(in_channels), padded(out_channels)
        self._place_memory()
        self._tables = []
        self.patches = cover(lattice) if stride == 1 else None
        self.forward = self._program([_Taps(neighbors, np.arange(self.n_taps))])
        self.order = np.arange(self.n_inputs, dtype=np.int32)
        groups = []
        if stride == 2:
            groups, self.order = _transposed(lattice, neighbors)
        self._groups = groups
        self.backward = self._program(groups, back=True)
        self.weights = self._weight_operation(neighbors)
        self.index = np.concatenate(self._tables).astype(np.int32)

    def _place_memory(self):
        """Slots of the working memory, each behind a row of zeros."""
        widest = max(self._in_width, self._out_width)
        # all pixels, rows that fill up the tiles of up to four groups, and one that
        # takes what is off the camera
        rows = max(self.n_inputs, self.n_outputs) + 4 * TILE + 1
        slot = padded(rows * widest + widest)
        points = (self._in_width + self._out_width) * N_POINTS
        sizes = [slot, slot, slot, points * gradients.CHUNK, widest * N_POINTS * TILE]
        starts = widest + np.concatenate([[0], np.cumsum(sizes)])
        names = ("source", "gradient", "target", "points", "products")
        self._places = dict(zip(names, map(int, starts)))
        self._off_camera = max(self.n_inputs, self.n_outputs) + 4 * TILE
        self.memory_size = int(starts[-1])

    def _program(self, groups, back=False):
        widths = (self._in_width, self._out_width)
        channels, width = widths[::-1] if back else widths
        common = {
            "channels": channels,
            "width": width,
            "source": self._places["gradient" if back else "source"],
            "target": self._places["target"],
            "points": self._places["points"],
            "products": self._places["products"],
            "relu": 0,
        }
        if self.patches is not None:
            table = self.patches.table(self._off_camera)
            fields = {
                "kind": kernels.WINOGRAD,
                "patches": len(self.patches),
                "index": self._store(table),
                "weight": 0,
                "bias": channels * width * N_POINTS,
            }
            return np.array([operation(**common, **fields)], OPERATION)
        operations, place = [], 0
        n_weights = channels * width * sum(len(group.taps) for group in groups)
        for group in groups:
            taps, pixels = group.neighbors.shape
            fields = {
                "kind": kernels.CONVOLVE,
                "pixels": pixels,
                "taps": taps,
                "index": self._store(tiles(group.neighbors)),
                "weight": place,
                "bias": n_weights,
            }
            fields["target"] = common["target"] + group.start * width
            operations.append(operation(**{**common, **fields}))
            place += taps * channels * width
        return np.array(operations, OPERATION)

    def _weight_operation(self, neighbors):
        fields = {
            "channels": self._in_width,
            "width": self._out_width,
            "source": self._places["source"],
            "target": self._places["gradient"],
            "points": self._places["points"],
        }
        if self.patches is not None:
            fields["kind"] = kernels.WINOGRAD
            fields["patches"] = len(self.patches)
            fields["index"] = self._store(self.patches.table(-1))
        else:
            fields["kind"] = kernels.CONVOLVE
            fields["taps"], fields["pixels"] = neighbors.shape
            fields["index"] = self._store(neighbors.ravel())
        return np.array([operation(**fields)], OPERATION)

    def _store(self, table):
        place = sum(map(len, self._tables))
        self._tables.append(table)
        return place

    def constants(self, weight, bias):
        """Weights (out, in, tap) and bias as `forward` reads them."""
        weight = pad_channels(pad_channels(weight), axis=1)
        if self.patches is not None:
            weight = self._at_points(weight)
        else:
            weight = panels(weight, kernels.CONVOLVE)
        return np.concatenate([weight, pad_channels(bias)])

    def transposed_constants(self, weight):
        """Weights (out, in, tap) as `backward` reads them, and no bias."""
        bias = np.zeros(self._in_width, weight.dtype)
        weight = pad_channels(pad_channels(weight), axis=1).swapaxes(0, 1)
        if self.patches is not None:
            # a kernel turned by 180° has its taps in the opposite order
            return np.concatenate([self._at_points(weight[..., ::-1]), bias])
        parts = [
            panels(weight[..., group.taps], kernels.CONVOLVE) for group in self._groups
        ]
        return np.concatenate([*parts, bias])

    def _at_points(self, weight):
        """Weights of the taps as those of Winograd's points, in panels."""
        taps = panels(weight, kernels.WINOGRAD).reshape(self.n_taps, -1)
        kernel = self.patches.kernel.T.astype(weight.dtype, order="C")
        return gradients.weighted_sums(kernel, taps).ravel()

    def weight_sums(self, dtype):
        """Zeros, to sum up the gradient of the weights."""
        parts = self.n_taps if self.patches is None else N_POINTS
        return working_memory(parts * self._in_width * self._out_width, dtype)

    def bias_sums(self, dtype):
        """Zeros, to sum up the gradient of the bias."""
        return np.zeros(self._out_width, dtype)

    def weight_gradient(self, sums):
        """Gradient (out, in, tap) of the weights, from its sums."""
        if self.patches is not None:
            kernel = self.patches.kernel.astype(sums.dtype)
            sums = gradients.weighted_sums(kernel, sums.reshape(N_POINTS, -1))
        sums = sums.reshape(self.n_taps, self._in_width, self._out_width)
        sums = sums[:, : self.in_channels, : self.out_channels]
        return np.ascontiguousarray(sums.transpose(2, 1, 0))


def _transposed(lattice, neighbors):
    """The transposed convolution of stride 2, in groups of pixels with the same taps.

    Returns
    -------
    groups : list of _Taps
    order : ndarray of int32, shape (P,)
        The row at which a pixel is.
    """
    taps, coarse = np.nonzero(neighbors >= 0)
    back = np.full((len(neighbors), lattice.n_pixels), -1)
    back[taps, neighbors[taps, coarse]] = coarse
    parity = lattice.cells % 2 @ [2, 1]
    groups, order, start = [], np.zeros(lattice.n_pixels, np.int32), 0
    for kind in np.unique(parity):
        pixels = np.flatnonzero(parity == kind)
        taps = np.flatnonzero((back[:, pixels] >= 0).any(axis=1))
        order[pixels] = start + np.arange(len(pixels))
        groups.append(_Taps(back[taps][:, pixels], taps, start))
        start += padded(len(pixels), TILE)
    return groups, order


def batch_moments(maps):
    """Mean and variance of the channels of all pixels of a batch.

    Parameters
    ----------
    maps : Tensor, shape (N, P, C)

    Returns
    -------
    mean, variance : Tensor, shape (C,)
        Of the type of the maps.
    """
    values = maps.detach().numpy()
    n_images, n_pixels, channels = values.shape
    mean, squares = np.empty((2, n_images, channels), values.dtype)
    _share(
        lambda part: gradients.moments(values[part], mean[part], squares[part]), n_images
    )
    # of the images, then of all: Chan et al. 1979
    total = mean.mean(axis=0, dtype=np.float64)
    variance = squares.sum(axis=0, dtype=np.float64) / n_pixels
    variance = (variance + np.square(mean - total).sum(axis=0)) / n_images
    return [torch.from_numpy(value).to(maps.dtype) for value in (total, variance)]


@dataclass
class Activation:
    """Batch normalization and rectification before a convolution.

    Attributes
    ----------
    mean, deviation : ndarray, shape (C,)
        What is subtracted and what is divided by.
    of_batch : bool
        Whether they were taken from the maps that are normalized.
    """

    mean: np.ndarray
    deviation: np.ndarray
    of_batch: bool


def convolve(plan, maps, weight, bias, norm=None, shortcut=None):
    """Convolution of maps, which are activated before.

    Parameters
    ----------
    plan : ConvolutionPlan
    maps : Tensor, shape (N, P, C)
    weight : Tensor, shape (C', C, K)
    bias : Tensor, shape (C',)
    norm : tuple of (Activation, Tensor, Tensor), optional
        With weight and bias (C) of the batch normalization.
    shortcut : Tensor, shape (N, P', C'), optional
        To add to the result.

    Returns
    -------
    Tensor, shape (N, P', C')
    """
    activation, scale, shift = norm or (None, None, None)
    maps = maps.contiguous()
    if shortcut is not None:
        shortcut = shortcut.contiguous()
    arguments = (maps, scale, shift, weight, bias, shortcut)
    return _Convolution.apply(plan, activation, *arguments)


def _numbers(tensor):
    return tensor.detach().numpy()


class _Convolution(Function):
    """The convolution with its gradients, once differentiable."""

    @staticmethod
    def forward(ctx, plan, activation, maps, scale, shift, weight, bias, shortcut):
        x = _numbers(maps)
        ctx.plan, ctx.activation = plan, activation
        ctx.with_shortcut = shortcut is not None
        ctx.factors = _factors(activation, scale, shift, x.dtype)
        ctx.save_for_backward(maps, scale, weight)
        # of torch, for then it begins with a cache line
        result = maps.new_empty(len(x), plan.n_outputs, plan.out_channels)
        target = _numbers(result)
        added = target[:0] if shortcut is None else _numbers(shortcut)
        constants = plan.constants(_numbers(weight), _numbers(bias))

        def run(part):
            gradients.forward(
                plan.forward,
                constants,
                plan.index,
                _memory(plan, x.dtype),
                x[part],
                *ctx.factors,
                added[part],
                target[part],
            )

        _share(run, len(x))
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        maps, scale, weight = ctx.saved_tensors
        plan, activation = ctx.plan, ctx.activation
        gradient = gradient.contiguous()
        x, outer = _numbers(maps), _numbers(gradient)
        wanted = ctx.needs_input_grad[2] or activation is not None
        program = plan.backward if wanted else plan.backward[:0]
        inner = torch.empty_like(maps) if wanted else maps
        target = _numbers(inner)
        constants = plan.transposed_constants(_numbers(weight))
        mean = np.zeros(plan.in_channels, x.dtype)
        if activation is not None:
            mean = activation.mean.astype(x.dtype)

        def run(part):
            sums = (
                plan.weight_sums(x.dtype),
                plan.bias_sums(x.dtype),
                np.zeros_like(mean),
                np.zeros_like(mean),
            )
            gradients.backward(
                plan.weights,
                program,
                constants,
                plan.index,
                plan.order,
                _memory(plan, x.dtype),
                x[part],
                *ctx.factors,
                mean,
                outer[part],
                target[part],
                *sums,
            )
            return sums

        parts = _share(run, len(x))
        weights, biases, sums, products = (sum(values) for values in zip(*parts))
        found = [None] * 8
        found[5] = torch.from_numpy(plan.weight_gradient(weights))
        found[6] = torch.from_numpy(biases[: plan.out_channels])
        if activation is not None:
            products = products / activation.deviation
            found[3:5] = (torch.from_numpy(v.astype(x.dtype)) for v in (products, sums))
            _normalize(activation, _numbers(scale), target, x, sums, products)
        if wanted:
            found[2] = inner
        if ctx.with_shortcut:
            found[7] = gradient
        return tuple(found)


def _factors(activation, scale, shift, dtype):
    """Scale and shift of an activation, both empty without one."""
    if activation is None:
        return np.empty((2, 0), dtype)
    factor = _numbers(scale) / activation.deviation
    return (
        factor.astype(dtype),
        (_numbers(shift) - factor * activation.mean).astype(dtype),
    )


def _normalize(activation, scale, target, x, sums, products):
    """Turn a gradient behind a normalization into that before it, in place."""
    factor = scale / activation.deviation
    slope, offset = np.zeros((2, len(factor)), factor.dtype)
    if activation.of_batch:
        # Ioffe and Szegedy 2015, https://arxiv.org/abs/1502.03167
        number = x.size // len(factor)
        slope = -factor * products / (activation.deviation * number)
        offset = -factor * sums / number - slope * activation.mean
    constants = [value.astype(x.dtype) for value in (factor, slope, offset)]
    _share(
        lambda part: gradients.normalize_gradient(target[part], x[part], *constants),
        len(x),
    )
