"""Camera images of what the network looks at."""

from dataclasses import dataclass

import astropy.units as u
import numpy as np
from ctapipe.coordinates import TelescopeFrame

from .relevance import mean_and_spread
from .tasks import GAMMA_ID, TASKS, horizontal_to_telescope

__all__ = ["ExplainedEvent", "draw_event", "explained_event", "particle_name"]

PARTICLES = {GAMMA_ID: "gamma", 1: "electron", 101: "proton"}

TRUE_COLOR, CLEANED_COLOR, RECONSTRUCTED_COLOR = "white", "cyan", "orangered"
SHOWERS = {
    "true": (TRUE_COLOR, "shower pixels, true"),
    "cleaned": (CLEANED_COLOR, "shower pixels, after cleaning"),
}
LABELS = {
    "gammaness": "gammaness",
    "energy": "energy",
    "fov_lon": "direction, fov_lon",
    "fov_lat": "direction, fov_lat",
    "impact_x": "impact point, x",
    "impact_y": "impact point, y",
    "attention_product": "product of the stages",
}
# maps beside which the source is of interest
WITH_SOURCE = ("charge", "fov_lon", "fov_lat")
PANEL_WIDTH, PANEL_HEIGHT = 4.2, 3.6  # inches
FRAME_HEIGHT = 1.2  # of title and legend
MAX_COLUMNS = 5


@dataclass
class ExplainedEvent:
    """A telescope event with its maps.

    Attributes
    ----------
    title : str
    geometry : ctapipe.instrument.CameraGeometry
    charge : ndarray, shape (P,)
        Photo-electrons.
    showers : dict of str to ndarray of bool, shape (P,)
        Pixels of the shower, see `ctapipe_gphysnet.relevance.showers_of`.
    maps : dict of str to ndarray, shape (S, P)
        Of S networks: relevance as shares, attention as it is.
    true_source : ndarray of float, shape (2,), or None
        Degrees in `TelescopeFrame`; None if it is not known.
    reconstructed_source : ndarray of float, shape (S, 2), or None
        None if the networks do not regress it.
    """

    title: str
    geometry: object
    charge: np.ndarray
    showers: dict
    maps: dict
    true_source: np.ndarray = None
    reconstructed_source: np.ndarray = None


def explained_event(events, i, group, geometry, maps, raw, matches, showers):
    """One of the events of a batch, as `draw_event` needs it.

    Parameters
    ----------
    events : astropy.table.Table, N rows
        As `ctapipe.io.TableLoader` reads them.
    i : int
        Which.
    group : str
        Name of the networks.
    geometry : ctapipe.instrument.CameraGeometry
    maps, raw, matches
        See `ctapipe_gphysnet.explain.Ensemble`.
    showers : dict of str to ctapipe_gphysnet.relevance.Shower

    Returns
    -------
    event : ExplainedEvent
    """
    row = events[i : i + 1]
    source = None
    if "direction" in raw[0]:
        source = np.stack(
            [r["direction"][i] * match.angle_scale for r, match in zip(raw, matches)]
        )
    return ExplainedEvent(
        title=f"{_what_it_is(row)}\ngroup {group}{_what_is_said(raw, i)}",
        geometry=geometry,
        charge=np.asarray(events["image"][i]),
        showers={name: shower.inside[i] for name, shower in showers.items()},
        maps={name: values[i] for name, values in maps.items()},
        true_source=_true_source(row),
        reconstructed_source=source,
    )


def particle_name(primary_id):
    """Name of a particle by the number that simulations give it."""
    return PARTICLES.get(primary_id, f"primary {primary_id}")


def _what_it_is(event):
    """Identity and truth of the event of a table with one row."""
    what = ", ".join(f"{n} {event[n][0]}" for n in ("obs_id", "event_id", "tel_id"))
    if "true_energy" not in event.colnames:
        return what
    particle = particle_name(int(event["true_shower_primary_id"][0]))
    energy = _energy(u.Quantity(event["true_energy"]).to_value(u.TeV)[0])
    return f"true {particle} of {energy}: {what}"


def _what_is_said(raw, i):
    """What the networks make of an event, with the spread between them."""
    said = ""
    if "particle_type" in raw[0]:
        values = [TASKS["particle_type"].to_gammaness(r["particle_type"])[i] for r in raw]
        said += f", gammaness {np.mean(values):.2f}"
        said += f" ± {np.std(values, ddof=1):.2f}" if len(raw) > 1 else ""
    if "energy" in raw[0]:
        values = np.log([TASKS["energy"].to_energy(r["energy"])[i].value for r in raw])
        said += f", reconstructed energy {_energy(np.exp(values.mean()))}"
        said += f" ± {100 * values.std(ddof=1):.0f} %" if len(raw) > 1 else ""
    return said


def _energy(energy):
    """Energy in TeV as text, rounded to two digits."""
    value, unit = (1000 * energy, "GeV") if energy < 1 else (energy, "TeV")
    return f"{float(f'{value:.2g}'):g} {unit}"


def _true_source(event):
    """Place in the camera of the source of one event, None if it is not known."""
    names = ("true_alt", "true_az", "telescope_pointing_altitude")
    if any(name not in event.colnames for name in names):
        return None
    offset = horizontal_to_telescope(
        *(u.Quantity(event[n]) for n in (*names, "telescope_pointing_azimuth"))
    )
    return np.array([angle.to_value(u.deg)[0] for angle in offset])


