"""Machine code to train on the pixels of a camera: convolutions and their gradients.

Image by image, as in `kernels`, whose convolutions it uses: an image is brought into
the cache of a core, there normalized and rectified, convolved, and written back; on the
way back its gradients are made there together. Between the layers of a network the maps
of a whole batch lie in memory as (image, pixel, channel), because batch normalization
needs all of them.

The gradient of the weights is summed up in Winograd's domain, too (Lavin and Gray 2016,
https://arxiv.org/abs/1509.09308), where it takes 24 multiplications in place of 56.
"""

import numpy as np
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from .kernels import (
    CONVOLVE,
    LANES,
    N_PATCH,
    N_POINTS,
    PATCH,
    POINTS,
    Vectors,
    convolve,
    int64,
    pointers,
    transform_patch,
    winograd,
)

__all__ = [
    "CHUNK",
    "backward",
    "forward",
    "moments",
    "normalize_gradient",
    "weighted_sums",
]

CHUNK = 36  # most patches or pixels whose gradients are taken together
ROWS = 4  # of a gradient; with LANES columns they leave registers for the factors


@intrinsic
def _copy(typing, source, i, target, j):
    """Copy ``LANES`` numbers; of a loop numba makes no vectors, for indices may wrap."""
    signature = types.void(source, i, target, j)

    def generate(context, builder, signature, arguments):
        source, target = pointers(context, builder, signature, arguments, (0, 2))
        vectors = Vectors(builder, target.type.pointee)
        vectors.store(vectors.load(source, arguments[1]), target, arguments[3])
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def _add(typing, left, i, right, target, j):
    """Add ``LANES`` numbers; of ``right`` those at the place of the target."""
    signature = types.void(left, i, right, target, j)

    def generate(context, builder, signature, arguments):
        left, right, target = pointers(context, builder, signature, arguments, (0, 2, 3))
        i, j = arguments[1], arguments[4]
        vectors = Vectors(builder, target.type.pointee)
        value = builder.fadd(vectors.load(left, i), vectors.load(right, j))
        vectors.store(value, target, j)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def _activate(typing, source, i, scale, shift, lane, memory, j):
    """Scale, shift and rectify ``LANES`` numbers."""
    signature = types.void(source, i, scale, shift, lane, memory, j)

    def generate(context, builder, signature, arguments):
        source, scale, shift, memory = pointers(
            context, builder, signature, arguments, (0, 2, 3, 5)
        )
        i, lane, j = arguments[1], arguments[4], arguments[6]
        vectors = Vectors(builder, memory.type.pointee)
        value = vectors.multiply_add(
            vectors.load(source, i), vectors.load(scale, lane), vectors.load(shift, lane)
        )
        vectors.store(vectors.rectify(value), memory, j)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def _sum_rows(typing, source, start, step, number, center, lane, sums, power):
    """Add up ``LANES`` columns of rows, less a center, or their squares."""
    signature = types.void(source, start, step, number, center, lane, sums, power)

    def generate(context, builder, signature, arguments):
        source, center, sums = pointers(context, builder, signature, arguments, (0, 4, 6))
        start, step, number = arguments[1:4]
        lane, power = arguments[5], arguments[7]
        vectors = Vectors(builder, source.type.pointee)
        middle = vectors.load(center, lane)
        total = cgutils.alloca_once_value(builder, vectors.zero)
        square = builder.icmp_signed("==", power, int64(2))
        with cgutils.for_range(builder, number) as row:
            place = builder.add(start, builder.mul(row.index, step))
            value = builder.fsub(vectors.load(source, place), middle)
            factor = builder.select(square, value, vectors.constant(1))
            builder.store(vectors.multiply_add(value, factor, builder.load(total)), total)
        value = builder.fadd(vectors.load(sums, lane), builder.load(total))
        vectors.store(value, sums, lane)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def _rectified_gradient(
    typing, memory, gradient, order, active, width, x, target, start, channels, number,
    mean, lane, sums, products,
):  # fmt: skip
    """Gradient before a rectification, and what batch normalization needs of it."""
    signature = types.void(
        memory, gradient, order, active, width, x, target, start, channels, number,
        mean, lane, sums, products,
    )  # fmt: skip

    def generate(context, builder, signature, arguments):
        memory, order, x, target, mean, sums, products = pointers(
            context, builder, signature, arguments, (0, 2, 5, 6, 10, 12, 13)
        )
        gradient, active, width = arguments[1], arguments[3], arguments[4]
        start, channels, number = arguments[7:10]
        lane = arguments[11]
        vectors = Vectors(builder, memory.type.pointee)
        middle = vectors.load(mean, lane)
        total = cgutils.alloca_once_value(builder, vectors.zero)
        product = cgutils.alloca_once_value(builder, vectors.zero)
        with cgutils.for_range(builder, number) as row:
            place = builder.load(builder.gep(order, [row.index]))
            place = builder.mul(builder.sext(place, row.index.type), width)
            value = vectors.load(memory, builder.add(gradient, place))
            place = builder.add(active, builder.mul(row.index, width))
            shown = builder.fcmp_ordered(">", vectors.load(memory, place), vectors.zero)
            value = builder.select(shown, value, vectors.zero)
            place = builder.add(start, builder.mul(row.index, channels))
            vectors.store(value, target, place)
            centered = builder.fsub(vectors.load(x, place), middle)
            builder.store(builder.fadd(builder.load(total), value), total)
            builder.store(
                vectors.multiply_add(value, centered, builder.load(product)), product
            )
        for values, result in ((sums, total), (products, product)):
            value = builder.fadd(vectors.load(values, lane), builder.load(result))
            vectors.store(value, values, lane)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def _combine(typing, target, x, i, factor, slope, offset, lane):
    """target = factor * target + slope * x + offset, of ``LANES`` numbers."""
    signature = types.void(target, x, i, factor, slope, offset, lane)

    def generate(context, builder, signature, arguments):
        target, x, factor, slope, offset = pointers(
            context, builder, signature, arguments, (0, 1, 3, 4, 5)
        )
        i, lane = arguments[2], arguments[6]
        vectors = Vectors(builder, target.type.pointee)
        value = vectors.multiply_add(
            vectors.load(x, i), vectors.load(slope, lane), vectors.load(offset, lane)
        )
        value = vectors.multiply_add(
            vectors.load(target, i), vectors.load(factor, lane), value
        )
        vectors.store(value, target, i)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def _outer_tile(
    typing, memory, left, left_step, right, right_step, number, sums, place, width
):
    """Add products of ``ROWS`` columns on the left with ``LANES`` on the right."""
    signature = types.void(
        memory, left, left_step, right, right_step, number, sums, place, width
    )

    def generate(context, builder, signature, arguments):
        memory, sums = pointers(context, builder, signature, arguments, (0, 6))
        left, left_step, right, right_step, number = arguments[1:6]
        place, width = arguments[7:]
        vectors = Vectors(builder, memory.type.pointee)
        totals = [cgutils.alloca_once_value(builder, vectors.zero) for _ in range(ROWS)]
        with cgutils.for_range(builder, number) as item:
            start = builder.add(right, builder.mul(item.index, right_step))
            factors = vectors.load(memory, start)
            start = builder.add(left, builder.mul(item.index, left_step))
            for row, total in enumerate(totals):
                value = builder.gep(memory, [builder.add(start, int64(row))])
                value = vectors.spread(builder.load(value))
                value = vectors.multiply_add(value, factors, builder.load(total))
                builder.store(value, total)
        for row, total in enumerate(totals):
            start = builder.add(place, builder.mul(width, int64(row)))
            value = builder.fadd(vectors.load(sums, start), builder.load(total))
            vectors.store(value, sums, start)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def _spread_patch(typing, memory, index, outputs, source, channels, target, step):
    """``LANES`` channels of a patch's gradients, at the points of Winograd's products."""
    signature = types.void(memory, index, outputs, source, channels, target, step)

    def generate(context, builder, signature, arguments):
        memory, index = pointers(context, builder, signature, arguments, (0, 1))
        outputs, source, channels, target, step = arguments[2:]
        vectors = Vectors(builder, memory.type.pointee)
        lines = []
        for row in range(PATCH[0]):
            values = []
            for column in range(PATCH[1]):
                pixel = builder.add(outputs, int64(row * PATCH[1] + column))
                pixel = builder.load(builder.gep(index, [pixel]))
                place = builder.mul(builder.sext(pixel, channels.type), channels)
                values.append(vectors.load(memory, builder.add(source, place)))
            lines.append(vectors.points_of_four_outputs(values))
        for column, values in enumerate(zip(*lines)):
            for row, value in enumerate(vectors.points_of_two_outputs(values)):
                place = builder.mul(step, int64(row * POINTS[1] + column))
                vectors.store(value, memory, builder.add(target, place))
        return context.get_dummy_value()

    return signature, generate


