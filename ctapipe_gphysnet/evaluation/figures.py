"""Figures of an evaluation."""

import astropy.units as u
import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from scipy.stats import norm, rayleigh

__all__ = ["make_figures", "save"]

COLORS = ["#1f5fa8", "#d1611b", "#2b8a3e", "#8a2f8a", "#7a6a10", "#444444"]
MARKERS = ["o", "s", "^", "D", "v", "P"]
ENERGY = {"true": "true energy [TeV]", "reco": "reconstructed energy [TeV]"}
PUBLISHED = {"color": "0.45", "linestyle": "none", "marker": "x", "markersize": 5}


def make_figures(tables, summaries, published=None):
    """All figures for which there are data.

    Parameters
    ----------
    tables, summaries : dict of str to astropy.table.QTable
        Of `ctapipe_gphysnet.evaluation.tables`, and those of the instrument response.
    published : dict, optional
        Curves of another sample to draw too, see
        `ctapipe_gphysnet.evaluation.published`.

    Returns
    -------
    figures : dict of str to (str, matplotlib.figure.Figure)
        Caption and figure by name.
    """
    published = published or {}
    figures = {}
    for name, (caption, draw) in _FIGURES.items():
        figure = draw(tables, summaries, published)
        if figure is not None:
            figures[name] = (caption, figure)
    return figures


def save(figure, folder, name):
    """Write a figure as PNG and as PDF.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
    folder : pathlib.Path
    name : str
        Without extension.

    Returns
    -------
    path : pathlib.Path
        Of the PNG.
    """
    path = folder / f"{name}.png"
    figure.savefig(path, dpi=130)
    figure.set_layout_engine("none")  # it stays as it is, and need not be found again
    figure.savefig(folder / f"{name}.pdf")
    return path


def _axes(n_columns=1, n_rows=1, **kwargs):
    figure = Figure(
        figsize=(max(5.2 * n_columns, 6.4), 3.9 * n_rows), layout="constrained"
    )
    axes = figure.subplots(n_rows, n_columns, squeeze=False, **kwargs)
    for axis in axes.flat:
        axis.grid(True, which="major", alpha=0.3)
    return figure, axes


def _style(names):
    """Colour and marker of every reconstructor, the same in all figures."""
    unique = list(dict.fromkeys(np.asarray(names).tolist()))
    return {
        name: (COLORS[i % len(COLORS)], MARKERS[i % len(MARKERS)])
        for i, name in enumerate(unique)
    }


def _plain(column, unit=None):
    if isinstance(column, u.Quantity):
        return column.to_value(unit) if unit else column.value
    return np.asarray(column)


def _curve(axis, summary, low, high, value, unit=None):
    """A value against bins: mean over seeds, their envelope, error bars.

    Error bars are the bootstrap error; with several seeds, the standard deviation
    between them, and the band reaches from the least to the greatest.
    """
    for name, (color, marker) in _style(summary["reconstructor"]).items():
        rows = summary[np.asarray(summary["reconstructor"]) == name]
        x_low, x_high = _plain(rows[low]), _plain(rows[high])
        y = _plain(rows[value], unit)
        good = np.isfinite(y) & np.isfinite(x_high)
        if not good.any():
            continue
        x_low, x_high, y, rows = x_low[good], x_high[good], y[good], rows[good]
        x = np.sqrt(x_low * x_high)
        n_seeds = int(rows["n_seeds"].max())
        error = _plain(rows[f"{value}_error"], unit)
        if n_seeds > 1:
            error = _plain(rows[f"{value}_std"], unit)
            lower, upper = (_plain(rows[f"{value}_{e}"], unit) for e in ("min", "max"))
            axis.fill_between(x, lower, upper, color=color, alpha=0.2, linewidth=0)
        label = name if n_seeds == 1 else f"{name}, mean of {n_seeds} seeds"
        axis.errorbar(
            x,
            y,
            xerr=[x - x_low, x_high - x],
            yerr=np.nan_to_num(error),
            color=color,
            marker=marker,
            markersize=4,
            linewidth=1,
            elinewidth=0.9,
            label=label,
        )


def _finish_energy(axis, which, label):
    axis.set_xscale("log")
    axis.xaxis.set_minor_formatter(NullFormatter())  # they would overlap
    axis.set_xlabel(ENERGY[which])
    axis.set_ylabel(label)


def _legend(axis, **kwargs):
    if axis.get_legend_handles_labels()[1]:
        axis.legend(fontsize=8, framealpha=0.85, **kwargs)


