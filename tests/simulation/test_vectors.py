import numpy as np
import pytest
from astropy.coordinates.matrix_utilities import rotation_matrix

from ctapipe_gphysnet.simulation.vectors import cross, rotated, tilted, transverse_basis

DIRECTIONS = [(0.0, 0.0, -1.0), (0.0, 0.0, 1.0), (0.6, 0.0, -0.8), (0.48, -0.6, -0.64)]


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_basis_is_orthonormal(direction):
    matrix = np.array([*transverse_basis(direction), direction])
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-14)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_rotated(direction):
    angle, azimuth = 0.7, 2.0
    turned = np.array(rotated(direction, np.cos(angle), np.sin(angle), azimuth))
    assert turned @ direction == pytest.approx(np.cos(angle))
    first, second = transverse_basis(direction)
    assert turned @ first == pytest.approx(np.sin(angle) * np.cos(azimuth))
    assert turned @ second == pytest.approx(np.sin(angle) * np.sin(azimuth))


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_tilted_is_a_rotation_by_a_small_angle(direction):
    angle = 0.01
    first, second = transverse_basis(direction)
    turned = tilted(direction, angle, 0.0)
    # astropy's matrices turn the axes, not the vector
    expected = rotation_matrix(-angle, np.array(second), unit="rad") @ direction
    np.testing.assert_allclose(turned, expected, atol=angle**3)
    assert np.linalg.norm(turned) == pytest.approx(1, abs=1e-14)


def test_cross():
    a, b = (1.0, 2.0, 3.0), (-2.0, 0.5, 4.0)
    np.testing.assert_allclose(cross(a, b), np.cross(a, b))
