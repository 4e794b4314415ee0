"""Resolutions and scores of reconstructors, on the same events and with uncertainties.

Every function gives a long table: a row for every reconstructor and bin, with columns
``reconstructor`` and ``seed`` (-1 where there is one training only), ``n_events``, and
a column ``…_error`` for every value: its standard deviation over bootstrap samples.
`over_seeds` makes one row of the trainings of a reconstructor.
"""

import astropy.units as u
import numpy as np
from astropy.table import QTable, vstack
from pyirf.benchmarks import angular_resolution, energy_bias_resolution
from pyirf.benchmarks.energy_bias_resolution import (
    MEDIAN,
    NORM_LOWER_SIGMA,
    NORM_UPPER_SIGMA,
    ONE_SIGMA_COVERAGE,
    energy_resolution_absolute_68,
)
from sklearn.metrics import (
    precision_recall_fscore_support,
    roc_auc_score,
    roc_curve,
)

from .bootstrap import auc_samples, fraction_error, quantile_samples

__all__ = [
    "angular_resolutions",
    "aucs",
    "bin_columns",
    "classification_scores",
    "common_events",
    "energy_resolutions",
    "gammaness_distributions",
    "impact_resolutions",
    "migration_matrices",
    "over_seeds",
    "pull_distributions",
    "pull_widths",
    "reconstructed_fractions",
    "roc_curves",
    "theta_squared_distributions",
]

# what must be there for an event to count, in results
NEEDED = {
    "energy": "reco_energy",
    "geometry": "theta",
    "particle_type": "gammaness",
}
# what pulls are of, by property
PULLS = {"energy": "energy", "geometry": "direction"}
# Less is no measurement of a 68 % quantile.
MIN_EVENTS = 10
N_SAMPLES = 200
N_ROC_POINTS = 500


def common_events(sample, selection, kind):
    """Events of a selection for which every reconstructor has a result.

    Parameters
    ----------
    sample : Sample
    selection : str
    kind : {"energy", "geometry", "particle_type"}
        The property of which reconstructors that have it must have a result.

    Returns
    -------
    common : ndarray of bool, shape (N,)
    """
    common = sample.selected[selection].copy()
    for reconstructor, result in sample.results.items():
        if kind in reconstructor.prefixes:
            common &= np.isfinite(_plain(result[NEEDED[kind]]))
    return common


def _plain(values):
    return np.asarray(values.value if isinstance(values, u.Quantity) else values)


def _having(sample, kind):
    """Reconstructors that have a property, with their results."""
    return {r: t for r, t in sample.results.items() if kind in r.prefixes}


def _labelled(table, reconstructor):
    table.add_column(reconstructor.name, index=0, name="reconstructor")
    seed = -1 if reconstructor.seed is None else reconstructor.seed
    table.add_column(seed, index=1, name="seed")
    return table


def _stacked(rows):
    return vstack(rows, metadata_conflicts="silent") if rows else QTable()


def bin_columns(name, edges):
    """Table with the lower and upper edges of bins.

    Parameters
    ----------
    name : str
    edges : ndarray or Quantity, shape (B + 1,)

    Returns
    -------
    table : astropy.table.QTable, B rows
        Columns ``{name}_low`` and ``{name}_high``.
    """
    return QTable({f"{name}_low": edges[:-1], f"{name}_high": edges[1:]})


def _bins(values, edges):
    """Masks of the events in every bin."""
    values, edges = _plain(values), _plain(edges)
    return [(values >= lo) & (values < hi) for lo, hi in zip(edges[:-1], edges[1:])]


def _errors(samples):
    """Standard deviation over bootstrap samples, by column."""
    return np.std(samples, axis=0, ddof=1)


