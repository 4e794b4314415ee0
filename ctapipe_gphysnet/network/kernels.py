"""Machine code for a whole network on the lattice itself, one image at a time.

A dense grid spends more than half of its multiplications on cells without a pixel and
on kernel corners that are zero. Here a convolution gathers exactly the neighbours that
there are: a tile of ``TILE`` pixels times ``LANES`` output channels stays in registers
while taps and input channels are added up (the indirect convolution of Dukhan 2019,
https://arxiv.org/abs/1907.02129). The maps of one image stay in the cache of a core, so
that little more than images and features moves through memory.

numba compiles it for the CPU at hand. The tile is written in LLVM's vectors, for a
compiler does not find it in loops.
"""

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

__all__ = ["CONVOLVE", "GATE", "LANES", "OPERATION", "TILE", "run"]

TILE = 6  # pixels; with LANES channels they fill the sixteen registers of AVX2
LANES = 16  # channels

CONVOLVE, GATE = range(2)

# One step of a program. ``source``, ``target``, ``shortcut``, ``activated`` and
# ``spatial`` are places in the working memory; ``weight``, ``bias``, ``norm`` and the
# gate's are places among the constants. -1 means that there is none.
OPERATION = np.dtype(
    [
        (name, np.int64)
        for name in (
            "kind",
            "pixels",
            "channels",  # of the source
            "width",  # channels of the target
            "source",
            "target",
            # CONVOLVE
            "index",  # place of the neighbours, [tile][tap][pixel of the tile]
            "taps",
            "weight",  # [panel of LANES][tap][channel][lane]
            "bias",
            "shortcut",  # what is added
            "relu",
            "norm",  # scale, then shift
            "activated",  # where the scaled, shifted and rectified target goes
            # GATE
            "hidden",  # neurons of the channel gate
            "squeeze",  # [neuron][channel], then bias
            "excite",  # [channel][neuron], then bias
            "spatial",  # hidden maps of the spatial gate
            "spatial_width",
            "spatial_weight",  # [channel], then bias
        )
    ]
)


@intrinsic
def _convolve_tile(
    typing, memory, constants, index, neighbors, source, channels, taps, weight, bias,
    target, width, shortcut, relu, norm, activated,
):  # fmt: skip
    """Sum of ``TILE`` pixels and ``LANES`` channels, and what follows on it."""
    signature = types.void(
        memory, constants, index, neighbors, source, channels, taps, weight, bias,
        target, width, shortcut, relu, norm, activated,
    )  # fmt: skip
    return signature, _generate_tile


def _generate_tile(context, builder, signature, arguments):
    memory, constants, index = (
        context.make_array(kind)(context, builder, value).data
        for kind, value in zip(signature.args[:3], arguments[:3])
    )
    (
        neighbors, source, channels, taps, weight, bias,
        target, width, shortcut, relu, norm, activated,
    ) = arguments[3:]  # fmt: skip
    vectors = _Vectors(builder, memory.type.pointee)
    sums = [
        cgutils.alloca_once_value(builder, vectors.load(constants, bias))
        for _ in range(TILE)
    ]
    with cgutils.for_range(builder, taps) as tap:
        first = builder.add(neighbors, builder.mul(tap.index, ir.IntType(64)(TILE)))
        rows = []
        for row in range(TILE):
            place = builder.add(first, ir.IntType(64)(row))
            pixel = builder.sext(
                builder.load(builder.gep(index, [place])), tap.index.type
            )
            start = builder.add(source, builder.mul(pixel, channels))
            rows.append(builder.gep(memory, [start]))
        panel = builder.mul(builder.mul(tap.index, channels), ir.IntType(64)(LANES))
        panel = builder.gep(constants, [builder.add(weight, panel)])
        with cgutils.for_range(builder, channels) as channel:
            place = builder.mul(channel.index, ir.IntType(64)(LANES))
            weights = vectors.load(panel, place)
            for row, total in zip(rows, sums):
                value = builder.load(builder.gep(row, [channel.index]))
                total_now = builder.load(total)
                value = vectors.multiply_add(vectors.spread(value), weights, total_now)
                builder.store(value, total)
    shift = builder.add(norm, width)
    for row, total in enumerate(sums):
        offset = builder.mul(width, ir.IntType(64)(row))
        with vectors.where_given(shortcut):
            place = builder.add(shortcut, offset)
            added = builder.fadd(builder.load(total), vectors.load(memory, place))
            builder.store(added, total)
        with builder.if_then(cgutils.is_not_null(builder, relu)):
            builder.store(vectors.rectify(builder.load(total)), total)
        vectors.store(builder.load(total), memory, builder.add(target, offset))
        with vectors.where_given(activated):
            value = vectors.multiply_add(
                builder.load(total),
                vectors.load(constants, norm),
                vectors.load(constants, shift),
            )
            place = builder.add(activated, offset)
            vectors.store(vectors.rectify(value), memory, place)
    return context.get_dummy_value()


