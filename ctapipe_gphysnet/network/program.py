"""A trained network as a program for `kernels.run`, exact to its weights.

Batch normalization is folded into the convolution before it, or becomes the scale and
shift of an activation; shortcuts and rectification are done while a sum is in registers.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import local

import numpy as np
import torch
from torch import nn

from . import kernels
from .attention import DualAttention
from .kernels import N_POINTS, OPERATION, TILE, pad_channels, padded, panels
from .patches import cover

__all__ = ["LatticeProgram"]

SLOTS = ("image", "sum", "activated", "shortcut", "hidden", "points", "products")


class LatticeProgram:
    """Runs a `GammaPhysNet` on a CPU, in evaluation mode.

    It takes as many threads as torch has when it is made.

    The network must not change afterwards: most of its weights are copied.

    Parameters
    ----------
    network : GammaPhysNet
        See `supports`.
    dtype : numpy dtype
        Of the arithmetic: float32, or float64 for a network of that type.

    Raises
    ------
    ValueError
        If there is no program for this network.
    """

    def __init__(self, network, dtype=np.float32):
        if not self.supports(network):
            raise ValueError(
                f"there is no program for attention {network.options.attention!r}"
            )
        compiler = _Compiler(network, np.dtype(dtype))
        self._program = np.array(compiler.operations, OPERATION)
        self._constants = np.concatenate(compiler.constants)
        self._index = np.concatenate(compiler.tables)
        self._memory_size = compiler.slot_size * len(SLOTS)
        self._head = network.head
        self._n_channels = network.backbone.out_channels
        n_features = self._n_channels * network.backbone.output_layout.lattice.n_pixels
        weight = _flat_weight(network.head, n_features)
        self._flat_width = len(weight)
        self._flat_weight = panels(weight[..., None], kernels.CONVOLVE).astype(dtype)
        self._features_size = TILE * (n_features + len(weight))
        self._thread = local()  # working memory
        self._n_threads = torch.get_num_threads()
        self._pool = ThreadPoolExecutor(self._n_threads)

    @staticmethod
    def supports(network):
        """Whether there is a program for a network: any but one of self attention."""
        return network.options.attention != "self"

    @torch.inference_mode()
    def __call__(self, images):
        """Raw outputs of every task.

        Parameters
        ----------
        images : Tensor, shape (N, 2, P)

        Returns
        -------
        dict of str to Tensor of shape (N, n_outputs)
        """
        images = images.contiguous().numpy()
        mean = np.empty((len(images), self._n_channels), self._constants.dtype)
        flat = np.empty((len(images), self._flat_width), self._constants.dtype)

        def run(chunk):
            self._run(images[chunk], mean[chunk], flat[chunk])

        threads = min(self._n_threads, len(images))
        if threads < 2:
            run(slice(None))
        else:
            # equal parts of at most TILE images, as many for every thread
            n_chunks = -(-len(images) // (TILE * threads)) * threads
            bounds = np.linspace(0, len(images), n_chunks + 1).astype(int)
            list(self._pool.map(run, map(slice, bounds[:-1], bounds[1:])))
        return self._head.finish(torch.from_numpy(mean), self._split(flat))

    def _run(self, images, mean, flat):
        """Means and products of the final maps of a few images."""
        if not hasattr(self._thread, "memory"):
            for name in ("memory", "features"):
                size = getattr(self, f"_{name}_size")
                setattr(
                    self._thread,
                    name,
                    kernels.working_memory(size, self._constants.dtype),
                )
        kernels.run(
            self._program,
            self._constants,
            self._index,
            self._thread.memory,
            images,
            self._thread.features,
            self._flat_weight,
            mean,
            flat,
        )

    def _split(self, flat):
        """Outputs of the layers that read the flattened maps."""
        outputs, start = {}, 0
        for name, layer in self._head.flat_layers.items():
            stop = start + layer.out_features
            outputs[name] = torch.from_numpy(flat[:, start:stop]) + layer.bias
            start = stop
        return outputs


def _flat_weight(head, n_features):
    """Weights (W, features) of all layers that read the flattened maps."""
    weights = [_numpy(layer.weight) for layer in head.flat_layers.values()]
    return pad_channels(np.concatenate([np.zeros((0, n_features)), *weights]))


def _padded_pixels(lattice):
    """Pixels of a map in memory: whole tiles."""
    return padded(lattice.n_pixels, TILE)


def _scale_and_shift(norm):
    """What batch normalization does in evaluation mode, in float64."""
    mean, variance, weight, bias = (
        tensor.detach().double().numpy()
        for tensor in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    )
    scale = weight / np.sqrt(variance + norm.eps)
    return scale, bias - mean * scale


class _Compiler:
    """Operations, constants and neighbour tables of a network's backbone."""

    def __init__(self, network, dtype):
        self._dtype = dtype
        self.operations, self.constants, self.tables = [], [], []
        channels = network.options.channels
        self._lattices = [network.lattice]
        while len(self._lattices) < len(channels):
            self._lattices.append(self._lattices[-1].subsample()[0])
        # zeros before each map, where the missing neighbour reads
        self._margin = max(map(padded, channels))
        self.slot_size = self._margin + max(
            # and a row for what is off the camera
            max(_padded_pixels(lattice) + 1, TILE * N_POINTS) * padded(width)
            for lattice, width in zip(self._lattices, channels)
        )
        self._compile(network.backbone)

    def _compile(self, backbone):
        fine, source = self._lattices[0], "sum"
        near = self._neighbors(fine.neighbors)
        self._convolve(backbone.conv, "image", "sum", near, relu=True)
        stages = zip(self._lattices, backbone.stages, backbone.attentions)
        for lattice, stage, attention in stages:
            first = near = self._patches(lattice)
            if lattice is not fine:
                first = self._neighbors(fine.subsample()[1])
                self._subsample(stage[0], fine, first)
                source = "activated"
            for block, following in zip(stage, [*stage[1:], None]):
                self._block(block, source, first, near, following)
                first, source = near, "activated"
            self._attention(attention, lattice.n_pixels)
            fine = lattice
        width = padded(backbone.out_channels)
        self._normalize(fine.n_pixels, "activated", np.ones(width), np.zeros(width))

    def _subsample(self, block, lattice, table):
        """What a block that subsamples does before its first convolution."""
        for norm, target in (
            (block.shortcut[0][0], "shortcut"),
            (block.activation1[0], "activated"),
        ):
            self._normalize(lattice.n_pixels, target, *_scale_and_shift(norm))
        self._convolve(block.shortcut[1], "shortcut", "sum", table)

    def _block(self, block, source, table, near, following):
        """Both convolutions, and the activation that the following block begins with."""
        folded = _scale_and_shift(block.activation2[0])
        self._convolve(block.conv1, source, "hidden", table, folded, relu=True)
        options = {"shortcut": self._place("sum")}
        if following is not None:
            norm = _scale_and_shift(following.activation1[0])
            options["norm"] = self._store(*map(pad_channels, norm))
            options["activated"] = self._place("activated")
        self._convolve(block.conv2, "hidden", "sum", near, **options)

    def _attention(self, attention, pixels):
        if isinstance(attention, nn.Identity):
            return
        options = {}
        if isinstance(attention, DualAttention):
            options = self._spatial_gate(attention, pixels)
            attention = attention.channel
        squeeze, excite = attention.squeeze, attention.excite
        width = padded(squeeze.in_features)
        self._add(
            kind=kernels.GATE,
            pixels=pixels,
            width=width,
            source=self._place("sum"),
            hidden=squeeze.out_features,
            squeeze=self._store(
                pad_channels(_numpy(squeeze.weight), axis=1), _numpy(squeeze.bias)
            ),
            excite=self._store(
                pad_channels(_numpy(excite.weight)), pad_channels(_numpy(excite.bias))
            ),
            **options,
        )

    def _spatial_gate(self, attention, pixels):
        """Its first layer becomes an operation, its second one options of the gate."""
        table = self._neighbors(np.arange(pixels)[None])
        folded = _scale_and_shift(attention.norm)
        self._convolve(attention.reduce, "sum", "hidden", table, folded, relu=True)
        weight = pad_channels(_numpy(attention.spatial.weight)[0])
        return {
            "spatial": self._place("hidden"),
            "spatial_width": len(weight),
            "spatial_weight": self._store(weight, _numpy(attention.spatial.bias)),
        }

    def _normalize(self, pixels, target, scale, shift):
        """Add an activation alone: a convolution without taps, on its shortcut."""
        scale, shift = pad_channels(scale), pad_channels(shift)
        self._add(
            kind=kernels.CONVOLVE,
            pixels=pixels,
            width=len(scale),
            target=self._place("sum"),
            taps=0,
            bias=self._store(np.zeros(len(scale))),
            shortcut=self._place("sum"),
            relu=0,
            norm=self._store(scale, shift),
            activated=self._place(target),
        )

    def _convolve(
        self, layer, source, target, table, folded=(1.0, 0.0), relu=False, **options
    ):
        """Add a convolution; ``folded`` is the scale and shift that follow it."""
        scale, shift = (np.reshape(values, -1) for values in folded)
        weight = _numpy(layer.weight).reshape(*layer.weight.shape[:2], -1)
        bias = 0.0 if layer.bias is None else _numpy(layer.bias)
        bias = np.broadcast_to(bias * scale + shift, len(weight))
        weight = pad_channels(weight * scale[:, None, None])
        if source != "image":
            weight = pad_channels(weight, axis=1)
        weight = table.prepare(weight)
        self._add(
            channels=weight.shape[1],
            width=len(weight),
            source=self._place(source),
            target=self._place(target),
            weight=self._store(panels(weight, table.fields["kind"])),
            bias=self._store(pad_channels(bias)),
            relu=int(relu),
            points=self._place("points"),
            products=self._place("products"),
            **table.fields,
            **options,
        )

    def _add(self, **fields):
        self.operations.append(kernels.operation(**fields))

    def _place(self, slot):
        """Where the map of a slot begins in the working memory."""
        return SLOTS.index(slot) * self.slot_size + self._margin

    def _store(self, *arrays):
        """Put arrays one behind the other among the constants; returns their place."""
        place = sum(map(len, self.constants))
        values = np.concatenate([np.ravel(array) for array in arrays])
        self.constants.append(pad_channels(values).astype(self._dtype))
        return place

    def _neighbors(self, neighbors):
        """Store neighbours (K, P)."""
        taps, pixels = neighbors.shape
        return _Neighbors(pixels, taps, self._store_table(kernels.tiles(neighbors)))

    def _patches(self, lattice):
        """Store the patches that cover a lattice."""
        patches = cover(lattice)
        table = patches.table(off_camera=_padded_pixels(lattice))
        return _Patches(patches.kernel, len(patches), self._store_table(table))

    def _store_table(self, values):
        place = sum(map(len, self.tables))
        self.tables.append(values.astype(np.int32).ravel())
        return place


@dataclass(frozen=True)
class _Neighbors:
    """Neighbours of every pixel, tile by tile, at a place of the tables."""

    pixels: int
    taps: int
    place: int

    @property
    def fields(self):
        return {
            "kind": kernels.CONVOLVE,
            "pixels": self.pixels,
            "taps": self.taps,
            "index": self.place,
        }

    def prepare(self, weight):
        """Weights (out, in, tap) as they are."""
        return weight


@dataclass(frozen=True)
class _Patches:
    """Winograd's patches, at a place of the tables."""

    kernel: np.ndarray
    number: int
    place: int

    @property
    def fields(self):
        return {
            "kind": kernels.WINOGRAD,
            "patches": self.number,
            "index": self.place,
        }

    def prepare(self, weight):
        """Weights (out, in, tap) at the points of the products, (out, in, point)."""
        return weight @ self.kernel


def _numpy(parameter):
    return parameter.detach().double().numpy()
