"""The random forests of examples/hillas_rf.sh."""

import importlib.util
import os
import shutil
import subprocess
import sys
import warnings
from functools import partial
from pathlib import Path

import astropy.units as u
import numpy as np
import pytest
import tables
import yaml
from astropy.table import Table, vstack
from ctapipe.containers import CoordinateFrameType
from ctapipe.core import FeatureGenerator
from ctapipe.image import camera_to_shower_coordinates
from ctapipe.io import TableLoader, read_table
from ctapipe.tools.apply_models import ApplyModels
from ctapipe.tools.train_disp_reconstructor import TrainDispReconstructor
from ctapipe.tools.train_energy_regressor import TrainEnergyRegressor
from ctapipe.tools.train_particle_classifier import TrainParticleClassifier
from running import run
from traitlets.config import Config

from ctapipe_gphysnet.events import shower_numbers

EXAMPLES = Path(__file__).parents[1] / "examples"
SCRIPT = EXAMPLES / "hillas_rf.sh"
CONFIG = EXAMPLES / "hillas_rf"
SHOWERS = "/simulation/event/subarray/shower"
GEOMETRY = "HillasRFGeometry"
BEYOND_LSTCHAIN = [
    "timing_deviation",
    "peak_time_std",
    "peak_time_skewness",
    "intensity_kurtosis",
    "concentration_cog",
    "concentration_core",
    "concentration_pixel",
    "leakage_pixels_width_1",
    "morphology_n_islands",
]
# of the environment that the tests run in
BIN = str(Path(sys.executable).parent)


