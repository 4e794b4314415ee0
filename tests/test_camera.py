import json
from copy import deepcopy
from dataclasses import replace

import astropy.units as u
import numpy as np
import pytest
from ctapipe.coordinates import CameraFrame, TelescopeFrame

from ctapipe_gphysnet.camera import CameraLayout, CameraMismatch


@pytest.fixture
def layout(lst_telescope):
    return CameraLayout.from_telescope(lst_telescope)


def with_geometry(telescope, geometry):
    telescope = deepcopy(telescope)
    telescope.camera.geometry = geometry
    return telescope


def test_positions_are_those_of_the_telescope_frame(lst_telescope, layout):
    geometry = lst_telescope.camera.geometry.transform_to(TelescopeFrame())
    expected = np.column_stack(
        [geometry.pix_x.to_value(u.rad), geometry.pix_y.to_value(u.rad)]
    )
    np.testing.assert_allclose(layout.positions / layout.focal_length, expected)


def test_geometry_already_in_telescope_frame(lst_telescope, layout):
    geometry = lst_telescope.camera.geometry.transform_to(TelescopeFrame())
    same = CameraLayout.from_telescope(with_geometry(lst_telescope, geometry))
    np.testing.assert_allclose(same.positions, layout.positions, atol=1e-6)


def test_pixel_order_and_camera_rotation_do_not_matter(lst_telescope, layout):
    rng = np.random.default_rng(3)
    geometry = lst_telescope.camera.geometry[rng.permutation(1855)]
    angle = np.deg2rad(100.893)
    x, y = geometry.pix_x.to_value(u.m), geometry.pix_y.to_value(u.m)
    # a camera read in its own axes, turned against the telescope's
    geometry.pix_x = (x * np.cos(angle) + y * np.sin(angle)) * u.m
    geometry.pix_y = (y * np.cos(angle) - x * np.sin(angle)) * u.m
    geometry.frame = CameraFrame(
        focal_length=lst_telescope.optics.effective_focal_length,
        rotation=angle * u.rad,
    )
    turned = CameraLayout.from_telescope(with_geometry(lst_telescope, geometry))
    match = layout.match(turned)
    np.testing.assert_allclose(
        turned.positions[match.permutation], layout.positions, atol=1e-6
    )
    assert match.angle_scale == 1


def test_effective_focal_length_may_be_unknown(lst_telescope, layout):
    telescope = deepcopy(lst_telescope)
    telescope.optics.effective_focal_length = np.nan * u.m
    match = layout.match(CameraLayout.from_telescope(telescope))
    np.testing.assert_array_equal(match.permutation, np.arange(1855))
    assert match.angle_scale == pytest.approx(29.30565 / 28, rel=1e-4)


def test_names_do_not_matter(layout):
    assert layout.match(replace(layout, name="another")).angle_scale == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"focal_length": 16.4}, "focal_length is 16.40 m"),
        ({"mirror_area": 100.0}, "mirror_area is 100.00 m2"),
        ({"mirror_area": np.nan}, "mirror_area is nan"),
    ],
)
def test_other_optics_are_refused(layout, change, message):
    with pytest.raises(CameraMismatch, match=message):
        layout.match(replace(layout, **change))


def test_other_cameras_are_refused(layout):
    with pytest.raises(CameraMismatch, match="1854 pixels, the model is for 1855"):
        layout.match(replace(layout, positions=layout.positions[1:]))
    moved = layout.positions.copy()
    moved[12] += 0.02
    with pytest.raises(CameraMismatch, match="model's pixel 12"):
        layout.match(replace(layout, positions=moved))


def test_card_round_trip(layout):
    card = json.loads(json.dumps(layout.to_dict()))
    again = CameraLayout.from_dict(card)
    assert again.digest == layout.digest
    np.testing.assert_allclose(again.positions, layout.positions, atol=1e-6)
    np.testing.assert_array_equal(again.lattice.cells, layout.lattice.cells)


def test_changed_positions_do_not_pass_the_hash(layout):
    card = layout.to_dict()
    card["pixel_positions_m"][3][0] += 1e-3
    with pytest.raises(ValueError, match="hash"):
        CameraLayout.from_dict(card)
