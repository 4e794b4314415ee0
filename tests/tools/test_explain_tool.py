import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import astropy.units as u
import numpy as np
import pytest
import tables
import torch
from astropy.table import Table
from ctapipe.coordinates import TelescopeFrame
from ctapipe.instrument import SubarrayDescription
from ctapipe.io import read_table
from matplotlib.figure import Figure
from running import run

from ctapipe_gphysnet.checkpoint import read_model, write_model
from ctapipe_gphysnet.explain import Explainer
from ctapipe_gphysnet.inference import Predictor
from ctapipe_gphysnet.relevance import centroid, share_inside
from ctapipe_gphysnet.tools.explain import ExplainTool

pytest.importorskip("captum", reason="the extra explain is not installed")

IMAGES = "/dl1/event/telescope/images/tel_001"
TRUE_IMAGES = "/simulation/event/telescope/images/tel_001"
PARAMETERS = "/dl1/event/telescope/parameters"
OUTPUTS = ["gammaness", "energy", "fov_lon", "fov_lat", "impact_x", "impact_y"]
ATTENTION = ("attention_1", "attention_2", "attention_3", "attention_product")


def explain(inputs, models, output, *arguments):
    """Exit code of gphysnet-explain, without pictures if nothing else is said."""
    return run(
        ExplainTool(),
        *[f"--input={path}" for path in inputs],
        *[f"--model={model}" for model in models],
        f"--output={output}",
        *("--no-progress", "--device=cpu"),
        *arguments,
        *([] if any("event" in str(a) for a in arguments) else ["--events=0"]),
        cwd=output.parent,
    )


@pytest.fixture(scope="module")
def events_path(sample_path, tmp_path_factory):
    """The first gamma rays and the last protons of the sample."""
    path = tmp_path_factory.mktemp("explain") / "events.dl1.h5"
    shutil.copy(sample_path, path)
    with tables.open_file(path, "a") as file:
        for table in file.walk_nodes("/", "Table"):
            if table.nrows == 600:
                table.remove_rows(16, 588)
    return path


@pytest.fixture(scope="module")
def models(random_model):
    """Two seeds with dual attention and one network without attention."""
    small = {"channels": (4, 4, 8), "reduction_ratio": 2}
    paths = [random_model(f"dual{i}", attention="dual", seed=i, **small) for i in (1, 2)]
    for path in paths:
        model = read_model(path)
        with torch.no_grad():
            for attention in model.network.backbone.attentions:
                attention.spatial.weight *= 300  # else it is the same all over the camera
        write_model(path, model)
    tasks = ("energy", "particle_type")
    return [*paths, random_model("none1", tasks=tasks, seed=3, **small)]


@pytest.fixture(scope="module")
def explained(events_path, models, tmp_path_factory):
    """The output folder, and what was drawn in it of two events."""
    output = tmp_path_factory.mktemp("explained") / "explain"
    options = ("--sign=absolute", "--events=2", "--batch-size=5")
    drawn = []

    def draw(event, names):
        drawn.append((event, names))
        return Figure((1, 1))

    with pytest.MonkeyPatch.context() as patch:
        # drawing all maps takes seconds
        patch.setattr("ctapipe_gphysnet.tools.explain.draw_event", draw)
        assert explain([events_path], models, output, *options) == 0
    return output, drawn


@pytest.fixture(scope="module")
def results(explained):
    """Function: one of the tables."""
    output, _ = explained

    def read(group, what):
        return read_table(output / "explain.h5", f"/explain/{group}/{what}/tel_001")

    return read


@pytest.fixture
def refused(events_path, models, tmp_path, capfd):
    """Function: the one line in which gphysnet-explain says why it stops."""

    def refuse(*arguments, inputs=(events_path,), models=models[:1], output=None):
        output = output or tmp_path / "refused"
        before = set(output.parent.iterdir()) | {output.parent / LOG}
        assert explain(inputs, models, output, *arguments) != 0
        assert set(output.parent.iterdir()) | {output.parent / LOG} == before
        error = capfd.readouterr().err
        assert "Traceback" not in error
        return next(line for line in error.splitlines() if "ERROR" in line)

    return refuse


