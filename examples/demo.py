"""The whole way, on the events that come with the package.

Runs ctapipe-process with the configuration gphysnet.yaml beside this script, compares
its result with the truth of the simulation, and draws some camera images.

    python examples/demo.py --output build/demo
"""

import argparse
import shlex
import subprocess
import sys
import sysconfig
import warnings
from pathlib import Path

import astropy.units as u
import matplotlib
import numpy as np
from astropy.coordinates import angular_separation
from astropy.table import vstack
from astropy.utils.metadata import MergeConflictWarning
from ctapipe.coordinates import TelescopeFrame
from ctapipe.io import TableLoader
from ctapipe.visualization import CameraDisplay
from sklearn.metrics import roc_auc_score

from ctapipe_gphysnet.resources import DEFAULT_MODEL, RESOURCES
from ctapipe_gphysnet.tasks import GAMMA_ID, horizontal_to_telescope

matplotlib.use("Agg")  # needs no display
import matplotlib.pyplot as plt  # noqa: E402

SAMPLE = RESOURCES / "lst1_sample.dl1.h5"
CONFIGURATION = Path(__file__).resolve().with_name("gphysnet.yaml")
ENERGY_EDGES = [20, 50, 100, 300, 1000, np.inf]  # GeV
TRUE_COLOR, RECONSTRUCTED_COLOR = "white", "orangered"
FIELD_RADIUS = 2.35  # deg, a little more than the camera


def main():
    """Run the demo."""
    options = parse_arguments()
    options.output.mkdir(parents=True, exist_ok=True)
    dl2_path = options.output / "demo.dl2.h5"
    figure_path = options.output / "demo.png"

    run_ctapipe_process(options.model, dl2_path)
    events = read_events(dl2_path)
    print_model(events, options.model)
    print_gammas(events)
    print_protons(events)
    print_separation(events)
    draw_figure(choose_events(events), figure_path)
    print(f"\nResults  {dl2_path}\nFigure   {figure_path}")


def parse_arguments():
    """Options of the command line."""
    parser = argparse.ArgumentParser(
        description="Reconstruct the sample events, make a table and a figure."
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("build/demo"),
        help="folder to write to (default: %(default)s)",
    )
    parser.add_argument(
        "--model",
        default=DEFAULT_MODEL,
        help="a shipped model or the path of a model file (default: %(default)s)",
    )
    return parser.parse_args()


def run_ctapipe_process(model, dl2_path):
    """Reconstruct the sample with the ctapipe-process of this environment.

    Parameters
    ----------
    model : str
        Name of a shipped model or path of a model file.
    dl2_path : Path
        File to write; an old one is replaced.
    """
    command = ["--config", CONFIGURATION, "-i", SAMPLE, "-o", dl2_path]
    if model != DEFAULT_MODEL:  # else it is the one in the configuration
        command += [f"--ShowerProcessor.GammaPhysNetReconstructor.models={model}"]
    command = [str(argument) for argument in command]
    print("$ ctapipe-process", shlex.join(command), flush=True)
    dl2_path.unlink(missing_ok=True)
    # without this, ctapipe leaves a log in the working folder
    log = ["--provenance-log", str(dl2_path.with_name("demo.provenance.log"))]
    program = Path(sysconfig.get_path("scripts"), "ctapipe-process")
    result = subprocess.run([program, *command, *log, "--log-level", "WARN"])
    if result.returncode != 0:
        sys.exit("demo: ctapipe-process failed, see above")


def read_events(dl2_path):
    """Telescope events of the DL2 file, one a row, with truth, result and image.

    Parameters
    ----------
    dl2_path : Path

    Returns
    -------
    events : astropy.table.Table
        As ctapipe's `TableLoader` makes it, with more columns: ``image`` from the
        sample, ``angle`` between true and reconstructed direction, ``is_gamma``.
    """
    with warnings.catch_warnings():
        # a file of one version of ctapipe, processed by another
        warnings.simplefilter("ignore", MergeConflictWarning)
        with TableLoader(dl2_path) as loader:
            events = loader.read_telescope_events(dl2=True, simulated=True)
        with TableLoader(SAMPLE) as loader:
            images = loader.read_telescope_events(dl1_images=True, dl1_parameters=False)
    row = {key: i for i, key in enumerate(event_keys(images))}
    events["image"] = images["image"][[row[key] for key in event_keys(events)]]
    events["is_gamma"] = events["true_shower_primary_id"] == GAMMA_ID
    events["angle"] = angular_separation(
        u.Quantity(events["true_az"]),
        u.Quantity(events["true_alt"]),
        u.Quantity(events["GammaPhysNetGeometry_tel_az"]),
        u.Quantity(events["GammaPhysNetGeometry_tel_alt"]),
    ).to(u.deg)
    return events


