"""Charge and time of waveforms, as ctapipe extracts them."""

import astropy.units as u
import numpy as np
from astropy.coordinates import EarthLocation
from ctapipe.core import Component
from ctapipe.core.traits import Int
from ctapipe.image.extractor import LocalPeakWindowSum
from ctapipe.image.invalid_pixels import NeighborAverage
from ctapipe.instrument import SubarrayDescription

__all__ = ["WaveformExtractor"]

TEL_ID = 1


class WaveformExtractor(Component):
    """Images of one telescope's waveforms, without the cost of an event.

    The results are those of ctapipe's `CameraCalibrator` with `LocalPeakWindowSum` and
    `NeighborAverage`, for these do the work.
    """

    window_width = Int(8, min=1, help="Samples that are added up").tag(config=True)
    window_shift = Int(
        4, min=0, help="Samples before that of the peak, in the window"
    ).tag(config=True)

    def __init__(self, telescope, broken_pixels=None, config=None, parent=None, **kwargs):
        """Prepare the extraction.

        Parameters
        ----------
        telescope : ctapipe.instrument.TelescopeDescription
        broken_pixels : ndarray of bool, shape (P,), optional
            Pixels that get the mean of their neighbors.
        config, parent, **kwargs
            See `ctapipe.core.Component`.
        """
        super().__init__(config=config, parent=parent, **kwargs)
        subarray = SubarrayDescription(
            name="one telescope",
            tel_positions={TEL_ID: [0, 0, 0] * u.m},
            tel_descriptions={TEL_ID: telescope},
            reference_location=EarthLocation.from_geodetic(0, 0),
        )
        self._extract = LocalPeakWindowSum(
            subarray, window_width=self.window_width, window_shift=self.window_shift
        )
        n_pixels = telescope.camera.readout.n_pixels
        if broken_pixels is None:
            broken_pixels = np.zeros(n_pixels, dtype=bool)
        self._broken = broken_pixels[np.newaxis]
        self._repair = NeighborAverage(subarray)
        self._gain_channel = np.zeros(n_pixels, dtype=np.int8)

    def __call__(self, waveform):
        """Extract charge and time.

        Parameters
        ----------
        waveform : ndarray of float32, shape (P, S)
            Photo-electrons per sample, of the high gain.

        Returns
        -------
        image : ndarray of float32, shape (P,)
            In photo-electrons.
        peak_time : ndarray of float32, shape (P,)
            In ns after the first sample.
        """
        dl1 = self._extract(
            waveform[np.newaxis], TEL_ID, self._gain_channel, self._broken
        )
        return self._repair(TEL_ID, dl1.image, dl1.peak_time, self._broken)
