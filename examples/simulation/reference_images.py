"""What CORSIKA and sim_telarray make of a shower, in numbers to compare with.

Reads simtel files, calibrates, cleans and parametrizes the images of all LSTs, and
writes one row an image: the truth of the shower, the telescope's place in it, and what
was measured. The rows of tests/simulation/reference_images.ecsv are those of test files
of pyeventio and simtools:

    python examples/simulation/reference_images.py *.simtel.zst \\
        -o reference_images.ecsv --atmosphere reference_atmosphere.ecsv

The second table is the air that CORSIKA had in the last file.
"""

import argparse
from pathlib import Path

import astropy.units as u
import numpy as np
from astropy.table import QTable
from ctapipe.calib import CameraCalibrator
from ctapipe.containers import ArrayEventContainer, EventType, R1CameraContainer
from ctapipe.image import ImageProcessor, dilate
from ctapipe.io import EventSource
from tqdm import tqdm
from traitlets.config import Config

__all__ = ["ImageMeter", "reference_atmosphere", "reference_rows"]

#: As much light as 8 p.e. beside 8 p.e. twice, and 4 p.e. around; the charge is that of
#: 8 samples around the peak, ctapipe's default for the extractor named here.
CONFIGURATION = Config(
    {
        "CameraCalibrator": {"image_extractor_type": "LocalPeakWindowSum"},
        "LocalPeakWindowSum": {"window_width": 8, "window_shift": 4},
        "ImageProcessor": {"image_cleaner_type": "TailcutsImageCleaner"},
        "TailcutsImageCleaner": {
            "picture_threshold_pe": 8.0,
            "boundary_threshold_pe": 4.0,
            "min_picture_neighbors": 2,
        },
    }
)
#: samples of the sum in which no peak is looked for
PEDESTAL_WINDOW = 8
#: rings of pixels around the light of the shower that do not count as noise
MARGIN = 2
LST_FOCAL_LENGTH, LST_MIRROR_AREA = 28 * u.m, 387 * u.m**2


class ImageMeter:
    """Measures waveforms as ctapipe does: calibration, cleaning, image parameters.

    Parameters
    ----------
    subarray : ctapipe.instrument.SubarrayDescription
    """

    def __init__(self, subarray):
        self.subarray = subarray
        self.calibrate = CameraCalibrator(subarray, config=CONFIGURATION)
        self.parametrize = ImageProcessor(subarray, config=CONFIGURATION)

    def of_waveform(self, waveform, true_image, tel_id=1):
        """Measure a simulated camera response.

        Parameters
        ----------
        waveform : ndarray, shape (P, samples)
            Photo-electrons a sample, baseline 0.
        true_image : ndarray of int, shape (P,)
            Photo-electrons of the shower.

        Returns
        -------
        dict of str to Quantity or number
            See `of_event`.
        """
        return self.of_event(_event_of(waveform, tel_id), tel_id, true_image)

    def image_of_waveform(self, waveform, tel_id=1):
        """Charge of every pixel [p.e.], ndarray of shape (P,)."""
        event = _event_of(waveform, tel_id)
        self.calibrate(event)
        return event.dl1.tel[tel_id].image

    def of_event(self, event, tel_id, true_image):
        """Measure the image of one telescope.

        Parameters
        ----------
        event : ctapipe.containers.ArrayEventContainer
            With data of R1.
        tel_id : int
        true_image : ndarray of int, shape (P,)

        Returns
        -------
        dict of str to Quantity or number
            Without image parameters (NaN) where nothing is left by the cleaning.
        """
        self.calibrate(event)
        self.parametrize(event)
        dl1 = event.dl1.tel[tel_id]
        hillas, timing = dl1.parameters.hillas, dl1.parameters.timing
        return {
            "true_image_sum": int(true_image.sum()),
            "size": hillas.intensity,
            "width": hillas.width.to(u.deg),
            "length": hillas.length.to(u.deg),
            "time_slope": abs(timing.slope.to_value(1 / u.deg)) * u.ns / u.deg,
            "pixels": max(dl1.parameters.morphology.n_pixels, 0),
            "leakage": dl1.parameters.leakage.intensity_width_2,
            **self._noise(event, tel_id, true_image),
        }

    def _noise(self, event, tel_id, true_image):
        """Charge and samples of pixels far from all light of the shower."""
        geometry = self.subarray.tel[tel_id].camera.geometry
        dl1 = event.dl1.tel[tel_id]
        shower = dl1.image_mask | (true_image > 0)
        for _ in range(MARGIN):
            shower = dilate(geometry, shower)
        charge = dl1.image[~shower]
        waveform = event.r1.tel[tel_id].waveform[0][~shower]
        pedestal = waveform[:, :PEDESTAL_WINDOW].sum(axis=1)
        return {
            "noise_pixels": len(charge),
            "noise_mean": charge.mean() if charge.size else np.nan,
            "noise_rms": charge.std() if charge.size else np.nan,
            "pedestal_mean": pedestal.mean() if charge.size else np.nan,
            "pedestal_rms": pedestal.std() if charge.size else np.nan,
            "sample_rms": waveform.std() if charge.size else np.nan,
        }


