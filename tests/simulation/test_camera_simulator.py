import warnings

import astropy.units as u
import numpy as np
import pytest
from ctapipe.calib import CameraCalibrator
from ctapipe.core import ToolConfigurationError
from ctapipe.image import dilate
from ctapipe.instrument import CameraDescription, CameraGeometry, CameraReadout
from ctapipe.io import EventSource
from traitlets import TraitError
from traitlets.config import Config

from ctapipe_gphysnet.simulation import camera as camera_module
from ctapipe_gphysnet.simulation.camera import CameraSimulator
from ctapipe_gphysnet.simulation.extraction import WaveformExtractor
from ctapipe_gphysnet.simulation.telescope import lst_description

# Pixels of the four LSTs in history_meta_75.simtel.zst that have no photo-electron of the
# shower, nor their neighbors; test_figures_of_the_reference measures them.
REFERENCE_MEAN = 1.731
REFERENCE_RMS = 1.439
REFERENCE_SAMPLE_RMS = 0.2280
REFERENCE_PERCENTILES = {1: -0.85, 10: 0.09, 50: 1.57, 90: 3.65, 99: 5.67}

NO_NOISE = {"night_sky_rate": 0 / u.ns, "electronic_noise": 0.0}
TELESCOPE = lst_description()
CAMERA = TELESCOPE.camera
PITCH = 0.05


@pytest.fixture(scope="module")
def default():
    """The camera as it is by default."""
    return CameraSimulator(CAMERA)


@pytest.fixture
def make(monkeypatch):
    """Function: a camera with other options, whose noise repeats itself sooner."""
    monkeypatch.setattr(camera_module, "TRACE_LENGTH", 2**16)

    def build(camera=CAMERA, **options):
        return CameraSimulator(camera, **options)

    return build


def spot(number, x=0.0, y=0.0, width=0.04, duration=2.0, center=1000.0, seed=0):
    """Photo-electrons of a round image."""
    rng = np.random.default_rng(seed)
    return (
        rng.normal(x, width, number),
        rng.normal(y, width, number),
        rng.normal(center, duration, number),
    )


def in_pixel(pixel, number, time):
    """Photo-electrons in the center of a pixel, all at one time."""
    geometry = CAMERA.geometry
    x, y = (getattr(geometry, name)[pixel].to_value(u.m) for name in ("pix_x", "pix_y"))
    return np.full(number, x), np.full(number, y), np.full(number, time)


def test_response(default):
    response = default.simulate(*spot(300), seed=1)
    assert response.waveform.shape == (1855, 40)
    assert response.waveform.dtype == np.float32
    assert response.true_image.shape == (1855,)
    assert response.true_image.dtype == np.int32
    assert response.true_image.sum() == 300


def test_true_image_counts_where_the_light_is(default):
    x, y, time = spot(200, x=0.3, y=-0.2)
    image = default.simulate(x, y, time, seed=1).true_image
    geometry = CAMERA.geometry
    for pixel in np.flatnonzero(image):
        dx, dy = x - geometry.pix_x[pixel].value, y - geometry.pix_y[pixel].value
        assert np.sum(np.hypot(dx, dy) < PITCH / 2) <= image[pixel]
        assert np.sum(np.hypot(dx, dy) < PITCH / np.sqrt(3)) >= image[pixel]


def test_same_seed_same_response(make):
    light = spot(300)
    camera, again, other = make(), make(), make(seed=1)
    first = camera.simulate(*light, seed=5)
    for same in (camera.simulate(*light, seed=5), again.simulate(*light, seed=5)):
        for ours, theirs in zip(first, same):
            np.testing.assert_array_equal(ours, theirs)
    for different in (camera.simulate(*light, seed=6), other.simulate(*light, seed=5)):
        assert np.abs(first.waveform - different.waveform).max() > 0.1


