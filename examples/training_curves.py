"""Draw the course of trainings, from the logs that gphysnet-train writes.

    python examples/training_curves.py paper=paper_seed1.training \
        paper=paper_seed2.training best=best_seed1.training --output curves.png

Of trainings with the same name the mean is drawn, and the range from the least to the
greatest.
"""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from astropy.table import Table, vstack

QUANTITIES = {
    "auc": "AUC",
    "angle_68": "68 % of direction errors [deg]",
    "energy_68": "68 % of relative energy errors",
    "validation_particle_type": "cross-entropy",
    "validation_direction": "direction loss [deg]",
    "validation_energy": "energy loss, log10",
}


def read_course(folder):
    """Validation metrics of every epoch; resumed trainings have several logs.

    Parameters
    ----------
    folder : path-like
        ``NAME.training``.

    Returns
    -------
    dict of str to dict of int to float
        By quantity and epoch.
    """
    logs = sorted(
        Path(folder).glob("log/version_*/metrics.csv"),
        key=lambda path: int(path.parent.name.split("_")[1]),
    )
    if not logs:
        raise SystemExit(f"{folder}: no log of a training")
    tables = [Table.read(path, format="ascii.csv") for path in logs]
    rows = vstack(tables, metadata_conflicts="silent")
    course = {}
    for name in QUANTITIES:
        if name in rows.colnames:
            known = rows[~np.ma.getmaskarray(np.ma.asarray(rows[name]))]
            course[name] = dict(zip(known["epoch"].tolist(), known[name].tolist()))
    return course


def draw(courses, output):
    """Draw the courses of all trainings.

    Parameters
    ----------
    courses : dict of str to list of dict
        By name, as `read_course` gives them.
    output : path-like
        Figure to write.
    """
    figure, axes = plt.subplots(2, 3, figsize=(11, 6), layout="constrained", sharex=True)
    for axis, (quantity, label) in zip(axes.flat, QUANTITIES.items()):
        for name, trainings in courses.items():
            found = [course[quantity] for course in trainings if quantity in course]
            if not found:
                continue
            epochs = sorted(set.intersection(*(set(values) for values in found)))
            values = np.array([[one[epoch] for epoch in epochs] for one in found])
            done = np.array(epochs) + 1
            (line,) = axis.plot(done, values.mean(axis=0), marker=".", label=name)
            low, high = values.min(axis=0), values.max(axis=0)
            axis.fill_between(done, low, high, alpha=0.3, color=line.get_color())
        axis.set_ylabel(label)
    for axis in axes[-1]:
        axis.set_xlabel("epochs")
    axes.flat[0].legend()
    figure.savefig(output, dpi=120)
    print(f"wrote {output}")


def main():
    """Read the arguments, then the logs, and draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("training", nargs="+", help="NAME=FOLDER")
    parser.add_argument("--output", type=Path, default=Path("curves.png"))
    options = parser.parse_args()
    courses = {}
    for training in options.training:
        name, _, folder = training.partition("=")
        courses.setdefault(name, []).append(read_course(folder))
    draw(courses, options.output)


if __name__ == "__main__":
    main()