def _binned_errors(table, names, groups, statistic, rng):
    """Fill in uncertainties; too few events make value and uncertainty NaN."""
    for name in names:
        unit = table[name].unit or 1
        table[f"{name}_error"] = np.full(len(table), np.nan) * unit
    for row, values in enumerate(groups):
        if len(values) < MIN_EVENTS:
            for name in names:
                table[name][row] = np.nan * (table[name].unit or 1)
            continue
        for name, error in zip(names, _errors(statistic(values, rng))):
            table[f"{name}_error"][row] = error * (table[name].unit or 1)
    return table


def _containment(values, rng):
    return quantile_samples(values, [ONE_SIGMA_COVERAGE], N_SAMPLES, rng)


def angular_resolutions(sample, selection, edges, axis="true", seed=0):
    """68 % containment of the distance from the true direction (pyirf), gammas only.

    Parameters
    ----------
    sample : Sample
    selection : str
    edges : Quantity, shape (B + 1,)
        Of the bins in energy.
    axis : {"true", "reco"}
        Which energy. By reconstructed energy only for reconstructors that have one.
    seed : int
        Of the bootstrap samples.

    Returns
    -------
    table : astropy.table.QTable
        ``{axis}_energy_low``, ``…_high``, ``n_events``, ``angular_resolution`` and
        its error, in degrees.
    """
    rng, rows = np.random.default_rng(seed), []
    for reconstructor, events in _gammas(sample, selection, "geometry", axis):
        name = f"{axis}_energy"
        events["true_energy"] = events["true_energy"].to(u.TeV)
        found = angular_resolution(events, edges, axis, ONE_SIGMA_COVERAGE)
        column = next(c for c in found.colnames if c.startswith("angular_resolution"))
        table = bin_columns(name, edges)
        table["n_events"] = found["n_events"]
        table["angular_resolution"] = found[column].to(u.deg)
        theta = events["theta"].to_value(u.deg)
        groups = [theta[chosen] for chosen in _bins(events[name], edges)]
        _binned_errors(table, ["angular_resolution"], groups, _containment, rng)
        rows.append(_labelled(table, reconstructor))
    return _stacked(rows)


def _gammas(sample, selection, kind, axis):
    """Truth and results of common gammas, as pyirf wants them."""
    if axis == "reco":
        chosen = common_events(sample, selection, "energy")
    else:
        chosen = sample.selected[selection].copy()
    chosen &= common_events(sample, selection, kind) & sample.is_particle("gamma")
    for reconstructor, result in _having(sample, kind).items():
        if axis == "reco" and reconstructor.energy is None:
            continue
        events = QTable(result[chosen])
        for name in ("true_energy", "pointing_alt", "pointing_az"):
            events[name] = sample.events[name][chosen]
        yield reconstructor, events


def _energy_statistics(error, rng):
    """Bootstrap samples of bias, resolution and 68 % containment."""
    probabilities = [NORM_LOWER_SIGMA, MEDIAN, NORM_UPPER_SIGMA]
    low, median, high = quantile_samples(error, probabilities, N_SAMPLES, rng).T
    (containment,) = _containment(np.abs(error), rng).T
    return np.column_stack([median, (high - low) / 2, containment])


def energy_resolutions(sample, selection, edges, axis="true", seed=0):
    """Bias and resolution of the energy (pyirf), gammas only.

    Parameters
    ----------
    sample, selection, edges, axis, seed
        See `angular_resolutions`.

    Returns
    -------
    table : astropy.table.QTable
        ``{axis}_energy_low``, ``…_high``, ``n_events``, and of the relative error
        E_reco / E_true - 1 with their errors: ``bias``, the median; ``resolution``,
        half of the central 68 % interval; ``containment``, the 68 % quantile of the
        absolute value, which a bias makes larger.
    """
    rng, rows = np.random.default_rng(seed), []
    for reconstructor, events in _gammas(sample, selection, "energy", axis):
        name = f"{axis}_energy"
        central = energy_bias_resolution(events, edges, axis)
        absolute = energy_bias_resolution(
            events, edges, axis, resolution_function=energy_resolution_absolute_68
        )
        table = bin_columns(name, edges)
        table["n_events"] = central["n_events"]
        table["bias"] = np.asarray(central["bias"])
        table["resolution"] = np.asarray(central["resolution"])
        table["containment"] = np.asarray(absolute["resolution"])
        error = (events["reco_energy"] / events["true_energy"]).to_value("") - 1
        groups = [error[chosen] for chosen in _bins(events[name], edges)]
        names = ["bias", "resolution", "containment"]
        _binned_errors(table, names, groups, _energy_statistics, rng)
        rows.append(_labelled(table, reconstructor))
    return _stacked(rows)


