"""The camera: from photo-electrons to triggered waveforms."""

import math
from typing import NamedTuple

import astropy.units as u
import numpy as np
from ctapipe.core import Component, ToolConfigurationError
from ctapipe.core.traits import AstroQuantity, Float, Int, List, Path
from numba import njit

from ..lattice import LatticeError
from ..resources import RESOURCES
from .photomultiplier import (
    ChargeSpectrum,
    add_pulse,
    draw_charge,
    noise_trace,
    pulse_table,
)
from .pixels import PixelGrid, pixel_at, trigger_modules, trigger_patches
from .random_numbers import normal_pair, random_state, uniform

__all__ = ["CameraResponse", "CameraSimulator"]

# Long enough that a slice for each pixel of thousands of events is as good as new noise:
# it has a million photo-electrons of the night sky, two hundred large afterpulses.
TRACE_LENGTH = 2**22  # samples
# Where a trigger is looked for, around the median time of the brightest patch.
SEARCHED = 100  # samples
# Patches are not looked at where noise would have to add more standard deviations than
# this for a trigger. tests/simulation/test_camera.py measures what is lost.
NOISE_MARGIN = 3.5


class CameraResponse(NamedTuple):
    """What the camera reads out of one event.

    Attributes
    ----------
    waveform : ndarray of float32, shape (P, S)
        Photo-electrons per sample, above the mean of the night sky.
    true_image : ndarray of int32, shape (P,)
        Photo-electrons of the shower, also where the pixel is broken.
    trigger_time : float
        In ns, with the zero of the photo-electrons' times.
    first_sample_time : float
        Likewise. A photo-electron of this time has the peak of its pulse in sample 0.
    """

    waveform: np.ndarray
    true_image: np.ndarray
    trigger_time: float
    first_sample_time: float


class _Electronics(NamedTuple):
    """What compiled code knows of the camera."""

    grid: PixelGrid
    modules: np.ndarray
    module_of: np.ndarray  # of every pixel
    patches: np.ndarray
    broken: np.ndarray
    pulses: np.ndarray
    before: int
    charges: np.ndarray  # quantiles
    trace: np.ndarray  # night sky and electronics
    sampling_rate: float  # 1/ns
    jitter: float  # ns
    efficiency: float
    threshold: float  # p.e. per sample, of the sum over a patch
    fewest: int  # photo-electrons in a patch that may trigger
    trigger_position: int
    n_samples: int


