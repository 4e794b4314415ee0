"""DL2 files of lstchain beside those of ctapipe."""

import shutil

import astropy.units as u
import numpy as np
import pytest
import tables
from ctapipe.io import TableLoader
from running import run

from ctapipe_gphysnet.evaluation.reconstructors import EvaluationError
from ctapipe_gphysnet.evaluation.response import read_simulations
from ctapipe_gphysnet.evaluation.sample import read_sample
from ctapipe_gphysnet.evaluation.sensitivity import read_simulation
from ctapipe_gphysnet.lstchain import DL2_PARAMETERS, RUN_CONFIG, dl2_prefix
from ctapipe_gphysnet.tools.apply import ApplyTool

ALL = {"all": []}
LOW = {"low": [("bright", "hillas_intensity > 100"), ("wide", "hillas_width > 0.08")]}


@pytest.fixture(scope="module")
def copy_path(lstchain_path, random_model, tmp_path_factory):
    """Results of the model that is GammaPhysNet in the other file, under another name."""
    folder = tmp_path_factory.mktemp("copy")
    path = folder / "dl2_copy.h5"
    arguments = [f"--input={lstchain_path}", f"--output={path}", "--prefix=Copy"]
    arguments.append(f"--model={random_model('copy', seed=2)}")
    run(ApplyTool(), *arguments, "--no-progress", cwd=folder, raises=True)
    return path


@pytest.fixture
def forest_path(copy_path, tmp_path):
    """The same without what says who has made it, as lstchain's own files."""
    path = tmp_path / "dl2_forest.h5"
    shutil.copyfile(copy_path, path)
    with tables.open_file(path, "a") as file:
        attributes = file.get_node(DL2_PARAMETERS).attrs
        for name in attributes._f_list("user"):
            del attributes[name]
    return path


def result(sample, name):
    (found,) = [
        r for reconstructor, r in sample.results.items() if reconstructor.name == name
    ]
    return found


def test_names(copy_path, forest_path):
    assert dl2_prefix(copy_path) == "Copy"
    assert dl2_prefix(forest_path) == "lstchain"


def test_events_are_those_of_ctapipe(copy_path, dl2_path):
    """The same model and events, from files of both kinds, side by side."""
    sample = read_sample([copy_path, dl2_path], ALL)
    assert len(sample) == 600
    ours, theirs = result(sample, "GammaPhysNet"), result(sample, "Copy")
    known = np.isfinite(theirs["reco_energy"])
    assert 400 < known.sum() < 600
    np.testing.assert_array_equal(known, np.isfinite(ours["reco_energy"]))
    for name in ("reco_energy", "reco_alt", "reco_az", "gammaness", "theta"):
        np.testing.assert_allclose(theirs[name][known], ours[name][known], rtol=1e-6)
    assert np.isnan(theirs["core_error"]).all()
    assert set(sample.events["particle"]) == {"gamma", "proton"}


def test_events_alone_are_those_beside_others(copy_path, dl2_path):
    alone = read_sample([copy_path], LOW)
    beside = read_sample([dl2_path, copy_path], LOW)
    known = np.isfinite(result(beside, "Copy")["reco_energy"])
    assert known.sum() == len(alone)
    for name in ("true_energy", "true_alt", "true_core_x", "pointing_az", "intensity"):
        both = [
            u.Quantity(np.sort(s[name])) for s in (alone.events, beside.events[known])
        ]
        np.testing.assert_allclose(both[0].value, both[1].to_value(both[0].unit))
    assert alone.selected["low"].sum() == beside.selected["low"][known].sum()
    assert 0 < alone.selected["low"].sum() < len(alone)
    for _, _, passed in beside.criteria["low"]:
        assert passed.shape == (600,)


