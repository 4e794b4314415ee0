"""The camera as a lattice: integer cells, neighbours, strides and symmetries.

Every pixel of a regular camera sits on a node of a hexagonal or square
lattice. `CameraLattice` finds that node from the pixel positions alone, so
that nothing here depends on the order in which a file lists the pixels.

Hexagonal lattices use axial coordinates: cells are (row, column) and the six
neighbours of a cell are at offsets (-1, -1), (-1, 0), (0, -1), (0, 1), (1, 0)
and (1, 1). That is the kernel of the IndexedConv package
(Jacquemont et al. 2019, https://doi.org/10.5220/0007364303620371).
"""

from collections import deque
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.spatial import cKDTree

__all__ = ["CameraLattice", "LatticeError", "LatticeSymmetry"]

KERNELS = {
    "hexagonal": np.array([[1, 1, 0], [1, 1, 1], [0, 1, 1]], dtype=bool),
    "square": np.ones((3, 3), dtype=bool),
}
# Cells that share an edge: all taps but the centre and, on the square
# lattice, the diagonals.
EDGE_OFFSETS = {
    "hexagonal": [(0, 1), (1, 0), (1, 1)],
    "square": [(0, 1), (1, 0)],
}
# A step between touching pixels may be off the mean lattice vector by this
# fraction of the pitch: curved focal planes and gaps between modules stay
# below it, the next lattice direction is beyond it.
STEP_TOLERANCE = 0.45


class LatticeError(ValueError):
    """The pixel positions do not form a regular lattice."""


@dataclass(frozen=True)
class LatticeSymmetry:
    """A rotation or reflection that maps the camera onto itself.

    Attributes
    ----------
    matrix : ndarray, shape (2, 2)
        Orthogonal matrix acting on (x, y) in the camera plane.
    permutation : ndarray of int, shape (P,)
        ``image[permutation]`` is the image turned by ``matrix``: pixel ``i``
        of the result shows what pixel ``permutation[i]`` showed.
    """

    matrix: np.ndarray
    permutation: np.ndarray


