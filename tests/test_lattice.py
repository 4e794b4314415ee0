import astropy.units as u
import numpy as np
import pytest
import torch
from ctapipe.instrument import CameraGeometry
from ctapipe.io import EventSource
from indexedconv.utils import neighbours_extraction, pool_index_matrix

from ctapipe_gphysnet.lattice import CameraLattice, LatticeError

SHORT = {"hexagonal": "hex", "square": "square"}
CAMERAS = [
    "ASTRICam",
    "CHEC",
    "DigiCam",
    "FACT",
    "FlashCam",
    "HESS-I",
    "HESS-II",
    "NectarCam-003",
    "SCTCam",
]
SIMTEL = [
    "history_meta_75",
    "gamma_diffuse_run000010_za20deg_azm000deg_North_alpha_6.0.0_test_file",
    "proton_run000001_za20deg_azm180deg_North_alpha_6.0.2_test",
]


def rotated(positions, degrees):
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return positions @ np.array([[c, s], [-s, c]])


def positions_of(geometry):
    return np.column_stack([geometry.pix_x.to_value(u.m), geometry.pix_y.to_value(u.m)])


def check_edges(geometry):
    """ctapipe's neighbours, of which every one is a step of the lattice.

    Across the gaps between the modules of ASTRICam, CHEC and SCTCam, up to a
    third of a pixel wide, pixels do not touch; ctapipe joins them too.
    """
    lattice = CameraLattice.from_geometry(geometry)
    one, other = geometry.neighbor_matrix_sparse.nonzero()
    expected = np.column_stack([one, other])[one < other]
    np.testing.assert_array_equal(lattice.edges(), np.unique(expected, axis=0))


@pytest.mark.parametrize("name", CAMERAS)
def test_edges_are_ctapipes(shared_camera, name):
    check_edges(shared_camera(name))


@pytest.mark.parametrize("name", SIMTEL)
def test_edges_are_ctapipes_in_simtel_files(shared_path, name):
    pytest.importorskip("eventio", reason="the extra simtel is not installed")
    with EventSource(shared_path(f"simtel/{name}.simtel.zst")) as source:
        cameras = source.subarray.camera_types
    assert {camera.geometry.n_pixels for camera in cameras} == {1855}
    for camera in cameras:
        check_edges(camera.geometry)


def test_edges_of_lstcam_are_ctapipes(lst_geometry):
    check_edges(lst_geometry)


def test_rectangular_camera():
    geometry = CameraGeometry.make_rectangular(7, 5, (-0.6, 0.6), (-0.4, 0.4))
    lattice = CameraLattice.from_geometry(geometry)
    assert lattice.kind == "square"
    assert sorted(lattice.shape) == [5, 7]
    check_edges(geometry)


def test_square_camera_with_gaps(square_positions):
    lattice = CameraLattice.from_positions(square_positions, "square")
    np.testing.assert_array_equal(lattice.index_matrix, np.arange(54).reshape(6, 9))


@pytest.mark.parametrize("angle", [0, 17, 30, 45, 60, 90, 200])
@pytest.mark.parametrize("kind", ["hexagonal", "square"])
def test_pixel_order_and_rotation_do_not_matter(request, kind, angle):
    positions = request.getfixturevalue(f"{SHORT[kind]}_positions")
    lattice = CameraLattice.from_positions(positions, kind)
    turned = CameraLattice.from_positions(rotated(positions, angle), kind)
    np.testing.assert_array_equal(turned.edges(), lattice.edges())
    order = np.random.default_rng(1).permutation(len(positions))
    shuffled = CameraLattice.from_positions(rotated(positions, angle)[order], kind)
    np.testing.assert_array_equal(shuffled.cells, turned.cells[order])
    # noise of the size of float32 must not decide between two axes
    noisy = [
        CameraLattice.from_positions(rotated(positions, angle + noise), kind).cells
        for noise in (-1e-5, 1e-5)
    ]
    np.testing.assert_array_equal(*noisy)


# These have their rows along the diagonals of the axes
@pytest.mark.parametrize("name", ["FACT", "FlashCam"])
def test_pixel_order_of_real_cameras_does_not_matter(shared_camera, name):
    positions = positions_of(shared_camera(name))
    cells = CameraLattice.from_positions(positions).cells
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(positions))
        shuffled = CameraLattice.from_positions(positions[order])
        np.testing.assert_array_equal(shuffled.cells, cells[order])


def test_cells_times_basis_are_positions(hex_positions):
    lattice = CameraLattice.from_positions(hex_positions)
    rest = hex_positions - lattice.cells @ lattice.basis
    np.testing.assert_allclose(rest, rest[:1].repeat(61, axis=0), atol=1e-12)
    # the offset (1, 1) is a step of the kernel, so the axes are 120 degrees apart
    np.testing.assert_allclose(np.linalg.norm(lattice.basis.sum(axis=0)), 0.05)


@pytest.mark.parametrize("angle", [0, 60, 90, 180])
def test_strides_of_lstcam(lst_geometry, angle):
    lattice = CameraLattice.from_positions(rotated(positions_of(lst_geometry), angle))
    coarse, _ = lattice.subsample()
    assert (lattice.n_pixels, coarse.n_pixels) == (1855, 462)
    assert coarse.subsample()[0].n_pixels == 117
    assert lattice.shape == (55, 55)