@njit(nogil=True, cache=True)
def _load(source, start, pixels, channels, scale, shift, memory, place, width):
    """Bring an image into the working memory, activated if there is a scale."""
    if width == channels and len(scale):
        for first in range(0, pixels * channels, channels):
            for lane in range(0, channels, LANES):
                i = first + lane
                _activate(source, start + i, scale, shift, lane, memory, place + i)
    elif width == channels:
        for i in range(0, pixels * channels, LANES):
            _copy(source, start + i, memory, place + i)
    else:
        for pixel in range(pixels):
            for channel in range(channels):
                value = source[start + pixel * channels + channel]
                if len(scale):
                    value = value * scale[channel] + shift[channel]
                    value = value if not value < 0 else value * 0
                memory[place + pixel * width + channel] = value


@njit(nogil=True, cache=True)
def _run(program, memory, constants, index):
    for step in range(len(program)):
        op = program[step]
        if op.kind == CONVOLVE:
            convolve(op, memory, constants, index)
        else:
            winograd(op, memory, constants, index)


@njit(nogil=True, cache=True)
def forward(program, constants, index, memory, x, scale, shift, shortcut, target):
    """Convolve images.

    Parameters
    ----------
    program : ndarray of kernels.OPERATION
        The first operation's source and target are those of all.
    constants : ndarray, shape (n,)
        Weights and bias.
    index : ndarray of int32, shape (n,)
        Tables of neighbours and patches.
    memory : ndarray, shape (n,)
        Working memory; what lies before a map is zero.
    x : ndarray, shape (N, P, C)
    scale, shift : ndarray, shape (C,) or (0,)
        Of the activation before the convolution, if there is one.
    shortcut : ndarray, shape (N, P', C') or (0, P', C')
        To add, if there is one.
    target : ndarray, shape (N, P', C')
        Filled.
    """
    op = program[0]
    n_images, pixels, channels = x.shape
    outputs, out_channels = target.shape[1:]
    x, shortcut, target = x.ravel(), shortcut.ravel(), target.ravel()
    for image in range(n_images):
        start = image * pixels * channels
        _load(x, start, pixels, channels, scale, shift, memory, op.source, op.channels)
        _run(program, memory, constants, index)
        start = image * outputs * out_channels
        _store(
            memory, op.target, op.width, shortcut, target, start, outputs, out_channels
        )


