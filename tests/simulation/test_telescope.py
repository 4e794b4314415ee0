import warnings

import astropy.units as u
import numpy as np
import pytest
from ctapipe.coordinates import CameraFrame, TelescopeFrame
from ctapipe.io import EventSource

from ctapipe_gphysnet.simulation.telescope import lst_description


@pytest.fixture(scope="module")
def telescope():
    return lst_description()


def test_camera_is_whole(telescope):
    camera = telescope.camera
    assert camera.geometry.n_pixels == camera.readout.n_pixels == 1855
    assert camera.readout.reference_pulse_shape.shape[0] == camera.readout.n_channels
    assert camera.readout.n_samples == 40


def test_frame_knows_the_effective_focal_length(telescope):
    geometry = telescope.camera.geometry
    assert isinstance(geometry.frame, CameraFrame)
    assert geometry.frame.focal_length == telescope.optics.effective_focal_length
    # 5 cm between pixels is a tenth of a degree
    angles = geometry.transform_to(TelescopeFrame())
    pitch = np.sqrt(angles.pix_area[0] * 2 / np.sqrt(3))
    assert pitch.to_value(u.deg) == pytest.approx(0.0958, abs=5e-4)


def test_same_as_in_the_simtel_file(telescope, shared_path):
    path = shared_path("simtel/history_meta_75.simtel.zst")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with EventSource(path) as source:
            reference = source.subarray.tel[1]
    assert telescope == reference
    # what ctapipe's comparison leaves out
    assert telescope.name == reference.name
    assert telescope.optics == reference.optics
    assert telescope.camera.readout == reference.camera.readout
    ours, theirs = telescope.camera.geometry, reference.camera.geometry
    np.testing.assert_array_equal(ours.pix_id, theirs.pix_id)
    assert u.allclose(ours.pix_area, theirs.pix_area)
    assert u.isclose(ours.cam_rotation, theirs.cam_rotation)
    assert u.isclose(ours.frame.focal_length, theirs.frame.focal_length)
    assert u.isclose(ours.frame.rotation, theirs.frame.rotation)
