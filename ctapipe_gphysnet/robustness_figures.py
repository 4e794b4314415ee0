"""Figures of a study of robustness."""

import astropy.units as u
import numpy as np
from matplotlib.figure import Figure

from .evaluation.figures import COLORS, MARKERS

__all__ = ["make_figures"]

AXES = {
    "night_sky": "added night sky [p.e. per pixel]",
    "dead_pixels": "dead pixels [%]",
    "charge_scale": "charge scale",
}
SCALES = {"dead_pixels": 100}
# figures that have a row of axes for all energies and for every bin
BINNED = {
    "angular_resolution": "68 % containment\nof the angle [deg]",
    "energy_bias": "bias: median\nof $E_{reco}/E_{true} - 1$",
    "energy_resolution": "half of central 68 %\nof $E_{reco}/E_{true} - 1$",
}


def make_figures(table):
    """A figure for every measure of performance, against the levels of every change.

    Parameters
    ----------
    table : astropy.table.QTable
        Of `ctapipe_gphysnet.robustness_levels.compare_levels`.

    Returns
    -------
    figures : dict of str to matplotlib.figure.Figure
        By name; without those for which there are no values.
    """
    low, high = table["true_energy_low"], table["true_energy_high"]
    bins = list(dict.fromkeys(zip(low.to_value(u.TeV), high.to_value(u.TeV))))
    of_bin = {
        edges: table[(low == edges[0] * u.TeV) & (high == edges[1] * u.TeV)]
        for edges in bins
    }
    (everything, *others) = of_bin.values()
    figures = {
        name: _draw({_bin_label(*e): (t, name) for e, t in of_bin.items()}, label)
        for name, label in BINNED.items()
        if name in table.colnames
    }
    if "auc" in table.colnames:
        figures["auc"] = _draw({"": (everything, "auc")}, "area under\nthe ROC curve")
    figures["reconstructed"] = _draw(
        {
            f"{particle}s": (everything, f"reconstructed_{particle}")
            for particle in ("gamma", "proton")
            if f"reconstructed_{particle}" in table.colnames
        },
        "fraction\nreconstructed",
    )
    return figures


def _bin_label(low, high):
    if np.isinf(high):
        return "all energies"
    return f"{low:g} - {high:g} TeV"


def _draw(rows, label):
    """A figure with a column of axes for every change.

    Parameters
    ----------
    rows : dict of str to (table, str)
        By title, a row of axes: a table and the column to draw.
    label : str
        Of the values.
    """
    changes = list(dict.fromkeys(next(iter(rows.values()))[0]["perturbation"].tolist()))
    figure = Figure(
        figsize=(1.2 + 3.2 * len(changes), 0.9 + 2.1 * len(rows)), layout="constrained"
    )
    axes = figure.subplots(
        len(rows), len(changes), squeeze=False, sharex="col", sharey="row"
    )
    for (title, (table, name)), line in zip(rows.items(), axes):
        for change, axis in zip(changes, line):
            _curves(
                axis, table[table["perturbation"] == change], name, SCALES.get(change, 1)
            )
            axis.set_title(title, fontsize=9)
            axis.grid(True, alpha=0.3)
        line[0].set_ylabel(label)
    for change, axis in zip(changes, axes[-1]):
        axis.set_xlabel(AXES[change])
    handles = axes[0, 0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper center", ncols=len(handles[0]))
    return figure


def _curves(axis, table, name, scale):
    """Values of every reconstructor against the level, with bootstrap uncertainties."""
    names = list(
        dict.fromkeys(zip(table["reconstructor"].tolist(), table["seed"].tolist()))
    )
    for (reconstructor, seed), color, marker in zip(names, COLORS, MARKERS):
        rows = table[(table["reconstructor"] == reconstructor) & (table["seed"] == seed)]
        axis.errorbar(
            rows["level"] * scale,
            _plain(rows[name]),
            _plain(rows[f"{name}_error"]),
            color=color,
            marker=marker,
            markersize=4,
            linewidth=1,
            capsize=2,
            label=reconstructor if seed < 0 else f"{reconstructor}, seed {seed}",
        )


def _plain(column):
    values = column.value if isinstance(column, u.Quantity) else np.asarray(column)
    return np.ma.filled(np.ma.asarray(values, dtype=float), np.nan)