@njit(nogil=True, cache=True)
def _store(memory, place, width, shortcut, target, start, pixels, channels):
    """Write a result back, on its shortcut if there is one."""
    if width == channels:
        for i in range(0, pixels * channels, LANES):
            if len(shortcut):
                _add(memory, place + i, shortcut, target, start + i)
            else:
                _copy(memory, place + i, target, start + i)
        return
    for pixel in range(pixels):
        i, j = start + pixel * channels, place + pixel * width
        if len(shortcut):
            for channel in range(channels):
                target[i + channel] = memory[j + channel] + shortcut[i + channel]
        else:
            target[i : i + channels] = memory[j : j + channels]


@njit(nogil=True, cache=True)
def moments(x, mean, squares):
    """Means of images over the pixels, and sums of squares around them.

    Parameters
    ----------
    x : ndarray, shape (N, P, C)
    mean, squares : ndarray, shape (N, C)
        Filled.
    """
    n_images, pixels, channels = x.shape
    x = x.ravel()
    padded = (channels + LANES - 1) // LANES * LANES
    center, sums = np.zeros(padded, x.dtype), np.zeros(padded, x.dtype)
    for image in range(n_images):
        start = image * pixels * channels
        center[:] = 0
        _sums(x, start, pixels, channels, center, sums, 1)
        center[:] = sums / pixels
        mean[image] = center[:channels]
        _sums(x, start, pixels, channels, center, sums, 2)
        squares[image] = sums[:channels]


