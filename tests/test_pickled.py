import gc
import json
import pickle
import subprocess
import sys
import weakref
from contextlib import contextmanager
from copy import deepcopy

import astropy.units as u
import numpy as np
import pytest
import tables
from astropy.table import Table, vstack
from ctapipe.containers import EventType
from ctapipe.core import Provenance, ToolConfigurationError, run_tool
from ctapipe.instrument import SubarrayDescription
from ctapipe.io import TableLoader
from ctapipe.reco import Reconstructor
from ctapipe.tools.apply_models import ApplyModels
from ctapipe.tools.process import ProcessorTool
from models import make_model
from traitlets.config import Config

from ctapipe_gphysnet.checkpoint import read_model
from ctapipe_gphysnet.inference import Predictor
from ctapipe_gphysnet.pickled import PickledProduct, export
from ctapipe_gphysnet.products import PRODUCTS
from ctapipe_gphysnet.resources import DEFAULT_MODEL

WITH_IMAGES = "--TableLoader.dl1_images=True"


@pytest.fixture(scope="module")
def model_path(lst_telescope, tmp_path_factory):
    return make_model(
        tmp_path_factory.mktemp("model") / "small.safetensors",
        lst_telescope,
        uncertainty=True,
    )


@pytest.fixture(scope="module")
def pickles(model_path, tmp_path_factory):
    return export(model_path, tmp_path_factory.mktemp("pickles"))


@contextmanager
def counted_images():
    """Numbers of images in every call of the network."""
    predict, sizes = Predictor.predict, []

    def count(self, images):
        sizes.append(len(images))
        return predict(self, images)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Predictor, "predict", count)
        yield sizes


@pytest.fixture
def n_images():
    with counted_images() as sizes:
        yield sizes


