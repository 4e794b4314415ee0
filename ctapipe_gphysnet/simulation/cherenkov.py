"""Cherenkov light of a piece of track, as far as it can reach a telescope.

Of all the light around a track only the part in the range of azimuth is drawn that can
hit a mirror, which is the same as drawing all and looking, at a thousandth of the cost.
"""

import math

from .atmosphere import overburden
from .compiling import compiled
from .optics import reflect
from .random_numbers import poisson, uniform
from .vectors import along, cross, dot, transverse_basis

__all__ = ["LIGHT_VELOCITY", "emit"]

LIGHT_VELOCITY = 0.299792458  # m/ns

# Mirrors are taken as spheres, so much larger than their radius, when light is aimed at
# them.
SPHERE_MARGIN = 0.5  # m


@compiled
def _light_yield(telescopes, height):
    position = height / telescopes.yield_step
    last = telescopes.light_yield.shape[0] - 2
    index = min(max(int(position), 0), last)
    low, high = telescopes.light_yield[index], telescopes.light_yield[index + 1]
    return low + (high - low) * min(position - index, 1.0)


@compiled
def _out_of_view(telescopes, direction, cosine, sine):
    """Whether no light at an angle from a direction falls into the camera."""
    # cosine of the field of view's radius and the Cherenkov angle together
    limit = telescopes.view_cosine * cosine - telescopes.view_sine * sine
    return -dot(direction, telescopes.axis) < limit


@compiled
def _find_reached(telescopes, middle, direction, length, cosine, sine, reached):
    """Mark the telescopes that the ring of light can touch."""
    radius = telescopes.outer_radius + SPHERE_MARGIN
    # the ring is smeared by the length of the track
    reach = radius + 0.5 * length * sine
    ux, uy, uz = direction
    for k in range(telescopes.x.shape[0]):
        x = telescopes.x[k] - middle[0]
        y = telescopes.y[k] - middle[1]
        z = telescopes.z[k] - middle[2]
        along_track = x * ux + y * uy + z * uz
        aside_squared = max(x * x + y * y + z * z - along_track * along_track, 0.0)
        # |aside * cosine - along_track * sine| <= reach, without a square root
        aside = aside_squared * cosine * cosine
        ring = along_track * sine
        inner = max(ring - reach, 0.0)
        outer = ring + reach
        reached[k] = (
            (along_track > -0.5 * length)
            & (outer > 0.0)
            & (aside <= outer * outer)
            & (aside >= inner * inner)
        )


@compiled
def emit(
    telescopes,
    medium,
    start,
    time,
    direction,
    length,
    beta,
    height,
    refraction,
    photons,
    count,
    reached,
    tally,
    state,
):
    """Record what the telescopes see of a straight piece of track.

    Parameters
    ----------
    telescopes : Telescopes
    medium : Medium
    start : tuple of 3 float
        Where the piece begins, z above sea level [m].
    time : float
        When the particle is there [ns].
    direction : tuple of 3 float
        Unit vector of the particle.
    length : float
        m
    beta : float
        Velocity in units of that of light.
    height : float
        Of the piece's middle [m].
    refraction : float
        Refractive index less one, there.
    photons : ndarray of float32, shape (N, 4)
        Telescope, x, y [m], time [ns] of each photo-electron; what goes beyond N is
        counted only.
    count : int
        Number of photo-electrons so far.
    reached : ndarray of bool, shape (T,)
        For this function's own use.
    tally : ndarray of float, shape (1,)
        Length of track above the threshold [m], summed up.
    state : ndarray of uint64, shape (4,)

    Returns
    -------
    count : int
    """
    cosine = 1.0 / ((1.0 + refraction) * beta)
    if cosine >= 1.0:
        return count
    tally[0] += length
    sine_squared = 1.0 - cosine * cosine
    sine = math.sqrt(sine_squared)
    if _out_of_view(telescopes, direction, cosine, sine):
        return count
    everywhere = _light_yield(telescopes, height) * sine_squared * length
    middle = along(start, 0.5 * length, direction)
    _find_reached(telescopes, middle, direction, length, cosine, sine, reached)
    radius = telescopes.outer_radius + SPHERE_MARGIN
    for k in range(telescopes.x.shape[0]):
        if not reached[k]:
            continue
        to_mirror = (
            telescopes.x[k] - middle[0],
            telescopes.y[k] - middle[1],
            telescopes.z[k] - middle[2],
        )
        along_track = dot(to_mirror, direction)
        aside_squared = dot(to_mirror, to_mirror) - along_track * along_track
        aside = math.sqrt(max(aside_squared, 0.0))
        half_range = math.asin(radius / aside) if aside > radius else math.pi
        number = poisson(state, everywhere * half_range / math.pi)
        if number == 0:
            continue
        if aside > 1e-6:
            towards = along(to_mirror, -along_track, direction)
            towards = (towards[0] / aside, towards[1] / aside, towards[2] / aside)
        else:
            towards = transverse_basis(direction)[0]
        across = cross(direction, towards)
        for _ in range(number):
            distance = uniform(state) * length
            azimuth = (2.0 * uniform(state) - 1.0) * half_range
            c, s = sine * math.cos(azimuth), sine * math.sin(azimuth)
            light = (
                cosine * direction[0] + c * towards[0] + s * across[0],
                cosine * direction[1] + c * towards[1] + s * across[1],
                cosine * direction[2] + c * towards[2] + s * across[2],
            )
            origin = along(start, distance, direction)
            from_mirror = (
                origin[0] - telescopes.x[k],
                origin[1] - telescopes.y[k],
                origin[2] - telescopes.z[k],
            )
            arrives, x, y, path = reflect(telescopes, from_mirror, light, state)
            if not arrives:
                continue
            if count < photons.shape[0]:
                delay = _delay(medium, telescopes.z[k], origin[2], light[2])
                photons[count, 0] = k
                photons[count, 1] = x
                photons[count, 2] = y
                photons[count, 3] = (
                    time
                    + distance / (beta * LIGHT_VELOCITY)
                    + (path + delay) / LIGHT_VELOCITY
                )
            count += 1
    return count


@compiled
def _delay(medium, low, high, vertical):
    """What refraction adds to the optical path between two heights [m]."""
    depth = max(overburden(medium, low) - overburden(medium, high), 0.0)
    return medium.refractivity_per_density * depth / max(-vertical, 0.2)