def _has(tables, *names):
    return all(name in tables and len(tables[name]) for name in names)


def _overlay(axis, table, value, unit=None):
    """Published points, marked as another sample."""
    if table is None:
        return
    low, high = _plain(table["low"]), _plain(table["high"])
    x = np.sqrt(low * high)
    axis.errorbar(
        x,
        _plain(table[value], unit),
        xerr=[x - low, high - x],
        label=table.meta["label"],
        zorder=0,
        **PUBLISHED,
    )


def _angular_resolution(tables, summaries, published):
    if not _has(summaries, "angular_resolution"):
        return None
    both = [("true", "angular_resolution"), ("reco", "angular_resolution_reco")]
    both = [(axis, name) for axis, name in both if _has(summaries, name)]
    figure, axes = _axes(len(both), sharey=True)
    for axis, (which, name) in zip(axes[0], both):
        energy = f"{which}_energy"
        _curve(
            axis,
            summaries[name],
            f"{energy}_low",
            f"{energy}_high",
            "angular_resolution",
            u.deg,
        )
        if which == "true":
            _overlay(axis, published.get("resolution"), "angular_resolution", u.deg)
        _finish_energy(axis, which, "68 % containment of the angle [deg]")
        axis.set_ylim(bottom=0)
        _legend(axis)
    return figure


def _energy_resolution(tables, summaries, published):
    both = [("true", "energy_resolution"), ("reco", "energy_resolution_reco")]
    both = [(axis, name) for axis, name in both if _has(summaries, name)]
    if not both:
        return None
    figure, axes = _axes(len(both), 3, sharex="col", sharey="row")
    labels = {
        "resolution": "half of central 68 %\nof $E_{reco}/E_{true} - 1$",
        "containment": "68 % containment\nof $|E_{reco}/E_{true} - 1|$",
        "bias": "bias: median\nof $E_{reco}/E_{true} - 1$",
    }
    for column, (which, name) in enumerate(both):
        low, high = f"{which}_energy_low", f"{which}_energy_high"
        for row, (value, label) in enumerate(labels.items()):
            axis = axes[row, column]
            _curve(axis, summaries[name], low, high, value)
            if value == "resolution" and which == "true":
                _overlay(axis, published.get("resolution"), "energy_resolution")
            _finish_energy(axis, which, label)
            if value == "bias":
                axis.axhline(0, color="0.3", linewidth=0.8)
                axis.set_ylim(-1, 1.5)
            else:
                axis.set_ylim(0, min(axis.get_ylim()[1], 1.5))
        _legend(axes[0, column])
    return figure


def _impact_resolution(tables, summaries, published):
    if not _has(summaries, "impact_resolution"):
        return None
    figure, axes = _axes()
    axis, name = axes[0, 0], "impact_resolution"
    _curve(axis, summaries[name], "true_energy_low", "true_energy_high", name, u.m)
    _finish_energy(axis, "true", "68 % containment of the core's error [m]")
    axis.set_ylim(bottom=0)
    _legend(axis)
    return figure


def _reconstructed_fraction(tables, summaries, published):
    if not _has(summaries, "reconstructed_fraction"):
        return None
    summary = summaries["reconstructed_fraction"]
    summary = summary[np.isfinite(summary["true_energy_high"])]
    particles = list(dict.fromkeys(np.asarray(summary["particle"]).tolist()))
    figure, axes = _axes(len(particles), sharey=True)
    for axis, particle in zip(axes[0], particles):
        rows = summary[np.asarray(summary["particle"]) == particle]
        _curve(axis, rows, "true_energy_low", "true_energy_high", "fraction")
        _finish_energy(axis, "true", "fraction reconstructed")
        axis.set_title(particle, fontsize=10)
        axis.set_ylim(0, 1.05)
        _legend(axis, loc="lower right")
    return figure


