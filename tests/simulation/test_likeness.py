"""Images of CORSIKA and sim_telarray against simulated ones."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "simulation"))

import likeness  # noqa: E402
import reference_images  # noqa: E402

SIMTEL = "simtel/gamma_diffuse_run000010_za20deg_azm000deg_North_alpha_6.0.0_test_file"


@pytest.fixture(scope="module")
def gammas():
    return likeness.read_reference("gamma")


def medians(reference, images):
    table = likeness.likeness(reference, images)
    return dict(zip(table["parameter"], table["median"]))


def assert_alike(found):
    """Within 20 % in the images' parameters, 10 % in the noise."""
    for name in likeness.PARAMETERS:
        assert found[name] == pytest.approx(1, abs=0.2), name
    for name in likeness.NOISE:
        assert found[name] == pytest.approx(1, abs=0.1), name


def test_reference_is_of_lsts_and_both_particles():
    reference = likeness.read_reference()
    assert len(likeness.read_reference("gamma")) == 6
    assert len(likeness.read_reference("proton")) == 6
    np.testing.assert_array_equal(np.isfinite(reference["size"]), True)


def test_place_of_telescope_is_consistent_with_impact_distance():
    """ctapipe computes the distance to the axis, here it follows from the position."""
    for row in likeness.read_reference():
        altitude = row["altitude"].to_value("rad")
        azimuth = row["azimuth"].to_value("rad")
        axis = [
            np.cos(altitude) * np.cos(azimuth),
            -np.cos(altitude) * np.sin(azimuth),
            np.sin(altitude),
        ]
        distance = np.linalg.norm(np.cross(row["telescope_position"].to_value("m"), axis))
        assert distance == pytest.approx(row["impact_distance"].to_value("m"), abs=0.1)


def test_reference_comes_of_simtel_file(shared_path):
    pytest.importorskip("eventio", reason="the extra simtel is not installed")
    path = shared_path(f"{SIMTEL}.simtel.zst")
    rows = reference_images.reference_rows(path)
    reference = likeness.read_reference("gamma")
    reference = reference[reference["event_id"] == rows[0]["event_id"]]
    assert [row["tel_id"] for row in rows] == list(reference["tel_id"])
    for row, expected in zip(rows, reference):
        for name in likeness.PARAMETERS + likeness.NOISE:
            np.testing.assert_allclose(row[name], expected[name], rtol=1e-3, atol=1e-4)


def test_quickly_gamma_images_are_like_those_of_sim_telarray(gammas):
    """Only those of the bright shower, with few repeats."""
    bright = gammas[gammas["size"] >= likeness.BRIGHT]
    images = likeness.simulate_images(bright, repeats=10)
    assert_alike(medians(bright, images))


@pytest.mark.slow
def test_gamma_images_are_like_those_of_sim_telarray(gammas):
    images = likeness.simulate_images(gammas, repeats=60)
    assert_alike(medians(gammas, images))


@pytest.mark.slow
def test_proton_images_of_sim_telarray_could_be_simulated_ones():
    """Three quarters of the values at least are not in the outermost 5 %."""
    protons = likeness.read_reference("proton")
    images = likeness.simulate_images(protons, repeats=400)
    found = np.array(list(likeness.percentiles(protons, images).values()))
    found = found[np.isfinite(found)]
    assert len(found) >= 24
    assert np.mean((found > 2.5) & (found < 97.5)) > 0.75