def impact_resolutions(sample, selection, edges, seed=0):
    """68 % containment of the distance from the true core, gammas only.

    Parameters
    ----------
    sample, selection, edges, seed
        See `angular_resolutions`.

    Returns
    -------
    table : astropy.table.QTable
        ``true_energy_low``, ``…_high``, ``n_events``, ``impact_resolution`` and its
        error, in metres. Without rows if no reconstructor has a core.
    """
    rng, rows = np.random.default_rng(seed), []
    for reconstructor, events in _gammas(sample, selection, "geometry", "true"):
        distance = events["core_error"].to_value(u.m)
        if not np.isfinite(distance).any():
            continue
        table = bin_columns("true_energy", edges)
        groups = [
            distance[chosen & np.isfinite(distance)]
            for chosen in _bins(events["true_energy"], edges)
        ]
        table["n_events"] = [len(values) for values in groups]
        table["impact_resolution"] = [
            np.quantile(values, ONE_SIGMA_COVERAGE) if len(values) else np.nan
            for values in groups
        ] * u.m
        _binned_errors(table, ["impact_resolution"], groups, _containment, rng)
        rows.append(_labelled(table, reconstructor))
    return _stacked(rows)


def reconstructed_fractions(sample, selection, edges):
    """Which part of the selected events each reconstructor has everything of.

    Parameters
    ----------
    sample : Sample
    selection : str
    edges : Quantity, shape (B + 1,)
        Of the bins in true energy.

    Returns
    -------
    table : astropy.table.QTable
        ``particle``, ``true_energy_low``, ``…_high``, ``n_events`` (selected),
        ``n_reconstructed``, ``fraction`` and its error. For every particle the first
        row is for all energies, from 0 to infinity.
    """
    edges = edges.to(u.TeV)
    everything = np.array([0, np.inf]) * u.TeV
    energy, rows = sample.events["true_energy"], []
    for reconstructor, result in sample.results.items():
        valid = np.logical_and.reduce(
            [np.isfinite(_plain(result[NEEDED[k]])) for k in reconstructor.prefixes]
        )
        for particle in _particles(sample):
            chosen = sample.selected[selection] & sample.is_particle(particle)
            for bins in (everything, edges):
                table = bin_columns("true_energy", bins)
                table.add_column(particle, index=0, name="particle")
                masks = [chosen & mask for mask in _bins(energy, bins)]
                table["n_events"] = [np.count_nonzero(mask) for mask in masks]
                found = [np.count_nonzero(mask & valid) for mask in masks]
                table["n_reconstructed"] = found
                with np.errstate(invalid="ignore"):
                    table["fraction"] = np.asarray(found) / np.asarray(table["n_events"])
                table["fraction_error"] = fraction_error(found, table["n_events"])
                rows.append(_labelled(table, reconstructor))
    return _stacked(rows)


def _particles(sample):
    return list(dict.fromkeys(np.asarray(sample.events["particle"]).tolist()))


def _scores(sample, selection):
    """Gammaness of common gammas and protons, with the truth, by reconstructor."""
    particle = np.asarray(sample.events["particle"])
    chosen = common_events(sample, selection, "particle_type")
    chosen &= (particle == "gamma") | (particle == "proton")
    is_gamma = particle[chosen] == "gamma"
    for reconstructor, result in _having(sample, "particle_type").items():
        yield reconstructor, chosen, is_gamma, np.asarray(result["gammaness"])[chosen]


