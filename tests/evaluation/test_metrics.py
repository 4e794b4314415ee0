import astropy.units as u
import numpy as np
import pytest
from astropy.table import QTable
from scipy.stats import mannwhitneyu, norm

from ctapipe_gphysnet.evaluation import metrics
from ctapipe_gphysnet.evaluation.reconstructors import Reconstructor
from ctapipe_gphysnet.evaluation.sample import Sample
from ctapipe_gphysnet.evaluation.tables import (
    KINDS,
    Binning,
    compare,
    make_tables,
    summarize,
)

FULL = {"energy": "XEnergy", "geometry": "XGeometry", "particle_type": "XClassifier"}
N = 3000
EDGES = np.array([0.1, 1, 10]) * u.TeV
ONE_SIGMA = norm.cdf(1) - norm.cdf(-1)


def make_result(rng, events, spread):
    """Results of which everything is known."""
    n = len(events)
    is_gamma = np.asarray(events["particle"]) == "gamma"
    result = QTable()
    result["reco_energy"] = events["true_energy"] * np.exp(rng.normal(0, spread, n))
    theta = spread * np.sqrt(-2 * np.log(rng.uniform(size=n))) * u.deg
    result["reco_alt"] = events["true_alt"] + theta
    result["reco_az"] = events["true_az"]
    result["theta"] = theta
    result["core_error"] = rng.uniform(0, 100 * spread, n) * u.m
    result["energy_uncert"] = np.nan * u.TeV
    result["ang_distance_uncert"] = np.nan * u.deg
    score = rng.normal(np.where(is_gamma, 1, 0), spread)
    result["gammaness"] = 1 / (1 + np.exp(-score))
    return result


@pytest.fixture
def sample():
    """Two trainings of a good reconstructor, and a worse one."""
    rng = np.random.default_rng(0)
    events = QTable()
    events["obs_id"] = np.ones(N, dtype=int)
    events["event_id"] = np.arange(N)
    events["tel_id"] = 1
    events["particle"] = np.where(np.arange(N) % 3 == 0, "proton", "gamma")
    events["true_energy"] = 10 ** rng.uniform(-1, 1, N) * u.TeV
    events["true_alt"] = np.full(N, 70) * u.deg
    events["true_az"] = np.full(N, 180) * u.deg
    events["pointing_alt"] = events["true_alt"]
    events["pointing_az"] = events["true_az"]
    events["intensity"] = events["true_energy"].value * 1000
    results = {
        Reconstructor("Good", seed, **FULL): make_result(rng, events, 0.2)
        for seed in (1, 2)
    }
    results[Reconstructor("Poor", **FULL)] = make_result(rng, events, 0.6)
    selected = {"bright": np.asarray(events["intensity"]) > 200}
    criteria = {"bright": [("bright", "intensity > 200", selected["bright"])]}
    return Sample(events, results, selected, criteria)


def gammas(sample, edge):
    """Mask of selected gammas in the bin of energy that begins at an edge."""
    energy = sample.events["true_energy"].value
    chosen = sample.selected["bright"] & sample.is_particle("gamma")
    return chosen & (energy >= edge) & (energy < 10 * edge)


def row_of(table, name, seed=None, **values):
    chosen = np.asarray(table["reconstructor"]) == name
    if seed is not None:
        chosen &= np.asarray(table["seed"]) == seed
    for column, value in values.items():
        found = table[column]
        chosen &= np.asarray(getattr(found, "value", found)) == value
    (row,) = table[chosen]
    return row


@pytest.mark.parametrize("edge", [0.1, 1.0])
def test_angular_resolution(sample, edge):
    table = metrics.angular_resolutions(sample, "bright", EDGES)
    row = row_of(table, "Good", 2, true_energy_low=edge)
    chosen = gammas(sample, edge)
    theta = sample.results[Reconstructor("Good", 2, **FULL)]["theta"][chosen]
    assert row["n_events"] == chosen.sum()
    expected = np.quantile(theta.to_value(u.deg), ONE_SIGMA)
    assert row["angular_resolution"].to_value(u.deg) == pytest.approx(expected)
    # of a two-dimensional Gaussian, with the error of a quantile: sqrt(p q / n) / density
    known = 0.2 * np.sqrt(-2 * np.log(1 - ONE_SIGMA))
    density = known / 0.2**2 * (1 - ONE_SIGMA)
    error = np.sqrt(ONE_SIGMA * (1 - ONE_SIGMA) / chosen.sum()) / density
    found = row["angular_resolution_error"].to_value(u.deg)
    assert found == pytest.approx(error, rel=0.35)
    assert expected == pytest.approx(known, abs=4 * error)