@pytest.fixture(scope="module")
def training_sets():
    """The module examples/hillas_rf/training_sets.py."""
    spec = importlib.util.spec_from_file_location("sets", CONFIG / "training_sets.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def samples(training_sets, sample_path, tmp_path_factory):
    """Gamma rays and protons of the sample, without images, in a file each."""
    folder = tmp_path_factory.mktemp("samples")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, primary in (("gamma", 0), ("proton", 101)):
            path = folder / f"{name}.dl1.h5"
            training_sets.copy([sample_path], path)
            wanted = partial(is_primary, primary=primary)
            training_sets.keep(path, wanted)
    return folder


def is_primary(showers, primary):
    return showers["true_shower_primary_id"] == primary


@pytest.fixture(scope="module")
def parted(training_sets, samples, tmp_path_factory):
    """Folder with the gamma rays for the regressors and for the classifier."""
    folder = tmp_path_factory.mktemp("parted")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        training_sets.main(
            ["--gamma", str(samples / "gamma.dl1.h5"), "--fraction", "0.4"]
            + ["--regression", str(folder / "regression.dl1.h5")]
            + ["--classification", str(folder / "classification.dl1.h5")]
        )
    return folder


@pytest.fixture
def small_config(tmp_path):
    """Folder with the configurations, but with forests that grow within a second."""
    folder = tmp_path / "config"
    folder.mkdir()
    for path in CONFIG.glob("*.yaml"):
        config = yaml.safe_load(path.read_text())
        for component in config.values():
            for name in ("model_config", "norm_config", "sign_config"):
                component.get(name, {}).update(n_estimators=3, max_depth=6)
        (folder / path.name).write_text(yaml.safe_dump(config))
    return folder


def generated(name, component, table):
    """The features of a configuration, as the tools make them."""
    config = Config(yaml.safe_load((CONFIG / f"{name}.yaml").read_text()))[component]
    generator = FeatureGenerator(config=Config(FeatureGenerator=config.FeatureGenerator))
    return generator(table)[config.features]


def test_no_shower_is_in_both_training_sets(samples, parted):
    names = ("regression", "classification")
    parts = [read_table(parted / f"{name}.dl1.h5", SHOWERS) for name in names]
    all_events = read_table(samples / "gamma.dl1.h5", SHOWERS)
    together = vstack(parts)
    assert sorted(together["event_id"]) == sorted(all_events["event_id"])
    shower = shower_numbers(together)
    first, second = shower[: len(parts[0])], shower[len(parts[0]) :]
    assert not set(first) & set(second)
    assert 0.3 < len(set(second)) / len(set(shower)) < 0.5
    for name, part in zip(names, parts):
        with TableLoader(parted / f"{name}.dl1.h5") as loader:
            events = loader.read_telescope_events(observation_info=True)
        assert events["event_id"].tolist() == part["event_id"].tolist()
        assert np.isfinite(events["hillas_intensity"]).sum() > 100
        # both of the files of gamma rays have a pointing at a zenith angle of 20°
        assert set(events["subarray_pointing_frame"]) == {CoordinateFrameType.ALTAZ.value}
        np.testing.assert_allclose(events["subarray_pointing_lat"], 70)


def test_every_table_has_the_same_events(parted):
    with tables.open_file(parted / "classification.dl1.h5") as file:
        lengths = {
            table._v_pathname: table.nrows
            for table in file.walk_nodes("/", "Table")
            if "event_id" in table.colnames
        }
        assert "/dl1/event/telescope/images" not in file
    assert len(lengths) >= 5
    assert len(set(lengths.values())) == 1


@pytest.fixture
def reconstructed():
    """Image parameters and results of the regressors, of random events."""
    rng = np.random.default_rng(0)
    return Table(
        {
            "hillas_intensity": rng.uniform(50, 1000, 100),
            "hillas_fov_lon": rng.uniform(-2, 2, 100) * u.deg,
            "hillas_fov_lat": rng.uniform(-2, 2, 100) * u.deg,
            "hillas_psi": rng.uniform(-90, 90, 100) * u.deg,
            "hillas_width": rng.uniform(0.05, 0.1, 100) * u.deg,
            "hillas_length": rng.uniform(0.1, 0.3, 100) * u.deg,
            "hillas_skewness": rng.normal(size=100),
            "hillas_kurtosis": rng.normal(size=100),
            "timing_slope": rng.normal(size=100) / u.deg,
            "leakage_intensity_width_2": rng.uniform(size=100),
            "telescope_pointing_azimuth": rng.uniform(0, 6, 100) * u.rad,
            "telescope_pointing_altitude": rng.uniform(1, 1.5, 100) * u.rad,
            "HillasRFEnergy_tel_energy": rng.uniform(0.01, 10, 100) * u.TeV,
            "HillasRFGeometry_tel_parameter": rng.normal(size=100) * u.deg,
            **{name: rng.uniform(size=100) for name in BEYOND_LSTCHAIN},
        }
    )


def test_features_are_those_of_lstchain(reconstructed):
    events = reconstructed
    features = generated("classifier", "ParticleClassifier", events)
    # lstchain's formulas: the sign is that of the reconstructed source on the long
    # axis, counted from the centre of gravity
    psi, disp = (events[n].quantity for n in ("hillas_psi", f"{GEOMETRY}_tel_parameter"))
    x, y = (events[n].quantity for n in ("hillas_fov_lon", "hillas_fov_lat"))
    source = x + disp * np.cos(psi), y + disp * np.sin(psi)
    along, _ = camera_to_shower_coordinates(*source, x, y, psi)
    sign = np.sign(along.value)
    values = {name: np.asarray(events[name]) for name in events.colnames}
    expected = {
        "log_intensity": np.log10(values["hillas_intensity"]),
        "width_over_length": values["hillas_width"] / values["hillas_length"],
        "sin_telescope_azimuth": np.sin(values["telescope_pointing_azimuth"]),
        "log_reco_energy": np.log10(values["HillasRFEnergy_tel_energy"]),
        "reco_disp_norm": np.hypot(source[0] - x, source[1] - y).value,
        "reco_disp_sign": sign,
        "signed_skewness": -sign * values["hillas_skewness"],
        "signed_time_gradient": -sign * values["timing_slope"],
    }
    for name in features.colnames:
        wanted = expected[name] if name in expected else values[name]
        np.testing.assert_allclose(features[name], wanted, rtol=1e-12, err_msg=name)
    assert set(expected) < set(features.colnames)
    assert set(BEYOND_LSTCHAIN) < set(features.colnames)


def test_the_tools_take_the_configuration(parted, samples, small_config, tmp_path):
    tools = [
        (TrainEnergyRegressor, "energy", ["--input", parted / "regression.dl1.h5"]),
        (TrainDispReconstructor, "disp", ["--input", parted / "regression.dl1.h5"]),
    ]
    for tool, name, inputs in tools:
        train(tool(), name, inputs, small_config, tmp_path)
    regressors = [tmp_path / "energy.pkl", tmp_path / "disp.pkl"]
    gamma, proton = tmp_path / "gamma.dl2.h5", tmp_path / "proton.dl2.h5"
    apply(parted / "classification.dl1.h5", gamma, regressors)
    apply(samples / "proton.dl1.h5", proton, regressors)
    inputs = ["--signal", gamma, "--background", proton]
    train(TrainParticleClassifier(), "classifier", inputs, small_config, tmp_path)

    output = tmp_path / "applied.dl2.h5"
    classifier = tmp_path / "classifier.pkl"
    apply(samples / "gamma.dl1.h5", output, [*regressors, classifier])
    assert_every_bright_event_is_reconstructed(output)


def train(tool, name, inputs, config, folder):
    arguments = ["--config", config / f"{name}.yaml", "--output", folder / f"{name}.pkl"]
    run(tool, *arguments, *inputs, cwd=folder, raises=True)


def apply(source, output, forests):
    chosen = [f"--reconstructor={path}" for path in forests]
    arguments = ["--input", source, "--output", output, *chosen]
    run(ApplyModels(), *arguments, cwd=output.parent, raises=True)


def assert_every_bright_event_is_reconstructed(path):
    """Telescope-wise and array-wise results of all events above 50 p.e., no others."""
    with TableLoader(path) as loader:
        single = loader.read_telescope_events(dl1_parameters=True, dl2=True)
        array = loader.read_subarray_events(dl2=True)
    bright = np.asarray(single["hillas_intensity"]) > 50
    assert 0 < bright.sum() < len(single)
    columns = {"Energy": "energy", "Geometry": "alt", "Classifier": "prediction"}
    for prefix, column in columns.items():
        of_telescope = single[f"HillasRF{prefix}_tel_{column}"]
        np.testing.assert_array_equal(np.isfinite(of_telescope), bright)
        np.testing.assert_array_equal(single[f"HillasRF{prefix}_tel_is_valid"], bright)
        of_array = array[f"HillasRF{prefix}_{column}"]
        np.testing.assert_allclose(of_array, of_telescope, rtol=1e-6)


def run_script(*arguments, stubs=None):
    """Run the script as a user does; exit code, and what it says on stderr."""
    path = os.pathsep.join(filter(None, [stubs, BIN, os.environ["PATH"]]))
    result = subprocess.run(
        [SCRIPT, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=os.environ | {"PATH": path, "PYTHONWARNINGS": "ignore"},
    )
    return result.returncode, result.stderr


def write_forests(folder):
    """Files by the names of the forests."""
    folder.mkdir()
    for name in ("energy", "disp", "classifier"):
        (folder / f"{name}.pkl").write_text("a forest")
    return folder


@pytest.fixture
def names(samples, tmp_path):
    """Files and folders, some of them unfit, by short names."""
    names = {
        "m": write_forests(tmp_path / "models"),
        "gamma": samples / "gamma.dl1.h5",
        "no": tmp_path / "no such file",
        "new": tmp_path / "new",
        "out": tmp_path / "out.dl2.h5",
        "text": tmp_path / "text.dl2.h5",
        "bare": tmp_path / "bare.h5",
        "done": tmp_path / "done.dl2.h5",
    }
    names["text"].write_text("no HDF5")
    tables.open_file(names["bare"], "w").close()
    shutil.copy(names["gamma"], names["done"])
    with tables.open_file(names["done"], "r+") as file:
        file.create_group("/dl2/event/telescope", "HillasRFEnergy", createparents=True)
    return names


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("", "give --models"),
        ("--models {m}", "nothing to do"),
        ("--models", "'--models ' is no option with its values"),
        ("--models {m} --apply {gamma}", "is no option with its values"),
        ("--models {m} --trees 3", "'--trees 3' is no option with its values"),
        ("--models {m} --n-jobs none", "--n-jobs none is not a number of cores"),
        ("--models {m} --gamma {gamma}", "give --proton"),
        ("--models {m} --proton {gamma}", "give --gamma"),
        ("--models {m} --gamma {gamma} --proton {no}", "there is no file {no}"),
        ("--models {m} --gamma {gamma} --proton {gamma}", "{m}/energy.pkl exists"),
        (
            "--models {new} --config {m} --gamma {gamma} --proton {gamma}",
            "there is no file {m}/energy.yaml",
        ),
        ("--models {new} --apply {gamma} {out}", "there is no file {new}/energy.pkl"),
        ("--models {m} --apply {no} {out}", "there is no file {no}"),
        ("--models {m} --apply {gamma} {text}", "{text} exists; give --overwrite"),
        ("--models {m} --apply {gamma} {gamma} --overwrite", "is the input as well"),
        ("--models {m} --apply {gamma} {no}/out", "its folder does not exist"),
        ("--models {m} --apply {text} {out}", "{text} is not an HDF5 file"),
        ("--models {m} --apply {bare} {out}", "{bare} has no image parameters"),
        ("--models {m} --apply {done} {out}", "{done} has results of these forests"),
    ],
)
def test_what_is_missing_is_said_at_once(arguments, complaint, names, tmp_path):
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    words = [word.format(**names) for word in arguments.split()]
    code, complaints = run_script(*words)
    assert code == 1
    assert complaint.format(**names) in complaints
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*")} == before


