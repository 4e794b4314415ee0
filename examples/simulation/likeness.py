"""How like the simulation's images are to those of CORSIKA and sim_telarray.

Each reference image is simulated many times: same particle, energy, direction, impact
point, air, magnetic field and (gamma rays) height of the first interaction. Printed is
the median of what was simulated over what the reference has; for protons, which differ
too much from shower to shower, where the reference stands in the simulated distribution.

    python examples/simulation/likeness.py --repeats 40
"""

import argparse
from pathlib import Path

import astropy.units as u
import numpy as np
from astropy.table import QTable
from thrown_images import Camera, one_seed
from tqdm import tqdm

from ctapipe_gphysnet.simulation.atmosphere import Atmosphere
from ctapipe_gphysnet.simulation.optics import MirrorOptics
from ctapipe_gphysnet.simulation.shower import ShowerSimulator

__all__ = [
    "NOISE",
    "PARAMETERS",
    "PRODUCTION_EFFICIENCY",
    "likeness",
    "median_ratios",
    "percentiles",
    "read_reference",
    "simulate_images",
]

TESTS = Path(__file__).resolve().parents[2] / "tests" / "simulation"
REFERENCE = TESTS / "reference_images.ecsv"
REFERENCE_ATMOSPHERE = TESTS / "reference_atmosphere.ecsv"

PARTICLES = {0: "gamma", 101: "proton"}
PARAMETERS = ["true_image_sum", "size", "width", "length", "time_slope", "pixels"]
#: Of all images; the others of those with this size and more, for what the cleaning
#: leaves of a faint image is up to chance.
OF_ALL = ["true_image_sum"]
BRIGHT = 200  # p.e.
FEWEST = 10  # simulated images, for a percentile
NOISE = ["noise_mean", "noise_rms", "pedestal_rms", "sample_rms"]

#: `MirrorOptics.efficiency` of CTAO's productions prod5 and prod6, in which the mirror
#: reflects 0.8 of what a new one does (sim_telarray's mirror_degraded_reflection).
PRODUCTION_EFFICIENCY = 0.65


def read_reference(primary=None, path=REFERENCE):
    """Reference images.

    Parameters
    ----------
    primary : str or None
        "gamma", "proton", or None for all.
    path : path-like
        Table that reference_images.py writes.

    Returns
    -------
    reference : astropy.table.QTable
    """
    reference = QTable.read(path)
    if primary is None:
        return reference
    names = np.array([PARTICLES[i] for i in reference["primary_id"]])
    return reference[names == primary]


def simulate_images(
    reference, repeats, efficiency=PRODUCTION_EFFICIENCY, seed=1, progress=False
):
    """Simulate images in the place of reference images.

    Parameters
    ----------
    reference : astropy.table.QTable, N rows
    repeats : int
        Showers for each one of the reference.
    efficiency : float
        See `MirrorOptics`.
    seed : int
    progress : bool
        Whether to show a bar.

    Returns
    -------
    images : list of QTable
        Of each reference image, those simulated that triggered and were left by the
        cleaning.
    """
    camera = Camera()
    images = [[] for _ in reference]
    for of_shower in tqdm(_showers(reference), disable=not progress):
        rows = reference[of_shower]
        simulator = _simulator(rows[0], efficiency)
        for repeat in range(repeats):
            number = int(of_shower[0]) * 10_000 + repeat
            shower = _simulate_shower(simulator, rows, one_seed(seed, number))
            for k, i in enumerate(of_shower):
                response = camera.respond(shower, k, one_seed(seed, number, k))
                if response is None:
                    continue
                image = camera.measure(response)
                if np.isfinite(image["size"]):
                    images[i].append(image)
    return [QTable(rows=of_one) for of_one in images]


def _showers(reference):
    """Rows of each shower of the reference."""
    key = [f"{row['file']} {row['event_id']}" for row in reference]
    _, shower = np.unique(key, return_inverse=True)
    return [np.flatnonzero(shower == k) for k in range(shower.max() + 1)]


