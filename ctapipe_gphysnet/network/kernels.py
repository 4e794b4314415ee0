"""Machine code for a whole network on the lattice itself, one image at a time.

A dense grid spends more than half of its multiplications on cells without a pixel and
on kernel corners that are zero. Here

* a convolution gathers exactly the neighbours that there are: ``TILE`` pixels times
  ``LANES`` output channels stay in registers while taps and input channels are added up
  (the indirect convolution of Dukhan 2019, https://arxiv.org/abs/1907.02129);
* those of stride 1 do it for patches of 2 x 4 pixels, with 24 multiplications a channel
  in place of 56 (the minimal filtering that Winograd found, for networks by Lavin and
  Gray 2016, https://arxiv.org/abs/1509.09308). In exact arithmetic that is the same, in
  float32 the rounding is no worse than that of the other ways;
* the maps of one image stay in the cache of a core, so that little more than images and
  features moves through memory.

numba compiles it for the CPU at hand. The inner parts are written in LLVM's vectors,
for a compiler does not find them in loops.
"""

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

__all__ = [
    "CONVOLVE",
    "GATE",
    "LANES",
    "N_PATCH",
    "N_POINTS",
    "OPERATION",
    "PATCH",
    "POINTS",
    "TILE",
    "WINOGRAD",
    "Vectors",
    "convolve",
    "int64",
    "operation",
    "pad_channels",
    "padded",
    "panels",
    "pointers",
    "run",
    "tiles",
    "transform_patch",
    "winograd",
    "working_memory",
]

TILE = 6  # pixels; with LANES channels they fill the sixteen registers of AVX2
LANES = 16  # channels

# Winograd's convolution: patches of 2 x 4 pixels from 4 x 6, by products at 24 points
PATCH = (2, 4)
POINTS = (4, 6)
N_PATCH, N_POINTS = PATCH[0] * PATCH[1], POINTS[0] * POINTS[1]

CONVOLVE, WINOGRAD, GATE = range(3)

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
            # WINOGRAD
            "patches",
            "points",  # where their inputs go, transformed: [point][patch][channel]
            "products",  # where their products go: [point][patch][channel]
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


def operation(**fields):
    """An entry of a program, -1 where nothing is given."""
    return tuple(fields.get(name, -1) for name in OPERATION.names)


def tiles(neighbors):
    """Neighbours (K, P) as an operation reads them, [tile][tap][pixel of the tile]."""
    taps, pixels = neighbors.shape
    filled = np.pad(neighbors, ((0, 0), (0, -pixels % TILE)), constant_values=-1)
    return filled.reshape(taps, -1, TILE).transpose(1, 0, 2).ravel()