class CameraSimulator(Component):
    """A camera with photomultipliers, sums of modules as trigger, and sampled signals.

    The defaults are those of LST-1 in CTAO's production prod5, as the configuration of
    sim_telarray says that is stored in pyeventio's test file history_meta_75.simtel.zst;
    their names there are given below. Not simulated are saturation and the low-gain
    channel, and differences between the pixels, of some percent in gain and quantum
    efficiency and half a nanosecond in time, which calibration removes.
    """

    night_sky_rate = AstroQuantity(
        default_value=0.238 / u.ns,
        physical_type=u.physical.frequency,
        help="Photo-electrons of the night sky per pixel and time (NIGHTSKY_BACKGROUND)",
    ).tag(config=True)
    electronic_noise = Float(
        # FADC_NOISE 6.7 of the digitizer's counts; a photo-electron has a peak of 25
        # (FADC_AMPLITUDE) and an area of 25 * 3.74
        0.072,
        min=0,
        help="Standard deviation of a sample without light, in photo-electrons",
    ).tag(config=True)
    transit_time_jitter = AstroQuantity(
        default_value=0.7 * u.ns,
        physical_type=u.physical.time,
        help="Standard deviation of a photo-electron's time (TRANSIT_TIME_JITTER)",
    ).tag(config=True)
    prompt_spectrum = Path(
        default_value=RESOURCES / "LSTCam.prompt.ecsv",
        exists=True,
        directory_ok=False,
        help=(
            "Table of the charge of single photo-electrons, with columns amplitude and"
            " frequency; amplitudes are scaled to a mean of one"
        ),
    ).tag(config=True)
    afterpulse_spectrum = Path(
        default_value=RESOURCES / "LSTCam.afterpulses.ecsv",
        exists=True,
        directory_ok=False,
        help="The same for afterpulses, with amplitudes in photo-electrons",
    ).tag(config=True)
    afterpulse_ratio = Float(
        2e-4,
        min=0,
        max=0.01,
        help="Afterpulses above 4 p.e. per photo-electron of the night sky",
    ).tag(config=True)
    efficiency = Float(
        1.0,
        min=0,
        max=1,
        help=(
            "Fraction of the photo-electrons to keep, for a worse camera; more light than"
            " by default is up to the efficiency of MirrorOptics"
        ),
    ).tag(config=True)
    trigger_threshold = Float(
        # ASUM_THRESHOLD 270 mV; a photo-electron has a peak of 6.5 mV
        # (DISCRIMINATOR_AMPLITUDE)
        41.5,
        min=0,
        help=(
            "Of the summed signals of three neighboring modules of seven pixels, in units"
            " of the peak of a mean photo-electron's pulse"
        ),
    ).tag(config=True)
    trigger_position = Int(
        9, min=0, help="Samples read out before that of the trigger (FADC_SUM_OFFSET)"
    ).tag(config=True)
    broken_fraction = Float(
        0.0,
        min=0,
        max=1,
        help="Probability of each pixel to be broken, drawn once",
    ).tag(config=True)
    broken_pixels = List(
        Int(min=0), help="Indices of pixels that are broken; their signal is zero"
    ).tag(config=True)
    seed = Int(
        0, min=0, help="Of the noise and of the broken pixels that are drawn at random"
    ).tag(config=True)

    def __init__(self, camera, config=None, parent=None, **kwargs):
        """Prepare the simulation of a camera.

        Parameters
        ----------
        camera : ctapipe.instrument.CameraDescription
            With hexagonal pixels in modules of seven. Its readout says how many samples
            there are, at which rate, and what the pulse looks like.
        config, parent, **kwargs
            See `ctapipe.core.Component`.

        Raises
        ------
        ToolConfigurationError
            If the camera has no such modules, or an option does not fit it.
        """
        super().__init__(config=config, parent=parent, **kwargs)
        self.camera = camera
        self._verify_options()
        #: Which pixels are broken, ndarray of bool, shape (P,).
        self.broken_pixel_mask = self._draw_broken_pixels()
        self._electronics = self._build_electronics()

    def _verify_options(self):
        readout = self.camera.readout
        if self.trigger_position >= readout.n_samples:
            raise ToolConfigurationError(
                f"CameraSimulator.trigger_position is {self.trigger_position}, but only"
                f" {readout.n_samples} samples are read out"
            )
        if max(self.broken_pixels, default=-1) >= readout.n_pixels:
            raise ToolConfigurationError(
                f"CameraSimulator.broken_pixels has pixel {max(self.broken_pixels)}, but"
                f" camera {self.camera.name} has {readout.n_pixels} pixels"
            )
        for name in ("night_sky_rate", "transit_time_jitter"):
            value = getattr(self, name)
            if not (np.isfinite(value) and value >= 0):
                raise ToolConfigurationError(
                    f"CameraSimulator.{name} is {value}; it must not be negative"
                )

    def _draw_broken_pixels(self):
        rng = np.random.default_rng(self.seed)
        mask = rng.uniform(size=self.camera.readout.n_pixels) < self.broken_fraction
        mask[self.broken_pixels] = True
        return mask

    def _build_electronics(self):
        geometry, readout = self.camera.geometry, self.camera.readout
        try:
            modules = trigger_modules(geometry)
            grid = PixelGrid.from_geometry(geometry)
        except LatticeError as error:
            raise ToolConfigurationError(str(error)) from error
        module_of = np.empty(geometry.n_pixels, dtype=np.int64)
        module_of[modules] = np.arange(len(modules))[:, np.newaxis]
        spectrum = ChargeSpectrum.read(
            self.prompt_spectrum, self.afterpulse_spectrum, self.afterpulse_ratio
        )
        pulses, before = pulse_table(readout)
        trace = noise_trace(
            random_state(self.seed),
            TRACE_LENGTH,
            (self.night_sky_rate / readout.sampling_rate).to_value(u.one),
            self.electronic_noise,
            spectrum,
            pulses,
            before,
        )
        peak = float(pulses.max())
        threshold = self.trigger_threshold * peak
        return _Electronics(
            grid=grid,
            modules=modules,
            module_of=module_of,
            patches=trigger_patches(geometry, modules),
            broken=self.broken_pixel_mask,
            pulses=pulses,
            before=before,
            charges=spectrum.prompt,
            trace=trace,
            sampling_rate=readout.sampling_rate.to_value(u.GHz),
            jitter=self.transit_time_jitter.to_value(u.ns),
            efficiency=self.efficiency,
            threshold=threshold,
            fewest=_fewest(trace, threshold, peak, 3 * modules.shape[1], spectrum),
            trigger_position=self.trigger_position,
            n_samples=int(readout.n_samples),
        )

    @property
    def fewest(self):
        """Photo-electrons without which the camera does not trigger."""
        return self._electronics.fewest

    def simulate(self, x, y, time, seed):
        """Response to the photo-electrons of one shower.

        Parameters
        ----------
        x, y : ndarray, shape (n,)
            Where they are, in `CameraFrame` [m]; those outside the camera are ignored.
        time : ndarray, shape (n,)
            When [ns], with any zero.
        seed : int
            Not negative. The response depends on nothing else, and on the options.

        Returns
        -------
        response : CameraResponse or None
            None if there was no trigger. It is looked for within 48 ns of the median time
            of the photo-electrons in the brightest three modules, and where there is
            light; everywhere, if the threshold is so low that noise alone reaches it
            within four milliseconds of one patch. Light that comes at another time is
            read out if it is within the samples.

        Raises
        ------
        ValueError
            If the vectors are of different lengths.
        """
        electronics = self._electronics
        x, y = (np.ascontiguousarray(a, dtype=np.float32) for a in (x, y))
        time = np.ascontiguousarray(time, dtype=np.float64)
        if not x.shape == y.shape == time.shape == (len(x),):
            raise ValueError(
                "x, y and time must be vectors of one length, not of shapes"
                f" {x.shape}, {y.shape} and {time.shape}"
            )
        if len(x) < electronics.fewest:
            return None
        pixel, brightest = _assign_pixels(electronics, x, y)
        if np.count_nonzero(brightest) < electronics.fewest:
            return None
        center = np.median(time[brightest]) if brightest.any() else 0.0
        response = _respond(electronics, random_state(seed), pixel, time, center)
        return CameraResponse(*response[1:]) if response[0] else None


