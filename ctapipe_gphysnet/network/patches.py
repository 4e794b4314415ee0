"""Patches of a lattice for Winograd's convolution."""

from dataclasses import dataclass

import numpy as np

from .kernels import PATCH, POINTS, TILE

__all__ = ["Patches", "cover"]

# The kernel at the points of Winograd's convolutions F(2, 3) and F(4, 3), Lavin and
# Gray 2016, https://arxiv.org/abs/1509.09308; `kernels` has the other parts.
KERNEL_OF_TWO = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
KERNEL_OF_FOUR = np.array(
    [[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]
) / np.array(24)


@dataclass(frozen=True)
class Patches:
    """Patches that cover a lattice.

    Attributes
    ----------
    inputs, outputs : ndarray of int, shape (n, N_POINTS) and (n, N_PATCH)
        Pixels that a patch reads and those it computes, -1 off the camera.
    kernel : ndarray, shape (K, N_POINTS)
        The points of the products that belong to each tap of the lattice's kernel.
    """

    inputs: np.ndarray
    outputs: np.ndarray
    kernel: np.ndarray

    def __len__(self):
        """Number of patches, filled up to whole tiles."""
        return -(-len(self.inputs) // TILE) * TILE

    def table(self, off_camera):
        """Inputs, then outputs, as the kernels read them.

        Parameters
        ----------
        off_camera : int
            What stands for an output off the camera.

        Returns
        -------
        ndarray of int, shape (len(self) * (N_POINTS + N_PATCH),)
        """
        missing = ((0, len(self) - len(self.inputs)), (0, 0))
        outputs = np.where(self.outputs < 0, off_camera, self.outputs)
        inputs = np.pad(self.inputs, missing, constant_values=-1)
        outputs = np.pad(outputs, missing, constant_values=off_camera)
        return np.concatenate([inputs.ravel(), outputs.ravel()])


def cover(lattice):
    """The fewest patches found that cover a lattice.

    Parameters
    ----------
    lattice : CameraLattice

    Returns
    -------
    Patches
    """
    found = (_cover(lattice, turned, start) for turned in (0, 1) for start in (0, 1))
    return min(found, key=len)


def _cover(lattice, turned, start):
    """Patches, if turned with their four pixels along the rows of the lattice's grid.

    The first row of the grid is the first one (``start`` 0) or the second one of a patch.
    """
    height, length = PATCH
    margin = 1 + max(PATCH)  # so that every patch and its surroundings are in the grid
    grid = np.pad(lattice.index_matrix, margin, constant_values=-1)
    if turned:
        grid = grid.T
    inputs, outputs = [], []
    for row in range(margin - start, len(grid) - margin, height):
        filled = np.flatnonzero((grid[row : row + height] >= 0).any(axis=0))
        while len(filled):
            column = filled[0]
            filled = filled[filled >= column + length]
            near = grid[row - 1 :, column - 1 :][: POINTS[0], : POINTS[1]]
            inputs.append(near.ravel())
            outputs.append(near[1:-1, 1:-1].ravel())
    return Patches(np.array(inputs), np.array(outputs), _kernel(lattice, turned))


def _kernel(lattice, turned):
    taps = np.argwhere(lattice.kernel)
    points = []
    for row, column in taps:
        if turned:
            row, column = column, row
        points.append(np.outer(KERNEL_OF_TWO[:, row], KERNEL_OF_FOUR[:, column]).ravel())
    return np.array(points)