def _roc(tables, summaries, published):
    if not _has(tables, "roc"):
        return None
    figure, axes = _axes(2)
    styles = _style(tables["roc"]["reconstructor"])
    labelled = set()
    for key in _pairs(tables["roc"]):
        rows = _of(tables["roc"], key)
        color = styles[key[0]][0]
        label = None if key[0] in labelled else _auc_label(summaries, key[0])
        labelled.add(key[0])
        false, true = rows["false_positive_rate"], rows["true_positive_rate"]
        style = {"color": color, "linewidth": 1.1, "label": label, "alpha": 0.85}
        axes[0, 0].plot(false, true, **style)
        axes[0, 1].plot(true, np.maximum(false, 1e-6), **style)
    axes[0, 0].plot([0, 1], [0, 1], color="0.7", linewidth=0.8, linestyle=":")
    axes[0, 0].set(xlabel="false positive rate (protons)")
    axes[0, 0].set(ylabel="true positive rate (gammas)")
    axes[0, 1].set(xlabel="gammas kept", ylabel="protons kept", yscale="log")
    lowest = tables["roc"]["false_positive_rate"]
    lowest = lowest[lowest > 0]
    axes[0, 1].set_ylim(lowest.min() if len(lowest) else 1e-3, 1.2)
    for axis in axes[0]:
        _legend(axis, loc="lower right")
    return figure


def _auc_label(summaries, name):
    summary = summaries["auc"]
    chosen = np.asarray(summary["reconstructor"]) == name
    chosen &= np.asarray(summary["axis"]) == "all"
    (row,) = summary[chosen]
    error = row["auc_error"] if row["n_seeds"] == 1 else row["auc_std"]
    return f"{name}: AUC {row['auc']:.3f} ± {error:.3f}"


def _pairs(table):
    """Reconstructors with their seeds, in the order of the table."""
    names, seeds = np.asarray(table["reconstructor"]), np.asarray(table["seed"])
    return list(dict.fromkeys(zip(names.tolist(), seeds.tolist())))


def _of(table, key):
    """Rows of a reconstructor and seed."""
    chosen = np.asarray(table["reconstructor"]) == key[0]
    return table[chosen & (np.asarray(table["seed"]) == key[1])]


def _auc(tables, summaries, published):
    if not _has(summaries, "auc"):
        return None
    summary = summaries["auc"]
    labels = {"intensity": "intensity [p.e.]"}
    labels.update({f"{which}_energy": label for which, label in ENERGY.items()})
    present = [a for a in labels if (np.asarray(summary["axis"]) == a).any()]
    figure, axes = _axes(len(present), sharey=True)
    for axis, name in zip(axes[0], present):
        rows = summary[np.asarray(summary["axis"]) == name]
        rows["high"] = np.where(np.isfinite(rows["high"]), rows["high"], 4 * rows["low"])
        _curve(axis, rows, "low", "high", "auc")
        if name == "intensity":
            _overlay(axis, published.get("auc"), "auc")
        axis.set(xscale="log", xlabel=labels[name], ylabel="area under the ROC curve")
        _legend(axis, loc="lower right")
    return figure


def _gammaness(tables, summaries, published):
    if not _has(summaries, "gammaness"):
        return None
    summary = summaries["gammaness"]
    names = list(_style(summary["reconstructor"]))
    figure, axes = _axes(len(names), sharey=True)
    for axis, name in zip(axes[0], names):
        rows = summary[np.asarray(summary["reconstructor"]) == name]
        particles = list(dict.fromkeys(np.asarray(rows["particle"]).tolist()))
        for particle, color in zip(particles, COLORS):
            one = rows[np.asarray(rows["particle"]) == particle]
            edges = np.append(one["gammaness_low"], one["gammaness_high"][-1])
            total = one["n_events"].sum() or 1
            axis.stairs(
                one["n_events"] / total / np.diff(edges),
                edges,
                color=color,
                label=particle,
            )
        axis.set(
            title=name, xlabel="gammaness", ylabel="events per unit of gammaness / all"
        )
        axis.set_yscale("log")
        _legend(axis)
    return figure


def _migration(tables, summaries, published):
    if not _has(tables, "migration"):
        return None
    table = tables["migration"]
    keys = {}
    for name, seed in _pairs(table):
        keys.setdefault(name, seed)  # the first of several seeds stands for all
    figure, axes = _axes(len(keys), sharey=True)
    for axis, key in zip(axes[0], keys.items()):
        rows = _of(table, key)
        low = np.unique(rows["true_energy_low"].to_value(u.TeV))
        edges = np.append(low, rows["true_energy_high"].to_value(u.TeV).max())
        counts = np.reshape(np.asarray(rows["n_events"], dtype=float), (len(low), -1))
        total = counts.sum(axis=1, keepdims=True)
        share = np.divide(
            counts, total, out=np.full_like(counts, np.nan), where=total > 0
        )
        share[share == 0] = np.nan
        norm = LogNorm(1e-3, 1)
        image = axis.pcolormesh(edges, edges, share.T, norm=norm, cmap="viridis")
        axis.plot(edges, edges, color="w", linewidth=0.8, linestyle="--")
        title = key[0] if key[1] < 0 else f"{key[0]}, seed {key[1]}"
        axis.set(xscale="log", yscale="log", title=title)
        axis.set(xlabel=ENERGY["true"], ylabel=ENERGY["reco"])
        figure.colorbar(image, ax=axis, label="fraction of the true energy's events")
    return figure