@pytest.fixture
def uncertain(sample):
    """Sample in which Good knows its errors, and Poor says half of them."""
    for reconstructor, result in sample.results.items():
        spread = 0.2 if reconstructor.name == "Good" else 0.3
        result["energy_uncert"] = spread * result["reco_energy"]
        radius = spread * np.sqrt(-2 * np.log(1 - ONE_SIGMA))
        result["ang_distance_uncert"] = np.full(N, radius) * u.deg
    return sample


@pytest.mark.parametrize(("name", "seed", "known"), [("Good", 2, 1), ("Poor", None, 2)])
@pytest.mark.parametrize("of", ["energy", "direction"])
def test_pull_widths(uncertain, name, seed, known, of):
    table = metrics.pull_widths(uncertain, "bright", EDGES)
    result = uncertain.results[Reconstructor(name, seed, **FULL)]
    energy = uncertain.events["true_energy"]
    if of == "energy":
        relative = result["energy_uncert"] / result["reco_energy"]
        pulls = (np.log((result["reco_energy"] / energy).value) / relative).value
    else:
        pulls = (result["theta"] / result["ang_distance_uncert"]).value
    everything = gammas(uncertain, 0.1) | gammas(uncertain, 1.0)
    reco = result["reco_energy"].value
    for axis, low, chosen in (
        ("all", None, everything),
        ("true_energy", 1.0, gammas(uncertain, 1.0)),
        ("reco_energy", 0.1, everything & (reco >= 0.1) & (reco < 1)),
    ):
        bins = {} if low is None else {"low": low}
        row = row_of(table, name, seed, of=of, axis=axis, **bins)
        assert row["n_events"] == chosen.sum()
        if of == "energy":
            low, median, high = np.quantile(pulls[chosen], norm.cdf([-1, 0, 1]))
            assert row["width"] == pytest.approx((high - low) / 2)
            assert row["bias"] == pytest.approx(median)
        else:
            assert row["width"] == pytest.approx(np.quantile(pulls[chosen], ONE_SIGMA))
            assert np.isnan(row["bias"])
        assert row["width_error"] < 0.05 * known
        # of events that a bin holds because of their errors, less is known
        tolerance = 0.15 * known if axis == "reco_energy" else 4 * row["width_error"]
        assert row["width"] == pytest.approx(known, abs=tolerance)


def test_pull_distributions(uncertain):
    table = metrics.pull_distributions(uncertain, "bright")
    chosen = (np.asarray(table["of"]) == "energy") & (
        np.asarray(table["reconstructor"]) == "Poor"
    )
    rows = table[chosen]
    assert (rows["pull_low"][0], rows["pull_high"][-1]) == (-5, 5)
    middle = (rows["pull_low"] >= -2) & (rows["pull_high"] <= 2)
    share = rows["n_events"][middle].sum() / rows["n_total"][0]
    assert share == pytest.approx(ONE_SIGMA, abs=0.05)
    rows = table[np.asarray(table["of"]) == "direction"]
    assert rows["pull_low"].min() == 0


def test_no_pulls_without_uncertainties(sample):
    assert len(metrics.pull_widths(sample, "bright", EDGES)) == 0
    assert len(metrics.pull_distributions(sample, "bright")) == 0
    good = Reconstructor("Good", 1, **FULL)
    result = sample.results[good]
    result["energy_uncert"] = 0.2 * result["reco_energy"]
    table = metrics.pull_widths(sample, "bright", EDGES)
    assert set(table["reconstructor"]) == {"Good"}
    assert set(table["of"]) == {"energy"}