def _event_of(waveform, tel_id):
    """An event of ctapipe with one waveform of data level R1."""
    event = ArrayEventContainer()
    event.r1.tel[tel_id] = R1CameraContainer(
        event_type=EventType.SUBARRAY,
        waveform=waveform[np.newaxis].astype(np.float32),
        pixel_status=np.zeros(len(waveform), dtype=np.uint8),
        selected_gain_channel=np.zeros(len(waveform), dtype=np.int8),
    )
    return event


def reference_rows(path):
    """Images of LSTs in a simtel file, with the truth.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    list of dict
        One an image, see the columns that `main` writes.

    Raises
    ------
    ValueError
        If there is no LST.
    """
    with EventSource(path) as source:
        telescopes = lsts(source.subarray)
        if not telescopes:
            raise ValueError(f"{path}: no telescope has the mirror of an LST")
        site = site_of(source)
        meter = ImageMeter(source.subarray)
        rows = []
        for event in source:
            for tel_id in sorted(telescopes & set(event.r1.tel)):
                true_image = event.simulation.tel[tel_id].true_image
                rows.append(
                    {
                        "file": Path(path).name.split(".")[0],
                        "event_id": int(event.index.event_id),
                        "tel_id": tel_id,
                        **site,
                        **shower_of(event, tel_id, source.subarray),
                        **meter.of_event(event, tel_id, true_image),
                    }
                )
    return rows


def lsts(subarray):
    """Telescopes with the mirror of an LST, 28 m in focal length and 387 m2 in area."""
    return {
        tel_id
        for tel_id, telescope in subarray.tel.items()
        if telescope.name.startswith("LST")
        and abs(telescope.optics.mirror_area - LST_MIRROR_AREA) < 2 * u.m**2
    }


def site_of(source):
    """Level of observation, and magnetic field along x (north), y (west) and z (up).

    sim_telarray's inclination counts down from the horizontal, its declination from
    north to east; the array's x axis points to geographic north (card ARRANG).
    """
    (run,) = source.simulation_config.values()
    total = run.prod_site_B_total
    inclination, declination = run.prod_site_B_inclination, run.prod_site_B_declination
    horizontal = total * np.cos(inclination)
    field = [
        horizontal * np.cos(declination),
        -horizontal * np.sin(declination),
        -total * np.sin(inclination),
    ]
    return {
        "observation_level": run.prod_site_alt,
        "magnetic_field": u.Quantity(field).to(u.uT),
    }


def shower_of(event, tel_id, subarray):
    """Truth of the shower, and the telescope's place in it.

    Telescopes and core both count from the array's centre at the observation level, so
    their difference is the telescope's place from where the shower axis meets this level.
    """
    shower, pointing = event.simulation.shower, event.monitoring.tel[tel_id].pointing
    core = u.Quantity([shower.core_x, shower.core_y, 0 * u.m])
    return {
        "primary_id": int(shower.shower_primary_id),
        "energy": shower.energy.to(u.GeV),
        "altitude": u.Quantity(shower.alt).to(u.deg),
        "azimuth": u.Quantity(shower.az).to(u.deg),
        "pointing_altitude": pointing.altitude.to(u.deg),
        "pointing_azimuth": pointing.azimuth.to(u.deg),
        "telescope_position": (subarray.positions[tel_id] - core).to(u.m),
        "impact_distance": event.simulation.tel[tel_id].impact.distance.to(u.m),
        "first_interaction_height": shower.h_first_int.to(u.m),
        "x_max": shower.x_max.to(u.g / u.cm**2),
    }


def reference_atmosphere(path):
    """Air that CORSIKA had for a simtel file.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    table : astropy.table.Table
        As ctapipe's density profiles; the metadata have the refractive index less one at
        sea level, if it were in proportion to the density all the way down as it is in
        the dry air above.

    Raises
    ------
    ValueError
        If the refractive index is not in proportion to the density.
    """
    with EventSource(path) as source:
        next(iter(source))  # the profile comes before the first event
        table = source.atmosphere_density_profile.table.copy()
        (air,) = source.file_.atmospheric_profiles
    ratio = air["refractive_index_minus_1"] / air["rho"]
    table.meta["atmosphere_name"] = Path(air["name"].decode()).name
    ratio = ratio[air["altitude_km"] < 30]
    if np.ptp(ratio) > 0.005 * np.median(ratio):
        raise ValueError(f"{path}: the refractive index is not in proportion to density")
    at_sea_level = np.median(ratio) * air["rho"][0]
    table.meta["refractivity_at_sea_level"] = float(np.round(at_sea_level, 8))
    return table


def main():
    """Write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("input", nargs="+", type=Path, help="simtel files")
    parser.add_argument("-o", "--output", type=Path, required=True, help="ECSV table")
    parser.add_argument("--atmosphere", type=Path, help="ECSV table of the air")
    options = parser.parse_args()
    rows = [row for path in tqdm(options.input) for row in reference_rows(path)]
    table = QTable(rows=rows)
    table.meta["origin"] = "CORSIKA and sim_telarray"
    for name in table.colnames:
        if table[name].dtype.kind == "f":
            table[name] = np.round(table[name].astype(float), 4)
    table.write(options.output, overwrite=True)
    if options.atmosphere:
        reference_atmosphere(options.input[-1]).write(options.atmosphere, overwrite=True)
    print(f"{len(table)} images in {options.output}")


if __name__ == "__main__":
    main()
