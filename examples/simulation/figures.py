"""Figures and numbers of docs/simulation.rst.

    python examples/simulation/figures.py --output docs/figures

takes some minutes; every number that a figure shows is printed, too.
"""

import argparse
import io
from pathlib import Path

import astropy.units as u
import likeness
import matplotlib
import numpy as np
from ctapipe.coordinates import TelescopeFrame
from ctapipe.visualization import CameraDisplay
from PIL import Image
from thrown_images import (
    MIRROR_HEIGHT,
    Camera,
    LightCounter,
    one_seed,
    perpendicular_area,
    throw,
)
from tqdm import tqdm

from ctapipe_gphysnet.simulation.atmosphere import Atmosphere
from ctapipe_gphysnet.simulation.optics import MirrorOptics
from ctapipe_gphysnet.simulation.shower import ShowerSimulator

matplotlib.use("Agg")  # needs no display
import matplotlib.pyplot as plt  # noqa: E402

GAMMA_COLOR, PROTON_COLOR = "tab:blue", "tab:red"
COLORS = {"gamma": GAMMA_COLOR, "proton": PROTON_COLOR}
NAMES = {"gamma": "gamma rays", "proton": "protons"}
DEPTH_UNIT = u.g / u.cm**2
RADIATION_LENGTH = 36.66  # g/cm2
SIZES = (200, 1000)  # p.e.
# of images that are fit for analysis
LEAST_SIZE, MOST_LEAKAGE = 50, 0.2
SELECTION = f"> {LEAST_SIZE} p.e., leakage < {MOST_LEAKAGE}"
ZENITH, NORTH = 90 * u.deg, 0 * u.deg


def main():
    """Draw all figures, or some of them."""
    options = parse_arguments()
    options.output.mkdir(parents=True, exist_ok=True)
    for name in options.only or FIGURES:
        figure = FIGURES[name](options.scale)
        path = options.output / f"simulation_{name}.png"
        save(figure, path)
        print(f"{path}\n")


def save(figure, path):
    """Write a figure as a small PNG, of 128 colors."""
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=80)
    plt.close(figure)
    Image.open(drawn).convert("RGB").quantize(128).save(path, optimize=True)