def aucs(sample, selection, axes, seed=0):
    """Area under the ROC curve of gammas and protons, of all events and in bins.

    Parameters
    ----------
    sample : Sample
    selection : str
    axes : dict of str to ndarray or Quantity, shape (B + 1,)
        Edges of the bins: ``intensity`` [p.e.], ``true_energy`` or ``reco_energy``.
    seed : int
        Of the bootstrap samples.

    Returns
    -------
    table : astropy.table.QTable
        ``axis`` ("all", or a key of the axes), ``low``, ``high`` (plain numbers, of
        energies in TeV), ``n_gamma``, ``n_proton``, ``auc`` and its error. Bins that
        have fewer than 10 events of a class have NaN.
    """
    rng, rows = np.random.default_rng(seed), []
    for reconstructor, chosen, is_gamma, score in _scores(sample, selection):
        columns = {
            "intensity": np.asarray(sample.events["intensity"])[chosen],
            "true_energy": sample.events["true_energy"][chosen].to_value(u.TeV),
            "reco_energy": sample.results[reconstructor]["reco_energy"][chosen].to_value(
                u.TeV
            ),
        }
        bins = [("all", np.nan, np.nan, np.ones(len(score), dtype=bool))]
        for axis, edges in axes.items():
            edges = edges.to_value(u.TeV) if isinstance(edges, u.Quantity) else edges
            masks = _bins(columns[axis], edges)
            bins += list(zip([axis] * len(masks), edges[:-1], edges[1:], masks))
        found = [
            (axis, low, high, *_auc(score[mask], is_gamma[mask], rng))
            for axis, low, high, mask in bins
        ]
        names = ["axis", "low", "high", "n_gamma", "n_proton", "auc", "auc_error"]
        rows.append(_labelled(QTable(rows=found, names=names), reconstructor))
    return _stacked(rows)


def _auc(score, is_gamma, rng):
    """Numbers of gammas and protons, AUC and its error."""
    gamma, proton = score[is_gamma], score[~is_gamma]
    if min(len(gamma), len(proton)) < MIN_EVENTS:
        return len(gamma), len(proton), np.nan, np.nan
    error = np.std(auc_samples(gamma, proton, N_SAMPLES, rng), ddof=1)
    return len(gamma), len(proton), roc_auc_score(is_gamma, score), error


def roc_curves(sample, selection):
    """False and true positive rate by threshold (scikit-learn), gammas and protons.

    Parameters
    ----------
    sample : Sample
    selection : str

    Returns
    -------
    table : astropy.table.QTable
        ``threshold``, ``false_positive_rate``, ``true_positive_rate`` and their
        errors; at most 500 points a curve.
    """
    rows = []
    for reconstructor, _, is_gamma, score in _scores(sample, selection):
        if is_gamma.all() or not is_gamma.any():
            continue
        false, true, threshold = roc_curve(is_gamma, score)
        points = np.unique(np.linspace(0, len(false) - 1, N_ROC_POINTS).astype(int))
        n_gamma, n_proton = np.count_nonzero(is_gamma), np.count_nonzero(~is_gamma)
        table = QTable({"threshold": threshold[points]})
        for name, rate, n in (("false", false, n_proton), ("true", true, n_gamma)):
            rate = rate[points]
            table[f"{name}_positive_rate"] = rate
            table[f"{name}_positive_rate_error"] = fraction_error(rate * n, n)
        rows.append(_labelled(table, reconstructor))
    return _stacked(rows)