def padded(number, whole=LANES):
    """The next multiple, such as of the channels of a map in memory: whole vectors."""
    return -(-number // whole) * whole


def pad_channels(values, axis=0):
    """Zeros behind the channels, to whole vectors; as they are if nothing is missing."""
    values = np.asarray(values)
    missing = -values.shape[axis] % LANES
    if not missing:
        return values
    padding = [(0, 0)] * values.ndim
    padding[axis] = (0, missing)
    return np.pad(values, padding)


def panels(weight, kind):
    """Weights in the order in which the kernels read them.

    Parameters
    ----------
    weight : ndarray, shape (C', C, K)
        Of whole panels of output channels, of input channels, and of taps or points.
    kind : {CONVOLVE, WINOGRAD}

    Returns
    -------
    ndarray
        Flat: [panel][tap][channel][lane], or [point][panel][channel][lane].
    """
    order = {CONVOLVE: (0, 3, 2, 1), WINOGRAD: (3, 0, 2, 1)}[kind]
    return weight.reshape(-1, LANES, *weight.shape[1:]).transpose(order).ravel()


def working_memory(size, dtype):
    """Zeros that begin with a cache line, so that no row of LANES floats crosses one."""
    line = 64
    raw = np.zeros(size * dtype.itemsize + line, np.uint8)
    start = -raw.ctypes.data % line
    return raw[start : start + size * dtype.itemsize].view(dtype)


@intrinsic
def _convolve_tile(
    typing, memory, constants, index, neighbors, source, channels, taps, weight, bias,
    target, width, shortcut, relu, norm, activated,
):  # fmt: skip
    """Convolution of ``TILE`` pixels and ``LANES`` channels, and what follows on it."""
    signature = types.void(
        memory, constants, index, neighbors, source, channels, taps, weight, bias,
        target, width, shortcut, relu, norm, activated,
    )  # fmt: skip

    def generate(context, builder, signature, arguments):
        memory, constants, index = pointers(
            context, builder, signature, arguments, range(3)
        )
        (
            neighbors, source, channels, taps, weight, bias,
            target, width, shortcut, relu, norm, activated,
        ) = arguments[3:]  # fmt: skip
        vectors = Vectors(builder, memory.type.pointee)
        start = vectors.load(constants, bias)
        sums = [cgutils.alloca_once_value(builder, start) for _ in range(TILE)]
        with cgutils.for_range(builder, taps) as tap:
            first = builder.add(neighbors, builder.mul(tap.index, int64(TILE)))
            rows = []
            for row in range(TILE):
                pixel = builder.gep(index, [builder.add(first, int64(row))])
                pixel = builder.sext(builder.load(pixel), tap.index.type)
                place = builder.add(source, builder.mul(pixel, channels))
                rows.append(builder.gep(memory, [place]))
            panel = builder.mul(builder.mul(tap.index, channels), int64(LANES))
            panel = builder.gep(constants, [builder.add(weight, panel)])
            vectors.accumulate(sums, rows, panel, channels)
        finish = _Finish(vectors, memory, constants, relu, norm, width)
        for row, total in enumerate(sums):
            offset = builder.mul(width, int64(row))
            finish(builder.load(total), offset, target, shortcut, activated)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def _multiply_tile(typing, memory, constants, source, channels, weight, target, width):
    """Product of ``TILE`` rows in a row with a matrix of ``LANES`` columns."""
    signature = types.void(memory, constants, source, channels, weight, target, width)

    def generate(context, builder, signature, arguments):
        memory, constants = pointers(context, builder, signature, arguments, range(2))
        source, channels, weight, target, width = arguments[2:]
        vectors = Vectors(builder, memory.type.pointee)
        sums = [cgutils.alloca_once_value(builder, vectors.zero) for _ in range(TILE)]
        rows = []
        for row in range(TILE):
            place = builder.add(source, builder.mul(channels, int64(row)))
            rows.append(builder.gep(memory, [place]))
        vectors.accumulate(sums, rows, builder.gep(constants, [weight]), channels)
        for row, total in enumerate(sums):
            place = builder.add(target, builder.mul(width, int64(row)))
            vectors.store(builder.load(total), memory, place)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def transform_patch(typing, memory, index, inputs, source, channels, target, step):
    """``LANES`` channels of a patch's inputs, at the points of Winograd's products."""
    signature = types.void(memory, index, inputs, source, channels, target, step)

    def generate(context, builder, signature, arguments):
        memory, index = pointers(context, builder, signature, arguments, range(2))
        inputs, source, channels, target, step = arguments[2:]
        vectors = Vectors(builder, memory.type.pointee)
        starts = []
        for i in range(N_POINTS):
            pixel = builder.load(builder.gep(index, [builder.add(inputs, int64(i))]))
            place = builder.mul(builder.sext(pixel, channels.type), channels)
            starts.append(builder.add(source, place))

        def load(row, column):
            return vectors.load(memory, starts[row * POINTS[1] + column])

        # a row of points at a time, so that it stays in registers
        for row in range(POINTS[0]):
            values = [vectors.input_of_two(row, load, i) for i in range(POINTS[1])]
            for column, value in enumerate(vectors.inputs_of_four(values)):
                place = builder.mul(step, int64(row * POINTS[1] + column))
                vectors.store(value, memory, builder.add(target, place))
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def _finish_patch(
    typing, memory, constants, index, outputs, source, step, bias, target, width,
    shortcut, relu, norm, activated,
):  # fmt: skip
    """``LANES`` channels of a patch, from its products, and what follows on them."""
    signature = types.void(
        memory, constants, index, outputs, source, step, bias, target, width, shortcut,
        relu, norm, activated,
    )  # fmt: skip

    def generate(context, builder, signature, arguments):
        memory, constants, index = pointers(
            context, builder, signature, arguments, range(3)
        )
        (
            outputs, source, step, bias, target, width, shortcut, relu, norm, activated,
        ) = arguments[3:]  # fmt: skip
        vectors = Vectors(builder, memory.type.pointee)
        bias = vectors.load(constants, bias)
        finish = _Finish(vectors, memory, constants, relu, norm, width)

        def load(row, column):
            place = builder.mul(step, int64(row * POINTS[1] + column))
            return vectors.load(memory, builder.add(source, place))

        for row in range(PATCH[0]):
            values = [vectors.output_of_two(row, load, i) for i in range(POINTS[1])]
            for column, value in enumerate(vectors.four_outputs(values)):
                pixel = builder.add(outputs, int64(row * PATCH[1] + column))
                pixel = builder.sext(
                    builder.load(builder.gep(index, [pixel])), width.type
                )
                value = builder.fadd(value, bias)
                finish(value, builder.mul(pixel, width), target, shortcut, activated)
        return context.get_dummy_value()

    return signature, generate


def int64(number):
    """A constant for LLVM."""
    return ir.IntType(64)(number)


def pointers(context, builder, signature, arguments, which):
    """The data of those arguments that are arrays."""
    return [
        context.make_array(signature.args[i])(context, builder, arguments[i]).data
        for i in which
    ]


class _Finish:
    """What follows on a sum: shortcut, rectification, store, next activation."""

    def __init__(self, vectors, memory, constants, relu, norm, width):
        self.vectors, self.builder, self.memory = vectors, vectors.builder, memory
        self.constants, self.relu, self.norm = constants, relu, norm
        self.shift = self.builder.add(norm, width)

    def __call__(self, value, offset, target, shortcut, activated):
        vectors, builder, memory = self.vectors, self.builder, self.memory
        total = cgutils.alloca_once_value(builder, value)
        with vectors.where_given(shortcut):
            added = vectors.load(memory, builder.add(shortcut, offset))
            builder.store(builder.fadd(builder.load(total), added), total)
        with builder.if_then(cgutils.is_not_null(builder, self.relu)):
            builder.store(vectors.rectify(builder.load(total)), total)
        vectors.store(builder.load(total), memory, builder.add(target, offset))
        with vectors.where_given(activated):
            value = vectors.multiply_add(
                builder.load(total),
                vectors.load(self.constants, self.norm),
                vectors.load(self.constants, self.shift),
            )
            place = builder.add(activated, offset)
            vectors.store(vectors.rectify(value), memory, place)


class Vectors:
    """Instructions on ``LANES`` numbers at once."""

    def __init__(self, builder, scalar):
        self.builder = builder
        self.type = ir.VectorType(scalar, LANES)
        self.bytes = 8 if isinstance(scalar, ir.DoubleType) else 4
        self.zero = self.constant(0)

    def constant(self, number):
        return ir.Constant(self.type, [float(number)] * LANES)

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
        negative = self.builder.fcmp_ordered("<", value, self.zero)
        return self.builder.select(negative, self.zero, value)

    def accumulate(self, sums, rows, panel, channels):
        """Add to the sums the product of rows with a panel of a matrix."""
        builder = self.builder
        with cgutils.for_range(builder, channels) as channel:
            weights = self.load(panel, builder.mul(channel.index, int64(LANES)))
            for row, total in zip(rows, sums):
                value = self.spread(builder.load(builder.gep(row, [channel.index])))
                value = self.multiply_add(value, weights, builder.load(total))
                builder.store(value, total)

    # Parts of Winograd's convolutions F(2, 3), down a column, and F(4, 3), along a row.
    # The part of the kernel is in `patches`.

    def input_of_two(self, i, x, column):
        """Point ``i`` of four; ``x(row, column)`` gives the inputs."""
        if i == 1:
            return self.builder.fadd(x(1, column), x(2, column))
        first, second = {0: (0, 2), 2: (2, 1), 3: (1, 3)}[i]
        return self.builder.fsub(x(first, column), x(second, column))

    def output_of_two(self, i, m, column):
        """Output ``i`` of two; ``m(row, column)`` gives the products."""
        add, subtract = self.builder.fadd, self.builder.fsub
        if i == 0:
            return add(add(m(0, column), m(1, column)), m(2, column))
        return subtract(subtract(m(1, column), m(2, column)), m(3, column))

    def inputs_of_four(self, x):
        add, subtract = self.builder.fadd, self.builder.fsub
        even, odd = self.scaled_sum(x[4], -4, x[2]), self.scaled_sum(x[3], -4, x[1])
        even2, odd2 = subtract(x[4], x[2]), subtract(x[3], x[1])
        return [
            self.scaled_sum(self.scaled_sum(x[4], -5, x[2]), 4, x[0]),
            add(even, odd),
            subtract(even, odd),
            self.scaled_sum(even2, 2, odd2),
            self.scaled_sum(even2, -2, odd2),
            self.scaled_sum(self.scaled_sum(x[5], -5, x[3]), 4, x[1]),
        ]

    def four_outputs(self, m):
        add, subtract = self.builder.fadd, self.builder.fsub
        even, odd = add(m[1], m[2]), subtract(m[1], m[2])
        even2, odd2 = add(m[3], m[4]), subtract(m[3], m[4])
        return [
            add(add(m[0], even), even2),
            self.scaled_sum(odd, 2, odd2),
            self.scaled_sum(even, 4, even2),
            add(self.scaled_sum(odd, 8, odd2), m[5]),
        ]

    def points_of_two_outputs(self, y):
        """Points where two outputs count, and how much."""
        negative = self.builder.fsub(self.zero, y[1])
        add, subtract = self.builder.fadd, self.builder.fsub
        return [y[0], add(y[0], y[1]), subtract(y[0], y[1]), negative]

    def points_of_four_outputs(self, y):
        """Points where four outputs count, and how much."""
        add, subtract = self.builder.fadd, self.builder.fsub
        even, odd = add(y[0], y[2]), add(y[1], y[3])
        even2 = self.scaled_sum(y[0], 4, y[2])
        odd2 = self.scaled_sum(add(y[1], y[1]), 8, y[3])
        return [
            y[0],
            add(even, odd),
            subtract(even, odd),
            add(even2, odd2),
            subtract(even2, odd2),
            y[3],
        ]

    def scaled_sum(self, a, factor, b):
        """a + factor * b"""
        return self.multiply_add(self.constant(factor), b, a)

    def where_given(self, place):
        given = self.builder.icmp_signed(">=", place, ir.IntType(64)(0))
        return self.builder.if_then(given)


@njit(nogil=True, cache=True)
def convolve(op, memory, constants, index):
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


@njit(nogil=True, cache=True)
def winograd(op, memory, constants, index):
    # TILE patches are worked on together
    outputs = op.index + op.patches * N_POINTS
    for first in range(0, op.patches, TILE):
        for patch in range(first, first + TILE):
            for lane in range(0, op.channels, LANES):
                transform_patch(
                    memory,
                    index,
                    op.index + patch * N_POINTS,
                    op.source + lane,
                    op.channels,
                    op.points + (patch - first) * op.channels + lane,
                    TILE * op.channels,
                )
        for point in range(N_POINTS):
            for lane in range(0, op.width, LANES):
                weight = op.weight + (point * op.width + lane) * op.channels
                _multiply_tile(
                    memory,
                    constants,
                    op.points + point * TILE * op.channels,
                    op.channels,
                    weight,
                    op.products + point * TILE * op.width + lane,
                    op.width,
                )
        for patch in range(first, first + TILE):
            for lane in range(0, op.width, LANES):
                _finish_patch(
                    memory,
                    constants,
                    index,
                    outputs + patch * N_PATCH,
                    op.products + (patch - first) * op.width + lane,
                    TILE * op.width,
                    op.bias + lane,
                    op.target + lane,
                    op.width,
                    op.shortcut + lane if op.shortcut >= 0 else op.shortcut,
                    op.relu,
                    op.norm + lane,
                    op.activated + lane if op.activated >= 0 else op.activated,
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
def _copy_image(image, place, memory):
    for pixel in range(image.shape[1]):
        for channel in range(image.shape[0]):
            memory[place + pixel * len(image) + channel] = image[channel, pixel]


@njit(nogil=True, cache=True)
def _copy_features(last, memory, features, mean):
    """Flatten the final maps (pixel, channel) as (channel, pixel), and take means."""
    n_pixels = len(features) // len(mean)
    for channel in range(len(mean)):
        total = memory.dtype.type(0)
        for pixel in range(n_pixels):
            value = memory[last.activated + pixel * last.width + channel]
            features[channel * n_pixels + pixel] = value
            total += value
        mean[channel] = total / n_pixels


@njit(nogil=True, cache=True)
def run(program, constants, index, memory, images, features, flat_weight, mean, flat):
    """Run a program on images.

    Parameters
    ----------
    program : ndarray of OPERATION
        The first one reads the image, of shape (P, C), at its source; the last one
        normalizes and leaves the maps of C' channels and P' pixels.
    constants : ndarray, shape (n,)
        Weights, of the type of the arithmetic.
    index : ndarray of int32, shape (n,)
        Tables of neighbours.
    memory : ndarray, shape (n,)
        Working memory; what lies before a map is zero, and neighbour -1 reads it.
    images : ndarray, shape (N, C, P)
    features : ndarray, shape (TILE * (C' * P' + W),)
        Working memory for flattened maps and their products.
    flat_weight : ndarray, shape (W * C' * P',)
        What flattened maps are multiplied with, [panel of LANES][feature][lane].
    mean : ndarray, shape (N, C')
        Means of the maps. Filled.
    flat : ndarray, shape (N, W)
        Products of the flattened maps. Filled.
    """
    width = flat.shape[1]
    size = mean.shape[1] * program[-1].pixels
    products = TILE * size
    for first in range(0, len(images), TILE):
        number = min(TILE, len(images) - first)
        for row in range(number):
            _copy_image(images[first + row], program[0].source, memory)
            for step in range(len(program)):
                op = program[step]
                if op.kind == CONVOLVE:
                    convolve(op, memory, constants, index)
                elif op.kind == WINOGRAD:
                    winograd(op, memory, constants, index)
                else:
                    _gate(op, memory, constants)
            maps = features[row * size : (row + 1) * size]
            _copy_features(program[-1], memory, maps, mean[first + row])
        for lane in range(0, width, LANES):
            _multiply_tile(
                features, flat_weight, 0, size, lane * size, products + lane, width
            )
        for row in range(number):
            place = products + row * width
            flat[first + row] = features[place : place + width]
