"""Photomultipliers: charge of one photo-electron, shape of its pulse, night sky."""

import math
from typing import NamedTuple

import astropy.units as u
import numpy as np
from astropy.table import Table
from ctapipe.core import ToolConfigurationError
from numba import njit
from scipy.integrate import cumulative_trapezoid, trapezoid

from .random_numbers import exponential, normal_pair, uniform

__all__ = [
    "PHASES",
    "ChargeSpectrum",
    "add_pulse",
    "draw_charge",
    "noise_trace",
    "pulse_table",
]

#: Pulses are known for this number of arrival times within a sample.
PHASES = 40
QUANTILES = 4096
# CTAO gives the rate of afterpulses for those that are larger
AFTERPULSE_LIMIT = 4.0  # p.e.
# The pulse is cut where it stays below this fraction of its peak.
NEGLIGIBLE = 0.005


class ChargeSpectrum(NamedTuple):
    """Charge of single photo-electrons, in units of the mean charge without afterpulses.

    Attributes
    ----------
    prompt : ndarray, shape (Q,)
        Equidistant quantiles of the charge, from the smallest to the largest.
    afterpulse : ndarray, shape (Q,)
        The same of afterpulses.
    afterpulse_probability : float
        That a photo-electron of the night sky is an afterpulse. Those of a shower have
        none: afterpulses come microseconds later.
    mean_square : float
        Mean squared charge without afterpulses.
    """

    prompt: np.ndarray
    afterpulse: np.ndarray
    afterpulse_probability: float
    mean_square: float

    @classmethod
    def read(cls, prompt_path, afterpulse_path, afterpulse_ratio):
        """Read the spectra.

        Parameters
        ----------
        prompt_path, afterpulse_path : path-like
            Tables with columns ``amplitude`` [p.e.] and ``frequency``; see
            `CameraSimulator`.
        afterpulse_ratio : float
            Probability of an afterpulse above 4 p.e. per photo-electron.

        Raises
        ------
        ToolConfigurationError
            If a file cannot be read, or is no spectrum; names file and column.
        """
        amplitude, frequency = _read_spectrum(prompt_path)
        weight = trapezoid(frequency, amplitude)
        amplitude = amplitude * weight / trapezoid(amplitude * frequency, amplitude)
        weight = trapezoid(frequency, amplitude)
        mean_square = trapezoid(amplitude**2 * frequency, amplitude) / weight
        prompt = _quantiles(amplitude, frequency)
        amplitude, frequency = _read_spectrum(afterpulse_path)
        afterpulse = _quantiles(amplitude, frequency)
        large = np.mean(afterpulse > AFTERPULSE_LIMIT)
        if large == 0:
            raise ToolConfigurationError(
                f"{afterpulse_path}: no amplitude above {AFTERPULSE_LIMIT:g}, to which"
                " the rate of afterpulses refers"
            )
        return cls(prompt, afterpulse, float(afterpulse_ratio / large), mean_square)


def _read_spectrum(path):
    try:
        table = Table.read(path)
        amplitude, frequency = (
            np.asarray(table[name], dtype=float) for name in ("amplitude", "frequency")
        )
    except KeyError as error:
        raise ToolConfigurationError(
            f"{path}: no column {error}; a spectrum has amplitude and frequency"
        ) from error
    except (OSError, ValueError) as error:
        raise ToolConfigurationError(f"{path}: not read as a table: {error}") from error
    if len(amplitude) < 2 or not (np.diff(amplitude) > 0).all() or amplitude[0] < 0:
        raise ToolConfigurationError(
            f"{path}: column amplitude must rise from row to row, from 0 or more"
        )
    if not (np.isfinite(frequency) & (frequency >= 0)).all() or not frequency.any():
        raise ToolConfigurationError(
            f"{path}: column frequency must be finite, not negative, and not all zero"
        )
    return amplitude, frequency


def _quantiles(amplitude, frequency):
    cumulative = cumulative_trapezoid(frequency, amplitude, initial=0)
    return np.interp(np.linspace(0, cumulative[-1], QUANTILES), cumulative, amplitude)


@njit(cache=True)
def draw_charge(state, quantiles):
    """Charge of one photo-electron [p.e.]."""
    position = uniform(state) * (len(quantiles) - 1)
    below = int(position)
    return quantiles[below] + (position - below) * (
        quantiles[below + 1] - quantiles[below]
    )


def pulse_table(readout):
    """Samples of the pulse of one photo-electron, for arrival times within a sample.

    Parameters
    ----------
    readout : ctapipe.instrument.CameraReadout

    Returns
    -------
    pulses : ndarray of float32, shape (PHASES, K)
        Of a photo-electron that arrives i / PHASES samples after sample ``before``. They
        add up to one in the mean over the phases.
    before : int
        Samples of the pulse before that of the arrival. The arrival time is that of the
        pulse's peak.
    """
    shape = readout.reference_pulse_shape[0]  # the high gain
    step = (readout.reference_pulse_sample_width * readout.sampling_rate).to_value(u.one)
    time = (np.arange(len(shape)) - np.argmax(shape)) * step  # samples after the peak
    seen = time[np.abs(shape) > NEGLIGIBLE * shape.max()]
    before, after = int(np.ceil(-seen[0])), int(np.ceil(seen[-1]))
    phases = np.arange(PHASES)[:, np.newaxis] / PHASES
    samples = np.arange(-before, after + 2) - phases
    pulses = np.interp(samples, time, shape, left=0, right=0)
    return (PHASES * pulses / pulses.sum()).astype(np.float32), before


@njit(cache=True, inline="always")
def add_pulse(waveform, pulses, before, position, charge):
    """Add a pulse to a waveform, which it may leave on either side.

    Parameters
    ----------
    waveform : ndarray of float32, shape (S,)
    pulses, before
        Of `pulse_table`.
    position : float
        Arrival time [samples].
    charge : float
        In p.e.
    """
    sample = math.floor(position)
    phase = int((position - sample) * PHASES)
    first = int(sample) - before
    begin, end = max(first, 0), min(first + pulses.shape[1], len(waveform))
    if begin >= end:
        return
    charge = np.float32(charge)
    target = waveform[begin:end]
    pulse = pulses[phase, begin - first : end - first]
    for k in range(len(target)):
        target[k] += charge * pulse[k]


@njit(cache=True)
def noise_trace(state, n_samples, rate, electronic_noise, spectrum, pulses, before):
    """Night sky and electronics in one pixel that nothing else hits.

    Parameters
    ----------
    state : ndarray
        Of the random numbers.
    n_samples : int
    rate : float
        Photo-electrons of the night sky per sample.
    electronic_noise : float
        Standard deviation of a sample [p.e.].
    spectrum : ChargeSpectrum
    pulses, before
        Of `pulse_table`.

    Returns
    -------
    trace : ndarray of float32, shape (n_samples,)
        With mean zero, for the pixels' signals are AC-coupled.
    """
    trace = np.zeros(n_samples, dtype=np.float32)
    if rate > 0:
        time = -float(pulses.shape[1]) + exponential(state) / rate
        while time < n_samples + before:
            quantiles = spectrum.prompt
            if uniform(state) < spectrum.afterpulse_probability:
                quantiles = spectrum.afterpulse
            add_pulse(trace, pulses, before, time, draw_charge(state, quantiles))
            time += exponential(state) / rate
    mean = np.float32(np.mean(trace))
    for sample in range(0, n_samples - 1, 2):
        first, second = normal_pair(state)
        trace[sample] += np.float32(electronic_noise * first) - mean
        trace[sample + 1] += np.float32(electronic_noise * second) - mean
    return trace