def draw_event(event, names):
    """Charge and maps of an event; mean and spread if there are several networks.

    Parameters
    ----------
    event : ExplainedEvent
    names : iterable of str
        Which maps.

    Returns
    -------
    figure : matplotlib.figure.Figure
    """
    names = list(names)
    n_networks = len(event.maps[names[0]])
    figure, axes = _make_axes(1 + len(names), n_blocks=1 if n_networks == 1 else 2)
    geometry = event.geometry.transform_to(TelescopeFrame())
    _draw_charge(event, geometry, axes[0, 0])
    for place, name in enumerate(names, start=1):
        maps, unit, low = _in_units(event.maps[name], name)
        # without any relevance, a map is NaN
        n_with_map = np.count_nonzero(np.isfinite(maps).all(axis=1))
        mean, spread = map(np.nan_to_num, mean_and_spread(maps, axis=0))
        title = LABELS.get(name, f"stage {name.removeprefix('attention_')}")
        shown = [(mean, low, "mean"), (spread, 0, "standard deviation")]
        for ax, (values, begin, what) in zip(axes[:, place], shown):
            limits = begin, max(values.max(), begin + 1e-3)
            _draw_camera(geometry, values, ax, unit, limits, "inferno")
            ax.set_title(title + _of_networks(what, n_with_map, n_networks))
            _draw_marks(event, geometry, ax, with_source=name in WITH_SOURCE)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=len(labels), facecolor="0.6"
    )
    figure.suptitle(event.title)
    return figure


def _of_networks(what, n_with_map, n_networks):
    """Second line of a title: how many networks have relevance at all."""
    if n_networks == 1:
        return ""
    number = (
        f"{n_networks}" if n_with_map == n_networks else f"{n_with_map} of {n_networks}"
    )
    return f"\n{what} of {number} networks"


def _make_axes(n_panels, n_blocks):
    """A figure, and axes of shape (n_blocks, n_panels or more), empty ones hidden."""
    from matplotlib.figure import Figure  # takes a second, and is an extra

    n_rows = 1 if n_panels <= MAX_COLUMNS else 2
    n_columns = -(-n_panels // n_rows)
    figure = Figure(
        figsize=(
            PANEL_WIDTH * n_columns,
            PANEL_HEIGHT * n_blocks * n_rows + FRAME_HEIGHT,
        ),
        layout="constrained",
    )
    axes = figure.subplots(n_blocks * n_rows, n_columns, squeeze=False)
    for ax in axes.flat:
        ax.set_axis_off()
    return figure, axes.reshape(n_blocks, n_rows * n_columns)


def _in_units(maps, name):
    """Maps as they are shown, the label of their colours, and where these begin."""
    if name.startswith("attention"):
        return maps, "attention", 1
    return 100 * maps, "relevance [% per pixel]", 0


def _draw_charge(event, geometry, ax):
    high = max(20, event.charge[np.isfinite(event.charge)].max(initial=0))
    _draw_camera(geometry, event.charge, ax, "charge [p.e.]", (0, high), "viridis")
    ax.set_title("input: charge")
    _draw_marks(event, geometry, ax, with_source=True)


def _draw_camera(geometry, values, ax, unit, limits, colors):
    from ctapipe.visualization import CameraDisplay

    ax.set_axis_on()
    display = CameraDisplay(
        geometry,
        image=values,
        ax=ax,
        cmap=colors,
        show_frame=False,
        autoupdate=False,  # else it draws the figure again at every step
    )
    display.set_limits_minmax(*limits)
    ax.figure.colorbar(display.pixels, ax=ax, label=unit, fraction=0.046, pad=0.03)
    radius = 1.03 * np.hypot(geometry.pix_x, geometry.pix_y).to_value("deg").max()
    ax.set_aspect("equal", adjustable="box")
    ax.set(
        xlim=(-radius, radius),
        ylim=(-radius, radius),
        xlabel="fov_lon [deg]",
        ylabel="fov_lat [deg]",
    )


def _draw_marks(event, geometry, ax, with_source):
    """Outlines of the shower, and the places of its source."""
    from matplotlib.lines import Line2D

    x, y = geometry.pix_x.to_value("deg"), geometry.pix_y.to_value("deg")
    for name, inside in event.showers.items():
        color, label = SHOWERS[name]
        if inside.any() and not inside.all():
            ax.tricontour(x, y, inside, levels=[0.5], colors=color, linewidths=1.2)
        # of no points: contours have no entry of their own in a legend
        ax.add_line(Line2D([], [], color=color, label=label))
    if not with_source:
        return
    size = {"linestyle": "none", "markersize": 11, "markeredgecolor": "black"}
    if event.reconstructed_source is not None:
        ax.plot(
            *event.reconstructed_source.T,
            **{**size, "marker": "X", "markersize": 8},
            color=RECONSTRUCTED_COLOR,
            label="reconstructed source",
        )
    if event.true_source is not None:
        ax.plot(
            *event.true_source, **size, marker="*", color=TRUE_COLOR, label="true source"
        )