LOG = "gphysnet-explain.provenance.log"


def criteria(folder, *expressions):
    """Option for quality criteria."""
    query = {"quality_criteria": [["a criterion", text] for text in expressions]}
    path = folder / "criteria.json"
    path.write_text(json.dumps({"GammaPhysNetQualityQuery": query}))
    return f"--config={path}"


def test_files(explained):
    output, drawn = explained
    names = {path.name for path in output.iterdir()}
    pictures = {name for name in names if name.endswith(".png")}
    assert names - pictures == {"explain.h5", "summary.ecsv"}
    kinds = sorted(name.split("_7000")[0] for name in pictures)
    # without attention, there is no picture of it
    assert (
        kinds == ["attention_dual"] * 2 + ["relevance_dual"] * 2 + ["relevance_none"] * 2
    )
    assert not [path for path in output.parent.iterdir() if path.name.startswith(".")]


def test_what_is_drawn(explained, results, events_path):
    _, drawn = explained
    parameters = read_table(events_path, f"{PARAMETERS}/tel_001")
    images = read_table(events_path, IMAGES)
    showers = read_table(events_path, "/simulation/event/subarray/shower")
    maps = results("dual", "maps")
    passed = parameters[parameters["hillas_intensity"] > 50]
    by_brightness = passed["event_id"][np.argsort(passed["hillas_intensity"])]
    # the brightest of the fainter half and that of the other half, in the middle of each
    quarters = np.array([1, 3]) * len(passed) // 4
    found = set()
    for event, names in drawn:
        row = next(i for i, e in enumerate(images) if str(e["event_id"]) in event.title)
        found.add(images["event_id"][row])
        np.testing.assert_array_equal(event.charge, images["image"][row])
        np.testing.assert_array_equal(event.showers["cleaned"], images["image_mask"][row])
        energy = showers["true_energy"].quantity[row].to_value(u.GeV)
        assert f"{float(f'{energy:.2g}'):g} GeV" in event.title or energy > 1000
        assert "gammaness 0." in event.title
        if "group none" in event.title:
            assert names == ["gammaness", "energy"]
            assert event.reconstructed_source is None
            continue
        assert names in (OUTPUTS, ATTENTION)
        assert event.reconstructed_source.shape == (2, 2)
        if showers["true_shower_primary_id"][row] == 0:
            assert np.hypot(*event.true_source) == pytest.approx(0.4, abs=1e-3)
        mean = maps["energy_mean"][maps["event_id"] == images["event_id"][row]][0]
        np.testing.assert_allclose(event.maps["energy"].mean(axis=0), mean, rtol=1e-5)
    assert found == set(by_brightness[quarters])


def test_rows_are_the_events_that_pass(results, events_path):
    parameters = read_table(events_path, f"{PARAMETERS}/tel_001")
    passed = parameters[parameters["hillas_intensity"] > 50]
    assert 10 < len(passed) < 28
    for what in ("maps", "statistic"):
        for group in ("dual", "none"):
            table = results(group, what)
            for name in ("obs_id", "event_id", "tel_id"):
                np.testing.assert_array_equal(table[name], passed[name])
    assert table.meta["models"] == "none1"
    assert table.meta["sign"] == "absolute"