@njit(nogil=True, cache=True)
def _sums(x, start, pixels, channels, center, sums, power):
    """Sums of every channel, less a center, or of its square."""
    sums[:] = 0
    whole = channels // LANES * LANES
    for lane in range(0, whole, LANES):
        _sum_rows(x, start + lane, channels, pixels, center, lane, sums, power)
    for channel in range(whole, channels):
        for pixel in range(pixels):
            value = x[start + pixel * channels + channel] - center[channel]
            sums[channel] += value * value if power == 2 else value


@njit(nogil=True, cache=True)
def _weight_gradient(op, patches, index, memory, source, gradient, sums):
    """Add the gradient of the weights of one image, in Winograd's domain."""
    outputs = op.index + patches * N_POINTS
    # chunks of equal sizes, for a small one costs nearly as much as a large one
    n_chunks = (patches + CHUNK - 1) // CHUNK
    chunk = (patches + n_chunks - 1) // n_chunks
    right = op.points + chunk * N_POINTS * op.channels
    for first in range(0, patches, chunk):
        number = min(chunk, patches - first)
        for patch in range(number):
            for lane in range(0, op.channels, LANES):
                transform_patch(
                    memory,
                    index,
                    op.index + (first + patch) * N_POINTS,
                    source + lane,
                    op.channels,
                    op.points + patch * op.channels + lane,
                    chunk * op.channels,
                )
            for lane in range(0, op.width, LANES):
                _spread_patch(
                    memory,
                    index,
                    outputs + (first + patch) * N_PATCH,
                    gradient + lane,
                    op.width,
                    right + patch * op.width + lane,
                    chunk * op.width,
                )
        for point in range(N_POINTS):
            _outer(
                memory,
                op.points + point * chunk * op.channels,
                op.channels,
                right + point * chunk * op.width,
                op.width,
                number,
                sums,
                point * op.channels * op.width,
            )


@njit(nogil=True, cache=True)
def _weight_gradient_of_taps(op, index, memory, source, gradient, sums):
    """Add the gradient of the weights of one image, tap by tap."""
    for first in range(0, op.pixels, CHUNK):
        number = min(CHUNK, op.pixels - first)
        for tap in range(op.taps):
            for item in range(number):
                pixel = index[op.index + tap * op.pixels + first + item]
                left = op.points + item * op.channels
                start = source + pixel * op.channels
                for lane in range(0, op.channels, LANES):
                    _copy(memory, start + lane, memory, left + lane)
            _outer(
                memory,
                op.points,
                op.channels,
                gradient + first * op.width,
                op.width,
                number,
                sums,
                tap * op.channels * op.width,
            )


@njit(nogil=True, cache=True)
def _outer(memory, left, rows, right, width, number, sums, place):
    """Add the product of a transposed matrix (number, rows) and one (number, width)."""
    for row in range(0, rows, ROWS):
        for lane in range(0, width, LANES):
            _outer_tile(
                memory,
                left + row,
                rows,
                right + lane,
                width,
                number,
                sums,
                place + row * width + lane,
                width,
            )