def test_half_an_output_never_stands_in_its_place(samples, tmp_path):
    stubs = tmp_path / "stubs"
    stubs.mkdir()
    stub = stubs / "ctapipe-apply-models"
    stub.write_text('#!/bin/sh\necho half > "$4"\necho "disk full: $4" >&2\nexit 5\n')
    stub.chmod(0o755)
    folder = tmp_path / "out"
    folder.mkdir()
    forests = write_forests(tmp_path / "models")
    source, output = samples / "gamma.dl1.h5", folder / "gamma.dl2.h5"
    code, complaints = run_script(
        "--models", forests, "--apply", source, output, stubs=str(stubs)
    )
    assert code == 5
    assert f"disk full: {folder}" in complaints
    assert list(folder.iterdir()) == []


@pytest.mark.slow
def test_script(samples, small_config, tmp_path):
    models, output = tmp_path / "models", tmp_path / "applied.dl2.h5"
    gamma, proton = samples / "gamma.dl1.h5", samples / "proton.dl1.h5"
    options = ["--models", models, "--config", small_config, "--gamma", gamma]
    code, complaints = run_script(*options, "--proton", proton, "--apply", gamma, output)
    assert code == 0, complaints
    names = {"energy.pkl", "disp.pkl", "classifier.pkl"}
    assert {path.name for path in models.iterdir()} == names
    assert_every_bright_event_is_reconstructed(output)
    assert {path.name for path in tmp_path.iterdir()} == {
        "config",
        "models",
        "applied.dl2.h5",
    }