def test_maps_are_mean_and_spread_over_seeds(results, events_path, models):
    table = results("dual", "maps")
    names = [f"{n}_{w}" for n in (*OUTPUTS, *ATTENTION) for w in ("mean", "std")]
    assert table.colnames == ["obs_id", "event_id", "tel_id", *names]
    for name in names:
        assert table[name].shape == (len(table), 1855)
    for name in OUTPUTS:
        np.testing.assert_allclose(table[f"{name}_mean"].sum(axis=1), 1, rtol=1e-4)

    images = read_table(events_path, IMAGES)
    row = int(np.flatnonzero(images["event_id"] == table["event_id"][3])[0])
    telescope = SubarrayDescription.from_hdf(events_path).tel[1]
    maps = []
    for path in models[:2]:
        predictor = Predictor.from_file(path, device="cpu")
        match = predictor.match(telescope)
        prepared = predictor.prepare(
            images["image"][[row]], images["peak_time"][[row]], match
        )
        explanation = Explainer(predictor.model.network, sign="absolute")(prepared)
        energy = np.empty(1855)
        energy[match.permutation] = explanation.relevance["energy"][0]
        product = np.empty(1855)
        product[match.permutation] = np.prod(explanation.attention, axis=0)[0]
        maps.append({"energy": energy / energy.sum(), "attention_product": product})
    for name in maps[0]:
        both = np.array([one[name] for one in maps])
        for what, expected in (("mean", both.mean(0)), ("std", both.std(0, ddof=1))):
            found = table[f"{name}_{what}"][3]
            np.testing.assert_allclose(found, expected, rtol=2e-3, atol=1e-6)


def test_maps_of_one_network_have_no_spread(results):
    table = results("none", "maps")
    assert table.colnames[3:] == ["gammaness_mean", "energy_mean"]


def test_statistic_is_that_of_the_maps(results, events_path):
    maps = results("none", "maps")
    table = results("none", "statistic")
    images = read_table(events_path, IMAGES)
    true = read_table(events_path, TRUE_IMAGES)["true_image"]
    rows = np.isin(images["event_id"], table["event_id"])
    geometry = SubarrayDescription.from_hdf(events_path).tel[1].camera.geometry
    camera = geometry.transform_to(TelescopeFrame())
    positions = u.Quantity([camera.pix_x, camera.pix_y]).to_value(u.deg).T
    for shower, inside, charge in (
        ("true", true[rows] > 0, true[rows]),
        ("cleaned", images["image_mask"][rows], images["image"][rows]),
    ):
        energy = np.asarray(maps["energy_mean"], dtype=float)
        share = share_inside(energy, np.asarray(inside))
        assert table[f"energy_{shower}_share"].shape == (len(table), 1)
        np.testing.assert_allclose(
            table[f"energy_{shower}_share"][:, 0], share, rtol=1e-4, atol=1e-6
        )
        place = centroid(np.where(inside, charge, 0).astype(float), positions)
        distance = np.hypot(*(centroid(energy, positions) - place).T)
        column = table[f"energy_{shower}_distance"]
        assert column.unit == u.deg
        np.testing.assert_allclose(column[:, 0], distance, rtol=1e-2, atol=1e-3)
        np.testing.assert_allclose(
            table[f"uniform_{shower}_share"], np.asarray(inside).mean(axis=1)
        )


def test_attention_counts_from_its_floor_on(results, events_path):
    maps, table = results("dual", "maps"), results("dual", "statistic")
    images = read_table(events_path, IMAGES)
    inside = images["image_mask"][np.isin(images["event_id"], table["event_id"])]
    found = table["attention_3_cleaned_share"]
    assert found.shape == (len(table), 2)
    # that of the mean of two maps lies between theirs
    mean = np.asarray(maps["attention_3_mean"], dtype=float)
    share = share_inside(mean - 1, np.asarray(inside))
    assert (found.min(axis=1) - 1e-5 <= share).all()
    assert (share <= found.max(axis=1) + 1e-5).all()
    # and far from that of a map whose floor counts
    assert np.abs(share - share_inside(mean, np.asarray(inside))).max() > 2e-4


