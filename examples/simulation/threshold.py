"""Energy threshold: where gamma rays of a steep spectrum are most frequent in a DL1 file.

python examples/simulation/threshold.py test_gamma.dl1.h5
"""

import argparse

import astropy.units as u
import numpy as np
from ctapipe.io import TableLoader

INDEX = -2.6  # of the Crab Nebula
EDGES = np.geomspace(10, 200, 19)  # GeV
GRID = np.geomspace(EDGES[0], EDGES[-1], 500)
REPEATS = 50
STAGES = {"triggered": -np.inf, "above 50 p.e.": 50, "above 80 p.e.": 80}


def main():
    """Print the thresholds."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("input", help="DL1 file of simulated gamma rays")
    options = parser.parse_args()
    with TableLoader(options.input) as loader:
        (simulated,) = set(loader.read_simulation_configuration()["spectral_index"])
        events = loader.read_telescope_events(
            dl1_parameters=True, simulated=True, true_parameters=False
        )
    energy = u.Quantity(events["true_energy"]).to_value(u.GeV)
    weight = energy ** (INDEX - simulated)
    shower = events["obs_id"] * 1e9 + events["event_id"] // 100
    size = np.nan_to_num(events["hillas_intensity"], nan=0)
    print(
        f"{len(events)} gamma rays, weighted to E^{INDEX}; maximum of the histogram [GeV]"
    )
    for stage, least in STAGES.items():
        chosen = size > least
        found = spread(energy[chosen], weight[chosen], shower[chosen])
        per_log, per_gev = (f"{value:.0f} +- {error:.0f}" for value, error in found.T)
        print(f"{stage:14} per logarithm of the energy {per_log}, per GeV {per_gev}")


def spread(energy, weight, shower):
    """Maxima, and their standard deviations when showers are drawn with repetition."""
    rng = np.random.default_rng(0)
    number = np.unique(shower, return_inverse=True)[1]
    draws = [
        maxima(energy, weight * rng.poisson(1, number.max() + 1)[number])
        for _ in range(REPEATS)
    ]
    return np.array([maxima(energy, weight), np.std(draws, axis=0)])


def maxima(energy, weight):
    """Energies of the maxima, of the rate per logarithm of the energy and per energy."""
    rate, _ = np.histogram(energy, EDGES, weights=weight)
    return [smooth_maximum(rate), smooth_maximum(rate / np.diff(EDGES))]


def smooth_maximum(rate):
    """Where a polynomial through the bins is largest."""
    centers = np.sqrt(EDGES[1:] * EDGES[:-1])
    fit = np.polynomial.Polynomial.fit(
        np.log(centers), np.log(rate), 4, w=np.sqrt(rate / rate.max())
    )
    return GRID[fit(np.log(GRID)).argmax()]


if __name__ == "__main__":
    main()