def test_noise_is_that_of_the_reference(default):
    extract = WaveformExtractor(TELESCOPE)
    far = CAMERA.geometry.pix_x.to_value(u.m) < 0.5
    samples, charges = [], []
    for seed in range(20):
        response = default.simulate(*spot(300, x=0.9, seed=seed), seed=seed)
        dark = far & (response.true_image == 0)
        samples.append(response.waveform[dark])
        charges.append(extract(response.waveform)[0][dark])
    samples, charges = np.concatenate(samples), np.concatenate(charges)
    assert samples.mean() == pytest.approx(0, abs=0.002)
    assert samples.std() == pytest.approx(REFERENCE_SAMPLE_RMS, rel=0.05)
    assert charges.mean() == pytest.approx(REFERENCE_MEAN, rel=0.05)
    assert charges.std() == pytest.approx(REFERENCE_RMS, rel=0.05)
    for percent, charge in REFERENCE_PERCENTILES.items():
        assert np.percentile(charges, percent) == pytest.approx(charge, abs=0.2)


@pytest.mark.slow
def test_figures_of_the_reference(shared_path):
    path = shared_path("simtel/history_meta_75.simtel.zst")
    window = {"window_width": 8, "window_shift": 4}
    config = Config(
        CameraCalibrator={
            "image_extractor_type": "LocalPeakWindowSum",
            "LocalPeakWindowSum": window,
        }
    )
    samples, charges = [], []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with EventSource(path) as source:
            event = next(iter(source))
            CameraCalibrator(source.subarray, config=config)(event)
            for tel_id in (1, 2, 3, 4):
                lit = event.simulation.tel[tel_id].true_image > 0
                lit = dilate(source.subarray.tel[tel_id].camera.geometry, lit)
                high_gain = event.r1.tel[tel_id].selected_gain_channel == 0
                dark = high_gain & ~lit
                samples.append(event.r1.tel[tel_id].waveform[0, dark])
                charges.append(event.dl1.tel[tel_id].image[dark])
    samples, charges = np.concatenate(samples), np.concatenate(charges)
    assert charges.mean() == pytest.approx(REFERENCE_MEAN, abs=1e-3)
    assert charges.std() == pytest.approx(REFERENCE_RMS, abs=1e-3)
    assert samples.std() == pytest.approx(REFERENCE_SAMPLE_RMS, abs=1e-4)
    for percent, charge in REFERENCE_PERCENTILES.items():
        assert np.percentile(charges, percent) == pytest.approx(charge, abs=0.01)


def test_waveforms_add_up_to_the_charge(make):
    camera = make(**NO_NOISE)
    response = camera.simulate(*spot(4000, duration=0.5), seed=1)
    # the charge of a photo-electron has a variance of 0.216
    assert response.waveform.sum() == pytest.approx(4000, abs=4 * np.sqrt(0.216 * 4000))
    image, _ = WaveformExtractor(TELESCOPE)(response.waveform)
    bright = response.true_image > 50
    true_sum = response.true_image[bright].sum()
    assert image[bright].sum() == pytest.approx(true_sum, rel=0.03)


def test_pulse_shape_and_times(make):
    camera = make(**NO_NOISE, transit_time_jitter=0 * u.ns)
    response = camera.simulate(*in_pixel(500, 3000, 777.7), seed=1)
    waveform = response.waveform[500]
    readout = CAMERA.readout
    shape = readout.reference_pulse_shape[0]
    since_arrival = (
        response.first_sample_time
        + np.arange(40) / readout.sampling_rate.to_value(u.GHz)
        - 777.7
    )
    peak_time = readout.reference_pulse_sample_time[shape.argmax()].to_value(u.ns)
    reference = np.interp(
        since_arrival + peak_time,
        readout.reference_pulse_sample_time.to_value(u.ns),
        shape,
        left=0,
        right=0,
    )
    expected = waveform.sum() * reference / reference.sum()
    # one phase in forty, and what is cut off
    np.testing.assert_allclose(waveform, expected, atol=0.02 * waveform.max())
    assert not np.delete(response.waveform, 500, axis=0).any()