def event_keys(table):
    """What identifies the telescope events of a table."""
    return list(zip(table["obs_id"], table["event_id"], table["tel_id"], strict=True))


def true_energy(events):
    """True energy in GeV."""
    return u.Quantity(events["true_energy"]).to_value(u.GeV)


def reconstructed_energy(events):
    """Reconstructed energy in GeV, NaN where there is none."""
    return u.Quantity(events["GammaPhysNetEnergy_tel_energy"]).to_value(u.GeV)


def gammaness(events):
    """Gammaness, NaN where there is none."""
    return np.asarray(events["GammaPhysNetClassifier_tel_prediction"])


def reconstructed(events):
    """The events that passed the quality criteria."""
    return events[np.asarray(events["GammaPhysNetEnergy_tel_is_valid"])]


def in_bins(events, energy, edges):
    """Pairs of a bin's label and the events in it.

    Parameters
    ----------
    events : astropy.table.Table
    energy : ndarray
        Of the events, in GeV.
    edges : list of float
        The first may be 0 and the last infinite.
    """
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        if low == 0:
            label = f"below {high:g}"
        elif np.isinf(high):
            label = f"above {low:g}"
        else:
            label = f"{low:g} - {high:g}"
        yield label, events[(energy >= low) & (energy < high)]


def quantile(values, probability):
    """Quantile of the finite values as text, a dash if there are none."""
    values = values[np.isfinite(values)]
    return f"{np.quantile(values, probability):.2f}" if len(values) else "-"


def print_row(*cells):
    """A row of a table: the label, then columns of equal width."""
    print(f"{cells[0]:>12}" + "".join(f"{cell:>15}" for cell in cells[1:]))


def model_name(events):
    """Name of the model that made the results, from the header of the DL2 table."""
    return events.meta["GammaPhysNetEnergy_model"]


def print_model(events, model):
    """What made the results."""
    print(f"\nModel {model_name(events)}", end="")
    if model == DEFAULT_MODEL:
        print(", trained on the package's own simulation: to try the software with")
    else:
        print()
    print("Events of LST-1 at a zenith distance of 20 deg, of the package's simulation")


def print_gammas(events):
    """Table of truth and reconstruction of the gamma rays."""
    gammas = events[events["is_gamma"]]
    print("\nGamma rays")
    print_row(
        *("true energy", "events", "reconstructed", "E_reco/E_true"),
        *("energy error", "angular error", "gammaness"),
    )
    print_row("GeV", "", "", "median", "68 %", "68 %, deg", "median")
    for label, inside in in_bins(gammas, true_energy(gammas), ENERGY_EDGES):
        good = reconstructed(inside)
        ratio = reconstructed_energy(good) / true_energy(good)
        print_row(
            label,
            len(inside),
            len(good),
            quantile(ratio, 0.5),
            quantile(np.abs(ratio - 1), 0.68),
            quantile(np.asarray(good["angle"]), 0.68),
            quantile(gammaness(good), 0.5),
        )


def print_protons(events):
    """Table of the gammaness of the protons."""
    protons = reconstructed(events[~events["is_gamma"]])
    print("\nProtons")
    print_row("reco. energy", "reconstructed", "gammaness")
    print_row("GeV", "", "median")
    edges = [0, *ENERGY_EDGES]
    for label, inside in in_bins(protons, reconstructed_energy(protons), edges):
        print_row(label, len(inside), quantile(gammaness(inside), 0.5))


def print_separation(events):
    """Area under the curve of gamma against proton efficiency."""
    good = reconstructed(events)
    area = roc_auc_score(good["is_gamma"], gammaness(good))
    print(f"\nGamma-proton separation by gammaness, area under the ROC curve: {area:.3f}")


