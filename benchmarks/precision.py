"""How far reduced precision moves the results.

    python benchmarks/precision.py model gamma.dl1.h5 proton.dl1.h5 [--device cuda]

Prints the median, the 99 % quantile and the largest of the changes from float32 in
log10 of the energy and in direction, and the AUC of both. Selection: more than 50 p.e.,
leakage below 0.2.
"""

import argparse

import numpy as np
from sklearn.metrics import roc_auc_score

from ctapipe_gphysnet.events import EventSelection, read_events
from ctapipe_gphysnet.inference import Predictor
from ctapipe_gphysnet.resources import find_model


def show(name, change):
    """Print quantiles of a change."""
    median, high = np.quantile(change, [0.5, 0.99])
    print(f"{name:<20} median {median:.2g}, 99 % {high:.2g}, largest {change.max():.2g}")


def main():
    """Compare the precisions."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="model file or name of a shipped model")
    parser.add_argument("inputs", nargs="+", help="DL1 files of gamma rays and protons")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="float16", help="float16 or bfloat16")
    parser.add_argument("--events", type=int, default=4000, help="how many to draw")
    options = parser.parse_args()
    exact, reduced = (
        Predictor.from_file(find_model(options.model), device=device, precision=precision)
        for device, precision in (
            ("cpu", "float32"),
            (options.device, options.precision),
        )
    )
    model = exact.model
    tasks = model.network.options.tasks
    selection = EventSelection()
    sample = read_events(options.inputs, selection, tasks, camera=model.camera)
    rng = np.random.default_rng(0)
    chosen = rng.permutation(len(sample))[: options.events]
    images = model.preprocessing(
        sample.charge[chosen], sample.peak_time[chosen], model.camera.lattice
    )
    is_signal = sample.is_signal[chosen]
    one, other = exact.predict(images), reduced.predict(images)
    print(f"{len(images)} events, {is_signal.sum()} of them gamma rays")
    show("log10 energy", np.abs(one["energy"] - other["energy"])[:, 0])
    change = np.linalg.norm(one["direction"] - other["direction"], axis=1)
    show("direction [deg]", change)
    for name, raw in (("float32", one), (options.precision, other)):
        score = raw["particle_type"][:, 1] - raw["particle_type"][:, 0]
        print(f"AUC, {name:<15} {roc_auc_score(is_signal, score):.5f}")


if __name__ == "__main__":
    main()
