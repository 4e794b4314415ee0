"""How feature maps of a camera are laid out in memory.

A layout belongs to one lattice (one stride of one camera). All layouts hold the
same numbers:

* `IndexedLayout`: maps of shape (N, C, P), one entry a pixel;
* `DenseLayout`: maps of shape (N, C, rows, columns) on the dense axial grid.
  Cells without a pixel are zero in every map that leaves a module;
* `PixelLayout`: maps of shape (N, P, C), for the machine code of `gradients`.
"""

import torch
from torch import nn
from torch.nn import functional

from .pixels import ConvolutionPlan

__all__ = ["LAYOUTS", "DenseLayout", "IndexedLayout", "PixelLayout", "make_layout"]


class IndexedLayout(nn.Module):
    """Maps of shape (N, C, P): the layout of the IndexedConv package."""

    backend = "indexedconv"

    def __init__(self, lattice):
        super().__init__()
        self.lattice = lattice

    def from_pixels(self, images):
        """Maps from images of shape (N, C, P)."""
        return images

    def to_pixels(self, maps):
        """Images of shape (N, C, P) from maps."""
        return maps

    def mean(self, maps):
        """Mean over the pixels, shape (N, C)."""
        return maps.mean(dim=-1)

    def per_channel(self, values):
        """Reshape (..., C) so that it multiplies maps channel by channel."""
        return values[..., None]


class DenseLayout(nn.Module):
    """Maps of shape (N, C, rows, columns), zero where there is no pixel."""

    backend = "dense"

    def __init__(self, lattice):
        super().__init__()
        self.lattice = lattice
        index = torch.from_numpy(lattice.index_matrix.ravel().copy())
        # cells without a pixel read the zero appended behind the last pixel
        index[index < 0] = lattice.n_pixels
        grid_index = torch.from_numpy(lattice.grid_index.copy())
        self.register_buffer("pixel_of_cell", index, persistent=False)
        self.register_buffer("cell_of_pixel", grid_index, persistent=False)
        mask = torch.from_numpy(lattice.mask).float()
        self.register_buffer("mask", mask, persistent=False)

    def from_pixels(self, images):
        """Maps from images of shape (N, C, P)."""
        padded = functional.pad(images, (0, 1))
        maps = padded[:, :, self.pixel_of_cell].unflatten(-1, self.lattice.shape)
        return maps.contiguous(memory_format=torch.channels_last)

    def to_pixels(self, maps):
        """Images of shape (N, C, P) from maps."""
        return maps.flatten(2)[:, :, self.cell_of_pixel]

    def mean(self, maps):
        """Mean over the pixels, shape (N, C)."""
        return maps.sum(dim=(2, 3)) / self.lattice.n_pixels

    def per_channel(self, values):
        """Reshape (..., C) so that it multiplies maps channel by channel."""
        return values[..., None, None]


class PixelLayout(nn.Module):
    """Maps of shape (N, P, C), on the CPU."""

    backend = "pixels"

    def __init__(self, lattice):
        super().__init__()
        self.lattice = lattice
        self._plans = {}

    def plan(self, stride, in_channels, out_channels):
        """The `ConvolutionPlan` that layers of the same shape share."""
        key = (stride, in_channels, out_channels)
        if key not in self._plans:
            self._plans[key] = ConvolutionPlan(self.lattice, *key)
        return self._plans[key]

    def from_pixels(self, images):
        """Maps from images of shape (N, C, P)."""
        return images.transpose(1, 2).contiguous()

    def to_pixels(self, maps):
        """Images of shape (N, C, P) from maps."""
        return maps.transpose(1, 2)

    def mean(self, maps):
        """Mean over the pixels, shape (N, C)."""
        return maps.mean(dim=1)

    def per_channel(self, values):
        """Reshape (..., C) so that it multiplies maps channel by channel."""
        return values[..., None, :]


LAYOUTS = {layout.backend: layout for layout in (IndexedLayout, DenseLayout, PixelLayout)}


def make_layout(backend, lattice):
    """The layout of a backend, a key of ``LAYOUTS``, for a lattice."""
    if backend not in LAYOUTS:
        raise ValueError(f"backend must be one of {sorted(LAYOUTS)}, got {backend!r}")
    return LAYOUTS[backend](lattice)
