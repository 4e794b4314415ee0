"""The Large-Sized Telescope (LST) as ctapipe describes telescopes."""

import astropy.units as u
from ctapipe.coordinates import CameraFrame
from ctapipe.instrument import (
    CameraDescription,
    CameraGeometry,
    CameraReadout,
    OpticsDescription,
    ReflectorShape,
    SizeType,
    TelescopeDescription,
)

from ..resources import RESOURCES

__all__ = ["lst_description"]

# Telescope 1 of CTAO's production prod5 for La Palma, of which pyeventio's test file
# history_meta_75.simtel.zst has an event. The camera's tables are of the same file.
EQUIVALENT_FOCAL_LENGTH = 28 * u.m
EFFECTIVE_FOCAL_LENGTH = 29.30565071105957 * u.m
MIRROR_AREA = 386.7332458496094 * u.m**2
N_MIRROR_TILES = 198


def lst_description():
    """LST-1: optics, pixels and readout.

    Returns
    -------
    telescope : ctapipe.instrument.TelescopeDescription
        Equal to that of telescope 1 in the simtel file that it comes from, with the
        pixels in the order of that file, in `CameraFrame`.
    """
    optics = OpticsDescription(
        name="LST",
        size_type=SizeType.LST,
        n_mirrors=1,
        equivalent_focal_length=EQUIVALENT_FOCAL_LENGTH,
        effective_focal_length=EFFECTIVE_FOCAL_LENGTH,
        mirror_area=MIRROR_AREA,
        n_mirror_tiles=N_MIRROR_TILES,
        reflector_shape=ReflectorShape.PARABOLIC,
    )
    geometry = CameraGeometry.from_table(RESOURCES / "LSTCam.camgeom.fits.gz")
    # ctapipe's tables have no frame
    geometry.frame = CameraFrame(
        focal_length=EFFECTIVE_FOCAL_LENGTH, rotation=geometry.cam_rotation
    )
    readout = CameraReadout.from_table(RESOURCES / "LSTCam.camreadout.fits.gz")
    camera = CameraDescription(name="LSTCam", geometry=geometry, readout=readout)
    return TelescopeDescription(name="LST", optics=optics, camera=camera)