def _simulator(row, efficiency):
    """A simulator with the air and the field of a reference image."""
    north, west, up = row["magnetic_field"]
    table = QTable.read(REFERENCE_ATMOSPHERE)
    atmosphere = Atmosphere(
        profile_table=REFERENCE_ATMOSPHERE,
        refractivity=table.meta["refractivity_at_sea_level"],
        observation_level=row["observation_level"],
    )
    return ShowerSimulator(
        atmosphere,
        MirrorOptics(efficiency=efficiency),
        magnetic_field_north=np.hypot(north, west),
        magnetic_field_down=-up,
    )


def _simulate_shower(simulator, rows, seed):
    first = rows[0]
    primary = PARTICLES[first["primary_id"]]
    height = first["first_interaction_height"] if primary == "gamma" else None
    return simulator.simulate(
        primary,
        first["energy"],
        first["altitude"],
        first["azimuth"],
        rows["telescope_position"].to_value(u.m),
        first["pointing_altitude"],
        first["pointing_azimuth"],
        seed,
        first_interaction_height=height,
    )


def median_ratios(reference, images, names=PARAMETERS):
    """Median of what was simulated over the reference, of each image.

    Returns
    -------
    ratios : dict of str to ndarray, shape (N,)
    """
    return {
        name: np.array(
            [
                float(np.median(simulated[name]) / of_one[name])
                for of_one, simulated in zip(reference, images)
            ]
        )
        for name in names
    }


def percentiles(reference, images, names=PARAMETERS):
    """Percent of the simulated images below the reference, half of the equal ones.

    Returns
    -------
    percentiles : dict of str to ndarray, shape (N,)
        NaN where fewer than ten of the simulated images were seen.
    """
    return {
        name: np.array(
            [
                _percentile(simulated[name], of_one[name])
                if len(simulated) >= FEWEST
                else np.nan
                for of_one, simulated in zip(reference, images)
            ]
        )
        for name in names
    }


def _percentile(simulated, value):
    return 50 * np.mean(simulated < value) + 50 * np.mean(simulated <= value)


def likeness(reference, images):
    """Table of medians over the reference images, see `OF_ALL` for which.

    Parameters
    ----------
    reference : astropy.table.QTable, N rows
    images : list of QTable
        See `simulate_images`.

    Returns
    -------
    table : QTable
        For each parameter: median over the images of the ratios of `median_ratios`, and
        the lowest and highest one.
    """
    bright = reference["size"] >= BRIGHT
    rows = []
    for name, ratios in median_ratios(reference, images, PARAMETERS + NOISE).items():
        if name not in OF_ALL + NOISE:
            ratios = ratios[bright]
        rows.append((name, len(ratios), np.median(ratios), ratios.min(), ratios.max()))
    names = ("parameter", "images", "median", "lowest", "highest")
    return QTable(rows=rows, names=names)


def main():
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--repeats", type=int, default=40, help="showers for each one")
    parser.add_argument("--efficiency", type=float, default=PRODUCTION_EFFICIENCY)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    settings = options.repeats, options.efficiency, options.seed

    gammas = read_reference("gamma")
    images = simulate_images(gammas, *settings, progress=True)
    print(f"Gamma rays: {len(gammas)} images, median of simulated / reference")
    print_rounded(likeness(gammas, images))
    print("\nof each image:")
    print_rounded(QTable(median_ratios(gammas, images)))

    protons = read_reference("proton")
    images = simulate_images(protons, *settings, progress=True)
    print(f"\nProtons: {len(protons)} images, percent of simulated below the reference")
    table = QTable(percentiles(protons, images))
    table.add_column([len(simulated) for simulated in images], name="n", index=0)
    print_rounded(table)


def print_rounded(table):
    """Print a table with two decimals."""
    for name in table.colnames:
        if table[name].dtype.kind == "f":
            table[name].info.format = ".2f"
    table.pprint(max_lines=-1, max_width=-1)


if __name__ == "__main__":
    main()
