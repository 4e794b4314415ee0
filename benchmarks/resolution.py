"""AUC and 68 % resolutions of a DL2 file of gammas and one of protons.

    python benchmarks/resolution.py gamma.dl2.h5 proton.dl2.h5
    python benchmarks/resolution.py gamma.dl2.h5 proton.dl2.h5 --prefix HillasRF

Needs the newest of the versions of ctapipe that wrote the files. Telescope-wise
results. Angular resolution: 68 % quantile of the angular distance (pyirf). Energy
resolution: 68 % quantile of the absolute relative error. Uncertainties: standard
deviation over 200 bootstrap samples.
"""

import argparse

import astropy.units as u
import numpy as np
from ctapipe.io import TableLoader
from pyirf.utils import calculate_theta
from sklearn.metrics import roc_auc_score

ENERGY_BINS = [0.02, 0.05, 0.1, 0.3, 1.0, np.inf]  # TeV
INTENSITY_BINS = [50, 100, 200, 600, np.inf]  # p.e.
MAX_LEAKAGE = 0.2
N_BOOTSTRAP = 200


def read(path):
    """Telescope-wise DL1 parameters, DL2 and truth of a file."""
    with TableLoader(path) as loader:
        return loader.read_telescope_events(
            dl1_images=False, dl1_parameters=True, dl2=True, simulated=True
        )


def bootstrap(function, *arrays):
    """Value of a function of events and its bootstrap standard deviation."""
    rng = np.random.default_rng(0)
    size = len(arrays[0])
    if size < 10:
        return np.nan, np.nan
    samples = []
    for _ in range(N_BOOTSTRAP):
        chosen = rng.integers(size, size=size)
        samples.append(function(*(array[chosen] for array in arrays)))
    return function(*arrays), np.std(samples)


def containment(values):
    """68 % quantile."""
    return np.quantile(values, 0.68)


def selection(table, minimum):
    """Events within the cuts."""
    leakage = np.asarray(table["leakage_intensity_width_2"])
    return (np.asarray(table["hillas_intensity"]) > minimum) & (leakage < MAX_LEAKAGE)


def show_resolutions(gamma, minimum, prefix):
    """Print the table of angular and energy resolution per true energy."""
    gamma = gamma[selection(gamma, minimum)]
    # Quantity, for columns of a Table may be plain numbers with a unit
    energy = {
        name: u.Quantity(gamma[column]).to_value(u.TeV)
        for name, column in (
            ("true", "true_energy"),
            ("reco", f"{prefix}Energy_tel_energy"),
        )
    }
    angles = [
        u.Quantity(gamma[column])
        for column in (
            f"{prefix}Geometry_tel_az",
            f"{prefix}Geometry_tel_alt",
            "true_az",
            "true_alt",
        )
    ]
    events = dict(zip(("reco_az", "reco_alt", "true_az", "true_alt"), angles))
    theta = calculate_theta(events, events["true_az"], events["true_alt"])
    theta = theta.to_value(u.deg)
    error = np.abs(energy["reco"] / energy["true"] - 1)
    good = np.isfinite(theta) & np.isfinite(error)
    print(f"gammas of intensity > {minimum} p.e., leakage < {MAX_LEAKAGE}:")
    print(f"{len(good)} events, {good.sum()} reconstructed")
    print("true energy [TeV]   events   angle 68 % [deg]    energy 68 %")
    for low, high in zip(ENERGY_BINS[:-1], ENERGY_BINS[1:]):
        chosen = good & (energy["true"] >= low) & (energy["true"] < high)
        angle, angle_error = bootstrap(containment, theta[chosen])
        relative, relative_error = bootstrap(containment, error[chosen])
        print(
            f"{low:5.2f} - {high:5.2f}     {chosen.sum():8d}   {angle:.3f} ±"
            f" {angle_error:.3f}      {relative:.3f} ± {relative_error:.3f}"
        )


def show_auc(gamma, proton, prefix):
    """Print the AUC of all events and per intensity."""
    table = {}
    for name, events in (("gamma", gamma), ("proton", proton)):
        score = np.asarray(events[f"{prefix}Classifier_tel_prediction"])
        good = selection(events, INTENSITY_BINS[0]) & np.isfinite(score)
        intensity = np.asarray(events["hillas_intensity"])[good]
        table[name] = (score[good], intensity)
    score, intensity = map(np.concatenate, zip(table["gamma"], table["proton"]))
    label = np.repeat([1, 0], [len(table["gamma"][0]), len(table["proton"][0])])
    print(f"AUC, leakage < {MAX_LEAKAGE}:")
    bins = list(zip(INTENSITY_BINS[:-1], INTENSITY_BINS[1:]))
    for low, high in [(INTENSITY_BINS[0], np.inf), *bins]:
        chosen = (intensity > low) & (intensity <= high)
        value, error = bootstrap(roc_auc_score, label[chosen], score[chosen])
        counts = np.bincount(label[chosen], minlength=2)
        print(
            f"intensity {low:4.0f} - {high:4.0f} p.e.: {value:.3f} ± {error:.3f}"
            f" ({counts[1]} gammas, {counts[0]} protons)"
        )


def main():
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("gamma", help="DL2 file of simulated gamma rays")
    parser.add_argument("proton", help="DL2 file of simulated protons")
    parser.add_argument(
        "--prefix",
        default="GammaPhysNet",
        help="of the results, without Energy, Geometry or Classifier"
        " (default: %(default)s)",
    )
    options = parser.parse_args()
    gamma, proton = read(options.gamma), read(options.proton)
    show_auc(gamma, proton, options.prefix)
    for minimum in (50, 150):
        show_resolutions(gamma, minimum, options.prefix)


if __name__ == "__main__":
    main()
