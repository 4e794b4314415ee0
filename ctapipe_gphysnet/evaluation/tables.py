"""All tables of an evaluation, for one selection of events."""

from dataclasses import dataclass, replace

import astropy.units as u
import numpy as np
from astropy.table import QTable
from pyirf.binning import create_bins_per_decade

from . import metrics

__all__ = ["KINDS", "Binning", "Kind", "compare", "make_tables", "summarize"]


@dataclass(frozen=True)
class Kind:
    """What stands in a table.

    Attributes
    ----------
    title : str
    keys : tuple of str
        Columns that say what a row is about, without ``seed``.
    values : tuple of str
        Columns with values, each with an uncertainty.
    best : int
        1 if higher values are better, -1 if lower ones are, 0 if neither.
    """

    title: str
    keys: tuple
    values: tuple
    best: int = 0


def _per_energy(axis):
    return ("reconstructor", f"{axis}_energy_low", f"{axis}_energy_high")


KINDS = {
    "reconstructed_fraction": Kind(
        "Fraction of the selected events that is reconstructed",
        ("reconstructor", "particle", "true_energy_low", "true_energy_high"),
        ("fraction",),
        1,
    ),
    "auc": Kind(
        "Area under the ROC curve", ("reconstructor", "axis", "low", "high"), ("auc",), 1
    ),
    "classification": Kind(
        "Precision, recall and F1",
        ("reconstructor", "threshold"),
        ("precision", "recall", "f1"),
        1,
    ),
    "angular_resolution": Kind(
        "Angular resolution per true energy",
        _per_energy("true"),
        ("angular_resolution",),
        -1,
    ),
    "angular_resolution_reco": Kind(
        "Angular resolution per reconstructed energy",
        _per_energy("reco"),
        ("angular_resolution",),
        -1,
    ),
    "energy_resolution": Kind(
        "Energy bias and resolution per true energy",
        _per_energy("true"),
        ("bias", "resolution", "containment"),
        -1,
    ),
    "energy_resolution_reco": Kind(
        "Energy bias and resolution per reconstructed energy",
        _per_energy("reco"),
        ("bias", "resolution", "containment"),
        -1,
    ),
    "impact_resolution": Kind(
        "Resolution of the impact point", _per_energy("true"), ("impact_resolution",), -1
    ),
    "pull_width": Kind(
        "Width of the pulls of energy and direction",
        ("reconstructor", "of", "axis", "low", "high"),
        ("width", "bias"),
    ),
    "pull_distribution": Kind(
        "Distribution of the pulls",
        ("reconstructor", "of", "pull_low", "pull_high"),
        ("n_events",),
    ),
    "roc": Kind("ROC curve", (), ()),
    "gammaness": Kind(
        "Distribution of the gammaness",
        ("reconstructor", "particle", "gammaness_low", "gammaness_high"),
        ("n_events",),
    ),
    "migration": Kind("Energy migration", (), ()),
    "theta_squared": Kind(
        "Squared distance from the true direction",
        ("reconstructor", "theta_squared_low", "theta_squared_high"),
        ("n_events",),
    ),
}


@dataclass(frozen=True)
class Binning:
    """Bins of the tables.

    Attributes
    ----------
    energy : Quantity, shape (B + 1,)
        Edges, of true and of reconstructed energy.
    intensity : ndarray, shape (I + 1,)
        Edges [p.e.].
    threshold : float
        Gammaness from which on an event is called a gamma, for precision, recall, F1.
    """

    energy: u.Quantity
    intensity: np.ndarray
    threshold: float = 0.5

    @classmethod
    def make(cls, energy_min, energy_max, bins_per_decade, intensity, threshold):
        """Bins that are equally wide in the logarithm of the energy.

        Parameters
        ----------
        energy_min, energy_max : Quantity
        bins_per_decade : int
        intensity : sequence of float
        threshold : float
        """
        energy = create_bins_per_decade(
            energy_min.to(u.TeV), energy_max.to(u.TeV), bins_per_decade
        )
        return cls(energy, np.asarray(intensity, dtype=float), threshold)

    def with_energy(self, edges):
        """The same bins, but for other ones of the energy.

        Parameters
        ----------
        edges : sequence of float
            TeV, ascending.

        Raises
        ------
        ValueError
            If there are fewer than two, or they do not ascend from above 0.
        """
        edges = np.asarray(edges, dtype=float)
        if len(edges) < 2 or not (np.diff(edges, prepend=0) > 0).all():
            raise ValueError(f"edges have to be two or more that ascend, got {edges}")
        return replace(self, energy=u.Quantity(edges, u.TeV))


