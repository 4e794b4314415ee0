import json
import pickle
import shutil
import warnings

import numpy as np
import pytest
import tables
from astropy.table import QTable
from ctapipe.instrument import SubarrayDescription
from ctapipe.io import TableLoader
from ctapipe.reco import EnergyRegressor, ParticleClassifier
from ctapipe.tools.apply_models import ApplyModels
from ctapipe.tools.process import ProcessorTool
from running import run
from traitlets.config import Config

from ctapipe_gphysnet.tasks import GAMMA_ID
from ctapipe_gphysnet.tools.apply import ApplyTool
from ctapipe_gphysnet.tools.robustness import RobustnessTool

N_EVENTS = 40
SHOWERS = "/simulation/event/subarray/shower"
IMAGES = "/dl1/event/telescope/images/tel_001"
FEATURES = ["hillas_intensity", "hillas_length", "leakage_intensity_width_2"]
CONFIG = {
    "RobustnessTool": {
        "night_sky": [],
        "dead_pixels": [],
        "charge_scale": [2],
        "energy_edges": [0.01, 100],
    },
    "TailcutsImageCleaner": {
        "picture_threshold_pe": 8,
        "boundary_threshold_pe": 4,
        "min_picture_neighbors": 2,
    },
}


@pytest.fixture(scope="module")
def inputs(sample_path, tmp_path_factory):
    """Some gamma rays and some protons of the sample, in a file each."""
    folder = tmp_path_factory.mktemp("inputs")
    paths = []
    for name in ("gamma", "proton"):
        path = folder / f"{name}.dl1.h5"
        shutil.copy(sample_path, path)
        with tables.open_file(path, "a") as file:
            showers = file.root[SHOWERS]
            is_gamma = showers.col("true_shower_primary_id") == GAMMA_ID
            kept = np.flatnonzero(is_gamma == (name == "gamma"))[::3][: N_EVENTS + 10]
            n_total = showers.nrows
            for table in file.walk_nodes("/", "Table"):
                if table.nrows == n_total:
                    rows = table[:][kept]
                    table.truncate(0)
                    table.append(rows)
        paths.append(path)
    return paths


def make_forest(cls, sample_path, folder, prefix):
    """A small random forest that knows the sample."""
    with TableLoader(sample_path) as loader, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        events = loader.read_telescope_events(simulated=True)
        subarray = loader.subarray
    kind = "Regressor" if cls is EnergyRegressor else "Classifier"
    criteria = [("bright", "hillas_intensity > 50")]
    options = {
        "prefix": prefix,
        "model_cls": f"RandomForest{kind}",
        "model_config": {"n_estimators": 3, "max_depth": 6, "random_state": 1},
        "features": FEATURES,
        "MLQualityQuery": {"quality_criteria": criteria},
    }
    forest = cls(subarray, config=Config({cls.__name__: options}))
    forest.fit(subarray.tel[1], events[events["hillas_intensity"] > 50])
    path = folder / f"{prefix}.pkl"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        forest.write(path, overwrite=True)
    return path


@pytest.fixture(scope="module")
def forests(sample_path, tmp_path_factory):
    folder = tmp_path_factory.mktemp("forests")
    return [
        make_forest(EnergyRegressor, sample_path, folder, "ForestEnergy"),
        make_forest(ParticleClassifier, sample_path, folder, "ForestClassifier"),
    ]


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "config.json"
    path.write_text(json.dumps(CONFIG))
    return path


@pytest.fixture(scope="module")
def model(random_model):
    return random_model("small")


@pytest.fixture(scope="module")
def study(inputs, forests, config, model):
    """Function: exit code of gphysnet-robustness."""

    def run_study(output, *arguments, n_events=N_EVENTS, **options):
        options = {"inputs": inputs, "forests": forests, "config": config} | options
        return run(
            RobustnessTool(),
            *[f"--input={path}" for path in options["inputs"]],
            *[f"--random-forest={path}" for path in options["forests"]],
            *[f"--config={path}" for path in [options["config"]] if path],
            f"--model={model}",
            f"--output={output}",
            f"--max-events={n_events}",
            "--device=cpu",
            "--no-progress",
            *arguments,
            cwd=output.parent,
        )

    return run_study


@pytest.fixture(scope="module")
def made(study, tmp_path_factory):
    """A study that is done."""
    folder = tmp_path_factory.mktemp("study") / "made"
    assert study(folder) == 0
    return folder


@pytest.fixture
def folder(made, tmp_path):
    """A copy of it."""
    return shutil.copytree(made, tmp_path / "study")


def files_in(folder):
    """Time of the last change of every file."""
    return {
        str(path.relative_to(folder)): path.stat().st_mtime_ns
        for path in folder.rglob("*")
        if path.is_file()
    }