def test_jitter_widens_the_pulse(make):
    light = in_pixel(500, 3000, 0.0)
    sharp, wide = (
        make(**NO_NOISE, transit_time_jitter=jitter * u.ns).simulate(*light, seed=1)
        for jitter in (0, 2)
    )
    assert wide.waveform.max() < 0.8 * sharp.waveform.max()
    assert wide.waveform.sum() == pytest.approx(sharp.waveform.sum(), rel=0.05)


def largest_patch_sum(camera, waveform):
    """Of the patches, in every sample, in units of a photo-electron's peak."""
    electronics = camera._electronics
    modules = waveform[electronics.modules].sum(axis=1)
    return modules[electronics.patches].sum(axis=1).max(axis=0) / electronics.pulses.max()


@pytest.mark.parametrize("position", [0, 9, 20])
def test_trigger_is_the_first_crossing(make, position):
    camera = make(trigger_position=position)
    response = camera.simulate(*spot(400, duration=4.0), seed=3)
    largest = largest_patch_sum(camera, response.waveform)
    assert largest[position] >= camera.trigger_threshold * (1 - 1e-5)
    assert (largest[:position] < camera.trigger_threshold).all()
    sampling_rate = CAMERA.readout.sampling_rate.to_value(u.GHz)
    delay = response.trigger_time - response.first_sample_time
    assert delay == pytest.approx(position / sampling_rate)
    assert response.trigger_time == pytest.approx(1000, abs=15)


def test_more_light_triggers_more_often(default):
    def efficiency(number):
        responses = (default.simulate(*spot(number, seed=i), seed=i) for i in range(60))
        return np.mean([response is not None for response in responses])

    assert efficiency(30) == 0
    assert 0.05 < efficiency(85) < 0.95
    assert efficiency(200) == 1


def test_light_in_places_far_apart_does_not_trigger(default):
    number = 150
    angle = np.linspace(0, 2 * np.pi, number)
    light = np.cos(angle), np.sin(angle), np.full(number, 1.0)
    assert default.simulate(*light, seed=1) is None
    assert default.simulate(*spot(number, duration=0), seed=1) is not None


def test_events_that_are_not_looked_at_do_not_trigger(make, monkeypatch):
    """With the most light for which a patch is ignored, all of it at once.

    None in 3000 is less than 0.1 %. If the number of photo-electrons falls as its square,
    and half of the events with 55 at once trigger, less than 0.1 % of the triggers are
    lost.
    """
    most = make()._electronics.fewest - 1
    assert most > 10
    monkeypatch.setattr(camera_module, "NOISE_MARGIN", 100.0)
    camera = make()
    assert camera._electronics.fewest == 1
    light = (spot(most, width=0.03, duration=0, seed=seed) for seed in range(3000))
    responses = (camera.simulate(*one, seed=i) for i, one in enumerate(light))
    assert sum(response is not None for response in responses) == 0


def test_noise_alone_rarely_triggers(make, monkeypatch):
    monkeypatch.setattr(camera_module, "_fewest", lambda *_: 0)
    camera = make()
    nothing = np.empty(0)
    responses = [camera.simulate(nothing, nothing, nothing, seed) for seed in range(100)]
    assert not any(responses)


def test_noise_triggers_below_its_level(make):
    camera = make(trigger_threshold=15)
    nothing = np.empty(0)
    responses = [camera.simulate(nothing, nothing, nothing, seed) for seed in range(10)]
    triggered = [response for response in responses if response is not None]
    assert len(triggered) >= 8
    for response in triggered:
        assert response.true_image.sum() == 0
        assert largest_patch_sum(camera, response.waveform)[9] >= 15 * (1 - 1e-5)


def test_efficiency_thins_the_light(make):
    light = spot(4000)
    image = make(efficiency=0.25).simulate(*light, seed=1).true_image
    assert image.sum() == pytest.approx(1000, abs=4 * np.sqrt(4000 * 0.25 * 0.75))
    assert make(efficiency=0.0).simulate(*light, seed=1) is None


