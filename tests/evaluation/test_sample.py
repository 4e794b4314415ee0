import shutil

import astropy.units as u
import numpy as np
import pytest
import tables
from astropy.coordinates import SkyCoord
from ctapipe.io import TableLoader

from ctapipe_gphysnet.evaluation import sample as module
from ctapipe_gphysnet.evaluation.reconstructors import (
    EvaluationError,
    Reconstructor,
    find_reconstructors,
)
from ctapipe_gphysnet.evaluation.sample import read_sample

pytestmark = [
    # TableLoader leaves a file open that it cannot read
    pytest.mark.filterwarnings("ignore::tables.UnclosedFileWarning"),
]

LOW = [
    ("bright", "hillas_intensity > 100"),
    ("contained", "leakage_intensity_width_2 < 0.2"),
]
ENERGY = "/dl2/event/telescope/energy/OtherSeed2Energy/tel_001"


@pytest.fixture
def changed(dl2_path, tmp_path):
    """Function: a copy of the file, changed by a function of the open file."""

    def copy(change, name="changed.dl2.h5"):
        path = tmp_path / name
        shutil.copy(dl2_path, path)
        with tables.open_file(path, "a") as file:
            change(file)
        return path

    return copy


@pytest.fixture
def expected(dl2_path):
    with TableLoader(dl2_path) as loader:
        return loader.read_telescope_events(dl2=True, simulated=True)


def test_reconstructors_are_known_by_their_names(dl2_path):
    found = find_reconstructors(dl2_path)
    assert set(found) == {("GammaPhysNet", None), ("Other", 1), ("Other", 2)}
    assert found["Other", 2] == Reconstructor(
        "Other", 2, "OtherSeed2Energy", "OtherSeed2Geometry", "OtherSeed2Classifier"
    )
    assert str(found["Other", 2]) == "Other, seed 2"
    assert find_reconstructors(dl2_path, array_wise=True) == found


def test_uncertainties(dl2_path, expected):
    """One of the models has them."""
    sample = read_sample([dl2_path], {})
    for reconstructor, result in sample.results.items():
        for name, column in (
            ("energy_uncert", "Energy_tel_energy_uncert"),
            ("ang_distance_uncert", "Geometry_tel_ang_distance_uncert"),
        ):
            if reconstructor.name == "Other":
                assert np.isnan(result[name]).all()
                continue
            wanted = u.Quantity(expected[f"GammaPhysNet{column}"])
            assert np.isfinite(wanted).sum() > 100
            np.testing.assert_array_equal(result[name], wanted)


def test_events_are_those_of_table_loader(dl2_path, expected):
    sample = read_sample([dl2_path], {"low": LOW})
    assert len(sample) == len(expected) == 600
    for name in ("true_energy", "true_alt", "true_core_x"):
        np.testing.assert_allclose(sample.events[name].value, expected[name])
    assert sample.events["pointing_alt"].to_value(u.deg) == pytest.approx(70)
    counts = {name: sample.is_particle(name).sum() for name in ("gamma", "proton")}
    assert counts == {"gamma": 400, "proton": 200}
    reconstructor = Reconstructor(
        "Other", 2, "OtherSeed2Energy", "OtherSeed2Geometry", "OtherSeed2Classifier"
    )
    result = sample.results[reconstructor]
    valid = np.asarray(expected["OtherSeed2Energy_tel_is_valid"])
    np.testing.assert_array_equal(np.isfinite(result["reco_energy"]), valid)
    np.testing.assert_array_equal(
        np.asarray(result["gammaness"])[valid],
        np.asarray(expected["OtherSeed2Classifier_tel_prediction"])[valid],
    )
    # theta by another way than the formula that is used
    true = SkyCoord(sample.events["true_az"], sample.events["true_alt"])
    reco = SkyCoord(result["reco_az"][valid], result["reco_alt"][valid])
    np.testing.assert_allclose(
        result["theta"][valid].to_value(u.deg), reco.separation(true[valid]).deg
    )
    core = np.hypot(
        expected["OtherSeed2Geometry_tel_core_x"] - expected["true_core_x"],
        expected["OtherSeed2Geometry_tel_core_y"] - expected["true_core_y"],
    )
    np.testing.assert_allclose(result["core_error"].to_value(u.m), core)


def test_selections_and_what_they_remove(dl2_path, expected, monkeypatch):
    monkeypatch.setattr(module, "CHUNK_SIZE", 170)  # several chunks
    sample = read_sample([dl2_path], {"low": LOW, "all": []})
    bright = np.asarray(expected["hillas_intensity"]) > 100
    contained = np.asarray(expected["leakage_intensity_width_2"]) < 0.2
    np.testing.assert_array_equal(sample.selected["low"], bright & contained)
    assert sample.selected["all"].all()
    for criterion, (name, expression, passed), events in zip(
        LOW, sample.criteria["low"], (bright, bright & contained), strict=True
    ):
        assert (name, expression) == criterion
        np.testing.assert_array_equal(passed, events)
    (file,) = sample.files
    assert file["counts"] == {"gamma": 400, "proton": 200}
    assert len(file["meta"]["OtherSeed1Energy_model_sha256"]) == 64


def test_array_wise(dl2_path):
    sample = read_sample([dl2_path], {"all": []}, array_wise=True)
    telescope_wise = read_sample([dl2_path], {"all": []})
    for reconstructor, result in sample.results.items():
        other = telescope_wise.results[reconstructor]
        for name in ("reco_energy", "theta", "gammaness"):
            np.testing.assert_allclose(result[name], other[name], atol=1e-9)
    assert np.isnan(sample.events["intensity"]).all()


