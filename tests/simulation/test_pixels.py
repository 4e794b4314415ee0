import warnings

import astropy.units as u
import numpy as np
import pytest
from ctapipe.instrument import CameraGeometry, PixelShape
from scipy.spatial import cKDTree

from ctapipe_gphysnet.lattice import LatticeError
from ctapipe_gphysnet.simulation.pixels import (
    PixelGrid,
    pixel_at,
    trigger_modules,
    trigger_patches,
)
from ctapipe_gphysnet.simulation.telescope import lst_description


@pytest.fixture(scope="module")
def geometry():
    return lst_description().camera.geometry


def camera_of(positions, shape=PixelShape.HEXAGON):
    return CameraGeometry(
        name="TestCam",
        pix_id=np.arange(len(positions)),
        pix_x=positions[:, 0] * u.m,
        pix_y=positions[:, 1] * u.m,
        pix_area=np.full(len(positions), 0.002) * u.m**2,
        pix_type=shape,
    )


def positions_of(geometry):
    return np.column_stack([geometry.pix_x.to_value(u.m), geometry.pix_y.to_value(u.m)])


def test_every_point_belongs_to_the_nearest_pixel(geometry):
    grid = PixelGrid.from_geometry(geometry)
    points = np.random.default_rng(0).uniform(-1.3, 1.3, (20_000, 2))
    found = np.array([pixel_at(grid, x, y) for x, y in points])
    distance, nearest = cKDTree(positions_of(geometry)).query(points)
    inside = found >= 0
    np.testing.assert_array_equal(found[inside], nearest[inside])
    # a hexagon of 5 cm between opposite sides
    assert distance[inside].max() < 0.05 / np.sqrt(3) + 1e-5
    assert distance[~inside].min() > 0.05 / 2 - 1e-5


@pytest.mark.parametrize(
    "point", [(5, 0), (0, -1e20), (np.nan, 0), (0, np.inf), (-1.3, -1.3)]
)
def test_points_outside_have_no_pixel(geometry, point):
    assert pixel_at(PixelGrid.from_geometry(geometry), *map(float, point)) == -1


def test_modules_are_those_of_the_simtel_file(geometry, shared_path):
    eventio = pytest.importorskip("eventio", reason="the extra simtel is not installed")
    path = shared_path("simtel/history_meta_75.simtel.zst")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with eventio.SimTelFile(path) as file:
            camera = file.telescope_descriptions[1]["camera_organization"]
    modules = trigger_modules(geometry)
    drawer = np.asarray(camera["drawer"])[modules]
    assert (drawer == drawer[:, :1]).all()

    patches = {
        frozenset(modules[patch].ravel()) for patch in trigger_patches(geometry, modules)
    }
    sectors = {}
    for pixel, numbers in enumerate(camera["sectors"]):
        for number in numbers:
            sectors.setdefault(number, set()).add(pixel)
    assert patches == set(map(frozenset, sectors.values()))


def test_modules_cover_a_camera_in_any_order(geometry):
    order = np.random.default_rng(1).permutation(geometry.n_pixels)
    modules = trigger_modules(camera_of(positions_of(geometry)[order]))
    np.testing.assert_array_equal(np.sort(modules.ravel()), np.arange(1855))
    same = {frozenset(order[module]) for module in modules}
    assert same == set(map(frozenset, trigger_modules(geometry)))


def test_modules_of_the_mirrored_camera(geometry):
    modules = trigger_modules(camera_of(positions_of(geometry) * [1, -1]))
    same = set(map(frozenset, trigger_modules(geometry)))
    assert set(map(frozenset, modules)) == same


def test_modules_of_a_patch_touch_each_other(geometry):
    modules = trigger_modules(geometry)
    patches = trigger_patches(geometry, modules)
    centers = positions_of(geometry)[modules].mean(axis=1)[patches]
    sides = np.linalg.norm(centers - np.roll(centers, 1, axis=1), axis=-1)
    np.testing.assert_allclose(sides, 0.05 * np.sqrt(7), rtol=1e-3)
    assert set(patches.ravel()) == set(range(265))


def test_no_modules_without_whole_flowers(geometry):
    with pytest.raises(LatticeError, match="1854 pixels of camera TestCam do not fall"):
        trigger_modules(camera_of(positions_of(geometry)[1:]))


def test_square_pixels_are_refused(square_positions):
    geometry = camera_of(square_positions, PixelShape.SQUARE)
    for function in (trigger_modules, PixelGrid.from_geometry):
        with pytest.raises(LatticeError, match="TestCam are no hexagons"):
            function(geometry)