def test_summary(explained, results, events_path, models):
    summary = Table.read(explained[0] / "summary.ecsv")
    statistic = results("dual", "statistic")
    gamma = statistic["true_shower_primary_id"] == 0
    assert 0 < gamma.sum() < len(gamma)
    row = summary[
        (summary["group"] == "dual")
        & (summary["model"] == "all")
        & (summary["particle"] == "gamma")
        & (summary["map"] == "fov_lat")
        & (summary["shower"] == "true")
    ]
    assert len(row) == 1
    share = np.asarray(statistic["fov_lat_true_share"])[gamma]
    assert row["n_events"][0] == gamma.sum()
    np.testing.assert_allclose(row["share"][0], share.mean(), rtol=1e-5)
    np.testing.assert_allclose(
        row["share_spread"][0], share.mean(axis=0).std(ddof=1), rtol=1e-4
    )
    np.testing.assert_allclose(
        row["share_uniform"][0], statistic["uniform_true_share"][gamma].mean()
    )
    distance = np.asarray(statistic["fov_lat_true_distance"])[gamma]
    assert summary["distance"].unit == u.deg
    np.testing.assert_allclose(
        row["distance_median"][0], np.median(distance.mean(axis=1)), rtol=1e-5
    )
    assert set(summary["particle"]) == {"gamma", "proton"}
    assert set(summary["model"][summary["group"] == "none"]) == {"all"}
    assert set(summary["model"][summary["group"] == "dual"]) == {"dual1", "dual2", "all"}
    # 2 particles, 2 ways to tell the shower; 10 maps of 2 models and their mean, 2 of 1
    assert len(summary) == 4 * (10 * 3 + 2)
    meta = summary.meta
    assert meta["inputs"] == [events_path.name]
    assert list(meta["models"]["dual"]) == [path.stem for path in models[:2]]
    assert len(meta["models"]["none"]["none1"]) == 64
    assert meta["quality_criteria"] == ["parameters.hillas.intensity > 50"]
    assert (meta["sign"], meta["true_charge_above"]) == ("absolute", 0)


def test_batches_chunks_and_files_make_no_difference(
    results, events_path, models, tmp_path, monkeypatch
):
    """Of two files with the same events every row is there twice."""
    monkeypatch.setattr("ctapipe_gphysnet.explain_events.CHUNK_SIZE", 20)
    other = tmp_path / "other.dl1.h5"
    shutil.copy(events_path, other)
    output = tmp_path / "twice"
    options = ("--sign=absolute", "--no-maps", "--explain=energy")
    assert explain([events_path, other], models[:2], output, *options) == 0
    with tables.open_file(output / "explain.h5") as file:
        assert [node._v_name for node in file.root.explain.dual] == ["statistic"]
    found = read_table(output / "explain.h5", "/explain/dual/statistic/tel_001")
    expected = results("dual", "statistic")
    assert len(found) == 2 * len(expected)
    for name in found.colnames:
        for half in (found[: len(expected)], found[len(expected) :]):
            np.testing.assert_allclose(half[name], expected[name], rtol=1e-4)


def test_pictures_of_events_by_id(events_path, models, tmp_path):
    parameters = read_table(events_path, f"{PARAMETERS}/tel_001")
    row = parameters[np.nanargmax(parameters["hillas_intensity"])]
    output = tmp_path / "explain"
    options = (f"--event-id={row['event_id']}", "--no-maps", "--explain=energy")
    options += (criteria(tmp_path, f"parameters.hillas.intensity > {row[3] - 1}"),)
    assert explain([events_path], models[2:], output, *options) == 0
    pictures = [path.name for path in output.glob("*.png")]
    assert pictures == [f"relevance_none_{row['obs_id']}_{row['event_id']}_tel_001.png"]