def parse_arguments():
    """Options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--output", type=Path, default=Path("docs/figures"))
    parser.add_argument("--only", nargs="+", choices=FIGURES, help="which figures")
    parser.add_argument(
        "--scale", type=float, default=1.0, help="factor for the numbers of showers"
    )
    return parser.parse_args()


def scaled(number, scale):
    """Number of showers, two at least."""
    return max(2, round(number * scale))


def vertical_showers(simulator, primary, energy, number, positions=()):
    """Showers from the zenith, one after another."""
    positions = np.reshape(np.asarray(positions, dtype=float), (-1, 3))
    for i in tqdm(range(number), desc=f"{primary}, {energy:g}", leave=False):
        yield simulator.simulate(
            *(primary, energy, ZENITH, NORTH, positions, ZENITH, NORTH, i)
        )


def draw_depth_of_maximum(scale):
    """X_max against energy, with what is published."""
    at_sea = Atmosphere(observation_level=0 * u.m)
    simulator = ShowerSimulator(at_sea, MirrorOptics())
    energies = {  # GeV: number of showers
        "gamma": {30: 600, 100: 400, 300: 200, 1000: 100, 3000: 50, 10_000: 20},
        "proton": {100: 800, 300: 600, 1000: 400, 3000: 200, 10_000: 150, 30_000: 60},
    }
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    print("X_max, vertical [g/cm2]")
    for primary, numbers in energies.items():
        mean, error = [], []
        for energy, number in numbers.items():
            showers = vertical_showers(
                simulator, primary, energy * u.GeV, scaled(number, scale)
            )
            depth = np.array([shower.x_max.to_value(DEPTH_UNIT) for shower in showers])
            mean.append(np.mean(depth))
            error.append(np.std(depth) / np.sqrt(len(depth)))
            print(f"{primary:6} {energy:6} GeV  {mean[-1]:5.0f} ± {error[-1]:.0f}")
        energy = np.array(list(numbers)) / 1e3  # TeV
        axes.errorbar(
            *(energy, mean, error), fmt="o", color=COLORS[primary], label=NAMES[primary]
        )
    energy = np.geomspace(0.02, 150, 50)  # TeV
    axes.plot(
        *(energy, RADIATION_LENGTH * np.log(energy * 1e6 / 81)),
        color=GAMMA_COLOR,
        label="Greisen: $X_0 \\ln(E / 81$ MeV)",
    )
    axes.plot(
        *(energy, RADIATION_LENGTH * (np.log(energy * 1e6 / 87.9) + 0.5)),
        color=GAMMA_COLOR,
        linestyle="--",
        label="PDG, energy deposit",
    )
    axes.plot(
        *(energy, 815.87 + 57.87 * (np.log10(energy) - 7)),
        color=PROTON_COLOR,
        linestyle=":",
        label="Sibyll 2.3d above 100 PeV, extrapolated",
    )
    axes.set(xscale="log", xlabel="energy [TeV]", ylabel="depth of maximum [g/cm$^2$]")
    axes.legend(fontsize="small")
    return figure


def draw_light_pool(scale):
    """Density of light against the distance from the axis."""
    counter = LightCounter()
    simulator = ShowerSimulator(Atmosphere(), counter)
    distance = np.array([25, 40, 60, 80, 100, 110, 120, 130, 150, 180, 220, 270, 330])
    # to the west and to the east, across the magnetic field, and north and south
    positions = [
        (x * d, y * d, 0) for x, y in ((0, 1), (0, -1), (1, 0), (-1, 0)) for d in distance
    ]
    cases = [("gamma", 30, 400), ("gamma", 100, 200), ("gamma", 1000, 40)]
    cases += [("proton", 100, 800), ("proton", 1000, 200)]
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    print("Photons/m2, 300-600 nm, unattenuated, at", *distance, "m")
    for primary, energy, number in cases:
        number = scaled(number, scale)
        showers = vertical_showers(simulator, primary, energy * u.GeV, number, positions)
        photons = np.mean([np.diff(shower.starts) for shower in showers], axis=0)
        density = photons.reshape(4, -1).mean(axis=0) / counter.area
        label = f"{primary}, {energy} GeV"
        print(f"{label:17}", *(f"{value:.3g}" for value in density))
        axes.plot(
            *(distance, density),
            color=COLORS[primary],
            label=label,
            linestyle={30: ":", 100: "--", 1000: "-"}[energy],
        )
    axes.set(
        yscale="log",
        xlabel="distance from the axis [m]",
        ylabel="photons from 300 to 600 nm per m$^2$",
    )
    axes.legend(fontsize="small")
    return figure


def draw_images(scale):
    """Images of a gamma ray, a proton and a muon, with about the same light."""
    camera = Camera()
    simulator = ShowerSimulator(Atmosphere(), MirrorOptics())
    geometry = camera.geometry.transform_to(TelescopeFrame())
    cases = {
        "gamma": (200 * u.GeV, 110.0),
        "proton": (600 * u.GeV, 90.0),
        "muon": (20 * u.GeV, 4.0),
    }
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    for axis, (primary, (energy, distance)) in zip(axes, cases.items()):
        size, response = image_of_size(camera, simulator, primary, energy, distance)
        display = CameraDisplay(geometry, ax=axis, cmap="inferno", show_frame=False)
        display.image = camera.charge(response)
        display.set_limits_minmax(0, np.percentile(display.image, 99.9))
        display.add_colorbar(label="p.e.")
        axis.set(title=f"{primary}, {energy:g}, {distance:g} m", xlabel="", ylabel="")
        print(f"{primary:6} image of {size:.0f} p.e.")
    return figure


def image_of_size(camera, simulator, primary, energy, distance, wanted=1700):
    """Response whose image is closest to a size [p.e.], of some showers."""
    direction = (
        (70 * u.deg, 180.4 * u.deg) if primary != "muon" else (70 * u.deg, 180 * u.deg)
    )
    best = None
    for seed in range(60):
        angle = 2 * np.pi * seed / 60
        position = [distance * np.cos(angle), distance * np.sin(angle), MIRROR_HEIGHT]
        shower = simulator.simulate(
            *(primary, energy, *direction, [position], *direction, seed)
        )
        response = camera.respond(shower, 0, one_seed(seed))
        if response is None:
            continue
        size = camera.measure(response)["size"]
        if best is None or abs(np.log(size / wanted)) < abs(np.log(best[0] / wanted)):
            best = size, response
    return best


def draw_likeness(scale):
    """Simulated images over those of sim_telarray."""
    gammas = likeness.read_reference("gamma")
    images = likeness.simulate_images(gammas, scaled(60, scale), progress=True)
    table = likeness.likeness(gammas, images)
    likeness.print_rounded(table)
    ratios = likeness.median_ratios(gammas, images, likeness.PARAMETERS + likeness.NOISE)
    bright = gammas["size"] >= likeness.BRIGHT
    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    for place, row in enumerate(table):
        name = row["parameter"]
        shown = ratios[name]
        if name not in likeness.OF_ALL + likeness.NOISE:
            shown = shown[bright]
        axes.plot(np.full(len(shown), place), shown, "o", color="0.6")
        axes.plot(place, row["median"], "_", color="k", markersize=18)
    axes.axhspan(0.8, 1.2, color=GAMMA_COLOR, alpha=0.1)
    names = [name.replace("_", " ") for name in table["parameter"]]
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
    axes.set(ylabel="simulated / sim_telarray", ylim=(0.4, 1.8))
    return figure


def draw_area(scale):
    """Effective area against energy: triggered events, and those fit for analysis."""
    camera, radius = Camera(), 800 * u.m
    energies = {
        "gamma": np.array([8, 12, 18, 27, 40, 60, 100, 200, 500, 1000, 3000, 10_000]),
        "proton": np.array([40, 60, 100, 200, 500, 1000, 3000, 10_000]),
    }
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    print("Effective area [1e4 m2], zenith 20 deg, 0.4 deg off the axis")
    for primary, chosen in energies.items():
        areas = np.array(
            [area_at(camera, primary, energy, radius, scale) for energy in chosen]
        )
        for k, (line, label) in enumerate((("-", "triggered"), ("--", SELECTION))):
            axes.errorbar(
                *(chosen / 1e3, areas[:, k, 0], areas[:, k, 1]),
                fmt=f"{line}o",
                markersize=3,
                color=COLORS[primary],
                label=f"{NAMES[primary]}, {label}",
            )
    axes.set(
        xscale="log",
        yscale="log",
        ylim=(3e2, 2e6),
        xlabel="energy [TeV]",
        ylabel="effective area [m$^2$]",
    )
    axes.legend(fontsize="small")
    return figure


def area_at(camera, primary, energy, radius, scale):
    """Area and error [m2] at an energy [GeV], of triggered and of selected events."""
    events = throw(
        camera,
        scaled(20_000 / (40 + energy**0.7), scale),
        primary=primary,
        energy_min=energy * u.GeV,
        energy_max=energy * u.GeV,
        offset=0.4 * u.deg,
        max_core_distance=radius,
        uses=20,
    )
    selected = (events["size"] > LEAST_SIZE) & (events["leakage"] < MOST_LEAKAGE)
    found = []
    print(f"{primary:6} {energy:6} GeV", end="")
    for name, these in (("triggered", events["triggered"]), ("selected", selected)):
        area, error = u.Quantity(perpendicular_area(radius, these)).to_value(u.m**2)
        found.append((area, error))
        print(f"  {name} {area / 1e4:.3g} +- {error / 1e4:.2g}", end="")
    print(flush=True)
    return found


def draw_hillas(scale):
    """Width and length of images of gamma rays and protons at equal size."""
    camera = Camera()
    settings = {  # energies, number of showers
        "gamma": ([30, 2000] * u.GeV, 250),
        "proton": ([100, 6000] * u.GeV, 700),
    }
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained", sharey=True)
    print(f"Images of {SIZES[0]} to {SIZES[1]} p.e.: median and 16 to 84 % [deg]")
    for primary, (energies, number) in settings.items():
        events = throw(
            camera,
            scaled(number, scale),
            progress=True,
            primary=primary,
            energy_min=energies[0],
            energy_max=energies[1],
            viewcone_radius=1.5 * u.deg,
            max_core_distance=300 * u.m,
            uses=10,
        )
        chosen = events[(events["size"] > SIZES[0]) & (events["size"] < SIZES[1])]
        for axis, name, most in zip(axes, ("width", "length"), (0.3, 0.7)):
            values = chosen[name].to_value(u.deg)
            low, median, high = np.percentile(values, [16, 50, 84])
            print(
                f"{primary:6} {name:6} {median:.3f} ({low:.3f}, {high:.3f})"
                f" of {len(values)} images"
            )
            axis.hist(
                values.clip(0, most),
                bins=np.linspace(0, most, 31),
                density=True,
                histtype="step",
                color=COLORS[primary],
                label=NAMES[primary],
            )
            axis.set_xlabel(f"{name} [deg]")
    axes[0].set_ylabel("density")
    axes[0].legend()
    return figure


FIGURES = {
    "xmax": draw_depth_of_maximum,
    "light_pool": draw_light_pool,
    "images": draw_images,
    "likeness": draw_likeness,
    "area": draw_area,
    "hillas": draw_hillas,
}


if __name__ == "__main__":
    main()
