"""The report of an evaluation: one HTML file with everything in it."""

import base64
import datetime
from importlib.metadata import version

import astropy.units as u
import numpy as np
from jinja2 import Environment, PackageLoader
from markupsafe import Markup, escape

from .tables import KINDS, compare

__all__ = ["render"]

# tables that are printed in the report, besides those that have their own sections
PRINTED = (
    "auc",
    "angular_resolution",
    "energy_resolution",
    "impact_resolution",
    "pull_width",
    "effective_area",
    "sensitivity",
)
# figures whose numbers stand in tables of other names
TABLES_OF_FIGURES = {
    "angular_resolution": ("angular_resolution", "angular_resolution_reco"),
    "energy_resolution": ("energy_resolution", "energy_resolution_reco"),
    "pulls": ("pull_width", "pull_distribution"),
}
# what reconstructors are compared by; and how it is called
COMPARED = (
    ("auc", "auc", "AUC"),
    ("angular_resolution", "angular_resolution", "angular resolution"),
    ("energy_resolution", "containment", "energy, 68 % containment"),
    ("energy_resolution", "resolution", "energy resolution"),
    ("energy_resolution", "bias", "energy bias"),
)
# what stands first in the report, in the interval of true energy with this energy
SHORT = (
    ("angular_resolution", "angular_resolution"),
    ("energy_resolution", "containment"),
)
SHORT_ENERGY = 300 * u.GeV
SIGNIFICANT = 2  # standard deviations


