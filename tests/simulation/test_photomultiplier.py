import numpy as np
import pytest
from ctapipe.core import ToolConfigurationError
from numba import njit

from ctapipe_gphysnet.resources import RESOURCES
from ctapipe_gphysnet.simulation.photomultiplier import (
    PHASES,
    ChargeSpectrum,
    add_pulse,
    draw_charge,
    noise_trace,
    pulse_table,
)
from ctapipe_gphysnet.simulation.random_numbers import random_state
from ctapipe_gphysnet.simulation.telescope import lst_description

PROMPT = RESOURCES / "LSTCam.prompt.ecsv"
AFTERPULSES = RESOURCES / "LSTCam.afterpulses.ecsv"


@njit
def draw_charges(state, quantiles, number):
    return np.array([draw_charge(state, quantiles) for _ in range(number)])


@pytest.fixture(scope="module")
def spectrum():
    return ChargeSpectrum.read(PROMPT, AFTERPULSES, 2e-4)


@pytest.fixture(scope="module")
def pulse():
    """Table of pulses, samples before the peak, and the readout they are of."""
    readout = lst_description().camera.readout
    return *pulse_table(readout), readout


def test_charge_of_a_photoelectron(spectrum):
    charges = draw_charges(random_state(1), spectrum.prompt, 200_000)
    assert charges.mean() == pytest.approx(1, abs=0.004)
    # what sim_telarray's norm_spe says of these data, in the header of simtools'
    # tests/resources/spe_LST_2022-04-27_AP2.0e-4.dat
    assert spectrum.mean_square == pytest.approx(1.216, abs=1e-3)
    assert np.mean(charges**2) == pytest.approx(1.216, rel=0.01)
    # it adds a bin at zero, with half a percent
    assert np.mean(charges < 0.1) == pytest.approx(0.044, abs=0.006)
    assert np.mean(charges < 0.3) == pytest.approx(0.117, abs=0.006)


def test_rate_of_large_afterpulses(spectrum):
    charges = draw_charges(random_state(2), spectrum.afterpulse, 100_000)
    large = spectrum.afterpulse_probability * np.mean(charges > 4)
    assert large == pytest.approx(2e-4, rel=0.01)
    assert charges.max() < 41


def test_pulses_add_up_to_the_charge(pulse):
    pulses, before, _ = pulse
    for position in (50.0, 50.3, 50.99):
        waveform = np.zeros(100, dtype=np.float32)
        add_pulse(waveform, pulses, before, position, 3.0)
        assert waveform.sum() == pytest.approx(3, rel=0.005)
        assert np.average(waveform.argmax()) == pytest.approx(position, abs=0.6)


def test_pulse_has_the_shape_of_the_readout(pulse):
    pulses, before, readout = pulse
    shape = readout.reference_pulse_shape[0]
    width = (readout.reference_pulse_sample_width * readout.sampling_rate).to_value("")
    assert 1 / width == pytest.approx(PHASES)  # so that nothing is interpolated
    arrival = 50.25
    waveform = np.zeros(100, dtype=np.float32)
    add_pulse(waveform, pulses, before, arrival, 1.0)
    peak = shape.argmax()
    for sample in range(46, 74):
        expected = shape[peak + round((sample - arrival) * PHASES)]
        assert waveform[sample] == pytest.approx(
            expected / (shape.sum() * width), abs=5e-4
        )


@pytest.mark.parametrize("position", [-1e18, -30.0, -3.0, 97.5, 130.0, 1e18, np.nan])
def test_pulses_may_leave_the_waveform(pulse, position):
    pulses, before, _ = pulse
    waveform = np.zeros(100, dtype=np.float32)
    add_pulse(waveform, pulses, before, position, 1.0)
    wide = np.zeros(400, dtype=np.float32)
    add_pulse(wide, pulses, before, position + 150, 1.0)
    np.testing.assert_allclose(waveform, wide[150:250], atol=1e-6)


def test_variance_of_the_noise(spectrum, pulse):
    """Campbell's theorem: rate times mean squared charge times squared pulse."""
    pulses, before, _ = pulse
    rate, electronic = 0.25, 0.1
    trace = noise_trace(
        random_state(3), 2**20, rate, electronic, spectrum, pulses, before
    )
    no_large = spectrum._replace(afterpulse_probability=0.0)
    quiet = noise_trace(random_state(3), 2**20, rate, 0.0, no_large, pulses, before)
    night_sky = rate * spectrum.mean_square * np.mean((pulses**2).sum(axis=1))
    assert quiet.var() == pytest.approx(night_sky, rel=0.01)
    # afterpulses above 4 p.e. add 1.7 % to the mean squared charge of the night sky
    assert trace.var() == pytest.approx(1.017 * night_sky + electronic**2, rel=0.01)
    # AC-coupled; the uncertainty of the mean follows from rate and charge
    spread = np.sqrt((rate * spectrum.mean_square + electronic**2) / 2**20)
    assert abs(trace.mean()) < 4 * spread


def test_noise_of_electronics_alone(spectrum, pulse):
    pulses, before, _ = pulse
    trace = noise_trace(random_state(4), 2**18, 0.0, 0.2, spectrum, pulses, before)
    assert trace.std() == pytest.approx(0.2, rel=0.01)
    assert np.mean(trace[1:] * trace[:-1]) == pytest.approx(0, abs=4e-4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("amplitude,counts\n1,2\n2,3\n", "no column 'frequency'"),
        ("amplitude,frequency\n1,2\n1,3\n", "amplitude must rise"),
        ("amplitude,frequency\n-1,2\n1,3\n", "amplitude must rise"),
        ("amplitude,frequency\n1,2\n2,-3\n", "frequency must be finite"),
        ("amplitude,frequency\n1,0\n2,0\n", "frequency must be finite"),
        ("amplitude,frequency\n1,nan\n2,1\n", "frequency must be finite"),
        ("amplitude,frequency\none,2\ntwo,1\n", "not read as a table"),
    ],
)
@pytest.mark.parametrize("which", [0, 1])
def test_what_is_no_spectrum(tmp_path, text, message, which):
    path = tmp_path / "spectrum.csv"
    path.write_text(text)
    paths = [PROMPT, AFTERPULSES]
    paths[which] = path
    with pytest.raises(ToolConfigurationError, match=f"spectrum.csv: .*{message}"):
        ChargeSpectrum.read(*paths, 2e-4)


def test_afterpulses_must_be_large():
    with pytest.raises(ToolConfigurationError, match="no amplitude above 4"):
        ChargeSpectrum.read(PROMPT, PROMPT, 2e-4)