@dataclass(frozen=True, eq=False)
class CameraLattice:
    """Pixels of one camera as cells of a regular lattice.

    Attributes
    ----------
    kind : {"hexagonal", "square"}
        The type of lattice.
    cells : ndarray of int, shape (P, 2)
        Row and column of every pixel, in pixel order, smallest 0.
    basis : ndarray of float, shape (2, 2)
        Displacement (x, y) of one step in row (first line) and in column
        (second line), in the unit of the pixel positions.
    """

    kind: str
    cells: np.ndarray
    basis: np.ndarray

    @classmethod
    def from_geometry(cls, geometry):
        """Build the lattice of a ctapipe camera.

        Parameters
        ----------
        geometry : ctapipe.instrument.CameraGeometry
            Any camera on a regular hexagonal or square grid.

        Returns
        -------
        CameraLattice

        Raises
        ------
        LatticeError
            If the grid is not regular; names the first pixel off the lattice.
        """
        kind = _lattice_kind(geometry)
        unit = geometry.pix_x.unit
        positions = np.column_stack(
            [geometry.pix_x.to_value(unit), geometry.pix_y.to_value(unit)]
        )
        try:
            return cls.from_positions(positions, kind)
        except LatticeError as error:
            raise LatticeError(f"{geometry.name}: {error}") from None

    @classmethod
    def from_positions(cls, positions, kind="hexagonal"):
        """Build the lattice from pixel positions.

        Parameters
        ----------
        positions : ndarray, shape (P, 2)
            Pixel centres (x, y) in any unit of length or angle.
        kind : {"hexagonal", "square"}
            The type of lattice.

        Returns
        -------
        CameraLattice

        Raises
        ------
        LatticeError
            If a pixel does not sit on the lattice of its neighbours.
        """
        positions = np.asarray(positions, dtype=np.float64)
        if kind not in KERNELS:
            raise ValueError(f"kind must be one of {sorted(KERNELS)}, got {kind!r}")
        bad = np.flatnonzero(~np.isfinite(positions).all(axis=1))
        if len(bad):
            raise LatticeError(f"pixel {bad[0]} has no finite position")
        basis = _basis_vectors(positions, kind)
        cells = _walk(positions, basis, kind)
        cells -= cells.min(axis=0)
        return cls(kind=kind, cells=cells, basis=basis)

    @property
    def n_pixels(self):
        """Number of pixels."""
        return len(self.cells)

    @property
    def kernel(self):
        """Taps of the smallest convolution kernel, bool of shape (3, 3)."""
        return KERNELS[self.kind]

    @cached_property
    def shape(self):
        """Rows and columns of the dense grid that holds all cells."""
        return tuple(int(n) for n in self.cells.max(axis=0) + 1)

    @cached_property
    def index_matrix(self):
        """Pixel index of every cell of the dense grid, -1 where there is none."""
        matrix = np.full(self.shape, -1, dtype=np.int64)
        matrix[self.cells[:, 0], self.cells[:, 1]] = np.arange(self.n_pixels)
        return matrix

    @property
    def mask(self):
        """Cells of the dense grid that hold a pixel."""
        return self.index_matrix >= 0

    @cached_property
    def grid_index(self):
        """Position of every pixel in the flattened dense grid, shape (P,)."""
        return np.ravel_multi_index(tuple(self.cells.T), self.shape)

    @property
    def neighbors(self):
        """Neighbour indices in IndexedConv's layout.

        Array of int of shape (K, P), K = 7 (hexagonal) or 9 (square):
        column ``i`` lists pixel ``i`` and its neighbours in row-major order
        of the kernel, -1 where there is no pixel.
        """
        return self._neighbors_of(self.cells)

    def _neighbors_of(self, cells):
        padded = np.pad(self.index_matrix, 1, constant_values=-1)
        taps = np.argwhere(self.kernel)
        rows, columns = (cells[None, :, :] + taps[:, None, :]).transpose(2, 0, 1)
        return padded[rows, columns]

    def subsample(self):
        """Keep every second row and column.

        Returns
        -------
        coarse : CameraLattice
            The lattice of stride 2, its pixels in row-major order of cells.
        neighbors : ndarray of int, shape (K, P_coarse)
            For every coarse pixel the indices of the fine pixels under its
            kernel, as `neighbors` lists them.
        """
        kept = np.flatnonzero((self.cells % 2 == 0).all(axis=1))
        kept = kept[np.argsort(self.grid_index[kept])]
        coarse = CameraLattice(self.kind, self.cells[kept] // 2, 2 * self.basis)
        return coarse, self._neighbors_of(self.cells[kept])

    def edges(self):
        """Pairs of touching pixels, each once, sorted; int of shape (E, 2)."""
        padded = np.pad(self.index_matrix, ((0, 1), (0, 1)), constant_values=-1)
        pairs = []
        for row, column in EDGE_OFFSETS[self.kind]:
            other = padded[self.cells[:, 0] + row, self.cells[:, 1] + column]
            here = np.flatnonzero(other >= 0)
            pairs.append(np.sort(np.column_stack([here, other[here]]), axis=1))
        return np.unique(np.concatenate(pairs), axis=0)

    def symmetries(self):
        """Rotations and reflections that map the camera exactly onto itself.

        Returns
        -------
        list of LatticeSymmetry
            The identity first. A camera of full hexagonal symmetry has
            twelve, one on a square lattice eight, a camera with a ragged
            edge fewer.
        """
        found = []
        # P times the offset from the centroid, which every symmetry keeps:
        # integers, so that the comparison is exact
        offset = self.n_pixels * self.cells - self.cells.sum(axis=0)
        lookup = {tuple(cell): i for i, cell in enumerate(offset)}
        for step in _lattice_maps(self.kind):
            source = [lookup.get(tuple(cell), -1) for cell in offset @ step]
            if -1 not in source:
                # cell = source @ inverse(step); the same map on positions
                inverse = np.linalg.inv(step)
                matrix = (np.linalg.inv(self.basis) @ inverse @ self.basis).T
                left, _, right = np.linalg.svd(matrix)
                found.append(LatticeSymmetry(left @ right, np.array(source)))
        return found


def _lattice_kind(geometry):
    """Type of lattice, from the grid (ctapipe >= 0.29) or the pixels' shape."""
    grid = getattr(geometry, "grid_type", geometry.pix_type).value
    kinds = {"hex": "hexagonal", "hexagon": "hexagonal", "circle": "hexagonal"}
    kinds["square"] = "square"
    if grid not in kinds:
        raise LatticeError(
            f"{geometry.name}: a grid of type {grid!r} is neither a regular hexagonal"
            " nor a regular square one"
        )
    return kinds[grid]


def _lattice_maps(kind):
    """Integer matrices of the lattice's point group, the identity first."""
    if kind == "hexagonal":
        turn = np.array([[1, 1], [-1, 0]])
        n_turns = 6
    else:
        turn = np.array([[0, 1], [-1, 0]])
        n_turns = 4
    mirror = np.array([[0, 1], [1, 0]])
    turns = [np.linalg.matrix_power(turn, n) for n in range(n_turns)]
    return turns + [mirror @ turn for turn in turns]


def _basis_vectors(positions, kind):
    """Mean steps in row and in column, the column step nearest to the x axis."""
    n_closest = 6 if kind == "hexagonal" else 4
    if len(positions) <= n_closest:
        raise LatticeError(f"{len(positions)} pixels are too few to find a lattice")
    distance, neighbor = cKDTree(positions).query(positions, k=n_closest + 1)
    pitch = np.median(distance[:, 1])
    if not pitch > 0:
        pixel = int(np.argmin(distance[:, 1]))
        raise LatticeError(f"pixel {pixel} has the same position as another")
    steps = (positions[neighbor[:, 1:]] - positions[:, None, :])[
        np.abs(distance[:, 1:] - pitch) < 0.2 * pitch
    ]
    # directions modulo the lattice's own rotation, averaged on the circle
    fold = 6 if kind == "hexagonal" else 4
    angle = np.arctan2(steps[:, 1], steps[:, 0])
    # The cut of the angle lies 5 degrees off the diagonals: cameras have their
    # rows along these, and rounding must not choose between the two ends.
    cut = np.radians(5)
    first = cut + np.angle(np.mean(np.exp(1j * fold * (angle - cut)))) / fold
    turn = 2 * np.pi / 3 if kind == "hexagonal" else np.pi / 2
    basis = []
    for guess in (first + turn, first):
        direction = pitch * np.array([np.cos(guess), np.sin(guess)])
        close = np.linalg.norm(steps - direction, axis=1) < 0.25 * pitch
        if not close.any():
            raise LatticeError("no two pixels are one lattice step apart")
        basis.append(steps[close].mean(axis=0))
    return np.array(basis)


def _steps(positions, basis, kind):
    """For every pixel the touching pixels, each with its offset in row and column."""
    pitch = np.linalg.norm(basis, axis=1).mean()
    offsets = EDGE_OFFSETS[kind]
    offsets = np.array(offsets + [(-row, -column) for row, column in offsets])
    pairs = cKDTree(positions).query_pairs(
        (1 + STEP_TOLERANCE) * pitch, output_type="ndarray"
    )
    here, there = np.concatenate([pairs, pairs[:, ::-1]]).T
    miss = (positions[there] - positions[here])[:, None] - offsets @ basis
    miss = np.linalg.norm(miss, axis=2)
    nearest = miss.argmin(axis=1)
    steps = [[] for _ in positions]
    for pair in np.flatnonzero(miss.min(axis=1) <= STEP_TOLERANCE * pitch):
        steps[here[pair]].append((there[pair], offsets[nearest[pair]]))
    return steps


def _walk(positions, basis, kind):
    """Number the cells by walking from pixel to touching pixel."""
    n_pixels = len(positions)
    steps = _steps(positions, basis, kind)
    cells = np.zeros((n_pixels, 2), dtype=np.int64)
    seen = np.zeros(n_pixels, dtype=bool)
    owner = {(0, 0): 0}
    queue = deque([0])
    seen[0] = True
    while queue:
        here = queue.popleft()
        for there, offset in steps[here]:
            cell = cells[here] + offset
            if seen[there]:
                if (cells[there] != cell).any():
                    raise LatticeError(
                        f"pixel {there} would be in two cells, {cells[there].tolist()}"
                        f" and {cell.tolist()}: it is off the lattice"
                    )
                continue
            if tuple(cell) in owner:
                raise LatticeError(
                    f"pixel {there} falls on the cell of pixel {owner[tuple(cell)]}"
                )
            cells[there], seen[there], owner[tuple(cell)] = cell, True, there
            queue.append(there)
    if not seen.all():
        # pixel 0, where the walk starts, may itself be the detached one
        lost = int(np.flatnonzero(seen == (2 * seen.sum() < n_pixels))[0])
        raise LatticeError(
            f"pixel {lost} at {tuple(positions[lost].tolist())} is not one lattice step"
            " away from the rest of the camera"
        )
    return cells