def test_energy_resolution(sample):
    table = metrics.energy_resolutions(sample, "bright", EDGES)
    row = row_of(table, "Poor", true_energy_low=1.0)
    chosen = gammas(sample, 1.0)
    reco = sample.results[Reconstructor("Poor", **FULL)]["reco_energy"][chosen]
    error = (reco / sample.events["true_energy"][chosen]).to_value("") - 1
    low, median, high = np.quantile(error, norm.cdf([-1, 0, 1]))
    assert row["bias"] == pytest.approx(median)
    assert row["resolution"] == pytest.approx((high - low) / 2)
    assert row["containment"] == pytest.approx(np.quantile(np.abs(error), ONE_SIGMA))
    assert 0 < row["bias_error"] < 0.1


def test_per_reconstructed_energy_events_move_between_bins(sample):
    table = metrics.energy_resolutions(sample, "bright", EDGES, "reco")
    row = row_of(table, "Poor", reco_energy_low=1.0)
    reco = sample.results[Reconstructor("Poor", **FULL)]["reco_energy"].value
    chosen = sample.selected["bright"] & sample.is_particle("gamma")
    assert row["n_events"] == np.count_nonzero(chosen & (reco >= 1) & (reco < 10))
    assert row["n_events"] != gammas(sample, 1.0).sum()


def test_impact_resolution(sample):
    table = metrics.impact_resolutions(sample, "bright", EDGES)
    row = row_of(table, "Poor", true_energy_low=1.0)
    assert row["impact_resolution"].to_value(u.m) == pytest.approx(60 * 0.683, rel=0.05)


def test_no_core_is_no_table(sample):
    for result in sample.results.values():
        result["core_error"] = np.nan * u.m
    assert len(metrics.impact_resolutions(sample, "bright", EDGES)) == 0


def test_auc_is_the_mann_whitney_statistic(sample):
    axes = {"intensity": np.array([0, 1000, 1e9]), "true_energy": EDGES}
    table = metrics.aucs(sample, "bright", axes)
    score = np.asarray(sample.results[Reconstructor("Poor", **FULL)]["gammaness"])
    is_gamma, selected = sample.is_particle("gamma"), sample.selected["bright"]
    intensity = np.asarray(sample.events["intensity"])
    for row, chosen in (
        (row_of(table, "Poor", axis="all"), selected),
        (row_of(table, "Poor", axis="intensity", low=0.0), selected & (intensity < 1000)),
    ):
        gamma, proton = score[chosen & is_gamma], score[chosen & ~is_gamma]
        expected = mannwhitneyu(gamma, proton).statistic / len(gamma) / len(proton)
        assert row["auc"] == pytest.approx(expected)
        assert (row["n_gamma"], row["n_proton"]) == (len(gamma), len(proton))
    assert 0.001 < row_of(table, "Poor", axis="all")["auc_error"] < 0.02


def test_classification_scores(sample):
    row = row_of(metrics.classification_scores(sample, "bright", 0.6), "Good", 1)
    score = np.asarray(sample.results[Reconstructor("Good", 1, **FULL)]["gammaness"])
    chosen, is_gamma = sample.selected["bright"], sample.is_particle("gamma")
    called = (score > 0.6) & chosen
    true = np.count_nonzero(called & is_gamma)
    precision = true / called.sum()
    recall = true / np.count_nonzero(is_gamma & chosen)
    assert row["precision"] == pytest.approx(precision)
    assert row["recall"] == pytest.approx(recall)
    assert row["f1"] == pytest.approx(2 / (1 / precision + 1 / recall))
    assert row["recall_error"] == pytest.approx(
        np.sqrt(recall * (1 - recall) / row["n_gamma"]), rel=0.3
    )


def test_everyone_is_judged_on_the_same_events(sample):
    """One that drops the hard events does not win by it."""
    honest, picky = list(sample.results)[1:]
    result = sample.results[picky]
    hard = result["theta"] > np.median(result["theta"])
    for name in ("theta", "reco_alt", "reco_az"):
        result[name][hard] = np.nan
    table = metrics.angular_resolutions(sample, "bright", EDGES)
    counts = {
        name: row_of(table, name, seed, true_energy_low=1.0)["n_events"]
        for name, seed in (("Good", 1), ("Good", 2), ("Poor", -1))
    }
    assert len(set(counts.values())) == 1
    assert counts["Poor"] == np.count_nonzero(gammas(sample, 1.0) & ~hard)
    fractions = metrics.reconstructed_fractions(sample, "bright", EDGES)
    everything = fractions[~np.isfinite(fractions["true_energy_high"])]
    row = row_of(everything, "Poor", particle="gamma")
    assert row["fraction"] == pytest.approx(0.5, abs=0.05)
    assert row["n_events"] > row["n_reconstructed"] > 0
    assert row_of(everything, "Good", 2, particle="gamma")["fraction"] == 1