def classification_scores(sample, selection, threshold=0.5, seed=0):
    """Precision, recall and F1 of "gammaness above the threshold" (scikit-learn).

    Precision and F1 depend on how many protons there are for a gamma; they are for the
    numbers in the table.

    Parameters
    ----------
    sample : Sample
    selection : str
    threshold : float
    seed : int
        Of the bootstrap samples.

    Returns
    -------
    table : astropy.table.QTable
        ``threshold``, ``n_gamma``, ``n_proton``, ``precision``, ``recall``, ``f1`` and
        their errors.
    """
    rng, rows = np.random.default_rng(seed), []
    for reconstructor, _, is_gamma, score in _scores(sample, selection):
        if is_gamma.all() or not is_gamma.any():
            continue
        called = score > threshold
        values = precision_recall_fscore_support(
            is_gamma, called, average="binary", zero_division=np.nan
        )[:3]
        table = QTable({"threshold": [threshold]})
        table["n_gamma"] = np.count_nonzero(is_gamma)
        table["n_proton"] = np.count_nonzero(~is_gamma)
        errors = _errors(_score_samples(is_gamma, called, rng))
        for name, value, error in zip(("precision", "recall", "f1"), values, errors):
            table[name], table[f"{name}_error"] = value, error
        rows.append(_labelled(table, reconstructor))
    return _stacked(rows)


def _score_samples(is_gamma, called, rng):
    """Precision, recall and F1 of bootstrap samples of gammas and of protons."""
    n_gamma, n_proton = np.count_nonzero(is_gamma), np.count_nonzero(~is_gamma)
    true = rng.binomial(n_gamma, np.mean(called[is_gamma]), size=N_SAMPLES)
    false = rng.binomial(n_proton, np.mean(called[~is_gamma]), size=N_SAMPLES)
    with np.errstate(invalid="ignore", divide="ignore"):
        precision, recall = true / (true + false), true / n_gamma
        return np.column_stack([precision, recall, 2 * true / (n_gamma + true + false)])


def gammaness_distributions(sample, selection, n_bins=50):
    """Histograms of the gammaness of every kind of particle.

    Parameters
    ----------
    sample : Sample
    selection : str
    n_bins : int

    Returns
    -------
    table : astropy.table.QTable
        ``particle``, ``gammaness_low``, ``…_high``, ``n_events`` and its error.
    """
    chosen = common_events(sample, selection, "particle_type")
    edges, rows = np.linspace(0, 1, n_bins + 1), []
    for reconstructor, result in _having(sample, "particle_type").items():
        for particle in _particles(sample):
            mask = chosen & sample.is_particle(particle)
            counts = np.histogram(np.asarray(result["gammaness"])[mask], edges)[0]
            table = bin_columns("gammaness", edges)
            table.add_column(particle, index=0, name="particle")
            rows.append(_labelled(_with_counts(table, counts), reconstructor))
    return _stacked(rows)


def _with_counts(table, counts):
    """Counts and their standard deviation over bootstrap samples of all events."""
    total = counts.sum()
    table["n_events"] = counts
    table["n_events_error"] = np.nan_to_num(total * fraction_error(counts, total))
    return table


def migration_matrices(sample, selection, edges):
    """Number of gammas by true and reconstructed energy.

    Parameters
    ----------
    sample : Sample
    selection : str
    edges : Quantity, shape (B + 1,)

    Returns
    -------
    table : astropy.table.QTable
        ``true_energy_low``, ``…_high``, ``reco_energy_low``, ``…_high``, ``n_events``
        and its error.
    """
    rows, edges = [], edges.to(u.TeV)
    for reconstructor, events in _gammas(sample, selection, "energy", "reco"):
        counts = np.histogram2d(
            events["true_energy"].to_value(u.TeV),
            events["reco_energy"].to_value(u.TeV),
            bins=[edges.value, edges.value],
        )[0].astype(int)
        n = len(edges) - 1
        true, reco = np.divmod(np.arange(n * n), n)
        table = QTable(
            {
                "true_energy_low": edges[true],
                "true_energy_high": edges[true + 1],
                "reco_energy_low": edges[reco],
                "reco_energy_high": edges[reco + 1],
            }
        )
        rows.append(_labelled(_with_counts(table, counts.ravel()), reconstructor))
    return _stacked(rows)