def render(sample, selections, settings):
    """HTML of the report.

    Parameters
    ----------
    sample : Sample
    selections : dict of str to dict
        For every selection ``tables`` and ``summaries``, ``figures`` (caption and
        path of a PNG file by name) and ``missing`` (what is not there, and why).
    settings : dict
        ``title``, ``command``, ``threshold``, ``simulations`` (dict, may be empty),
        ``obs_time`` (Quantity), ``published`` (tables that are drawn too, or None).

    Returns
    -------
    html : str
    """
    environment = Environment(
        loader=PackageLoader("ctapipe_gphysnet", "evaluation"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    published = settings["published"]
    overlay = None
    if published:
        overlay = (
            f"Grey crosses: {published['resolution'].meta['label']}."
            f" {published['resolution'].meta['source']}. Other telescope data, zenith and"
            " cuts: for orientation, not a comparison."
        )
    parts = [_selection(sample, name, s) for name, s in selections.items()]
    return environment.get_template("report.html").render(
        short=_short(selections),
        title=settings["title"],
        command=settings["command"],
        date=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        versions={n: version(n) for n in ("ctapipe_gphysnet", "ctapipe", "pyirf")},
        threshold=settings["threshold"],
        obs_time=f"{settings['obs_time']:g}" if settings["simulations"] else None,
        overlay=overlay,
        files=_files(sample),
        simulations=_simulations(settings["simulations"]),
        reconstructors=_reconstructors(sample),
        selections=parts,
    )


def html_table(columns, rows, n_text=1, classes=None):
    """An HTML table.

    Parameters
    ----------
    columns : list of str
    rows : list of list
    n_text : int
        How many of the first columns are text, and stand to the left.
    classes : list of str, optional
        CSS class of every row.

    Returns
    -------
    html : markupsafe.Markup
    """

    def cells(values, tag):
        return "".join(
            f"<{tag}{' class=text' if i < n_text else ''}>{escape(value)}</{tag}>"
            for i, value in enumerate(values)
        )

    classes = classes or [""] * len(rows)
    body = "\n".join(
        f'<tr class="{mark}">{cells(row, "td")}</tr>' for row, mark in zip(rows, classes)
    )
    return Markup(f"<table>\n<tr>{cells(columns, 'th')}</tr>\n{body}\n</table>")


def _files(sample):
    return html_table(
        ["file", "events", "written by ctapipe"],
        [
            [
                file["path"],
                ", ".join(f"{n} {particle}s" for particle, n in file["counts"].items()),
                file["meta"].get("CTAPIPE_VERSION", ""),
            ]
            for file in sample.files
        ],
    )


def _simulations(simulations):
    if not simulations:
        return None
    rows = []
    for particle, simulation in simulations.items():
        radius = f"{simulation.max_impact:.0f}"
        if simulation.scatter_radius is not None:
            ends = u.Quantity([simulation.energy_min, simulation.energy_max])
            low, high = simulation.scatter_radius(ends).to_value(u.m)
            radius = f"{low:.0f} to {high:.0f} m"
        rows.append(
            [
                particle,
                f"{simulation.n_showers:,}",
                f"{simulation.energy_min:.3g} to {simulation.energy_max:.3g}",
                f"{simulation.spectral_index:g}",
                radius,
                f"{simulation.viewcone_max:g}",
            ]
        )
    columns = ["particle", "showers thrown", "energy", "spectral index"]
    return html_table([*columns, "radius of the cores", "radius of the cone"], rows)


def _reconstructors(sample):
    rows = []
    for reconstructor in sample.results:
        prefixes = list(reconstructor.prefixes.values())
        models = []
        for prefix in prefixes:
            for file in sample.files:
                name = file["meta"].get(f"{prefix}_model")
                identity = file["meta"].get(f"{prefix}_model_sha256")
                if name and (name, identity) not in models:
                    models.append((name, identity))
        described = "; ".join(f"{n} (sha256 {i})" for n, i in models)
        rows.append([str(reconstructor), ", ".join(prefixes), described or "not named"])
    return html_table(["reconstructor", "tables", "model"], rows, n_text=3)


def _selection(sample, name, parts):
    summaries = parts["summaries"]
    return {
        "name": name,
        "anchor": "".join(c if c.isalnum() else "-" for c in name),
        "criteria": _criteria(sample, name),
        "counts": _counts(summaries["reconstructed_fraction"]),
        "scores": _scores(summaries),
        "comparisons": _comparisons(summaries),
        "figures": [
            {
                "name": figure,
                "caption": caption,
                "png": base64.b64encode(path.read_bytes()).decode(),
                "tables": [
                    f"{path.parent.name}/{table}.ecsv"
                    for table in TABLES_OF_FIGURES.get(figure, (figure,))
                ],
            }
            for figure, (caption, path) in parts["figures"].items()
        ],
        "missing": "; ".join(parts["missing"]),
        "tables": [
            {"title": _title(table), "table": _printed(table, found)}
            for table in PRINTED
            if (found := _printable(parts, table)) is not None and len(found)
        ],
    }


def _printable(parts, name):
    return parts["summaries"].get(name, parts["tables"].get(name))


def _title(name):
    return KINDS[name].title if name in KINDS else name.replace("_", " ").capitalize()


def _criteria(sample, name):
    rows, before = [], len(sample)
    for criterion, expression, events in sample.criteria[name]:
        passed = int(events.sum())
        rows.append([criterion, expression, f"{passed:,}", f"{before - passed:,}"])
        before = passed
    rows.insert(0, ["all events", "", f"{len(sample):,}", ""])
    return html_table(["criterion", "expression", "left", "removed"], rows, n_text=2)


def _counts(summary):
    rows = [
        [
            row["reconstructor"],
            row["particle"],
            f"{row['n_events']:,}",
            f"{100 * row['fraction']:.2f} %",
        ]
        for row in summary
        if not np.isfinite(row["true_energy_high"])
    ]
    return html_table(["reconstructor", "particle", "selected", "reconstructed"], rows, 2)


def with_error(row, name, digits=3):
    """A value with the spread over seeds, or with its bootstrap error.

    Parameters
    ----------
    row : astropy.table.Row
        Of a summary.
    name : str
    digits : int
        After the decimal point.

    Returns
    -------
    text : str
    """
    error = row[f"{name}_std"] if row["n_seeds"] > 1 else row[f"{name}_error"]
    value, error = (getattr(v, "value", v) for v in (row[name], error))
    if not np.isfinite(value):
        return "–"
    return f"{value:.{digits}f} ± {error:.{digits}f}"


def _scores(summaries):
    if not len(summaries["classification"]):
        return None
    auc, rows = summaries["auc"], []
    for row in summaries["classification"]:
        chosen = np.asarray(auc["reconstructor"]) == row["reconstructor"]
        (overall,) = auc[chosen & (np.asarray(auc["axis"]) == "all")]
        rows.append(
            [
                row["reconstructor"],
                row["n_seeds"],
                f"{row['n_gamma']:,}",
                f"{row['n_proton']:,}",
                with_error(overall, "auc", 4),
                *(with_error(row, name) for name in ("precision", "recall", "f1")),
            ]
        )
    columns = ["reconstructor", "seeds", "gammas", "protons", "AUC"]
    return html_table([*columns, "precision", "recall", "F1"], rows)


def _short(selections):
    """The most important numbers of all selections."""
    rows = []
    for name, parts in selections.items():
        auc = parts["summaries"]["auc"]
        for row in auc[np.asarray(auc["axis"]) == "all"] if len(auc) else ():
            counts = (f"{row['n_gamma']:,}", f"{row['n_proton']:,}")
            resolutions = [
                _at(parts["summaries"][table], row["reconstructor"], value)
                for table, value in SHORT
            ]
            rows.append(
                [
                    name,
                    row["reconstructor"],
                    *counts,
                    with_error(row, "auc"),
                    *resolutions,
                ]
            )
    columns = ["selection", "reconstructor", "gammas", "protons", "AUC"]
    angle = f"angular resolution at {SHORT_ENERGY:g} [deg]"
    energy = f"energy, 68 % containment at {SHORT_ENERGY:g}"
    return html_table([*columns, angle, energy], rows, n_text=2)


def _at(summary, name, value):
    """A value of a reconstructor in the interval that holds `SHORT_ENERGY`."""
    if not len(summary):
        return "–"
    chosen = np.asarray(summary["reconstructor"]) == name
    chosen &= summary["true_energy_low"] <= SHORT_ENERGY
    chosen &= summary["true_energy_high"] > SHORT_ENERGY
    return with_error(summary[chosen][0], value) if chosen.any() else "–"


def _comparisons(summaries):
    """The reconstructor that was named first against each of the others."""
    fractions = summaries["reconstructed_fraction"]
    names = list(dict.fromkeys(np.asarray(fractions["reconstructor"]).tolist()))
    return [_comparison(summaries, names[0], other) for other in names[1:]]


def _comparison(summaries, reference, other):
    rows, losses = [], []
    for name, value, label in COMPARED:
        table = compare(summaries, name, value, reference, other)
        if not len(table):
            continue
        for axis, intervals in _by_axis(table):
            significance = np.asarray(intervals["significance"])
            n_better = np.count_nonzero(significance > SIGNIFICANT)
            n_worse = np.count_nonzero(significance < -SIGNIFICANT)
            rows.append([f"{label}{axis}", len(intervals), n_better, n_worse])
            if n_worse:
                worst = _where(intervals[np.argmin(significance)])
                count = f" in {n_worse} of {len(intervals)} intervals"
                count += ", most" if n_worse > 1 else ""
                several = len(intervals) > 1
                losses.append(f"{label}{axis}{count if several else ''} {worst}")
    sentence = (
        f"{reference} is worse than {other} by more than {SIGNIFICANT} σ in: "
        + "; ".join(losses)
        + "."
        if losses
        else f"{reference} is nowhere worse than {other} by more than {SIGNIFICANT} σ."
    )
    columns = ["measure", "intervals", f"better by > {SIGNIFICANT} σ"]
    table = html_table([*columns, f"worse by > {SIGNIFICANT} σ"], rows)
    return {"reference": reference, "other": other, "sentence": sentence, "table": table}


def _by_axis(table):
    """Words for what the intervals of a comparison are of, and their rows."""
    if "axis" not in table.colnames:
        return [(" by true energy", table)]
    axes = np.asarray(table["axis"])
    return [
        ("" if axis == "all" else f" by {axis.replace('_', ' ')}", table[axes == axis])
        for axis in dict.fromkeys(axes.tolist())
    ]


def _where(row):
    """Words for the interval of a row of a comparison, with the loss."""
    gain = getattr(row["gain"], "value", row["gain"])
    loss = f"(by {-gain:.3f}, {-row['significance']:.1f} σ)"
    if "axis" not in row.colnames:
        low, high = (
            next(row[c] for c in row.colnames if c.endswith(e)) for e in ("_low", "_high")
        )
        return f"at {low.value:.3g} to {high:.3g} {loss}"
    if row["axis"] == "all":
        return loss
    unit = "p.e." if row["axis"] == "intensity" else "TeV"
    return f"at {row['low']:.3g} to {row['high']:.3g} {unit} {loss}"


def _printed(name, table):
    """A table as HTML; values with their uncertainty in one cell."""
    merged = (
        {f"{v}{e}" for v in KINDS[name].values for e in _ENDINGS}
        if name in KINDS
        else set()
    )
    columns = [c for c in table.colnames if c not in merged]
    values = KINDS[name].values if name in KINDS else ()
    header = [c.replace("_", " ") + _unit(table[c]) for c in columns]
    rows = [
        [with_error(row, c) if c in values else _text(row[c]) for c in columns]
        for row in table
    ]
    return html_table(header, rows)


_ENDINGS = ("_error", "_std", "_min", "_max")


def _unit(column):
    unit = getattr(column, "unit", None)
    return f" [{unit}]" if unit else ""


def _text(value):
    value = getattr(value, "value", value)
    if isinstance(value, (float, np.floating)):
        return f"{value:.4g}" if np.isfinite(value) else "–"
    return str(value)