def test_distributions_count_every_event(sample):
    table = metrics.gammaness_distributions(sample, "bright")
    rows = table[(np.asarray(table["reconstructor"]) == "Poor")]
    assert rows["n_events"].sum() == sample.selected["bright"].sum()
    table = metrics.theta_squared_distributions(sample, "bright", maximum=100)
    chosen = sample.selected["bright"] & sample.is_particle("gamma")
    rows = table[np.asarray(table["reconstructor"]) == "Poor"]
    assert rows["n_events"].sum() == rows["n_total"][0] == chosen.sum()
    wide = np.array([1e-3, 1, 1e5]) * u.TeV
    table = metrics.migration_matrices(sample, "bright", wide)
    rows = table[np.asarray(table["reconstructor"]) == "Poor"]
    assert rows["n_events"].sum() == chosen.sum()


def test_few_events_have_no_value(sample):
    edges = np.array([0.1, 0.2002, 10]) * u.TeV  # a handful of events in the first
    table = metrics.angular_resolutions(sample, "bright", edges)
    row = row_of(table, "Poor", true_energy_low=0.1)
    assert 0 <= row["n_events"] < 10
    assert np.isnan(row["angular_resolution"])
    assert np.isnan(row["angular_resolution_error"])


def test_mean_and_spread_over_seeds(sample):
    table = metrics.angular_resolutions(sample, "bright", EDGES)
    keys = list(KINDS["angular_resolution"].keys)
    summary = metrics.over_seeds(table, keys, ["angular_resolution"])
    assert len(summary) == 4
    row = row_of(summary, "Good", true_energy_low=1.0)
    values = [
        row_of(table, "Good", seed, true_energy_low=1.0)["angular_resolution"].value
        for seed in (1, 2)
    ]
    assert row["n_seeds"] == 2
    for name, expected in (
        ("", np.mean(values)),
        ("_std", np.std(values, ddof=1)),
        ("_min", min(values)),
        ("_max", max(values)),
    ):
        found = row[f"angular_resolution{name}"].to_value(u.deg)
        assert found == pytest.approx(expected)
    assert np.isnan(
        row_of(summary, "Poor", true_energy_low=1.0)["angular_resolution_std"]
    )


def test_a_seed_without_value_is_not_averaged_over(sample):
    table = metrics.angular_resolutions(sample, "bright", EDGES)
    table["angular_resolution"][1] = np.nan * u.deg
    keys = list(KINDS["angular_resolution"].keys)
    summary = metrics.over_seeds(table, keys, ["angular_resolution"])
    assert np.isnan(row_of(summary, "Good", true_energy_low=1.0)["angular_resolution"])


def test_comparison_says_who_is_better(sample):
    binning = Binning(EDGES, np.array([0, 1000, 1e9]))
    tables = make_tables(sample, "bright", binning)
    assert list(tables) == list(KINDS)
    summaries = summarize(tables)
    for name, value in (
        ("auc", "auc"),
        ("angular_resolution", "angular_resolution"),
        ("energy_resolution", "resolution"),
        ("energy_resolution", "bias"),
    ):
        table = compare(summaries, name, value, "Good", "Poor")
        assert len(table) >= 2
        if value != "bias":
            assert (table["significance"] > 3).all()
        other = compare(summaries, name, value, "Poor", "Good")
        np.testing.assert_allclose(table["significance"], -other["significance"])


def test_without_protons_there_is_no_auc(sample):
    sample.selected["bright"] &= sample.is_particle("gamma")
    tables = make_tables(sample, "bright", Binning(EDGES, np.array([0, 1e9])))
    assert len(tables["roc"]) == len(tables["classification"]) == 0
    assert np.isnan(tables["auc"]["auc"]).all()
    assert np.isfinite(tables["angular_resolution"]["angular_resolution"]).any()