def test_observed_events_of_an_array(array_path, models, tmp_path, capfd):
    """No truth, several telescopes, one of another type."""
    output = tmp_path / "explain"
    options = ("--no-maps", "--sign=absolute", "--explain=energy")
    assert explain([array_path], [f"my_group={models[2]}"], output, *options) == 0
    log = capfd.readouterr().err
    assert "array.dl1.h5 has no true images: the pixels of the shower" in log
    with tables.open_file(output / "explain.h5") as file:
        names = [node._v_name for node in file.root.explain.my_group.statistic]
    assert names == ["tel_001", "tel_003"]
    statistic = read_table(output / "explain.h5", "/explain/my_group/statistic/tel_003")
    assert "true_shower_primary_id" not in statistic.colnames
    summary = Table.read(output / "summary.ecsv")
    assert set(summary["particle"]) == {"unknown"}
    assert set(summary["shower"]) == {"cleaned"}
    assert list(summary["map"]) == ["energy"]
    assert summary["n_events"][0] > 5


def test_threshold_of_true_pixels(events_path, models, tmp_path):
    shares = []
    for threshold in (0, 5):
        output = tmp_path / f"explain{threshold}"
        options = (f"--true-charge-above={threshold}", "--no-maps", "--explain=energy")
        assert explain([events_path], models[2:], output, *options) == 0
        table = read_table(output / "explain.h5", "/explain/none/statistic/tel_001")
        shares.append(table["uniform_true_share"])
    assert (shares[1] < shares[0]).all()


def test_earlier_output(refused, explained, events_path, models, tmp_path):
    explained, _ = explained
    line = refused(output=explained)
    assert f"{explained} exists; choose another name or give --overwrite" in line
    other = tmp_path / "other"
    other.mkdir()
    line = refused("--overwrite", output=other)
    assert "has no explain.h5, so it is not an output of this tool" in line
    earlier = tmp_path / "earlier"
    shutil.copytree(explained, earlier)
    options = ("--overwrite", "--no-maps", "--explain=energy")
    assert explain([events_path], models[2:], earlier, *options) == 0
    assert {path.name for path in earlier.iterdir()} == {"explain.h5", "summary.ecsv"}


def test_output_that_cannot_be(events_path, tmp_path, capfd):
    arguments = ["-i", events_path, "-o", tmp_path / "nowhere" / "explain"]
    assert run(ExplainTool(), *arguments, cwd=tmp_path) != 0
    assert f"{tmp_path / 'nowhere'} is not a directory" in capfd.readouterr().err


def test_failure_half_way_leaves_nothing(
    events_path, models, tmp_path, monkeypatch, capfd
):
    from ctapipe_gphysnet import explain as module

    call = module.Ensemble.__call__

    def fail_later(self, charge, *rest):
        if len(charge) < 8:
            raise KeyboardInterrupt
        return call(self, charge, *rest)

    monkeypatch.setattr(module.Ensemble, "__call__", fail_later)
    assert explain([events_path], models[2:], tmp_path / "x", "--batch-size=8") != 0
    assert {path.name for path in tmp_path.iterdir()} <= {LOG}


