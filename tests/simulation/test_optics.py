import math

import astropy.units as u
import numpy as np
import pytest

from ctapipe_gphysnet.simulation.atmosphere import Atmosphere
from ctapipe_gphysnet.simulation.optics import MirrorOptics, reflect
from ctapipe_gphysnet.simulation.random_numbers import random_state

ALTITUDE = math.radians(70)


def directed(**options):
    return MirrorOptics(**options).telescopes(Atmosphere(), ALTITUDE, math.pi)


def light(telescopes, off_axis, n=4000, distance=None):
    """Camera coordinates [m] and paths of light at an angle [rad] along altitude.

    From a point at a distance [m], or parallel light.
    """
    axis, along = np.array(telescopes.axis), np.array(telescopes.along_altitude)
    source = math.cos(off_axis) * axis + math.sin(off_axis) * along
    sideways = np.array(telescopes.along_azimuth)
    across = np.cross(source, sideways)
    rng = np.random.default_rng(1)
    state = random_state(1)
    images = []
    for _ in range(n):
        radius, azimuth = 12 * math.sqrt(rng.random()), 2 * math.pi * rng.random()
        aside = radius * (math.cos(azimuth) * sideways + math.sin(azimuth) * across)
        if distance is None:
            origin, direction = 100 * source + aside, -source
        else:
            origin = distance * source
            direction = (aside - origin) / np.linalg.norm(aside - origin)
        arrives, x, y, path = reflect(telescopes, tuple(origin), tuple(direction), state)
        if arrives:
            images.append([x, y, path])
    return np.array(images)


def test_effective_focal_length():
    # sim_telarray gives 29.3 m for the LST: coma moves light outwards
    image = light(directed(), math.radians(1))
    focal_length = image[:, 0].mean() / math.tan(math.radians(1))
    assert focal_length == pytest.approx(29.3, abs=0.15)
    assert image[:, 1].mean() == pytest.approx(0, abs=0.003)


@pytest.mark.parametrize(("off_axis", "r80"), [(0, 0.024), (1, 0.049), (2, 0.089)])
def test_point_spread_function(off_axis, r80):
    # radius with 80 % of a star's light in sim_telarray's LST, in degrees
    image = light(directed(camera_offset=0 * u.m), math.radians(off_axis))[:, :2]
    radius = np.hypot(*(image - image.mean(axis=0)).T) / 28
    assert math.degrees(np.quantile(radius, 0.8)) == pytest.approx(r80, rel=0.25)


def test_showers_are_in_focus_at_ten_kilometers():
    def spread(distance):
        return light(directed(), 0.0, distance=distance)[:, :2].std()

    assert spread(12e3) < min(spread(4e3), spread(1e7))


def test_share_of_light_that_hits_the_mirror():
    image = light(directed(core_scatter=0 * u.deg, tail_fraction=0.0), 0.0)
    assert len(image) / 4000 == pytest.approx((11.5**2 - 1) / 12**2, abs=0.02)


def test_path_to_the_focus_is_equal_for_all_rays():
    telescopes = directed(
        camera_offset=0 * u.m, core_scatter=0 * u.deg, tail_fraction=0.0
    )
    path = light(telescopes, 0.0)[:, 2]
    # a plane wave: from the plane at the origin to the focus of a paraboloid
    assert path.max() - path.min() < 1e-3
    assert path.mean() == pytest.approx(100 + 28, abs=1e-3)


def test_light_from_behind_does_not_arrive():
    telescopes = directed()
    up = tuple(np.array(telescopes.axis))
    below = tuple(-5 * np.array(telescopes.axis))
    assert not reflect(telescopes, below, up, random_state(1))[0]


def test_light_yield():
    height = np.array([5e3, 10e3])
    atmosphere = Atmosphere()
    detected = MirrorOptics(efficiency=1.0).light_yield(atmosphere, height, 0.0)
    assert detected[1] < detected[0]
    # All photons between 300 and 600 nm: 2 pi alpha (1 / 300 nm - 1 / 600 nm). A
    # photomultiplier detects 10 to 25 % of them.
    photons = 2 * math.pi / 137.036 * (1 / 300e-9 - 1 / 600e-9)
    assert 0.10 < detected[0] / photons < 0.25
    half = MirrorOptics(efficiency=0.5).light_yield(atmosphere, height, 0.0)
    np.testing.assert_allclose(half, 0.5 * detected)