@njit(nogil=True, cache=True)
def backward(
    weights, program, constants, index, order, memory, x, scale, shift, mean, gradient,
    target, weight_sums, bias_sums, sums, products,
):  # fmt: skip
    """Gradients of `forward`.

    Parameters
    ----------
    weights : ndarray of kernels.OPERATION, shape (1,)
        Gradient of the weights: ``source`` is the activated image, ``target`` its
        gradient on the other side.
    program : ndarray of kernels.OPERATION
        The transposed convolution; empty where no gradient of the images is asked for.
    constants, index, memory
        As for `forward`.
    order : ndarray of int32, shape (P,)
        Where the transposed convolution leaves every pixel.
    x, scale, shift
        As for `forward`.
    mean : ndarray, shape (C,)
        Of ``x``.
    gradient : ndarray, shape (N, P', C')
        Of the result.
    target : ndarray, shape (N, P, C)
        Gradient of the activation's input before it was scaled, or of ``x`` if there is
        no activation. Filled.
    weight_sums, bias_sums : ndarray, shape (n,) and (padded C',)
        Gradients of the weights and the bias. Added to.
    sums, products : ndarray, shape (C,)
        Sums of ``target``, and of it times ``x`` less ``mean``. Added to.
    """
    op = weights[0]
    n_images, pixels, channels = x.shape
    outputs, out_channels = gradient.shape[1:]
    x, gradient, target = x.ravel(), gradient.ravel(), target.ravel()
    nothing, zeros = scale[:0], np.zeros(op.width, x.dtype)
    for image in range(n_images):
        start, place = image * pixels * channels, image * outputs * out_channels
        _load(x, start, pixels, channels, scale, shift, memory, op.source, op.channels)
        _load(
            gradient, place, outputs, out_channels, nothing, nothing, memory,
            op.target, op.width,
        )  # fmt: skip
        for lane in range(0, op.width, LANES):
            _sum_rows(
                memory, op.target + lane, op.width, outputs, zeros, lane, bias_sums, 1
            )
        if op.kind == CONVOLVE:
            _weight_gradient_of_taps(op, index, memory, op.source, op.target, weight_sums)
        else:
            _weight_gradient(
                op, op.patches, index, memory, op.source, op.target, weight_sums
            )
        if len(program):
            _run(program, memory, constants, index)
            _store_gradient(
                program[0].target, order, memory, op.source, op.channels, x, target,
                start, pixels, channels, scale, mean, sums, products,
            )  # fmt: skip


@njit(nogil=True, cache=True)
def _store_gradient(
    gradient, order, memory, active, width, x, target, start, pixels, channels, scale,
    mean, sums, products,
):  # fmt: skip
    if len(scale) and width == channels:
        for lane in range(0, channels, LANES):
            _rectified_gradient(
                memory, gradient + lane, order, active + lane, width, x, target,
                start + lane, channels, pixels, mean, lane, sums, products,
            )  # fmt: skip
        return
    for pixel in range(pixels):
        for channel in range(channels):
            value = memory[gradient + order[pixel] * width + channel]
            i = start + pixel * channels + channel
            if len(scale):
                value *= memory[active + pixel * width + channel] > 0
                sums[channel] += value
                products[channel] += value * (x[i] - mean[channel])
            target[i] = value


@njit(nogil=True, cache=True)
def normalize_gradient(target, x, factor, slope, offset):
    """target = factor * target + slope * x + offset, channel by channel, in place.

    Parameters
    ----------
    target, x : ndarray, shape (N, P, C)
    factor, slope, offset : ndarray, shape (C,)
    """
    channels = x.shape[2]
    size = x.size
    target, x = target.ravel(), x.ravel()
    whole = channels // LANES * LANES
    for first in range(0, size, channels):
        for lane in range(0, whole, LANES):
            _combine(target, x, first + lane, factor, slope, offset, lane)
        for channel in range(whole, channels):
            value = slope[channel] * x[first + channel] + offset[channel]
            target[first + channel] = factor[channel] * target[first + channel] + value


@njit(nogil=True, cache=True)
def weighted_sums(factors, rows):
    """Product of a small matrix with a wide one, half of whose factors are zero.

    BLAS would start threads for it, which wait for more to do and keep the cores from
    those that share a batch.

    Parameters
    ----------
    factors : ndarray, shape (M, K)
    rows : ndarray, shape (K, N)

    Returns
    -------
    ndarray, shape (M, N)
    """
    sums = np.zeros((len(factors), rows.shape[1]), rows.dtype)
    for i in range(len(factors)):
        for k in range(len(rows)):
            if factors[i, k] != 0:
                for j in range(rows.shape[1]):
                    sums[i, j] += factors[i, k] * rows[k, j]
    return sums
