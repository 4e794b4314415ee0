"""Which camera a model is made for, and whether a telescope has it.

Files disagree on the names of telescopes, on the order of the pixels and on
the rotation of the camera frame. A model is therefore bound to the pixel
positions on the sky side and to the optics, and to nothing else.
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property

import astropy.units as u
import numpy as np
from ctapipe.coordinates import CameraFrame, TelescopeFrame
from scipy.spatial import cKDTree

from .lattice import CameraLattice

__all__ = ["CameraLayout", "CameraMatch", "CameraMismatch"]

# Two simulations of one telescope differ by less: its effective focal length
# depends on the ray tracing (or is missing, and the nominal one stands in),
# its mirror area on the shadowing.
FOCAL_LENGTH_TOLERANCE = 0.06
MIRROR_AREA_TOLERANCE = 0.10
# of the distance between pixels
POSITION_TOLERANCE = 0.25


class CameraMismatch(ValueError):
    """A telescope's camera or optics are not those of the model."""


@dataclass(frozen=True)
class CameraMatch:
    """How the images of a telescope become images of the model's camera.

    Attributes
    ----------
    permutation : ndarray of int, shape (P,)
        ``image[..., permutation]`` has the pixels in the model's order.
    angle_scale : float
        Angles measured with the model's focal length times this are angles
        seen by the telescope.
    """

    permutation: np.ndarray
    angle_scale: float


@dataclass(frozen=True, eq=False)
class CameraLayout:
    """Pixels and optics of one type of telescope.

    Attributes
    ----------
    name : str
        For people to read; never compared.
    kind : {"hexagonal", "square"}
        Type of lattice.
    positions : ndarray, shape (P, 2)
        Pixel positions in metres in the focal plane, along the axes
        (fov_lon, fov_lat) of `TelescopeFrame`.
    focal_length : float
        Effective focal length in metres, the nominal one if it is unknown.
    mirror_area : float
        In square metres.
    """

    name: str
    kind: str
    positions: np.ndarray
    focal_length: float
    mirror_area: float

    @classmethod
    def from_telescope(cls, telescope):
        """Layout of a ctapipe `TelescopeDescription`.

        Raises
        ------
        LatticeError
            If the pixels are on no regular grid.
        """
        optics, geometry = telescope.optics, telescope.camera.geometry
        focal_length = optics.effective_focal_length
        if not np.isfinite(focal_length):
            focal_length = optics.equivalent_focal_length
        if not isinstance(geometry.frame, TelescopeFrame):
            geometry = _with_camera_frame(geometry, focal_length)
            geometry = geometry.transform_to(TelescopeFrame())
        angles = np.column_stack(
            [geometry.pix_x.to_value(u.rad), geometry.pix_y.to_value(u.rad)]
        )
        focal_length = focal_length.to_value(u.m)
        return cls(
            name=str(geometry.name),
            kind=CameraLattice.from_geometry(geometry).kind,
            positions=angles * focal_length,
            focal_length=float(focal_length),
            mirror_area=float(optics.mirror_area.to_value(u.m**2)),
        )

    @classmethod
    def from_dict(cls, card):
        """Inverse of `to_dict`; raises ValueError if the hash differs."""
        layout = cls(
            name=card["name"],
            kind=card["lattice"],
            positions=np.array(card["pixel_positions_m"], dtype=np.float64),
            focal_length=float(card["focal_length_m"]),
            mirror_area=float(card["mirror_area_m2"]),
        )
        if layout.digest != card["sha256"]:
            raise ValueError(
                f"camera {layout.name}: the hash of its pixel positions is"
                f" {layout.digest}, the card says {card['sha256']}"
            )
        return layout

    def to_dict(self):
        """The camera's entry in the model card."""
        return {
            "name": self.name,
            "lattice": self.kind,
            "n_pixels": len(self.positions),
            "focal_length_m": self.focal_length,
            "mirror_area_m2": self.mirror_area,
            "sha256": self.digest,
            "pixel_positions_m": self._rounded.tolist(),
        }

    @cached_property
    def _rounded(self):
        # a micrometre is far below any pixel; adding 0 turns -0 into 0
        return np.round(self.positions, 6) + 0.0

    @cached_property
    def digest(self):
        """SHA-256 of the pixel positions to a micrometre."""
        microns = np.rint(self._rounded * 1e6).astype("<i8")
        return hashlib.sha256(microns.tobytes()).hexdigest()

    @cached_property
    def lattice(self):
        """The `CameraLattice` of the pixels."""
        return CameraLattice.from_positions(self.positions, self.kind)

    def match(self, other):
        """Match another camera, of a file at hand, to this one, of a model.

        Parameters
        ----------
        other : CameraLayout

        Returns
        -------
        CameraMatch

        Raises
        ------
        CameraMismatch
            Says what differs.
        """
        for what, unit, tolerance in (
            ("focal_length", "m", FOCAL_LENGTH_TOLERANCE),
            ("mirror_area", "m2", MIRROR_AREA_TOLERANCE),
        ):
            ours, theirs = getattr(self, what), getattr(other, what)
            if not abs(theirs - ours) <= tolerance * ours:
                raise CameraMismatch(
                    f"{what} is {theirs:.2f} {unit} ({other.name}), the model is for"
                    f" {ours:.2f} {unit} ({self.name})"
                )
        if len(other.positions) != len(self.positions):
            raise CameraMismatch(
                f"camera {other.name} has {len(other.positions)} pixels, the model is"
                f" for {len(self.positions)} ({self.name})"
            )
        distance, permutation = cKDTree(other.positions).query(self.positions)
        pitch = np.linalg.norm(self.lattice.basis, axis=1).mean()
        worst = int(np.argmax(distance))
        if distance[worst] > POSITION_TOLERANCE * pitch:
            raise CameraMismatch(
                f"camera {other.name}: no pixel within {POSITION_TOLERANCE * pitch:.4f} m"
                f" of the model's pixel {worst} ({self.name}), the nearest is"
                f" {distance[worst]:.4f} m away"
            )
        return CameraMatch(permutation, self.focal_length / other.focal_length)


def _with_camera_frame(geometry, focal_length):
    """The geometry in a `CameraFrame` that knows focal length and rotation."""
    rotation = getattr(geometry.frame, "rotation", geometry.cam_rotation)
    geometry = type(geometry)(
        name=geometry.name,
        pix_id=geometry.pix_id,
        pix_x=geometry.pix_x,
        pix_y=geometry.pix_y,
        pix_area=geometry.pix_area,
        pix_type=geometry.pix_type,
        pix_rotation=geometry.pix_rotation,
        cam_rotation=geometry.cam_rotation,
        frame=CameraFrame(focal_length=focal_length, rotation=rotation),
    )
    return geometry