def _fewest(trace, threshold, peak, n_pixels, spectrum):
    """Fewest photo-electrons in a patch with which a trigger is not out of reach.

    Their pulses add up at best, with fluctuating charges, and noise comes on top. It is
    zero where noise alone triggers.
    """
    shift = len(trace) // n_pixels
    noise = sum(np.roll(trace, i * shift) for i in range(n_pixels))
    if noise.max() >= threshold:
        return 0
    noise_spread = noise.std()
    number = 0
    while number * peak < threshold:
        light_spread = peak * math.sqrt(number * spectrum.mean_square)
        spread = math.hypot(noise_spread, light_spread)
        if number * peak + NOISE_MARGIN * spread >= threshold:
            break
        number += 1
    return max(number, 1)


@njit(cache=True)
def _assign_pixels(electronics, x, y):
    """Pixel of every photo-electron, and whether that is one of the brightest patch."""
    pixel = np.empty(len(x), dtype=np.int64)
    for i in range(len(x)):
        pixel[i] = pixel_at(electronics.grid, x[i], y[i])
    light = _light_of_modules(electronics, pixel)
    best, most = 0, -1
    for number in range(len(electronics.patches)):
        here = _light_of_patch(light, electronics.patches[number])
        if here > most:
            best, most = number, here
    first, second, third = electronics.patches[best]
    brightest = np.zeros(len(x), dtype=np.bool_)
    for i in range(len(x)):
        if pixel[i] >= 0 and not electronics.broken[pixel[i]]:
            module = electronics.module_of[pixel[i]]
            brightest[i] = module == first or module == second or module == third
    return pixel, brightest


@njit(cache=True)
def _light_of_modules(electronics, pixel):
    """Photo-electrons in the working pixels of every module."""
    light = np.zeros(len(electronics.modules), dtype=np.int64)
    for i in range(len(pixel)):
        if pixel[i] >= 0 and not electronics.broken[pixel[i]]:
            light[electronics.module_of[pixel[i]]] += 1
    return light


@njit(cache=True)
def _light_of_patch(light, patch):
    return light[patch[0]] + light[patch[1]] + light[patch[2]]