def theta_squared_distributions(sample, selection, maximum=0.4, n_bins=80):
    """Histograms of the squared distance from the true direction, gammas only.

    Parameters
    ----------
    sample : Sample
    selection : str
    maximum : float
        Upper end [deg²].
    n_bins : int

    Returns
    -------
    table : astropy.table.QTable
        ``theta_squared_low``, ``…_high``, ``n_events`` and its error, ``n_total``
        with the events beyond the upper end.
    """
    edges, rows = np.linspace(0, maximum, n_bins + 1) * u.deg**2, []
    for reconstructor, events in _gammas(sample, selection, "geometry", "true"):
        squared = events["theta"].to_value(u.deg) ** 2
        table = _histogram("theta_squared", squared, edges)
        rows.append(_labelled(table, reconstructor))
    return _stacked(rows)


def _histogram(name, values, edges):
    """Counts in bins, their errors and the number of all values."""
    counts = np.histogram(values, u.Quantity(edges).value)[0]
    table = bin_columns(name, edges)
    table["n_events"] = counts
    table["n_events_error"] = len(values) * fraction_error(counts, len(values))
    table["n_total"] = len(values)
    return table


def _pulls(sample, selection, axis):
    """Pulls of common gammas, by reconstructor and property.

    Of energies they are (ln E_reco - ln E_true) E_reco / ``energy_uncert``, of directions
    theta / ``ang_distance_uncert``. Events without uncertainty are left out, and
    reconstructors that have none.
    """
    for kind, uncertainty in (
        ("energy", "energy_uncert"),
        ("geometry", "ang_distance_uncert"),
    ):
        for reconstructor, events in _gammas(sample, selection, kind, axis):
            events = events[np.isfinite(events[uncertainty]) & (events[uncertainty] > 0)]
            if not len(events):
                continue
            if kind == "energy":
                ratio = (events["reco_energy"] / events["true_energy"]).to_value("")
                scale = (events[uncertainty] / events["reco_energy"]).to_value("")
                pulls = np.log(ratio) / scale
            else:
                pulls = (events["theta"] / events[uncertainty]).to_value("")
            yield reconstructor, PULLS[kind], events, pulls


def _energy_pull_statistics(pulls, rng):
    """Bootstrap samples of width and bias."""
    probabilities = [NORM_LOWER_SIGMA, MEDIAN, NORM_UPPER_SIGMA]
    low, median, high = quantile_samples(pulls, probabilities, N_SAMPLES, rng).T
    return np.column_stack([(high - low) / 2, median])


def _pull_row(of, pulls, rng):
    """Number of events, width and its error, bias and its error."""
    if len(pulls) < MIN_EVENTS:
        return len(pulls), np.nan, np.nan, np.nan, np.nan
    if of == "energy":
        low, bias, high = np.quantile(pulls, [NORM_LOWER_SIGMA, MEDIAN, NORM_UPPER_SIGMA])
        width_error, bias_error = _errors(_energy_pull_statistics(pulls, rng))
        return len(pulls), (high - low) / 2, width_error, bias, bias_error
    width = np.quantile(pulls, ONE_SIGMA_COVERAGE)
    (error,) = _errors(_containment(pulls, rng))
    return len(pulls), width, error, np.nan, np.nan