# The stock tool, as a user runs it


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Options of the reconstructor, the same file for both tools."""
    criteria = {"quality_criteria": [["bright", "parameters.hillas.intensity > 100"]]}
    options = {"device": "cpu", "GammaPhysNetQualityQuery": criteria}
    path = tmp_path_factory.mktemp("config") / "config.json"
    path.write_text(json.dumps({"GammaPhysNetReconstructor": options}))
    return path


def run(tool, output, *arguments, raises=True):
    """Run a tool of ctapipe; returns the exit code."""
    Provenance().clear()
    argv = [f"--output={output}", *arguments]
    return run_tool(tool, argv, cwd=output.parent, raises=raises)


def apply_models(sample_path, output, pickles, *arguments, raises=True):
    reconstructors = [f"--reconstructor={path}" for path in pickles]
    arguments = [f"--input={sample_path}", *reconstructors, *arguments]
    return run(ApplyModels(), output, *arguments, raises=raises)


@pytest.fixture(scope="module")
def applied(sample_path, pickles, config, tmp_path_factory):
    """DL2 file of ctapipe-apply-models and how many images went through the network."""
    output = tmp_path_factory.mktemp("applied") / "sample.dl2.h5"
    arguments = [WITH_IMAGES, "--chunk-size=250", f"--config={config}"]
    with counted_images() as sizes:
        apply_models(sample_path, output, pickles, *arguments)
    return output, sizes


@pytest.fixture(scope="module")
def processed(sample_path, model_path, config, tmp_path_factory):
    """DL2 file of ctapipe-process."""
    output = tmp_path_factory.mktemp("processed") / "sample.dl2.h5"
    run(
        ProcessorTool(),
        output,
        f"--input={sample_path}",
        f"--config={config}",
        "--write-parameters",
        "--write-showers",
        "--ShowerProcessor.reconstructor_types=GammaPhysNetReconstructor",
        f"--GammaPhysNetReconstructor.models={model_path}",
    )
    return output


def read(path):
    """Telescope events and array events with their DL2 columns."""
    with TableLoader(path) as loader:
        return (
            loader.read_telescope_events(dl1_parameters=True, dl2=True),
            loader.read_subarray_events(dl2=True),
        )


def of_this_package(names):
    return {name for name in names if name.startswith("GammaPhysNet")}


def test_same_as_ctapipe_process(applied, processed):
    for table, expected in zip(read(applied[0]), read(processed)):
        assert len(table) == 600
        np.testing.assert_array_equal(table["event_id"], expected["event_id"])
        names = of_this_package(expected.colnames)
        assert of_this_package(table.colnames) == names
        for name in names:
            assert table[name].unit == expected[name].unit
            if expected[name].dtype.kind == "f":
                # here one image goes through the network alone, there with others
                tolerance = {"rtol": 1e-4, "err_msg": name}
                np.testing.assert_allclose(table[name], expected[name], **tolerance)
            else:
                np.testing.assert_array_equal(table[name], expected[name], name)
        for key in of_this_package(expected.meta):
            assert table.meta[key] == expected.meta[key]


def test_events_that_fail_the_criteria(applied):
    telescope_wise, array_wise = read(applied[0])
    passed = np.asarray(telescope_wise["hillas_intensity"] > 100)
    assert 100 < passed.sum() < 600
    for product in PRODUCTS:
        for table, prefix in (
            (telescope_wise, f"{product.prefix}_tel"),
            (array_wise, product.prefix),
        ):
            np.testing.assert_array_equal(table[f"{prefix}_is_valid"], passed)
            names = product.nothing if prefix.endswith("_tel") else product.averaged
            for name in names:
                finite = np.isfinite(table[f"{prefix}_{name}"])
                np.testing.assert_array_equal(finite, passed)


def test_images_go_through_the_network_once(applied):
    path, n_images = applied
    assert len(n_images) == 3
    assert sum(n_images) == read(path)[0]["GammaPhysNetEnergy_tel_is_valid"].sum()


def test_model_is_named(applied, model_path):
    path, _ = applied
    with tables.open_file(path) as file:
        for group in (
            "telescope/geometry/GammaPhysNetGeometry/tel_001",
            "subarray/geometry/GammaPhysNetGeometry",
        ):
            attributes = file.get_node(f"/dl2/event/{group}").attrs
            identity = attributes["GammaPhysNetGeometry_model_sha256"]
            assert identity == read_model(model_path).identity
    log = next(path.parent.glob("*.provenance.log")).read_text()
    assert str(model_path) in log


def failure(capfd, *arguments):
    """What ctapipe-apply-models says when it fails."""
    capfd.readouterr()
    assert apply_models(*arguments, raises=False) == 2
    error = capfd.readouterr().err
    assert "Traceback" not in error
    assert "No model" not in error
    return next(line for line in error.splitlines() if "ERROR" in line)


def test_images_not_asked_for(sample_path, pickles, tmp_path, capfd):
    error = failure(capfd, sample_path, tmp_path / "x.h5", pickles)
    assert "no image, peak_time: γ-PhysNet needs --TableLoader.dl1_images=True" in error


def test_model_changed(sample_path, movable, lst_telescope, tmp_path, capfd):
    path, pickled = movable
    make_model(path, lst_telescope, seed=6, tasks=("energy",))
    error = failure(capfd, sample_path, tmp_path / "x.h5", [pickled], WITH_IMAGES)
    assert f"{path} is not the model that was exported" in error
    assert read_model(path).identity in error


# Pickles by themselves


def attached(path, subarray):
    """A pickle as ctapipe reads it."""
    return Reconstructor.read(path, subarray=subarray)


@pytest.fixture
def subarray(lst_telescope):
    """Two telescopes like LST-1, and telescope 7 with other optics."""
    other = deepcopy(lst_telescope)
    other.optics.effective_focal_length *= 2
    return SubarrayDescription(
        "test array",
        tel_positions={t: [100 * t, 0, 0] * u.m for t in (1, 2, 7)},
        tel_descriptions={1: lst_telescope, 2: lst_telescope, 7: other},
        reference_location=None,
    )


def make_table(seed, tel_id=1, n_events=6):
    """Telescope events with random blobs."""
    rng = np.random.default_rng([seed, tel_id])
    charge = rng.normal(0, 1.5, (n_events, 1855)).astype(np.float32)
    for image, start in zip(charge, rng.integers(0, 1800, n_events)):
        image[start : start + 30] += rng.uniform(10, 80)
    return Table(
        {
            "obs_id": np.ones(n_events, dtype=int),
            "event_id": np.arange(n_events),
            "tel_id": np.full(n_events, tel_id),
            "image": charge,
            "peak_time": rng.uniform(10, 30, charge.shape).astype(np.float32),
            "telescope_pointing_altitude": np.full(n_events, 70) * u.deg,
            "telescope_pointing_azimuth": np.full(n_events, 10) * u.deg,
            "hillas_intensity": np.where(np.arange(n_events) == 2, 10.0, 1000.0),
            "event_type": np.full(n_events, EventType.SUBARRAY.value),
        }
    )


@pytest.fixture
def movable(lst_telescope, tmp_path):
    """A model file of one's own, and a pickle that refers to it."""
    path = make_model(tmp_path / "mine.safetensors", lst_telescope, tasks=("energy",))
    (pickled,) = export(path, tmp_path / "pickles")
    return path, pickled