def test_disk_full(refused, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ctapipe_gphysnet.tools.explain.write_table", fail)
    line = refused()
    assert "cannot be written: [Errno 28] No space left on device" in line
    assert "GB are free there" in line


def test_models_of_different_cameras(refused, array_path, random_model, models):
    other = SubarrayDescription.from_hdf(array_path).tel[7]
    far = random_model("far", other, channels=(4, 4, 8))
    line = refused(models=[models[2], f"far={far}"])
    assert "the models are for different cameras" in line
    assert "far: focal_length is" in line
    line = refused(models=[far])
    assert "no telescope of" in line
    assert "has the camera of the models: far: focal_length is" in line


def test_model_without_the_output(refused, models):
    line = refused("--explain=fov_lon", models=models[2:])
    assert "none1.safetensors: no output 'fov_lon'" in line
    assert "the outputs gammaness, energy" in line


def test_models_that_do_not_go_together(refused, models, random_model):
    deep = random_model("deep", blocks=2, attention="dual", reduction_ratio=2)
    line = refused(models=[models[0], deep])
    assert "dual1.safetensors and" in line
    assert "deep.safetensors would both be in group dual" in line
    assert "blocks of the network is 1 and 2" in line
    assert "are the same" in refused(models=[models[0], models[0]])
    assert "name of a group" in refused(models=[f"a b={models[0]}"])
    assert "no model 'missing.safetensors'" in refused(models=["missing.safetensors"])


def test_no_event_passes(refused, tmp_path):
    option = criteria(tmp_path, "parameters.hillas.intensity > 1e9")
    line = refused(option)
    assert "no event passes the quality criteria" in line
    assert "parameters.hillas.intensity > 1e9" in line


def test_unknown_criterion(refused, tmp_path):
    assert "hillas.nothing" in refused(
        criteria(tmp_path, "parameters.hillas.nothing > 1")
    )


def test_events_that_cannot_be_drawn(refused, events_path):
    assert "no event 123456789 of a telescope" in refused("--event-id=123456789")
    parameters = read_table(events_path, f"{PARAMETERS}/tel_001")
    faint = parameters["event_id"][~(parameters["hillas_intensity"] > 50)][0]
    line = refused(f"--event-id={faint}")
    assert f"event {faint} fails the quality criteria" in line


def changed(path, folder, *removed):
    """Copy of a file without some nodes."""
    copy = folder / "changed.dl1.h5"
    shutil.copy(path, copy)
    with tables.open_file(copy, "a") as file:
        for node in removed:
            file.remove_node(node, recursive=True)
    return copy


def test_file_without_parameters(refused, events_path, models, tmp_path):
    path = changed(events_path, tmp_path, PARAMETERS)
    line = refused(inputs=[path])
    assert "changed.dl1.h5: no image parameters, but the quality criteria" in line
    # without criteria there is no need for them
    output = tmp_path / "explain"
    options = (criteria(tmp_path), "--no-maps", "--explain=energy", "--sign=absolute")
    assert explain([path], models[2:], output, *options) == 0
    summary = Table.read(output / "summary.ecsv")
    assert summary["n_events"][summary["shower"] == "true"].sum() == 28


def test_files_without_truth(refused, events_path, models, tmp_path):
    path = changed(events_path, tmp_path, "/simulation")
    line = refused(inputs=[events_path, path])
    assert "one is simulated and the other is not" in line
    path = changed(events_path, tmp_path, "/simulation/event/telescope/images")
    output = tmp_path / "explain"
    options = ("--no-maps", "--explain=energy")
    assert explain([events_path, path], models[2:], output, *options) == 0
    summary = Table.read(output / "summary.ecsv")
    assert set(summary["shower"]) == {"cleaned"}
    assert set(summary["particle"]) == {"gamma", "proton"}


def test_file_without_images(refused, events_path, tmp_path):
    path = changed(events_path, tmp_path, "/dl1/event/telescope/images")
    assert "changed.dl1.h5: no images" in refused(inputs=[path])


def test_other_subarray(refused, events_path, array_path):
    line = refused(inputs=[events_path, array_path])
    assert "array.dl1.h5: its subarray is not that of" in line


def test_no_events_have_an_image(refused, events_path, models, tmp_path):
    path = changed(events_path, tmp_path)
    with tables.open_file(path, "a") as file:
        table = file.root[IMAGES]
        missing = np.full((table.nrows, 1855), np.iinfo(np.int32).min + 1)  # NaN
        table.modify_column(column=missing, colname="image")
    assert "no event that passes the quality criteria has an image" in refused(
        inputs=[path]
    )


def test_no_input_and_no_output(tmp_path, capfd):
    assert run(ExplainTool(), "--output", tmp_path / "x", cwd=tmp_path) != 0
    assert "no input: give DL1 files" in capfd.readouterr().err


@pytest.mark.slow
def test_example(tmp_path):
    script = Path(__file__).parents[2] / "examples" / "explain.sh"
    # of the environment that the tests run in
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = ["sh", script, tmp_path / "explain"]
    environment = os.environ | {"PATH": path}
    result = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert "attention_product" in result.stdout
    assert len(list((tmp_path / "explain").glob("*.png"))) == 6