def pull_widths(sample, selection, edges, seed=0):
    """Width of the pulls of energy and direction, gammas only.

    A pull is an error divided by its uncertainty: of energies, the difference of ln E
    over ``energy_uncert`` / E; of directions, the distance over ``ang_distance_uncert``,
    the radius that holds 68 %. If the uncertainties are right, the width is 1.

    Parameters
    ----------
    sample, selection, edges, seed
        See `angular_resolutions`.

    Returns
    -------
    table : astropy.table.QTable
        ``of`` ("energy" or "direction"), ``axis`` ("all", "true_energy" or
        "reco_energy"), ``low``, ``high`` (plain numbers, TeV), ``n_events``, and with
        their errors ``width`` (of energies, half of the central 68 % interval; of
        directions, the 68 % quantile) and ``bias`` (the median; NaN for directions).
        Without rows if no reconstructor has uncertainties.
    """
    rng, rows = np.random.default_rng(seed), []
    edges = edges.to(u.TeV)
    for axis in ("true", "reco"):
        for reconstructor, of, events, pulls in _pulls(sample, selection, axis):
            name = f"{axis}_energy"
            masks = _bins(events[name].to(u.TeV), edges)
            bins = list(
                zip([name] * len(masks), edges.value[:-1], edges.value[1:], masks)
            )
            if axis == "true":
                bins.insert(0, ("all", np.nan, np.nan, np.ones(len(pulls), dtype=bool)))
            found = [
                (of, where, low, high, *_pull_row(of, pulls[mask], rng))
                for where, low, high, mask in bins
            ]
            names = ["of", "axis", "low", "high", "n_events", "width", "width_error"]
            table = QTable(rows=found, names=[*names, "bias", "bias_error"])
            rows.append(_labelled(table, reconstructor))
    return _stacked(rows)


def pull_distributions(sample, selection, maximum=5.0, n_bins=80):
    """Histograms of the pulls, gammas only; see `pull_widths`.

    Parameters
    ----------
    sample : Sample
    selection : str
    maximum : float
        Upper end, and lower end of those of energies.
    n_bins : int

    Returns
    -------
    table : astropy.table.QTable
        ``of``, ``pull_low``, ``…_high``, ``n_events`` and its error, ``n_total`` with
        the events beyond the ends.
    """
    rows = []
    for reconstructor, of, _, pulls in _pulls(sample, selection, "true"):
        edges = np.linspace(-maximum if of == "energy" else 0, maximum, n_bins + 1)
        table = _histogram("pull", pulls, edges)
        table.add_column(of, index=0, name="of")
        rows.append(_labelled(table, reconstructor))
    return _stacked(rows)


def over_seeds(table, keys, values):
    """Mean, spread and envelope over the trainings of every reconstructor.

    Parameters
    ----------
    table : astropy.table.QTable
        Of a function of this module.
    keys : list of str
        Columns that say what a row is about, without ``seed``: equal in the rows
        that are put together.
    values : list of str
        Columns with a value, each of which has a column ``…_error``.

    Returns
    -------
    summary : astropy.table.QTable
        The keys, ``n_seeds``, ``n_events`` if the table has it, and for every value
        ``x``: ``x``, the mean; ``x_error``, the mean of the bootstrap errors, for
        seeds share the events; ``x_std``, the standard deviation over seeds (NaN for
        one); ``x_min`` and ``x_max``. A value that is NaN for one seed is NaN.
    """
    if not len(table):
        return QTable()
    marks = [
        np.unique(_plain(table[k]).astype(str), return_inverse=True)[1] for k in keys
    ]
    _, first, group = np.unique(
        np.column_stack(marks), axis=0, return_index=True, return_inverse=True
    )
    order = np.argsort(first)
    members = [np.flatnonzero(group.ravel() == i) for i in order]
    names = [*keys, *(n for n in table.colnames if n.startswith("n_") and n not in keys)]
    names = [name for name in names if not name.endswith("_error")]
    summary = QTable(table[first[order]][names])
    summary["n_seeds"] = [len(rows) for rows in members]
    for name in values:
        grouped = [table[name][rows] for rows in members]
        unit = table[name].unit or 1
        plain = [_plain(v).astype(float) for v in grouped]
        errors = [_plain(table[f"{name}_error"][rows]) for rows in members]
        summary[name] = [np.mean(v) for v in plain] * unit
        summary[f"{name}_error"] = [np.mean(v) for v in errors] * unit
        summary[f"{name}_std"] = [
            np.std(v, ddof=1) if len(v) > 1 else np.nan for v in plain
        ] * unit
        summary[f"{name}_min"] = [np.min(v) for v in plain] * unit
        summary[f"{name}_max"] = [np.max(v) for v in plain] * unit
    return summary
