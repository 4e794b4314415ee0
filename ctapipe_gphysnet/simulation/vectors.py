"""Vectors of three components as tuples, for compiled code."""

import math

from .compiling import compiled

__all__ = [
    "along",
    "cross",
    "dot",
    "norm",
    "rotated",
    "sideways",
    "tilted",
    "transverse_basis",
    "unit",
]


@compiled
def dot(a, b):
    """Scalar product."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@compiled
def norm(a):
    """Length."""
    return math.sqrt(dot(a, a))


@compiled
def cross(a, b):
    """Vector product."""
    return (
        a[1] * b[2] - a[2] * b[1],
        a[2] * b[0] - a[0] * b[2],
        a[0] * b[1] - a[1] * b[0],
    )


@compiled
def along(a, length, b):
    """``a + length * b``."""
    return a[0] + length * b[0], a[1] + length * b[1], a[2] + length * b[2]


@compiled
def transverse_basis(direction):
    """Two unit vectors at right angles to a unit vector and to each other.

    Duff et al., Journal of Computer Graphics Techniques 6 (2017) 1.
    """
    x, y, z = direction
    sign = math.copysign(1.0, z)
    a = -1.0 / (sign + z)
    b = x * y * a
    first = (1.0 + sign * x * x * a, sign * b, -sign * x)
    second = (b, sign + y * y * a, -y)
    return first, second


@compiled
def unit(a):
    """Vector of length one in the same direction."""
    scale = 1.0 / norm(a)
    return a[0] * scale, a[1] * scale, a[2] * scale


@compiled
def sideways(direction, x, y):
    """Vector at right angles to a unit vector, by its `transverse_basis` components."""
    first, second = transverse_basis(direction)
    return (
        x * first[0] + y * second[0],
        x * first[1] + y * second[1],
        x * first[2] + y * second[2],
    )


@compiled
def tilted(direction, x, y):
    """Unit vector turned by a small angle, given by its two tangents."""
    return unit(along(direction, 1.0, sideways(direction, x, y)))


@compiled
def rotated(direction, cosine, sine, azimuth):
    """Unit vector turned by any polar angle."""
    aside = sideways(direction, sine * math.cos(azimuth), sine * math.sin(azimuth))
    return (
        cosine * direction[0] + aside[0],
        cosine * direction[1] + aside[1],
        cosine * direction[2] + aside[2],
    )