class _Vectors:
    """Instructions on ``LANES`` numbers at once."""

    def __init__(self, builder, scalar):
        self.builder = builder
        self.type = ir.VectorType(scalar, LANES)
        self.bytes = 8 if isinstance(scalar, ir.DoubleType) else 4

    def _pointer(self, data, place):
        pointer = self.builder.gep(data, [place])
        return self.builder.bitcast(pointer, self.type.as_pointer())

    def load(self, data, place):
        return self.builder.load(self._pointer(data, place), align=self.bytes)

    def store(self, value, data, place):
        self.builder.store(value, self._pointer(data, place), align=self.bytes)

    def spread(self, scalar):
        """The same number in every lane."""
        undefined = ir.Constant(self.type, ir.Undefined)
        single = self.builder.insert_element(undefined, scalar, ir.IntType(32)(0))
        lanes = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
        return self.builder.shuffle_vector(single, undefined, lanes)

    def multiply_add(self, a, b, c):
        name = f"llvm.fma.v{LANES}f{8 * self.bytes}"
        kind = ir.FunctionType(self.type, [self.type] * 3)
        fma = cgutils.get_or_insert_function(self.builder.module, kind, name)
        return self.builder.call(fma, [a, b, c])

    def rectify(self, value):
        """ReLU; NaN stays NaN."""
        zero = ir.Constant(self.type, [0.0] * LANES)
        negative = self.builder.fcmp_ordered("<", value, zero)
        return self.builder.select(negative, zero, value)

    def where_given(self, place):
        given = self.builder.icmp_signed(">=", place, ir.IntType(64)(0))
        return self.builder.if_then(given)


@njit(nogil=True, cache=True)
def _convolve(op, memory, constants, index):
    # the weights of a panel stay in the nearest cache while the tiles pass
    for lane in range(0, op.width, LANES):
        weight = op.weight + lane * op.taps * op.channels
        for tile in range((op.pixels + TILE - 1) // TILE):
            place = tile * TILE * op.width + lane
            _convolve_tile(
                memory,
                constants,
                index,
                op.index + tile * op.taps * TILE,
                op.source,
                op.channels,
                op.taps,
                weight,
                op.bias + lane,
                op.target + place,
                op.width,
                op.shortcut + place if op.shortcut >= 0 else op.shortcut,
                op.relu,
                op.norm + lane,
                op.activated + place if op.activated >= 0 else op.activated,
            )


# sums may be taken in any order, for only then they are taken in vectors
@njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})
def _gate(op, memory, constants):
    """Squeeze-excitation, and the spatial gate of dual attention, in place."""
    maps = memory[op.source : op.source + op.pixels * op.width]
    maps = maps.reshape((op.pixels, op.width))
    mean = np.zeros(op.width, memory.dtype)
    for pixel in range(op.pixels):
        for channel in range(op.width):
            mean[channel] += maps[pixel, channel]
    mean /= op.pixels
    hidden = _linear(constants, op.squeeze, mean, op.hidden)
    gate = _sigmoid(_linear(constants, op.excite, np.maximum(hidden, 0), op.width))
    factor = np.ones(op.pixels, memory.dtype)
    if op.spatial >= 0:
        weight = constants[op.spatial_weight : op.spatial_weight + op.spatial_width + 1]
        for pixel in range(op.pixels):
            place = op.spatial + pixel * op.spatial_width
            value = weight[op.spatial_width]
            for channel in range(op.spatial_width):
                value += weight[channel] * memory[place + channel]
            factor[pixel] = value
        factor = 1 + _sigmoid(factor)
    for pixel in range(op.pixels):
        for channel in range(op.width):
            maps[pixel, channel] *= gate[channel] * factor[pixel]


@njit(nogil=True, cache=True)
def _linear(constants, place, values, width):
    """A linear layer whose weights, then biases, stand at a place."""
    size = len(values)
    weight = constants[place : place + width * size].reshape((width, size))
    bias = constants[place + width * size : place + width * (size + 1)]
    return np.dot(weight, values) + bias


@njit(nogil=True, cache=True)
def _sigmoid(values):
    return 1 / (1 + np.exp(-values))


@njit(nogil=True, cache=True)
def run(program, constants, index, memory, images, features):
    """Features of images.

    Parameters
    ----------
    program : ndarray of OPERATION
        The first one reads the image, of shape (P, C), at its source; the last
        one normalises and leaves the features.
    constants : ndarray, shape (n,)
        Weights, of the type of the arithmetic.
    index : ndarray of int32, shape (n,)
        Tables of neighbours.
    memory : ndarray, shape (n,)
        Working memory; what lies before a map is zero, and neighbour -1 reads it.
    images : ndarray, shape (N, C, P)
    features : ndarray, shape (N, channels, pixels) of the last map
        Filled.
    """
    start = program[0].source
    last = program[-1]
    n_channels, n_pixels = images.shape[1:]
    for image in range(len(images)):
        for pixel in range(n_pixels):
            for channel in range(n_channels):
                memory[start + pixel * n_channels + channel] = images[
                    image, channel, pixel
                ]
        for step in range(len(program)):
            op = program[step]
            if op.kind == CONVOLVE:
                _convolve(op, memory, constants, index)
            else:
                _gate(op, memory, constants)
        for channel in range(features.shape[1]):
            for pixel in range(features.shape[2]):
                place = last.activated + pixel * last.width + channel
                features[image, channel, pixel] = memory[place]
