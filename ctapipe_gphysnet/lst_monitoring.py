"""Unusable pixels of LST-1, from the calibration files of lstchain.

A plugin of ctapipe, to be named in ``ProcessorTool.monitoring_source_list``: what reads
the raw data of the camera, ctapipe_io_lst, leaves these pixels as they are.
"""

import numpy as np
import tables
from astropy.table import Table
from ctapipe.core import ToolConfigurationError
from ctapipe.core.traits import Path
from ctapipe.io import MonitoringSource, MonitoringType, read_table

from .files import reason

__all__ = ["LSTUnusablePixels"]

TABLE, COLUMN = "calibration", "unusable_pixels"


class LSTUnusablePixels(MonitoringSource):
    """Marks the pixels that a calibration file of lstchain calls unusable.

    They become the ``outlier_mask`` of the camera's coefficients, so that ctapipe fills
    in their charges from their neighbors, and γ-PhysNet takes them as broken.

    Parameters
    ----------
    subarray : ctapipe.instrument.SubarrayDescription
    **kwargs
        As of `ctapipe.core.Component`.

    Raises
    ------
    ctapipe.core.ToolConfigurationError
        If the file cannot be used.
    """

    calibration_path = Path(
        exists=True,
        directory_ok=False,
        allow_none=True,
        default_value=None,
        help=(
            "Calibration file of the run, HDF5 or FITS: that of"
            " LSTEventSource.LSTR0Corrections.calibration_path"
        ),
    ).tag(config=True)
    tel_id = 1  # of LST-1, the only one in such files

    def __init__(self, subarray=None, **kwargs):
        super().__init__(subarray=subarray, **kwargs)
        if self.calibration_path is None:
            raise ToolConfigurationError(
                "LSTUnusablePixels.calibration_path is not set: the calibration file"
            )
        self._mask = self._read()

    @property
    def monitoring_types(self):
        """What there is."""
        return (MonitoringType.CAMERA_COEFFICIENTS,)

    def get_table(self, monitoring_type, tel_id=None, **kwargs):
        """Coefficients of a telescope: a row with the mask, shape (2, P)."""
        if monitoring_type not in self.monitoring_types or tel_id != self.tel_id:
            raise KeyError(f"no {monitoring_type} of telescope {tel_id}")
        return Table({"outlier_mask": self._mask[None]})

    def get_values(self, monitoring_type, time, tel_id=None, **kwargs):
        """Coefficients of a telescope, the same at all times."""
        return dict(self.get_table(monitoring_type, tel_id)[0])

    def fill_monitoring_container(self, event):
        """Mark the unusable pixels of both gain channels."""
        if self.tel_id in event.trigger.tels_with_trigger:
            coefficients = event.monitoring.tel[self.tel_id].camera.coefficients
            coefficients.outlier_mask = self._mask

    def _read(self):
        path = self.calibration_path
        try:
            if path.suffix in (".h5", ".hdf5"):
                table = read_table(path, f"/tel_{self.tel_id}/{TABLE}")
            else:
                table = Table.read(path, hdu=TABLE)
            mask = np.asarray(table[COLUMN][0], dtype=bool)
        except (OSError, LookupError, tables.HDF5ExtError, tables.NodeError) as error:
            raise ToolConfigurationError(
                f"{path}: no {COLUMN} in its table {TABLE}: {reason(error)}; is it a"
                " calibration file of lstchain?"
            ) from error
        n_pixels = self.subarray.tel[self.tel_id].camera.geometry.n_pixels
        if mask.shape != (2, n_pixels):
            raise ToolConfigurationError(
                f"{path}: {COLUMN} has the shape {mask.shape}; the camera has 2 gain"
                f" channels and {n_pixels} pixels"
            )
        return mask