def make_tables(sample, selection, binning, seed=0):
    """All tables but those of the instrument response, a row for every training.

    Parameters
    ----------
    sample : Sample
    selection : str
    binning : Binning
    seed : int
        Of the bootstrap samples.

    Returns
    -------
    tables : dict of str to astropy.table.QTable
        By the names in `KINDS`. Those for which there is nothing have no rows.
    """
    energy = binning.energy
    axes = {"intensity": binning.intensity, "true_energy": energy, "reco_energy": energy}
    if not np.isfinite(np.asarray(sample.events["intensity"])).any():
        del axes["intensity"]
    common = (sample, selection)
    return {
        "reconstructed_fraction": metrics.reconstructed_fractions(*common, energy),
        "auc": metrics.aucs(*common, axes, seed),
        "classification": metrics.classification_scores(*common, binning.threshold, seed),
        "angular_resolution": metrics.angular_resolutions(*common, energy, "true", seed),
        "angular_resolution_reco": metrics.angular_resolutions(
            *common, energy, "reco", seed
        ),
        "energy_resolution": metrics.energy_resolutions(*common, energy, "true", seed),
        "energy_resolution_reco": metrics.energy_resolutions(
            *common, energy, "reco", seed
        ),
        "impact_resolution": metrics.impact_resolutions(*common, energy, seed),
        "pull_width": metrics.pull_widths(*common, energy, seed),
        "pull_distribution": metrics.pull_distributions(*common),
        "roc": metrics.roc_curves(*common),
        "gammaness": metrics.gammaness_distributions(*common),
        "migration": metrics.migration_matrices(*common, energy),
        "theta_squared": metrics.theta_squared_distributions(*common),
    }


def summarize(tables):
    """One row for all trainings of a reconstructor, see `metrics.over_seeds`.

    Parameters
    ----------
    tables : dict of str to astropy.table.QTable

    Returns
    -------
    summaries : dict of str to astropy.table.QTable
        Of the tables whose values can be averaged.
    """
    return {
        name: metrics.over_seeds(table, list(KINDS[name].keys), list(KINDS[name].values))
        for name, table in tables.items()
        if KINDS[name].values
    }


def compare(summaries, name, value, reference, other):
    """Where one reconstructor is better than another, and where worse.

    The uncertainty of the difference takes both reconstructors as independent, and for
    several trainings the larger of bootstrap error and error of the mean over seeds.
    It is too large rather than too small, for the events are the same.

    Parameters
    ----------
    summaries : dict of str to astropy.table.QTable
        Of `summarize`.
    name, value : str
        Of a table with a best direction, and one of its values. Of a bias the absolute
        value counts.
    reference, other : str
        Names of reconstructors.

    Returns
    -------
    table : astropy.table.QTable
        The keys, ``gain`` (positive where the reference is better), its
        ``uncertainty``, and ``significance``, their ratio.
    """
    kind, summary = KINDS[name], summaries[name]
    if not len(summary):
        return QTable()
    keys = [key for key in kind.keys if key != "reconstructor"]
    names = np.asarray(summary["reconstructor"])
    rows = {
        tuple(str(summary[key][i]) for key in keys): i
        for i in np.flatnonzero(names == other)
    }
    found = []
    for i in np.flatnonzero(names == reference):
        j = rows.get(tuple(str(summary[key][i]) for key in keys))
        if j is None:
            continue
        size = np.abs(summary[value]) if value == "bias" else summary[value]
        gain = kind.best * (size[i] - size[j])
        error = np.hypot(_uncertainty(summary, value, i), _uncertainty(summary, value, j))
        if np.isfinite(gain) and error > 0:
            found.append(
                [*(summary[k][i] for k in keys), gain, error, float(gain / error)]
            )
    columns = [*keys, "gain", "uncertainty", "significance"]
    return QTable(rows=found, names=columns) if found else QTable()


def _uncertainty(summary, value, row):
    error = summary[f"{value}_error"][row]
    n_seeds = summary["n_seeds"][row]
    if n_seeds > 1:
        error = max(error, summary[f"{value}_std"][row] / np.sqrt(n_seeds))
    return error