def choose_events(events):
    """Events to draw: typical ones, neither the best nor the worst.

    Parameters
    ----------
    events : astropy.table.Table

    Returns
    -------
    chosen : astropy.table.Table
        Of every bin in energy the gamma ray with the median angle between true and
        reconstructed direction; and the proton with the median gammaness of those that
        come from a direction inside the camera.
    """
    good = reconstructed(events)
    gammas = good[good["is_gamma"]]
    chosen = [
        median_event(inside, np.asarray(inside["angle"]))
        for _, inside in in_bins(gammas, true_energy(gammas), ENERGY_EDGES)
    ]
    protons = good[~good["is_gamma"]]
    protons = protons[np.hypot(*offset(protons, "true")) < 0.8 * FIELD_RADIUS]
    chosen.append(median_event(protons, gammaness(protons)))
    return vstack(chosen)


def median_event(events, values):
    """The event with the (lower) median of the values, as a table of one row."""
    median = np.argsort(values)[(len(values) - 1) // 2]
    return events[median : median + 1]


def offset(events, which):
    """Direction in the camera, fov_lon and fov_lat of `TelescopeFrame` in degrees.

    Parameters
    ----------
    events : astropy.table.Table
    which : str
        Prefix of the columns ``alt`` and ``az``: "true" or that of a reconstructor.
    """
    angles = horizontal_to_telescope(
        u.Quantity(events[f"{which}_alt"]),
        u.Quantity(events[f"{which}_az"]),
        u.Quantity(events["telescope_pointing_altitude"]),
        u.Quantity(events["telescope_pointing_azimuth"]),
    )
    return [angle.to_value(u.deg) for angle in angles]


def draw_figure(events, path):
    """Camera images with true and reconstructed direction.

    Parameters
    ----------
    events : astropy.table.Table
        Six, as `choose_events` gives them.
    path : Path
        PNG to write.
    """
    with TableLoader(SAMPLE) as loader:
        geometry = loader.subarray.tel[1].camera.geometry.transform_to(TelescopeFrame())
    figure, axes = plt.subplots(2, 3, figsize=(15, 9.6), layout="constrained")
    for i, ax in enumerate(axes.flat):
        draw_event(events[i : i + 1], geometry, ax)
    figure.suptitle(
        f"ctapipe_gphysnet, model {model_name(events)}: six typical events", size=14
    )
    figure.legend(
        *axes.flat[0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=2,
        facecolor="0.75",
    )
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw_event(event, geometry, ax):
    """One camera image.

    Parameters
    ----------
    event : astropy.table.Table
        Of one row.
    geometry : ctapipe.instrument.CameraGeometry
        In `TelescopeFrame`.
    ax : matplotlib.axes.Axes
    """
    display = CameraDisplay(
        geometry,
        image=event["image"][0],
        ax=ax,
        cmap="viridis",
        show_frame=False,
        autoupdate=False,  # else it draws the figure again at every step
    )
    display.set_limits_minmax(0, max(20, event["image"][0].max()))
    ax.figure.colorbar(display.pixels, ax=ax, label="charge [p.e.]", shrink=0.8)
    for which, label, marker, color in (
        ("true", "true direction", "*", TRUE_COLOR),
        ("GammaPhysNetGeometry_tel", "reconstructed direction", "X", RECONSTRUCTED_COLOR),
    ):
        ax.plot(
            *offset(event, which),
            marker,
            markersize=14,
            color=color,
            markeredgecolor="black",
            label=label,
        )
    ax.set_title(
        f"{'gamma' if event['is_gamma'][0] else 'proton'},"
        f" {format_energy(true_energy(event)[0])}\n"
        f"reconstructed {format_energy(reconstructed_energy(event)[0])},"
        f" gammaness {gammaness(event)[0]:.2f}"
    )
    ax.set_aspect("equal", adjustable="box")
    ax.set(
        xlim=(-FIELD_RADIUS, FIELD_RADIUS),
        ylim=(-FIELD_RADIUS, FIELD_RADIUS),
        xlabel="fov_lon [deg]",
        ylabel="fov_lat [deg]",
    )


def format_energy(energy):
    """Energy in GeV as text, rounded to two digits."""
    value, unit = (energy, "GeV") if energy < 1000 else (energy / 1000, "TeV")
    return f"{float(f'{value:.2g}'):g} {unit}"


if __name__ == "__main__":
    main()