LEVEL_FILES = {
    f"levels/{level}/{name}.dl2.h5"
    for level in ("unchanged", "charge_scale_2")
    for name in ("gamma", "proton")
}
FIGURES = ("auc", "energy_bias", "energy_resolution", "angular_resolution")
RESULT_FILES = {
    "results/robustness.ecsv",
    *(f"results/{name}.{kind}" for name in FIGURES for kind in ("png", "pdf")),
    *(f"results/reconstructed.{kind}" for kind in ("png", "pdf")),
}


def test_results(made, inputs):
    assert set(files_in(made)) == LEVEL_FILES | RESULT_FILES
    table = QTable.read(made / "results" / "robustness.ecsv")
    assert table.meta["inputs"] == ["gamma.dl1.h5", "proton.dl1.h5"]
    assert table.meta["max_events"] == N_EVENTS
    everything = table[np.isinf(table["true_energy_high"])]
    keys = ["perturbation", "level", "reconstructor"]
    found = [tuple(row[key] for key in keys) for row in everything]
    levels = {
        *(("night_sky", 0), ("dead_pixels", 0)),
        *(("charge_scale", 1), ("charge_scale", 2)),
    }
    names = ("Forest", "GammaPhysNet")
    assert sorted(found) == sorted((*level, name) for level in levels for name in names)
    assert set(everything["n_simulated_gamma"]) == {N_EVENTS}
    assert set(everything["n_simulated_proton"]) == {N_EVENTS}
    assert (everything["n_gamma"] < N_EVENTS).all()
    brighter = everything["level"] == 2
    fraction = everything["reconstructed_proton"]
    assert fraction[brighter].min() > fraction[~brighter].max()
    # twice the charge is about twice the energy
    forest = everything[everything["reconstructor"] == "Forest"]
    bias = dict(zip(forest["level"], forest["energy_bias"]))
    assert bias[2] > bias[1] + 0.3


@pytest.fixture
def doubled(inputs, config, model, forests, tmp_path):
    """What the stock tools make of images that were doubled in the file."""
    changed, dl1 = tmp_path / "changed.h5", tmp_path / "doubled.dl1.h5"
    network, output = tmp_path / "network.h5", tmp_path / "forests.h5"
    shutil.copy(inputs[1], changed)
    with tables.open_file(changed, "a") as file:
        images = file.root[IMAGES]
        images.modify_column(colname="image", column=2 * images.col("image"))
    tails = [f"--TailcutsImageCleaner.{k}={v}" for k, v in CONFIG[CLEANER].items()]
    stock = [
        (
            *(ProcessorTool(), f"--input={changed}", f"--output={dl1}"),
            *(f"--max-events={N_EVENTS}", "--recompute-dl1", "--write-images", *tails),
        ),
        (ApplyTool(), f"--input={dl1}", f"--output={network}", f"--model={model}"),
        (
            *(ApplyModels(), f"--input={network}", f"--output={output}"),
            *(f"--reconstructor={path}" for path in forests),
        ),
    ]
    for tool, *arguments in stock:
        assert run(tool, *arguments, cwd=tmp_path) == 0
    return output


CLEANER = "TailcutsImageCleaner"


def test_a_level_is_what_the_stock_tools_make_of_changed_images(made, doubled):
    level = made / "levels" / "charge_scale_2" / "proton.dl2.h5"
    with TableLoader(level) as found, TableLoader(doubled) as expected:
        options = {"dl2": True, "true_parameters": False}
        found = found.read_telescope_events(**options)
        expected = expected.read_telescope_events(**options)
    assert set(found.colnames) == set(expected.colnames)
    assert len(found) == N_EVENTS
    assert found["GammaPhysNetEnergy_tel_is_valid"].sum() > 20
    assert found["ForestEnergy_tel_is_valid"].sum() > 20
    for name in found.colnames:
        if name.startswith("timing"):  # the fit draws points at random
            assert np.isclose(found[name], expected[name], equal_nan=True).mean() > 0.7
        elif name.startswith("time"):  # of the trigger
            assert (found[name] == expected[name]).all()
        elif found[name].dtype.kind == "f":
            np.testing.assert_allclose(
                found[name], expected[name], rtol=1e-3, atol=1e-5, err_msg=name
            )
        else:
            np.testing.assert_array_equal(found[name], expected[name], name)


def test_what_is_there_is_not_made_again(study, folder):
    before = files_in(folder)
    table = (folder / "results" / "robustness.ecsv").read_text()
    assert study(folder) == 0
    after = files_in(folder)
    assert {name: after[name] for name in LEVEL_FILES} == {
        name: before[name] for name in LEVEL_FILES
    }
    assert (folder / "results" / "robustness.ecsv").read_text() == table


@pytest.fixture
def interrupted(study, monkeypatch):
    """Function: run until the first file is to be made; levels with their inputs."""

    def run_study(*arguments, **options):
        begun = []

        def make(self, level, path, *args):
            begun.append((level.name, path.name))
            raise KeyboardInterrupt

        monkeypatch.setattr(RobustnessTool, "_make", make)
        assert study(*arguments, **options) != 0
        return begun

    return run_study