def test_only_some_reconstructors(dl2_path):
    sample = read_sample([dl2_path], {"all": []}, names=["Other"])
    assert {r.name for r in sample.results} == {"Other"}


def remove(*paths):
    def change(file):
        for path in paths:
            file.remove_node(path, recursive=True)

    return change


def swap_events(file):
    table = file.root[ENERGY]
    table.modify_column(colname="event_id", column=table.col("event_id")[::-1])


def shorten(file):
    file.root[ENERGY].truncate(10)


def iron(file):
    shower = file.root["/simulation/event/subarray/shower"]
    column = shower.col("true_shower_primary_id")
    shower.modify_column(colname="true_shower_primary_id", column=column + 5626)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (remove("/simulation/event"), "no column true_shower_primary_id"),
        (swap_events, f"{ENERGY} has 600 events"),
        (shorten, f"{ENERGY} has 10 events"),
        (iron, "true_shower_primary_id 5626"),
        (remove("/dl2"), "no telescope-wise results of reconstructor"),
    ],
)
def test_bad_files(changed, change, message):
    path = changed(change)
    with pytest.raises(EvaluationError, match=message) as error:
        read_sample([path], {"all": []})
    assert str(path) in str(error.value)


def test_a_file_without_one_of_the_reconstructors(changed, dl2_path):
    path = changed(remove("/dl2/event/telescope/geometry/GammaPhysNetGeometry"))
    message = "no telescope-wise results of GammaPhysNet: table GammaPhysNetGeometry"
    with pytest.raises(EvaluationError, match=message) as error:
        read_sample([dl2_path, path], {"all": []})
    assert str(path) in str(error.value)


GROUPS = ("energy", "geometry", "classification", "particle_type")


def without(prefix):
    """Function of a file: remove a reconstructor's tables."""

    def change(file):
        for group in GROUPS:
            if f"/dl2/event/telescope/{group}" in file.root:
                for node in file.get_node(f"/dl2/event/telescope/{group}"):
                    if node._v_name.startswith(prefix):
                        node._f_remove(recursive=True)

    return change


def of_run(file):
    """Make all events those of another run."""
    for table in file.walk_nodes("/", "Table"):
        if "obs_id" in table.colnames:
            table.modify_column(column=table.col("obs_id") + 1000, colname="obs_id")


def test_results_of_one_event_in_two_files(changed, dl2_path):
    """What is in one file, and the same parted by reconstructor, in any order."""
    ours = changed(without("Other"), "ours.dl2.h5")
    others = changed(without("GammaPhysNet"), "others.dl2.h5")
    together = read_sample([dl2_path], {"low": LOW})
    apart = read_sample([others, ours], {"low": LOW})
    assert set(apart.results) == set(together.results)
    keys = ["particle", "obs_id", "event_id"]
    order = [
        np.lexsort([np.asarray(s.events[k]) for k in keys]) for s in (together, apart)
    ]
    for name in ("true_energy", "intensity"):
        np.testing.assert_array_equal(
            together.events[name][order[0]], apart.events[name][order[1]]
        )
    assert together.selected["low"].sum() == apart.selected["low"].sum()
    for reconstructor, result in together.results.items():
        for name in ("reco_energy", "theta", "gammaness"):
            np.testing.assert_array_equal(
                u.Quantity(result[name][order[0]]).value,
                u.Quantity(apart.results[reconstructor][name][order[1]]).value,
            )
    assert [file["is_counted"] for file in apart.files] == [True, False]


def test_a_run_that_one_reconstructor_lacks(changed, dl2_path):
    def other_run(file):
        without("Other")(file)
        of_run(file)

    path = changed(other_run)
    with pytest.raises(
        EvaluationError, match="no results of Other, seed 1 .* obs_id"
    ) as e:
        read_sample([dl2_path, path], {"all": []})
    assert str(path) in str(e.value)
    sample = read_sample([dl2_path, path], {"all": []}, names=["GammaPhysNet"])
    assert len(sample) == 1200
    # seen once by each, but twice by one
    twice = changed(without("Other"), "twice.dl2.h5")
    with pytest.raises(EvaluationError, match="600 events are twice .*twice.dl2.h5"):
        read_sample([dl2_path, twice], {"all": []})


def test_the_same_events_twice(dl2_path, changed):
    copy = changed(lambda file: None)
    with pytest.raises(EvaluationError, match="600 events are twice"):
        read_sample([dl2_path, copy], {"all": []})


@pytest.mark.parametrize("criterion", ["no_such_column > 3", "hillas_intensity >"])
def test_a_criterion_that_cannot_be_evaluated(dl2_path, criterion):
    with pytest.raises(EvaluationError, match="criteri(on|a) of the selection"):
        read_sample([dl2_path], {"low": [("wrong", criterion)]})


def test_unknown_reconstructor(dl2_path):
    with pytest.raises(EvaluationError, match="of reconstructor Forest .* found: Gamma"):
        read_sample([dl2_path], {"all": []}, names=["Forest"])


def test_not_a_file(tmp_path):
    path = tmp_path / "text.h5"
    path.write_text("no HDF5")
    with pytest.raises(EvaluationError, match="cannot be read"):
        read_sample([path], {"all": []})
    with pytest.raises(EvaluationError, match="no input"):
        read_sample([], {"all": []})


def test_reconstructors_are_in_the_order_of_their_names(dl2_path):
    names = ["Other", "GammaPhysNet"]
    for wanted in (names, names[::-1]):
        found = read_sample([dl2_path], {"all": []}, names=wanted).results
        assert list(dict.fromkeys(r.name for r in found)) == wanted
