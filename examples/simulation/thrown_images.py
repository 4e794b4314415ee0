"""Showers thrown on LST-1, with everything that is asked of them afterwards.

Used by the figures and the tests of the simulation; to make files, use gphysnet-simulate.
"""

import astropy.units as u
import numpy as np
from astropy.coordinates import EarthLocation
from astropy.table import QTable
from ctapipe.instrument import SubarrayDescription
from reference_images import ImageMeter
from tqdm import tqdm

from ctapipe_gphysnet.simulation.atmosphere import Atmosphere
from ctapipe_gphysnet.simulation.camera import CameraSimulator
from ctapipe_gphysnet.simulation.generator import ParticleGenerator
from ctapipe_gphysnet.simulation.optics import MirrorOptics
from ctapipe_gphysnet.simulation.shower import ShowerSimulator
from ctapipe_gphysnet.simulation.telescope import lst_description

__all__ = ["Camera", "LightCounter", "one_seed", "perpendicular_area", "throw"]

LA_PALMA = EarthLocation(lon=-17.892 * u.deg, lat=28.762 * u.deg, height=2200 * u.m)
MIRROR_HEIGHT = 16  # m above the ground
# Frank and Tamm: photons of 300 to 600 nm per m of track, times the squared sine
PHOTONS_300_600_NM = 2 * np.pi / 137.036 * (1 / 300e-9 - 1 / 600e-9)


class Camera:
    """LST-1's camera, and ctapipe to measure its images.

    Attributes
    ----------
    geometry : ctapipe.instrument.CameraGeometry
    """

    def __init__(self):
        telescope = lst_description()
        subarray = SubarrayDescription(
            "LST-1",
            tel_positions={1: [0, 0, MIRROR_HEIGHT] * u.m},
            tel_descriptions={1: telescope},
            reference_location=LA_PALMA,
        )
        self.geometry = telescope.camera.geometry
        self.simulator = CameraSimulator(telescope.camera)
        self.meter = ImageMeter(subarray)
        self._nothing = self._measure_nothing()

    def respond(self, shower, telescope, seed):
        """Response to what one of the telescopes sees of a shower.

        Parameters
        ----------
        shower : ctapipe_gphysnet.simulation.shower.Shower
        telescope : int
            Its place among those of the shower.
        seed : int

        Returns
        -------
        response : CameraResponse or None
            None without a trigger.
        """
        part = slice(shower.starts[telescope], shower.starts[telescope + 1])
        return self.simulator.simulate(
            shower.x[part], shower.y[part], shower.time[part], seed
        )

    def measure(self, response):
        """Image parameters, see `ImageMeter.of_waveform`; NaN for no response."""
        if response is None:
            return self._nothing
        return self.meter.of_waveform(response.waveform, response.true_image)

    def _measure_nothing(self):
        readout = self.simulator.camera.readout
        dark = np.zeros((readout.n_pixels, readout.n_samples))
        measured = self.meter.of_waveform(dark, dark[:, 0])
        return {name: value * np.nan for name, value in measured.items()}

    def charge(self, response):
        """Image as ctapipe extracts it, see `ImageMeter.image_of_waveform`."""
        return self.meter.image_of_waveform(response.waveform)


class LightCounter(MirrorOptics):
    """Mirrors that count all photons from 300 to 600 nm, as if the air were clear.

    Attributes
    ----------
    area : float
        Of each [m2].
    """

    def __init__(self):
        super().__init__(inner_radius=0 * u.m, camera_radius=8 * u.m)
        self.area = np.pi * self.outer_radius.to_value(u.m) ** 2

    def light_yield(self, atmosphere, height, zenith):
        """Photons per m of track, at all heights."""
        return np.full(len(height), PHOTONS_300_600_NM)


def one_seed(*numbers):
    """A seed out of several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def throw(camera, n_showers, seed=1, measured=True, progress=False, **generator):
    """Throw showers on a telescope that points 20 degrees from the zenith.

    Parameters
    ----------
    camera : Camera
    n_showers : int
    seed : int
    measured : bool
        Whether triggered images are measured, which takes most of the time.
    progress : bool
        Whether to show a bar.
    **generator
        Options of `ParticleGenerator`.

    Returns
    -------
    events : astropy.table.QTable
        One row for each place of each shower: energy, distance of the axis from the
        telescope, x_max, photo-electrons before the trigger, whether it triggered, and
        the image parameters (NaN without a trigger).
    """
    generator = ParticleGenerator(**generator)
    atmosphere = Atmosphere()
    simulator = ShowerSimulator(atmosphere, MirrorOptics())
    rows = []
    for number in tqdm(range(n_showers), disable=not progress):
        thrown = generator.throw(np.random.default_rng((seed, number)))
        shower = simulator.simulate(
            generator.primary,
            thrown.energy,
            thrown.altitude,
            thrown.azimuth,
            np.column_stack([-thrown.core, np.full(generator.uses, MIRROR_HEIGHT)]),
            generator.pointing_altitude,
            generator.pointing_azimuth,
            one_seed(seed, number),
        )
        for use, distance in enumerate(thrown.core_distance):
            response = camera.respond(shower, use, one_seed(seed, number, use))
            row = {
                "energy": thrown.energy,
                "core_distance": distance * u.m,
                "x_max": shower.x_max,
                "photo_electrons": shower.starts[use + 1] - shower.starts[use],
                "triggered": response is not None,
            }
            if measured:
                row |= camera.measure(response)
            rows.append(row)
    return QTable(rows=rows)


def perpendicular_area(generator_radius, chosen):
    """Effective area of thrown events.

    Parameters
    ----------
    generator_radius : astropy.units.Quantity
        ``max_core_distance``.
    chosen : ndarray of bool
        Of all thrown events, those that count.

    Returns
    -------
    area, error : astropy.units.Quantity
    """
    thrown_on = (np.pi * generator_radius**2).to(u.m**2)
    share = np.mean(chosen)
    return thrown_on * share, thrown_on * np.sqrt(share * (1 - share) / len(chosen))