def _pulls(tables, summaries, published):
    if not _has(summaries, "pull_width", "pull_distribution"):
        return None
    found = np.asarray(summaries["pull_distribution"]["of"])
    present = [of for of in ("energy", "direction") if (found == of).any()]
    figure, axes = _axes(len(present), 2)
    for of, (distribution, width) in zip(present, axes.T):
        _pull_distribution(distribution, summaries["pull_distribution"], of)
        rows = summaries["pull_width"]
        rows = rows[np.asarray(rows["of"]) == of]
        _curve(
            width, rows[np.asarray(rows["axis"]) == "reco_energy"], "low", "high", "width"
        )
        width.axhline(1, color="0.3", linewidth=0.8)
        width.set_ylim(0, 2)
        _finish_energy(width, "reco", f"width of the pulls, {of}")
        _legend(width)
    return figure


def _pull_distribution(axis, summary, of):
    """Distributions of the pulls, with the one of normal errors."""
    summary = summary[np.asarray(summary["of"]) == of]
    for name, (color, _) in _style(summary["reconstructor"]).items():
        rows = summary[np.asarray(summary["reconstructor"]) == name]
        edges = np.append(rows["pull_low"], rows["pull_high"][-1])
        density = rows["n_events"] / rows["n_total"] / np.diff(edges)
        axis.stairs(density, edges, color=color, label=name)
    x = np.linspace(edges[0], edges[-1], 200)
    if of == "energy":
        normal, label = norm.pdf(x), "normal"
    else:
        # 68 % of normal errors along two axes are within 1
        scale = 1 / np.sqrt(-2 * np.log(2 * norm.sf(1)))
        normal, label = rayleigh.pdf(x, scale=scale), "normal along both axes"
    axis.plot(x, normal, color="0.5", linewidth=0.9, linestyle="--", label=label)
    axis.set(xlabel=f"pull, {of}", ylabel="gammas per unit of the pull / all")
    _legend(axis)


def _theta_squared(tables, summaries, published):
    if not _has(summaries, "theta_squared"):
        return None
    figure, axes = _axes()
    axis, summary = axes[0, 0], summaries["theta_squared"]
    for name, (color, _) in _style(summary["reconstructor"]).items():
        rows = summary[np.asarray(summary["reconstructor"]) == name]
        edges = np.append(
            _plain(rows["theta_squared_low"]), _plain(rows["theta_squared_high"])[-1]
        )
        share = _plain(rows["n_events"]) / rows["n_total"]
        error = _plain(rows["n_events_error"]) / rows["n_total"]
        axis.stairs(share, edges, color=color, label=name)
        centers = (edges[1:] + edges[:-1]) / 2
        axis.errorbar(centers, share, error, color=color, linestyle="none", linewidth=0.8)
    axis.set(xlabel=r"$\theta^2$ [deg$^2$]", ylabel="fraction of gammas per bin")
    axis.set_yscale("log")
    _legend(axis)
    return figure


def _effective_area(tables, summaries, published):
    if not _has(tables, "effective_area"):
        return None
    table = tables["effective_area"]
    stages = list(dict.fromkeys(np.asarray(table["stage"]).tolist()))
    figure, axes = _axes(len(stages), sharey=True)
    for axis, stage in zip(axes[0], stages):
        rows = table[np.asarray(table["stage"]) == stage]
        _interval_curve(axis, rows, "true_energy", "effective_area", u.m**2)
        axis.set(yscale="log", title=stage)
        _finish_energy(axis, "true", "effective area for gammas [m²]")
        _legend(axis, loc="lower right")
    return figure