@pytest.mark.parametrize("what", ["seed", "cleaning", "events", "forest", "overwrite"])
def test_another_study_begins_anew(interrupted, folder, what, forests):
    arguments, options = [], {}
    if what == "seed":
        arguments = ["--seed=1"]
    elif what == "cleaning":
        arguments = [f"--{CLEANER}.boundary_threshold_pe=4.01"]
    elif what == "overwrite":
        arguments = ["--overwrite"]
    elif what == "events":
        options = {"n_events": N_EVENTS - 1}
    elif what == "forest":
        options = {"forests": forests[:1]}
    assert interrupted(folder, *arguments, **options) == [("unchanged", "gamma.dl1.h5")]
    assert set(files_in(folder)) == LEVEL_FILES  # results of the other one are gone


def test_only_what_is_missing_is_made_again(study, folder, monkeypatch):
    missing = "levels/charge_scale_2/gamma.dl2.h5"
    before = files_in(folder)
    table = QTable.read(folder / "results" / "robustness.ecsv")
    (folder / missing).write_text("damaged")

    with monkeypatch.context() as patch:
        patch.setattr(ApplyModels, "start", lambda self: 1 / 0)
        assert study(folder) != 0
    # nothing looks finished, nothing is left over
    assert set(files_in(folder)) == LEVEL_FILES
    assert (folder / missing).read_text() == "damaged"

    assert study(folder) == 0
    after = files_in(folder)
    assert set(after) == LEVEL_FILES | RESULT_FILES
    for name in LEVEL_FILES - {missing}:
        assert after[name] == before[name]
    again = QTable.read(folder / "results" / "robustness.ecsv")
    for name in table.colnames:
        if table[name].dtype.kind == "f":
            np.testing.assert_allclose(again[name], table[name], rtol=1e-5)


# Bad input


@pytest.fixture
def refused(study, tmp_path, capfd):
    """Function: the one line in which gphysnet-robustness says why it stops."""

    def run_study(*arguments, **options):
        output = tmp_path / "output"
        assert study(output, *arguments, **options) != 0
        assert not [name for name in files_in(tmp_path) if name.startswith("output/")]
        error = capfd.readouterr().err
        assert "Traceback" not in error
        return next(line for line in error.splitlines() if "ERROR" in line)

    return run_study


def test_no_input(refused):
    assert "no input" in refused(inputs=[])


def test_no_output(tmp_path, capfd, inputs):
    assert run(RobustnessTool(), f"--input={inputs[0]}", cwd=tmp_path) != 0
    assert "no output" in capfd.readouterr().err


def test_two_inputs_of_one_name(refused, inputs, tmp_path):
    path = tmp_path / "gamma.other.h5"
    shutil.copy(inputs[0], path)
    assert "the same name" in refused(inputs=[inputs[0], path])


def test_energy_edges_that_do_not_ascend(refused):
    message = refused(
        "--RobustnessTool.energy_edges=1", "--RobustnessTool.energy_edges=1"
    )
    assert "energy_edges" in message


def test_not_a_dl1_file(refused, tmp_path):
    path = tmp_path / "text.h5"
    path.write_text("nothing")
    assert f"{path}: cannot be read as a DL1 file" in refused(inputs=[path])


def test_observed_events(refused, array_path):
    assert "truth of simulated events" in refused(inputs=[array_path])


def test_another_cleaning(refused):
    message = refused(config=None)
    assert "gamma.dl1.h5" in message
    assert "another image cleaning" in message
    assert "--config" in message


def test_other_telescopes(refused, inputs, tmp_path):
    path = tmp_path / "other.dl1.h5"
    shutil.copy(inputs[1], path)
    subarray = SubarrayDescription.from_hdf(path)
    subarray.tel[1].optics.n_mirror_tiles = 7
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        subarray.to_hdf(path, overwrite=True)
    assert "its subarray is not that of" in refused(inputs=[inputs[0], path])


@pytest.mark.parametrize("content", ["text", "other"])
def test_not_a_random_forest(refused, tmp_path, content):
    path = tmp_path / "forest.pkl"
    path.write_bytes(b"text" if content == "text" else pickle.dumps({"a": 1}))
    assert f"{path} is not a reconstructor" in refused(forests=[path])


def test_results_of_a_name_that_cannot_be_compared(refused, sample_path, tmp_path):
    path = make_forest(EnergyRegressor, sample_path, tmp_path, "MyForest")
    message = refused(forests=[path])
    assert "MyForest.pkl gives no results MyForest" in message
    assert "end in Energy" in message


def test_no_model(refused):
    message = refused("--GammaPhysNetReconstructor.models=nowhere.safetensors")
    assert "nowhere.safetensors" in message