@pytest.mark.parametrize("camera", ["lst", "ragged", "square"])
def test_neighbors_are_those_of_indexedconv(request, camera):
    lattice = request.getfixturevalue(f"{camera}_lattice")
    kernel = {"hexagonal": "Hex", "square": "Square"}[lattice.kind]
    for _ in range(2):
        matrix = torch.from_numpy(lattice.index_matrix).float()[None, None]
        expected = neighbours_extraction(matrix, kernel)
        # IndexedConv lists the pixels in row-major order of the cells
        order = np.argsort(lattice.grid_index)
        np.testing.assert_array_equal(lattice.neighbors[:, order], expected)
        coarse, neighbors = lattice.subsample()
        expected = neighbours_extraction(matrix, kernel, stride=2)
        np.testing.assert_array_equal(neighbors, expected)
        pooled = np.full([(n + 1) // 2 for n in lattice.shape], -1)
        rows, columns = coarse.shape
        pooled[:rows, :columns] = coarse.index_matrix
        np.testing.assert_array_equal(pooled, pool_index_matrix(matrix, kernel)[0, 0])
        lattice = coarse


@pytest.mark.parametrize(
    ("camera", "n_turns", "n_reflections"),
    [("lst", 6, 0), ("hex", 6, 6), ("square", 2, 2), ("ragged", 1, 0)],
)
def test_symmetries(request, camera, n_turns, n_reflections):
    """Only six turns for LSTCam: the edge of its modules winds one way."""
    if camera == "lst":
        positions = positions_of(request.getfixturevalue("lst_geometry"))
        lattice = request.getfixturevalue("lst_lattice")
    elif camera == "ragged":
        lattice = request.getfixturevalue("ragged_lattice")
        positions = lattice.cells @ lattice.basis
    else:
        positions = request.getfixturevalue(f"{camera}_positions")
        kind = "square" if camera == "square" else "hexagonal"
        lattice = CameraLattice.from_positions(positions, kind)
    symmetries = lattice.symmetries()
    determinants = [np.linalg.det(symmetry.matrix) for symmetry in symmetries]
    expected = [1] * n_turns + [-1] * n_reflections
    np.testing.assert_allclose(sorted(determinants, reverse=True), expected)
    np.testing.assert_array_equal(symmetries[0].permutation, np.arange(lattice.n_pixels))

    positions = positions - positions.mean(axis=0)
    # LSTCam's positions are float32
    tolerance = 1e-6 if camera == "lst" else 1e-12
    matrix_of = {tuple(s.permutation): s.matrix for s in symmetries}
    assert len(matrix_of) == len(symmetries)
    for one in symmetries:
        np.testing.assert_allclose(one.matrix @ one.matrix.T, np.eye(2), atol=1e-12)
        moved = positions[one.permutation] @ one.matrix.T
        np.testing.assert_allclose(moved, positions, atol=tolerance)
        for other in symmetries:
            product = matrix_of[tuple(one.permutation[other.permutation])]
            np.testing.assert_allclose(product, other.matrix @ one.matrix, atol=1e-5)


def displaced(positions):
    # the middle of three other pixels
    positions[30] = positions[[30, 31, 39]].mean(axis=0)


def duplicate(positions):
    positions[20] = positions[7]


def detached(positions):
    positions[44] += 3


def detached_first(positions):
    positions[0] += 3


def detached_module(positions):
    positions[50:] += 3


def infinite(positions):
    positions[12, 1] = np.inf


def missing(positions):
    positions[13] = np.nan


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (displaced, "pixel 30 "),
        (duplicate, "pixel 20 falls on the cell of pixel 7|pixel 7 .* pixel 20$"),
        (detached, "pixel 44 at"),
        (detached_first, "pixel 0 at"),
        (detached_module, "pixel 50 at"),
        (infinite, "pixel 12 has no finite position"),
        (missing, "pixel 13 has no finite position"),
    ],
)
def test_no_lattice_is_refused_with_the_pixel_named(hex_positions, damage, message):
    positions = hex_positions.copy()
    damage(positions)
    with pytest.raises(LatticeError, match=message):
        CameraLattice.from_positions(positions)


def test_too_few_pixels():
    with pytest.raises(LatticeError, match="3 pixels are too few"):
        CameraLattice.from_positions(np.eye(3, 2))


def test_unknown_kind(hex_positions):
    with pytest.raises(ValueError, match="'triangular'"):
        CameraLattice.from_positions(hex_positions, "triangular")


def test_errors_name_the_camera():
    geometry = CameraGeometry.make_rectangular(4, 4)
    geometry.pix_x[3] += 5 * u.m
    with pytest.raises(LatticeError, match=f"{geometry.name}: pixel 3 "):
        CameraLattice.from_geometry(geometry)


def test_irregular_grid():
    geometry = CameraGeometry.make_rectangular(4, 4)
    if not hasattr(geometry, "grid_type"):
        pytest.skip("ctapipe before 0.29 has no irregular grids that could be refused")
    geometry.grid_type = type(geometry.grid_type).IRREGULAR
    with pytest.raises(LatticeError, match="irregular"):
        CameraLattice.from_geometry(geometry)