@njit(cache=True)
def _respond(electronics, state, pixel, time, center):
    """Whether the camera triggers, and the attributes of a `CameraResponse`."""
    n_pixels = len(electronics.broken)
    true_image = _detect(electronics, state, pixel)
    light = _light_of_modules(electronics, pixel)
    # the clock of the digitizer is not in phase with the light
    samples_before = SEARCHED // 2 + uniform(state)
    start = center - samples_before / electronics.sampling_rate
    position = _positions(electronics, state, time, start)
    charge = np.empty(len(time), dtype=np.float32)
    for i in range(len(time)):
        charge[i] = draw_charge(state, electronics.charges)
    offset = _noise_offsets(electronics, state)

    crossing = _first_crossing(electronics, pixel, position, charge, offset, light)
    if crossing < 0:
        return False, np.empty((0, 0), np.float32), true_image, 0.0, 0.0
    first = crossing - electronics.trigger_position
    waveform = np.zeros((n_pixels, electronics.n_samples), dtype=np.float32)
    for i in range(n_pixels):
        if not electronics.broken[i]:
            begin = offset[i] + first
            _add(waveform[i], electronics.trace[begin : begin + electronics.n_samples])
    for i in range(len(pixel)):
        if pixel[i] >= 0 and not electronics.broken[pixel[i]]:
            add_pulse(
                waveform[pixel[i]],
                electronics.pulses,
                electronics.before,
                position[i] - first,
                charge[i],
            )
    trigger_time = start + crossing / electronics.sampling_rate
    first_sample_time = start + first / electronics.sampling_rate
    return True, waveform, true_image, trigger_time, first_sample_time


@njit(cache=True)
def _add(target, values):
    for k in range(len(target)):
        target[k] += values[k]


@njit(cache=True)
def _detect(electronics, state, pixel):
    """Lose some photo-electrons, and count the others in every pixel."""
    true_image = np.zeros(len(electronics.broken), dtype=np.int32)
    for i in range(len(pixel)):
        if electronics.efficiency < 1.0 and uniform(state) >= electronics.efficiency:
            pixel[i] = -1
        if pixel[i] >= 0:
            true_image[pixel[i]] += 1
    return true_image


@njit(cache=True)
def _positions(electronics, state, time, start):
    """When the photo-electrons' pulses come, in samples after the start."""
    position = np.empty(len(time))
    spare = 0.0
    for i in range(len(time)):
        if i % 2 == 0:
            deviation, spare = normal_pair(state)
        else:
            deviation = spare
        delay = time[i] + electronics.jitter * deviation - start
        position[i] = delay * electronics.sampling_rate
    return position


@njit(cache=True)
def _noise_offsets(electronics, state):
    """Where in the noise trace every pixel is at the start of the search."""
    margin = electronics.trigger_position
    places = len(electronics.trace) - margin - SEARCHED - electronics.n_samples
    offset = np.empty(len(electronics.broken), dtype=np.int64)
    for i in range(len(offset)):
        offset[i] = margin + int(places * uniform(state))
    return offset


@njit(cache=True)
def _first_crossing(electronics, pixel, position, charge, offset, light):
    """Sample after the start in which a patch reaches the threshold; -1 if none does."""
    hot = np.zeros(len(light), dtype=np.bool_)
    for patch in electronics.patches:
        if _light_of_patch(light, patch) >= electronics.fewest:
            for module in patch:
                hot[module] = True
    signal = _module_sums(electronics, pixel, position, charge, offset, hot)
    crossing = SEARCHED
    for patch in electronics.patches:
        if _light_of_patch(light, patch) >= electronics.fewest:
            first, second, third = signal[patch[0]], signal[patch[1]], signal[patch[2]]
            for k in range(crossing):
                if first[k] + second[k] + third[k] >= electronics.threshold:
                    crossing = k
                    break
    return crossing if crossing < SEARCHED else -1


@njit(cache=True)
def _module_sums(electronics, pixel, position, charge, offset, hot):
    """Summed waveforms of the hot modules, shape (M, SEARCHED)."""
    signal = np.zeros((len(hot), SEARCHED), dtype=np.float32)
    for module in range(len(hot)):
        if hot[module]:
            for i in electronics.modules[module]:
                if not electronics.broken[i]:
                    begin = offset[i]
                    _add(signal[module], electronics.trace[begin : begin + SEARCHED])
    for i in range(len(pixel)):
        if pixel[i] >= 0 and not electronics.broken[pixel[i]]:
            module = electronics.module_of[pixel[i]]
            if hot[module]:
                add_pulse(
                    signal[module],
                    electronics.pulses,
                    electronics.before,
                    position[i],
                    charge[i],
                )
    return signal
