import shutil
import warnings

import astropy.units as u
import numpy as np
import pytest
import tables
from astropy.table import QTable
from ctapipe.core import Component, Provenance
from ctapipe.io import TableLoader, read_table
from sklearn.metrics import roc_auc_score

from ctapipe_gphysnet.evaluation.reconstructors import EvaluationError, Reconstructor
from ctapipe_gphysnet.evaluation.sample import Sample
from ctapipe_gphysnet.robustness_figures import make_figures
from ctapipe_gphysnet.robustness_levels import (
    Level,
    compare_levels,
    is_finished,
    mark_finished,
    write_frame,
)

N = 900
EDGES = [0.1, 1, 10] * u.TeV
NETWORK = Reconstructor("Net", None, "NetEnergy", "NetGeometry", "NetClassifier")
FOREST = Reconstructor("Forest", None, "ForestEnergy", None, "ForestClassifier")


def make_sample(error, lost=(), seed=0, forest=True):
    """Events with known errors, some of which are not reconstructed."""
    rng = np.random.default_rng(seed)
    events = QTable({"obs_id": np.ones(N, dtype=int), "event_id": np.arange(N)})
    events["tel_id"] = 1
    events["particle"] = np.where(np.arange(N) < 500, "gamma", "proton")
    events["true_energy"] = 10 ** np.random.default_rng(1).uniform(-1, 1, N) * u.TeV
    events["pointing_alt"] = events["pointing_az"] = np.full(N, 1) * u.deg
    events["intensity"] = np.full(N, 100.0)
    results = {}
    for reconstructor in (NETWORK, FOREST) if forest else (NETWORK,):
        result = QTable()
        result["reco_energy"] = events["true_energy"] * (1 + rng.normal(0, error, N))
        result["theta"] = np.abs(rng.normal(0, error, N)) * u.deg
        shift = np.where(events["particle"] == "gamma", 0.3, 0)
        result["gammaness"] = rng.uniform(0, 0.7, N) + shift
        for name in result.colnames:
            result[name][list(lost)] = np.nan
        results[reconstructor] = result
    return Sample(events, results, {"all": np.ones(N, dtype=bool)})


def make_samples():
    """Three levels, at which different events are lost."""
    return {
        Level("night_sky", 2): make_sample(0.4, lost=range(100), seed=2),
        Level("night_sky", 0): make_sample(0.1, lost=range(80, 130)),
        Level("charge_scale", 1): make_sample(0.1, lost=range(80, 130)),
    }


@pytest.fixture
def samples():
    return make_samples()


@pytest.fixture(scope="module")
def table():
    return compare_levels(make_samples(), EDGES)


def test_names_of_levels():
    assert Level("night_sky", 0).name == Level("charge_scale", 1).name == "unchanged"
    assert Level("dead_pixels", 0.03).name == "dead_pixels_0.03"
    assert not Level("charge_scale", 0).is_neutral


def test_levels_are_compared_on_the_events_that_all_have(samples, table):
    common = {"night_sky": np.arange(130, 500), "charge_scale": np.r_[:80, 130:500]}
    fractions = {2: 0.8, 0: 0.9, 1: 0.9}
    assert len(table) == 3 * 2 * 3
    levels = dict.fromkeys(zip(table["perturbation"], table["level"]))
    assert list(levels) == [("night_sky", 0), ("night_sky", 2), ("charge_scale", 1)]
    everything = table[np.isinf(table["true_energy_high"])]
    for row in everything:
        sample = samples[Level(row["perturbation"], row["level"])]
        chosen = common[row["perturbation"]]
        protons = np.arange(500, N)
        assert (row["n_gamma"], row["n_proton"]) == (len(chosen), 400)
        assert (row["n_simulated_gamma"], row["n_simulated_proton"]) == (500, 400)
        assert row["reconstructed_gamma"] == pytest.approx(fractions[row["level"]])
        assert row["reconstructed_proton"] == 1
        reconstructor = NETWORK if row["reconstructor"] == "Net" else FOREST
        result = sample.results[reconstructor]
        ratio = result["reco_energy"] / sample.events["true_energy"]
        ratio = ratio[chosen].to_value(u.one)
        assert row["energy_bias"] == pytest.approx(np.median(ratio) - 1)
        both = np.concatenate([chosen, protons])
        expected = roc_auc_score(both < 500, result["gammaness"][both])
        assert row["auc"] == pytest.approx(expected)
        assert 0 < row["auc_error"] < 0.05
        if reconstructor is NETWORK:
            expected = np.quantile(result["theta"][chosen], 0.6827)
            assert u.isclose(row["angular_resolution"], expected, rtol=1e-3)
            assert 0 < row["angular_resolution_error"].value < 0.1
        else:
            assert np.ma.is_masked(row["angular_resolution"])
    # what the levels were made with
    net = everything[everything["reconstructor"] == "Net"]
    ratio = net["energy_resolution"][1] / net["energy_resolution"][0]
    assert ratio == pytest.approx(4, rel=0.3)