def _interval_curve(axis, table, energy, value, unit):
    """A curve for every training, with the interval from ``_low`` to ``_high``."""
    styles = _style(table["reconstructor"])
    labelled = set()
    for key in _pairs(table):
        rows = _of(table, key)
        y = _plain(rows[value], unit)
        good = np.isfinite(y) & (y > 0)
        rows, y = rows[good], y[good]
        if not len(rows):
            continue
        low, high = (_plain(rows[f"{energy}_{end}"], u.TeV) for end in ("low", "high"))
        x = np.sqrt(low * high)
        lower, upper = (_plain(rows[f"{value}_{end}"], unit) for end in ("low", "high"))
        few = np.asarray(rows["few_events"]) if "few_events" in rows.colnames else None
        color, marker = styles[key[0]]
        upper = np.where(np.isfinite(upper), upper, y)
        axis.errorbar(
            x,
            y,
            xerr=[x - low, high - x],
            yerr=[np.maximum(y - lower, 0), np.maximum(upper - y, 0)],
            color=color,
            marker=marker,
            markersize=4,
            linewidth=1,
            elinewidth=0.9,
            label=None if key[0] in labelled else key[0],
        )
        if few is not None and few.any():
            label = None if labelled else "fewer than 10 simulated events behind it"
            hollow = {"markerfacecolor": "w", "markeredgecolor": color, "zorder": 5}
            axis.plot(x[few], y[few], marker, linestyle="none", label=label, **hollow)
        labelled.add(key[0])


def _sensitivity(tables, summaries, published):
    if not _has(tables, "sensitivity"):
        return None
    figure, axes = _axes()
    axis = axes[0, 0]
    unit = u.Unit("erg cm-2 s-1")
    _interval_curve(
        axis, tables["sensitivity"], "reco_energy", "energy_flux_sensitivity", unit
    )
    axis.set(yscale="log")
    _finish_energy(
        axis, "reco", r"$E^2 \times$ flux sensitivity [erg cm$^{-2}$ s$^{-1}$]"
    )
    _legend(axis)
    return figure


def _cuts(tables, summaries, published):
    if not _has(tables, "cuts"):
        return None
    figure, axes = _axes(2)
    table = tables["cuts"]
    styles = _style(table["reconstructor"])
    for axis, (value, unit, label) in zip(
        axes[0],
        [
            ("gammaness_cut", None, "least gammaness"),
            ("theta_cut", u.deg, "largest angle [deg]"),
        ],
    ):
        labelled = set()
        for key in _pairs(table):
            rows = _of(table, key)
            edges = np.append(
                _plain(rows["reco_energy_low"], u.TeV),
                _plain(rows["reco_energy_high"], u.TeV)[-1:],
            )
            name = None if key[0] in labelled else key[0]
            axis.stairs(
                _plain(rows[value], unit), edges, color=styles[key[0]][0], label=name
            )
            labelled.add(key[0])
        axis.set_ylim(bottom=0)
        _finish_energy(axis, "reco", label)
        _legend(axis)
    return figure


_FIGURES = {
    "angular_resolution": (
        "Angular resolution: 68 % of the gammas are reconstructed within this distance"
        " of their true direction.",
        _angular_resolution,
    ),
    "energy_resolution": (
        "Energy resolution, 68 % containment of the relative error, and bias, gammas.",
        _energy_resolution,
    ),
    "auc": ("Area under the ROC curve, gammas against protons.", _auc),
    "roc": ("ROC curve, gammas against protons; every training is a line.", _roc),
    "gammaness": ("Gammaness by particle, normalized, all trainings' mean.", _gammaness),
    "reconstructed_fraction": (
        "Fraction of the selected events for which there is a complete result.",
        _reconstructed_fraction,
    ),
    "theta_squared": (
        "Squared distance from the true direction, gammas.",
        _theta_squared,
    ),
    "migration": (
        "Energy migration of gammas: how the events of each true energy are spread over"
        " the reconstructed energies that are drawn.",
        _migration,
    ),
    "impact_resolution": (
        "Impact point: 68 % of the gammas have their core within this distance of the"
        " true one.",
        _impact_resolution,
    ),
    "pulls": (
        "Pulls, the errors divided by their uncertainties, and their width, gammas: 1 if"
        " the uncertainties are right. That of a direction is its distance from the true"
        " one over the radius that holds 68 %.",
        _pulls,
    ),
    "effective_area": ("Effective area for gammas.", _effective_area),
    "cuts": ("Cuts that were optimized for sensitivity.", _cuts),
    "sensitivity": (
        "Differential flux sensitivity to a point source (Li & Ma 5 σ, at least ten"
        " gammas, at least 5 % of the background). There is no point where no simulated"
        " background is left.",
        _sensitivity,
    ),
}