def test_small(pickles):
    assert [path.name for path in pickles] == [
        "energy.pkl",
        "geometry.pkl",
        "particle_type.pkl",
    ]
    assert all(path.stat().st_size < 1000 for path in pickles)


def test_ctapipe_process_does_not_list_it():
    code = """
from ctapipe.reco import Reconstructor
names = list(Reconstructor.non_abstract_subclasses())
assert "GammaPhysNetReconstructor" in names
assert "PickledProduct" not in names
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_model_moved(movable, subarray, tmp_path):
    path, pickled = movable
    path.rename(tmp_path / "elsewhere.safetensors")
    with pytest.raises(ToolConfigurationError, match="moved or damaged, export it") as e:
        attached(pickled, subarray)
    assert str(path) in str(e.value)


def test_weights_damaged(movable, subarray):
    path, pickled = movable
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)
    reconstructor = attached(pickled, subarray)
    with pytest.raises(ToolConfigurationError, match="weights differ from the hash"):
        reconstructor.predict_table(subarray.tel[1], make_table(0))


def test_no_telescope_has_the_camera(pickles, subarray):
    reconstructor = attached(pickles[0], subarray.select_subarray([7]))
    with pytest.raises(ToolConfigurationError, match="No telescope .*focal_length"):
        reconstructor.predict_table(subarray.tel[7], make_table(0, 7))


def test_not_for_events(pickles, subarray):
    with pytest.raises(ToolConfigurationError, match="GammaPhysNetReconstructor"):
        attached(pickles[0], subarray)(None)


def test_no_warning_of_other_telescopes(pickles, subarray, caplog):
    attached(pickles[0], subarray)
    assert caplog.messages == []


def test_shipped_model_goes_by_its_name(tmp_path):
    paths = export(DEFAULT_MODEL, tmp_path)
    assert pickle.loads(paths[0].read_bytes()).model == DEFAULT_MODEL


def test_relative_path_becomes_absolute(model_path, tmp_path, monkeypatch):
    monkeypatch.chdir(model_path.parent)
    paths = export(model_path.name, tmp_path)
    assert pickle.loads(paths[0].read_bytes()).model == str(model_path)


def energy(reconstructor, table, tel_id=1):
    telescope = reconstructor.subarray.tel[tel_id]
    (result,) = reconstructor.predict_table(telescope, table).values()
    return np.asarray(result["GammaPhysNetEnergy_tel_energy"])


def test_calibration_events_are_not_reconstructed(pickles, subarray):
    reconstructor, table = attached(pickles[0], subarray), make_table(0)
    plain = energy(reconstructor, table)
    table["event_type"][[1, 3]] = EventType.FLATFIELD.value, EventType.UNKNOWN.value
    found = energy(reconstructor, table)
    assert np.isfinite(plain[[1, 3]]).all()
    plain[1] = np.nan
    np.testing.assert_array_equal(found, plain)


def test_results_are_those_of_the_events(pickles, subarray, n_images):
    first, second = attached(pickles[0], subarray), attached(pickles[1], subarray)
    table = make_table(0)
    before = energy(first, table)
    assert np.flatnonzero(np.isnan(before)).tolist() == [2]
    second.predict_table(subarray.tel[1], table)
    assert n_images == [5]
    table["image"][3] *= 2  # the same table, but not the same events
    after = energy(first, table)
    assert np.flatnonzero(after != before).tolist() == [2, 3]
    table["hillas_intensity"][0] = 0
    assert np.isnan(energy(first, table)[0])
    assert n_images == [5, 5, 4]


def test_memory_is_bounded(pickles, subarray, n_images):
    reconstructor = attached(pickles[0], subarray)
    for seed in (*range(4), 1, 0):
        energy(reconstructor, make_table(seed))
    # as many as there are telescopes are kept
    assert len(reconstructor.inference._latest) == 3
    assert len(n_images) == 5


def test_network_ends_with_the_pickles(pickles, subarray):
    reconstructors = [attached(path, subarray) for path in pickles]
    (inference,) = {reconstructor.inference for reconstructor in reconstructors}
    inference = weakref.ref(inference)
    del reconstructors
    gc.collect()
    assert inference() is None


def test_all_images_bad(pickles, subarray):
    table = make_table(0)
    table["image"] = np.nan
    assert np.isnan(energy(attached(pickles[0], subarray), table)).all()


def test_telescopes_with_and_without_model(pickles, subarray, caplog):
    reconstructor = attached(pickles[0], subarray)
    parts = [make_table(0, tel_id) for tel_id in (1, 2, 7)]
    for tel_id, part in zip((1, 2), parts):
        result = reconstructor.predict_table(subarray.tel[tel_id], part)
        for column in result[PRODUCTS[0].property].itercols():
            part[column.name] = column
    # ctapipe takes it for "No model" and goes on
    with pytest.raises(KeyError, match="no model for telescopes of type"):
        reconstructor.predict_table(subarray.tel[7], parts[2])
    assert "focal_length" in caplog.text
    together = vstack(parts)
    together.sort(["event_id", "tel_id"])
    table = reconstructor.stereo_combiner.predict_table(together)
    prefix = "GammaPhysNetEnergy"
    single = np.array([np.asarray(part[f"{prefix}_tel_energy"]) for part in parts[:2]])
    np.testing.assert_allclose(table[f"{prefix}_energy"], single.mean(axis=0))
    spread = np.std(single, axis=0, ddof=1)
    np.testing.assert_allclose(table[f"{prefix}_energy_uncert"], spread)
    used = [list(tel_ids) for tel_ids in table[f"{prefix}_telescopes"]]
    assert used == [[1, 2], [1, 2], [], [1, 2], [1, 2], [1, 2]]
    assert table[f"{prefix}_is_valid"].tolist() == [bool(tel_ids) for tel_ids in used]


def test_events_of_telescopes_without_model_alone(pickles, subarray):
    reconstructor = attached(pickles[1], subarray)
    table = reconstructor.stereo_combiner.predict_table(make_table(0, 7))
    assert len(table) == 6
    assert not table["GammaPhysNetGeometry_is_valid"].any()
    assert np.isnan(table["GammaPhysNetGeometry_alt"]).all()
    assert table["GammaPhysNetGeometry_alt"].unit == u.deg


def test_weights_need_parameters(pickles, subarray):
    reconstructor = attached(pickles[0], subarray)
    reconstructor.config = Config(
        {"GammaPhysNetReconstructor": {"stereo_weights": "intensity"}}
    )
    parts = [make_table(0, tel_id) for tel_id in (1, 2)]
    for part, intensity in zip(parts, (300, 100)):
        part["hillas_intensity"] = float(intensity)
        part["hillas_length"], part["hillas_width"] = 2.0, 1.0
        result = reconstructor.predict_table(subarray.tel[1], part)
        part["GammaPhysNetEnergy_tel_is_valid"] = True
        part["GammaPhysNetEnergy_tel_energy"] = result[PRODUCTS[0].property][
            "GammaPhysNetEnergy_tel_energy"
        ]
    together = vstack(parts)
    together.sort(["event_id", "tel_id"])
    table = reconstructor.stereo_combiner.predict_table(together)
    single = [np.asarray(part["GammaPhysNetEnergy_tel_energy"]) for part in parts]
    expected = np.average(single, axis=0, weights=[3, 1])
    np.testing.assert_allclose(table["GammaPhysNetEnergy_energy"], expected)


def test_export_refuses_to_overwrite(pickles, model_path, lst_telescope, tmp_path):
    folder = pickles[0].parent
    before = [path.read_bytes() for path in pickles]
    with pytest.raises(FileExistsError, match="energy.pkl exists"):
        export(model_path, folder)
    assert [path.read_bytes() for path in pickles] == before


def test_export_replaces_all_of_an_earlier_one(model_path, movable, tmp_path):
    export(model_path, tmp_path / "folder")
    (path,) = export(movable[0], tmp_path / "folder", overwrite=True)
    assert list((tmp_path / "folder").iterdir()) == [path]


def test_missing_model_leaves_no_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="no model 'nowhere'"):
        export("nowhere", tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


def test_other_identity():
    with pytest.raises(ToolConfigurationError, match="not the model that was exported"):
        PickledProduct("GammaPhysNetEnergy", DEFAULT_MODEL, "0" * 64)