def test_broken_pixels(make):
    camera = make(broken_fraction=0.1, broken_pixels=[0, 3], seed=2)
    broken = camera.broken_pixel_mask
    assert broken[[0, 3]].all()
    assert broken.mean() == pytest.approx(0.1, abs=0.03)
    response = camera.simulate(*spot(2000), seed=1)
    assert not response.waveform[broken].any()
    assert (response.waveform[~broken].std(axis=1) > 0.05).all()
    assert response.true_image[0] > 0
    same, other = (make(broken_fraction=0.1, seed=seed) for seed in (2, 3))
    assert (same.broken_pixel_mask <= broken).all()
    assert (other.broken_pixel_mask != same.broken_pixel_mask).any()


def test_broken_pixels_do_not_trigger(make):
    light = in_pixel(500, 400, 1.0)
    assert make().simulate(*light, seed=1) is not None
    assert make(broken_pixels=[500]).simulate(*light, seed=1) is None
    assert make(broken_fraction=1.0).simulate(*spot(5000), seed=1) is None


def test_light_outside_the_camera_is_ignored(default):
    x, y, time = spot(400)
    x[:100] += 5
    y[100:200] = np.nan
    assert default.simulate(x, y, time, seed=1).true_image.sum() == 200
    assert default.simulate(x + 10, y, time, seed=1) is None


def test_light_at_other_times(make):
    x, y, time = spot(400)
    time[:20] += 1e12
    time[20:40] -= 1e12
    time[40:50] = np.inf
    response = make(**NO_NOISE).simulate(x, y, time, seed=1)
    assert response.true_image.sum() == 400
    assert response.trigger_time == pytest.approx(1000, abs=10)
    assert response.waveform.sum() == pytest.approx(350, abs=4 * np.sqrt(0.216 * 350))


def test_zero_of_time_does_not_matter(default):
    x, y, time = spot(400)
    here, there = (default.simulate(x, y, time + zero, seed=1) for zero in (0, 2**20))
    np.testing.assert_allclose(here.waveform, there.waveform, atol=1e-3)
    assert there.trigger_time - here.trigger_time == pytest.approx(2**20)


def test_readout_of_other_length(make):
    readout = CameraReadout.from_table(CAMERA.readout.to_table())
    readout.n_samples = 60
    camera = CameraDescription("LSTCam", CAMERA.geometry, readout)
    assert make(camera).simulate(*spot(300), seed=1).waveform.shape == (1855, 60)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trigger_position": 40}, "trigger_position is 40, but only 40 samples"),
        ({"broken_pixels": [3, 1855]}, "broken_pixels has pixel 1855, but"),
        ({"night_sky_rate": -1 / u.ns}, "night_sky_rate is -1.0 1 / ns"),
        ({"transit_time_jitter": np.nan * u.ns}, "transit_time_jitter is nan ns"),
    ],
)
def test_options_that_do_not_fit(make, options, message):
    with pytest.raises(ToolConfigurationError, match=message):
        make(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"night_sky_rate": 1 * u.m},
        {"efficiency": 1.1},
        {"broken_fraction": -0.1},
        {"electronic_noise": -1.0},
        {"trigger_threshold": -1.0},
        {"prompt_spectrum": "nowhere.ecsv"},
    ],
)
def test_options_out_of_range(make, options):
    with pytest.raises(TraitError):
        make(**options)


def test_camera_without_modules(make, hex_positions):
    n_pixels = len(hex_positions)
    geometry = CameraGeometry(
        name="TestCam",
        pix_id=np.arange(n_pixels),
        pix_x=hex_positions[:, 0] * u.m,
        pix_y=hex_positions[:, 1] * u.m,
        pix_area=np.full(n_pixels, 0.002) * u.m**2,
        pix_type="hexagon",
    )
    readout = CameraReadout.from_table(CAMERA.readout.to_table())
    readout.n_pixels = n_pixels
    with pytest.raises(ToolConfigurationError, match="61 pixels of camera TestCam"):
        make(CameraDescription("TestCam", geometry, readout))


def test_vectors_of_different_lengths(default):
    x, y, time = spot(10)
    with pytest.raises(ValueError, match=r"\(10,\), \(9,\) and \(10,\)"):
        default.simulate(x, y[1:], time, seed=1)