def test_bins_in_energy(samples, table):
    first = table[:3]
    assert first["n_gamma"][0] == first["n_gamma"][1:].sum() == 370
    energy = samples[Level("night_sky", 0)].events["true_energy"][130:500]
    assert first["n_gamma"][1] == np.count_nonzero(energy < 1 * u.TeV)
    np.testing.assert_array_equal(first["true_energy_low"], [0, 0.1, 1] * u.TeV)
    assert np.ma.getmaskarray(first["auc"]).tolist() == [False, True, True]


def test_without_protons_there_is_no_auc(samples):
    for level, sample in samples.items():
        samples[level] = Sample(
            sample.events[:500],
            {r: result[:500] for r, result in sample.results.items()},
            {"all": sample.selected["all"][:500]},
        )
    table = compare_levels(samples, EDGES)
    assert "auc" not in table.colnames
    assert "n_simulated_proton" not in table.colnames
    assert "auc" not in make_figures(table)


def test_table_can_be_written_and_read(table, tmp_path):
    table.write(tmp_path / "x.ecsv")
    again = QTable.read(tmp_path / "x.ecsv")
    assert again.colnames == table.colnames
    np.testing.assert_allclose(again["energy_bias"], table["energy_bias"])
    assert again["angular_resolution"].unit == u.deg


def test_other_events_are_refused(samples):
    sample = samples[Level("night_sky", 2)]
    sample.events["event_id"][3] = 1000
    with pytest.raises(EvaluationError, match="night_sky_2.*different events"):
        compare_levels(samples, EDGES)


def test_nothing_left_to_compare(samples):
    samples[Level("night_sky", 4)] = make_sample(0.1, lost=range(130, 500))
    with pytest.raises(EvaluationError, match="no gamma.*night_sky: .*4"):
        compare_levels(samples, EDGES)


def test_figures_show_the_table(table, tmp_path):
    figures = make_figures(table)
    assert set(figures) == {
        "angular_resolution",
        "auc",
        "energy_bias",
        "energy_resolution",
        "reconstructed",
    }
    figure = figures["energy_resolution"]
    assert [len(figure.axes), len(figures["auc"].axes)] == [6, 2]
    titles = [axis.get_title() for axis in figure.axes[::2]]
    assert titles == ["all energies", "0.1 - 1 TeV", "1 - 10 TeV"]
    assert figure.axes[4].get_xlabel() == "added night sky [p.e. per pixel]"
    for i, (low, name) in enumerate([(0, "Forest"), (0.1, "Forest"), (1, "Net")]):
        rows = table[table["true_energy_low"] == low * u.TeV]
        rows = rows[
            (rows["reconstructor"] == name) & (rows["perturbation"] == "night_sky")
        ]
        container = next(
            c for c in figure.axes[2 * i].containers if c.get_label() == name
        )
        x, y = container.lines[0].get_data()
        np.testing.assert_array_equal(x, [0, 2])
        np.testing.assert_allclose(y, rows["energy_resolution"])
        ends = np.array(container.lines[2][0].get_segments())[:, :, 1]
        np.testing.assert_allclose(
            np.diff(ends)[:, 0] / 2, rows["energy_resolution_error"]
        )
    figures["auc"].savefig(tmp_path / "x.png")
    assert (tmp_path / "x.png").stat().st_size > 10_000


class Parent(Component):
    """Something without configuration."""


@pytest.fixture
def frame(tmp_path):
    """Function: the frame of a file."""

    def make(path, n_events):
        output = tmp_path / "frame.h5"
        Provenance().clear()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # those of ctapipe about its own names
            Provenance().start_activity("test")
            write_frame(path, output, n_events, Parent())
        return output

    return make


def test_frame_has_the_first_events_without_what_changes(frame, sample_path):
    path = frame(sample_path, 210)
    with TableLoader(path) as found, TableLoader(sample_path) as expected:
        options = {"simulated": True, "pointing": True}
        found = found.read_telescope_events(**options)
        expected = expected.read_telescope_events(dl1_parameters=False, **options)
    assert len(found) == 210
    assert not any(name.startswith("hillas") for name in found.colnames)
    for name in ("event_id", "true_energy", "telescope_pointing_altitude"):
        np.testing.assert_array_equal(found[name], expected[name][:210])
    with tables.open_file(path) as file:
        assert "/dl1/event/telescope/images" not in file.root


def test_frame_of_an_array(frame, array_path):
    path = frame(array_path, 8)
    trigger = read_table(array_path, "/dl1/event/telescope/trigger")
    first = read_table(array_path, "/dl1/event/subarray/trigger")["event_id"][:8]
    expected = trigger[np.isin(trigger["event_id"], first)]
    found = read_table(path, "/dl1/event/telescope/trigger")
    np.testing.assert_array_equal(found["tel_id"], expected["tel_id"])
    assert len(found) > 8


def test_finished_is_what_was_made_from_the_same(sample_path, tmp_path):
    path, description = tmp_path / "x.h5", {"seed": 1, "path": tmp_path}
    assert not is_finished(path, description)
    path.write_text("not whole")
    assert not is_finished(path, description)
    shutil.copy(sample_path, path)
    assert not is_finished(path, description)
    mark_finished(path, description)
    assert is_finished(path, dict(reversed(description.items())))
    assert not is_finished(path, {**description, "seed": 2})