def test_own_files_of_lstchain(forest_path, copy_path, dl2_path):
    sample = read_sample([dl2_path, copy_path, forest_path], ALL)
    names = {r.name for r in sample.results}
    assert names == {"GammaPhysNet", "Other", "Copy", "lstchain"}
    np.testing.assert_array_equal(
        result(sample, "lstchain")["gammaness"], result(sample, "Copy")["gammaness"]
    )
    chosen = read_sample([dl2_path, copy_path, forest_path], ALL, ["lstchain", "Other"])
    assert [str(r) for r in chosen.results] == [
        "lstchain",
        "Other, seed 1",
        "Other, seed 2",
    ]


def test_same_name_in_both_kinds(copy_path, dl2_path, tmp_path):
    path = tmp_path / "same.h5"
    shutil.copyfile(copy_path, path)
    with tables.open_file(path, "a") as file:
        attributes = file.get_node(DL2_PARAMETERS).attrs
        del attributes["CopyEnergy_model"]
        attributes["GammaPhysNetEnergy_model"] = "x"
    with pytest.raises(EvaluationError, match="events are twice in .*same.h5"):
        read_sample([path, dl2_path], ALL, ["GammaPhysNet"])


def test_unknown_reconstructor(copy_path, dl2_path):
    with pytest.raises(EvaluationError, match="reconstructor Nobody"):
        read_sample([copy_path, dl2_path], ALL, ["Copy", "Nobody"])
    with pytest.raises(EvaluationError, match="reconstructor Nobody .* found: Copy"):
        read_sample([copy_path], ALL, ["Copy", "Nobody"])


def test_files_that_cannot_be_used(copy_path, lstchain_path, tmp_path):
    with pytest.raises(EvaluationError, match="is it a DL1 file"):
        read_sample([lstchain_path], ALL)
    with pytest.raises(EvaluationError, match="no array-wise results"):
        read_sample([copy_path], ALL, array_wise=True)
    observed = tmp_path / "observed.h5"
    shutil.copyfile(copy_path, observed)
    with tables.open_file(observed, "a") as file:
        table = file.get_node(DL2_PARAMETERS)
        rows = table.read()
        names = [name for name in rows.dtype.names if not name.startswith("mc_")]
        table.remove()
        file.create_table(*DL2_PARAMETERS.rpartition("/")[::2], obj=rows[names].copy())
    with pytest.raises(EvaluationError, match="these are no simulated events"):
        read_sample([observed], ALL)
    with pytest.raises(EvaluationError, match="events are twice"):
        read_sample([copy_path, copy_path], ALL)


@pytest.fixture
def one_kind(copy_path, dl2_path, tmp_path):
    """Function: both files with events and runs of gamma rays of one spectrum only."""

    def keep(path, tables_of_runs):
        kept = tmp_path / path.name
        shutil.copyfile(path, kept)
        with tables.open_file(kept, "a") as file:
            for name in tables_of_runs:
                if name in file:
                    table = file.get_node(name)
                    rows = table.read()
                    rows = rows[rows["obs_id"] == rows["obs_id"].min()]
                    table.truncate(0)
                    table.append(rows)
        return kept

    return keep


def test_thrown_showers_are_counted_once(one_kind, copy_path, dl2_path):
    runs = ["/configuration/simulation/run", "/simulation/service/shower_distribution"]
    ours = one_kind(dl2_path, runs)
    theirs = one_kind(copy_path, [RUN_CONFIG])
    with TableLoader(dl2_path) as loader:
        configuration = loader.read_simulation_configuration()
    first = configuration[np.argmin(configuration["obs_id"])]
    thrown = first["n_showers"] * first["shower_reuse"]
    assert read_simulation([theirs]).n_showers == thrown
    files = [
        {"path": ours, "counts": {"gamma": 1}, "is_counted": True},
        {"path": theirs, "counts": {"gamma": 1}, "is_counted": False},
    ]
    assert read_simulations(files, {})["gamma"].n_showers == thrown
    flags = [f["is_counted"] for f in read_sample([copy_path, dl2_path], ALL).files]
    assert flags == [True, False]
