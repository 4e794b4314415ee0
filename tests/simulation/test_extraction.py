import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import EarthLocation
from ctapipe.calib import CameraCalibrator
from ctapipe.containers import ArrayEventContainer, PixelStatus
from ctapipe.instrument import SubarrayDescription
from traitlets.config import Config

from ctapipe_gphysnet.simulation.extraction import WaveformExtractor
from ctapipe_gphysnet.simulation.telescope import lst_description


@pytest.fixture(scope="module")
def telescope():
    return lst_description()


@pytest.fixture(scope="module")
def waveform():
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.3, (1855, 40)).astype(np.float32)
    noise[7] = 0  # what the simulated camera gives for a broken pixel
    return noise


def calibrate(telescope, waveform, broken, width, shift):
    """The way from R1 to DL1 in ctapipe's event loop."""
    subarray = SubarrayDescription(
        name="test",
        tel_positions={5: [0, 0, 0] * u.m},
        tel_descriptions={5: telescope},
        reference_location=EarthLocation.from_geodetic(0, 0),
    )
    options = {
        "window_width": width,
        "window_shift": shift,
        "apply_integration_correction": True,
    }
    config = Config(
        CameraCalibrator={
            "image_extractor_type": "LocalPeakWindowSum",
            "LocalPeakWindowSum": options,
        }
    )
    event = ArrayEventContainer()
    r1 = event.r1.tel[5]
    r1.waveform = waveform[np.newaxis]
    r1.selected_gain_channel = np.zeros(1855, dtype=np.int8)
    r1.pixel_status = np.where(broken, 0, PixelStatus.HIGH_GAIN_STORED).astype(np.uint8)
    coefficients = event.monitoring.tel[5].camera.coefficients
    coefficients.outlier_mask = broken[np.newaxis]
    CameraCalibrator(subarray, config=config)(event)
    return event.dl1.tel[5]


@pytest.mark.parametrize(("width", "shift"), [(8, 4), (6, 2)])
def test_same_as_in_the_event_loop(telescope, waveform, width, shift):
    broken = np.zeros(1855, dtype=bool)
    broken[[7, 100, 101]] = True
    extract = WaveformExtractor(telescope, broken, window_width=width, window_shift=shift)
    image, peak_time = extract(waveform)
    dl1 = calibrate(telescope, waveform, broken, width, shift)
    np.testing.assert_array_equal(image, dl1.image)
    np.testing.assert_array_equal(peak_time, dl1.peak_time)
    assert image.dtype == peak_time.dtype == np.float32
    assert image[7] != 0


def test_by_hand(telescope):
    """The window, the fraction of the pulse inside, and the rate of the samples."""
    waveform = np.zeros((1855, 40), dtype=np.float32)
    waveform[3, 20], waveform[3, 16], waveform[3, 24] = 4, 2, 100
    waveform[4, 20], waveform[4, 21], waveform[4, 23] = 3, 1, 2
    image, peak_time = WaveformExtractor(telescope)(waveform)
    shape = telescope.camera.readout.reference_pulse_shape[0].reshape(-1, 40).sum(axis=1)
    first = shape.argmax() - 4
    fraction = shape[first : first + 8].sum() / shape.sum()
    assert fraction == pytest.approx(0.83, abs=0.01)
    assert image[3] == pytest.approx(104 / fraction, rel=0.01)
    assert peak_time[4] == pytest.approx((60 + 21 + 46) / 6 / 1.024)
    assert image[5] == 0
