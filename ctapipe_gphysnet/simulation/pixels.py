"""Where the pixels of a hexagonal camera are, and which of them trigger together."""

import math
from typing import NamedTuple

import astropy.units as u
import numpy as np
from numba import njit
from scipy.spatial import cKDTree

from ..lattice import CameraLattice, LatticeError

__all__ = ["PixelGrid", "pixel_at", "trigger_modules", "trigger_patches"]

MODULE_SIZE = 7  # a pixel and its six neighbors


class PixelGrid(NamedTuple):
    """What compiled code knows of the pixels.

    Attributes
    ----------
    origin : ndarray, shape (2,)
        Center of the cell in row 0 and column 0 [m].
    inverse : ndarray, shape (2, 2)
        A displacement [m] times this is a displacement in rows and columns.
    index : ndarray of int, shape (rows, columns)
        Pixel of every cell, -1 where there is none.
    """

    origin: np.ndarray
    inverse: np.ndarray
    index: np.ndarray

    @classmethod
    def from_geometry(cls, geometry):
        """Grid of a camera.

        Parameters
        ----------
        geometry : ctapipe.instrument.CameraGeometry

        Raises
        ------
        LatticeError
            If the pixels are not hexagons on a regular lattice.
        """
        lattice = _hexagonal(geometry)
        positions = _positions(geometry)
        origin = (positions - lattice.cells @ lattice.basis).mean(axis=0)
        return cls(origin, np.linalg.inv(lattice.basis), lattice.index_matrix)


@njit(cache=True)
def pixel_at(grid, x, y):
    """Pixel whose hexagon holds a point, -1 outside the camera.

    The nearest center of a hexagonal lattice is found by rounding three coordinates that
    add up to zero, and correcting that which was rounded most (Amit Patel,
    https://www.redblobgames.com/grids/hexagons/#rounding).
    """
    dx, dy = x - grid.origin[0], y - grid.origin[1]
    row = dx * grid.inverse[0, 0] + dy * grid.inverse[1, 0]
    column = dx * grid.inverse[0, 1] + dy * grid.inverse[1, 1]
    rows, columns = grid.index.shape
    # also false for what is not a number
    if not (-1 < row < rows and -1 < column < columns):
        return -1
    nearest_row, nearest_column = math.floor(row + 0.5), math.floor(column + 0.5)
    third = column - row  # the three are row, -column, and this
    nearest_third = math.floor(third + 0.5)
    row_error = abs(nearest_row - row)
    column_error = abs(nearest_column - column)
    third_error = abs(nearest_third - third)
    if row_error > column_error and row_error > third_error:
        nearest_row = nearest_column - nearest_third
    elif column_error > third_error:
        nearest_column = nearest_row + nearest_third
    i, j = int(nearest_row), int(nearest_column)
    if i < 0 or j < 0 or i >= rows or j >= columns:
        return -1
    return grid.index[i, j]


def trigger_modules(geometry):
    """The modules of a camera that is built of pixels with their six neighbors.

    Found from the positions, for files differ in the order of the pixels. Cells of a
    hexagonal lattice fall into such modules by the remainder of row + 2 column, or its
    mirror image, row + 4 column, modulo 7; at most one of the fourteen ways has a whole
    module around every center.

    Parameters
    ----------
    geometry : ctapipe.instrument.CameraGeometry

    Returns
    -------
    modules : ndarray of int, shape (M, 7)
        Pixels of every module, that in the center fourth.

    Raises
    ------
    LatticeError
        If the pixels are no hexagons, or do not fall into such modules.
    """
    lattice = _hexagonal(geometry)
    flowers = lattice.neighbors.T
    whole = (flowers >= 0).all(axis=1)
    for step in (2, 4):
        remainder = lattice.cells @ [1, step] % MODULE_SIZE
        for center in range(MODULE_SIZE):
            chosen = whole & (remainder == center)
            if MODULE_SIZE * chosen.sum() == lattice.n_pixels:
                return flowers[chosen]
    raise LatticeError(
        f"the {lattice.n_pixels} pixels of camera {geometry.name} do not fall into"
        " modules of a pixel and its six neighbors"
    )


def trigger_patches(geometry, modules):
    """Sets of three modules that touch each other.

    Parameters
    ----------
    geometry : ctapipe.instrument.CameraGeometry
    modules : ndarray of int, shape (M, 7)

    Returns
    -------
    patches : ndarray of int, shape (T, 3)
    """
    centers = _positions(geometry)[modules].mean(axis=1)
    tree = cKDTree(centers)
    pitch = tree.query(centers, k=2)[0][:, 1].min()
    touching = [set(others) for others in tree.query_ball_point(centers, 1.2 * pitch)]
    return np.array(
        [
            (first, second, third)
            for first in range(len(centers))
            for second in sorted(touching[first])
            for third in sorted(touching[first] & touching[second])
            if first < second < third
        ]
    )


def _hexagonal(geometry):
    lattice = CameraLattice.from_geometry(geometry)
    if lattice.kind != "hexagonal":
        raise LatticeError(f"the pixels of camera {geometry.name} are no hexagons")
    return lattice


def _positions(geometry):
    return np.column_stack([geometry.pix_x.to_value(u.m), geometry.pix_y.to_value(u.m)])
