import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager

import numpy as np
import pytest
import tables
from astropy.table import Table
from ctapipe.instrument import SubarrayDescription
from ctapipe.io import TableLoader, read_table, write_table
from ctapipe.tools.merge import MergeTool
from ctapipe.tools.process import ProcessorTool
from running import run

from ctapipe_gphysnet.checkpoint import read_model
from ctapipe_gphysnet.inference import Predictor
from ctapipe_gphysnet.tools.apply import ApplyTool

IMAGES = "/dl1/event/telescope/images/tel_001"
PARAMETERS = "/dl1/event/telescope/parameters/tel_001"
TRIGGER = "/dl1/event/subarray/trigger"
ENERGY = "/dl2/event/telescope/energy/GammaPhysNetEnergy/tel_001"
ENERGY_COLUMN = "GammaPhysNetEnergy_tel_energy"

pytestmark = [
    # the tables that are left open after the disk was full
    pytest.mark.filterwarnings("ignore::tables.UnclosedFileWarning"),
]


@pytest.fixture(scope="module")
def model(random_model):
    return random_model("small")


def names_in(folder):
    return {path.name for path in folder.iterdir()} - {"gphysnet-apply.provenance.log"}


@pytest.fixture
def refused(apply, tmp_path, capfd):
    """Function: the one line in which gphysnet-apply says why it stops."""

    def run_apply(inputs, *arguments, output=tmp_path / "out" / "x.h5", **options):
        output.parent.mkdir(exist_ok=True)
        before = names_in(output.parent)
        assert apply(inputs, output, *arguments, **options) != 0
        assert names_in(output.parent) == before
        error = capfd.readouterr().err
        assert "Traceback" not in error
        return next(line for line in error.splitlines() if "ERROR" in line)

    return run_apply


@pytest.fixture
def short(sample_path, tmp_path):
    """Function: copy of the first events of the sample, renumbered and changed."""

    def copy(n_events=20, name="short.dl1.h5", obs_offset=0):
        path = tmp_path / name
        shutil.copy(sample_path, path)
        with tables.open_file(path, "a") as file:
            n_total = file.root[TRIGGER].nrows
            for table in file.walk_nodes("/", "Table"):
                if "obs_id" in table.colnames:
                    table.modify_column(
                        colname="obs_id", column=table.col("obs_id") + obs_offset
                    )
                if table.nrows == n_total:
                    table.truncate(n_events)
        return path

    return copy


def tables_of(path, root="/"):
    with tables.open_file(path) as file:
        return {
            node._v_pathname: (
                node[:],
                {n: node.attrs[n] for n in node.attrs._f_list("user")},
            )
            for node in file.walk_nodes(root, "Table")
        }


def assert_same_tables(found, expected):
    assert list(found) == list(expected)
    for path, (rows, attributes) in found.items():
        expected_rows, expected_attributes = expected[path]
        assert rows.dtype == expected_rows.dtype, path
        # in array-wise tables, ctapipe 0.32 leaves the version that wrote the input
        attributes.pop("CTAPIPE_VERSION", None)
        expected_attributes.pop("CTAPIPE_VERSION", None)
        np.testing.assert_equal(attributes, expected_attributes, err_msg=path)
        for name in rows.dtype.names:
            if rows[name].dtype.kind == "f":
                np.testing.assert_allclose(
                    rows[name], expected_rows[name], rtol=2e-4, atol=1e-6, err_msg=path
                )
            else:
                np.testing.assert_array_equal(rows[name], expected_rows[name], path)


def process(path, models, tmp_path, *arguments):
    """Output of ctapipe-process."""
    output = tmp_path / "process.dl2.h5"
    code = run(
        ProcessorTool(),
        f"--input={path}",
        f"--output={output}",
        "--DataWriter.write_dl2=True",
        "--reconstructor=GammaPhysNetReconstructor",
        *[f"--GammaPhysNetReconstructor.models={path}" for path in models],
        "--GammaPhysNetReconstructor.device=cpu",
        *arguments,
        cwd=tmp_path,
    )
    assert code == 0
    return output


def criterion(folder, expression):
    """Option for a quality criterion."""
    query = {"quality_criteria": [["a criterion", expression]]}
    path = folder / "criterion.json"
    path.write_text(json.dumps({"GammaPhysNetQualityQuery": query}))
    return f"--config={path}"


@pytest.fixture
def array_models(array_path, random_model):
    """A model for each type of telescope of the array, for other products."""
    other = SubarrayDescription.from_hdf(array_path).tel[7]
    return [
        random_model("uncertain", uncertainty=True),
        random_model("other", other, tasks=("energy", "particle_type")),
    ]


def test_tables_of_one_telescope_are_those_of_ctapipe_process(
    apply, short, model, tmp_path
):
    path, output = short(60), tmp_path / "apply.dl2.h5"
    assert apply([path], output) == 0
    expected = process(path, [model], tmp_path)
    assert_same_tables(tables_of(output, "/dl2"), tables_of(expected, "/dl2"))
    valid = read_table(output, ENERGY)["GammaPhysNetEnergy_tel_is_valid"]
    assert 10 < valid.sum() < 60


@pytest.mark.parametrize("weights", ["none", "intensity", "aspect-weighted-intensity"])
def test_tables_of_an_array_are_those_of_ctapipe_process(
    apply, array_path, array_models, tmp_path, weights
):
    output = tmp_path / "apply.dl2.h5"
    options = [
        f"--GammaPhysNetReconstructor.stereo_weights={weights}",
        # "and" works on single events only
        criterion(tmp_path, "100 < parameters.hillas.intensity and True"),
    ]
    assert apply([array_path], output, *options, models=array_models) == 0
    expected = process(array_path, array_models, tmp_path, *options)
    assert_same_tables(tables_of(output, "/dl2"), tables_of(expected, "/dl2"))
    array = read_table(output, "/dl2/event/subarray/energy/GammaPhysNetEnergy")
    multiplicity = array["GammaPhysNetEnergy_telescopes"].sum(axis=1)
    assert set(multiplicity) >= {0, 1, 2}
    # the spread between telescopes; that of a single telescope, if its model has one
    uncertainty = array["GammaPhysNetEnergy_energy_uncert"]
    subarray = SubarrayDescription.from_hdf(array_path)
    lst = [subarray.tel[tel_id] != subarray.tel[7] for tel_id in subarray.tel]
    knows = array["GammaPhysNetEnergy_telescopes"][:, lst].any(axis=1)
    single = multiplicity == 1
    assert 0 < (single & knows).sum() < single.sum()
    known = (multiplicity > 1) | (single & knows)
    np.testing.assert_array_equal(np.isfinite(uncertainty), known)


def test_calibration_events_are_those_of_ctapipe_process(
    apply, array_path, array_models, tmp_path
):
    """They have rows, and nothing in them."""
    path, output = tmp_path / "observed.dl1.h5", tmp_path / "apply.dl2.h5"
    shutil.copy(array_path, path)
    kinds = np.resize([0, 32, 5, 32, 255], 20)  # flat field, shower, pedestal, unknown
    with tables.open_file(path, "a") as file:
        file.root[TRIGGER].modify_column(colname="event_type", column=kinds)
    assert apply([path], output, models=array_models) == 0
    expected = process(path, array_models, tmp_path)
    assert_same_tables(tables_of(output, "/dl2"), tables_of(expected, "/dl2"))
    array = read_table(output, "/dl2/event/subarray/energy/GammaPhysNetEnergy")
    valid = np.asarray(array["GammaPhysNetEnergy_is_valid"])
    is_calibration = np.isin(kinds, [0, 5])
    assert not valid[is_calibration].any()
    assert np.isnan(array["GammaPhysNetEnergy_energy"][is_calibration]).all()
    assert valid[~is_calibration].sum() > 5
    # only some of the triggered telescopes' rows were judged at all
    statistics = "/dl2/service/tel_event_statistics/GammaPhysNetReconstructor"
    triggered = read_table(output, TRIGGER)["tels_with_trigger"][~is_calibration]
    assert read_table(output, statistics)["counts"][0] == np.sum(triggered)


def test_tables_of_real_simulations_are_those_of_ctapipe_process(
    apply, shared_path, model, tmp_path
):
    pytest.importorskip("eventio", reason="the extra simtel is not installed")
    name = "proton_run000001_za20deg_azm180deg_North_alpha_6.0.2_test"
    simtel = shared_path(f"simtel/{name}.simtel.zst")
    dl1, output = tmp_path / "x.dl1.h5", tmp_path / "apply.dl2.h5"
    arguments = (f"--input={simtel}", f"--output={dl1}", "--write-images")
    assert run(ProcessorTool(), *arguments, cwd=tmp_path) == 0
    assert apply([dl1], output) == 0
    expected = process(dl1, [model], tmp_path)
    assert_same_tables(tables_of(output, "/dl2"), tables_of(expected, "/dl2"))


def test_blocks_and_batches_make_no_difference(apply, array_path, tmp_path, monkeypatch):
    whole, blocks = tmp_path / "whole.h5", tmp_path / "blocks.h5"
    assert apply([array_path], whole) == 0
    monkeypatch.setattr("ctapipe_gphysnet.dl1.BLOCK_SIZE", 100_000)
    monkeypatch.setattr("ctapipe_gphysnet.merging.BLOCK_SIZE", 100_000)
    predict, sizes = Predictor.predict, []

    def count(self, images):
        sizes.append(len(images))
        return predict(self, images)

    monkeypatch.setattr(Predictor, "predict", count)
    assert apply([array_path], blocks, "--batch-size=2") == 0
    assert len(sizes) > 3
    assert_same_tables(tables_of(blocks), tables_of(whole))


@pytest.mark.parametrize(
    "switch", [None, "dl1-images", "true-images", "dl1-parameters", "telescope-events"]
)
def test_the_rest_is_what_ctapipe_merge_makes(apply, short, tmp_path, switch):
    inputs = [short(30, "a.h5"), short(50, "b.h5", obs_offset=100)]
    # results of another method
    for path, n_events in zip(inputs, (30, 50)):
        rows = Table({"obs_id": np.arange(n_events)})
        rows["Other_tel_energy"] = 1.5
        write_table(rows, path, "/dl2/event/telescope/energy/Other/tel_001")
    output, expected = tmp_path / "apply.h5", tmp_path / "merge.h5"
    options = [f"--no-{switch}"] if switch else []
    assert apply(inputs, output, *options) == 0
    merge = (*inputs, f"--output={expected}", *options)
    assert run(MergeTool(), *merge, cwd=tmp_path) == 0
    found, expected = tables_of(output), tables_of(expected)
    ours = [path for path in found if "GammaPhysNet" in path]
    assert len(ours) == (4 if switch == "telescope-events" else 7)
    for path in ours:
        n_rows = len(found.pop(path)[0])
        assert n_rows == 80 or "statistics" in path
    assert_same_tables(found, expected)


def test_images_stay_compressed_as_they_are(apply, short, tmp_path):
    path, output = short(), tmp_path / "x.h5"
    assert apply([path], output) == 0
    with tables.open_file(path) as before, tables.open_file(output) as after:
        chunks = [file.root[IMAGES].read_chunk((0,)) for file in (before, after)]
    assert chunks[0] == chunks[1]


@pytest.mark.parametrize(
    ("switch", "left"), [("telescope", "subarray"), ("subarray", "telescope")]
)
def test_switches_hold_for_own_tables(apply, short, tmp_path, switch, left):
    output = tmp_path / "x.h5"
    assert apply([short()], output, f"--no-dl2-{switch}") == 0
    assert {path.split("/")[3] for path in tables_of(output, "/dl2/event")} == {left}


def test_applying_again_replaces(apply, short, random_model, tmp_path):
    other = random_model("again", tasks=("energy",))
    plain, once, twice = short(30, "a.h5", 100), tmp_path / "1.h5", tmp_path / "2.h5"
    assert apply([short(20)], once) == 0
    for inputs in ([once, plain], [plain, once]):
        assert apply(inputs, twice, "--overwrite", models=[other]) == 0
        ours = [path for path in tables_of(twice, "/dl2") if "GammaPhysNet" in path]
        assert len(ours) == 3
        with TableLoader(twice) as loader:
            events = loader.read_telescope_events(dl2=True)
        assert len(events) == 50
        assert events.meta["GammaPhysNetEnergy_model"] == "again"
        order = [0, 1] if inputs[0] is once else [1, 0]
        keys = [read_table(path, TRIGGER)["obs_id"] for path in inputs]
        assert [len(k) for k in keys] == np.array([20, 30])[order].tolist()
        np.testing.assert_array_equal(
            read_table(twice, ENERGY)["obs_id"], np.concatenate(keys)
        )


def test_a_second_name_stands_beside_the_first(apply, short, random_model, tmp_path):
    first, second = tmp_path / "first.dl2.h5", tmp_path / "second.dl2.h5"
    assert apply([short()], first) == 0
    other = random_model("other", seed=1)
    prefix = "--prefix=GammaPhysNetSeed2"
    assert apply([first], second, prefix, models=[other]) == 0
    before, after = tables_of(first), tables_of(second)
    assert {
        path: rows.tobytes() for path, (rows, _) in before.items() if "/dl2" in path
    } == {path: after[path][0].tobytes() for path in before if "/dl2" in path}
    new = set(after) - set(before)
    assert {path.split("/")[-2] for path in new if path.startswith("/dl2/event/tel")} == {
        f"GammaPhysNetSeed2{kind}" for kind in ("Energy", "Geometry", "Classifier")
    }
    assert {path.split("/")[-1] for path in new if "service" in path} == {
        "GammaPhysNetSeed2Reconstructor"
    }
    energy = ENERGY.replace("GammaPhysNet", "GammaPhysNetSeed2")
    found = after[energy][0]["GammaPhysNetSeed2Energy_tel_energy"]
    assert np.isfinite(found).any()
    assert not np.array_equal(found, after[ENERGY][0][ENERGY_COLUMN], equal_nan=True)
    assert after[energy][1]["GammaPhysNetSeed2Energy_model"] == read_model(other).name


def test_the_core_is_per_telescope(apply, short, tmp_path):
    """Against ctapipe's frames: the model's own outputs are tested elsewhere."""
    output = tmp_path / "core.dl2.h5"
    assert apply([short()], output) == 0
    with TableLoader(output) as loader:
        table = loader.read_telescope_events(dl2=True)
    valid = np.asarray(table["GammaPhysNetGeometry_tel_is_valid"])
    for axis in "xy":
        core = np.asarray(table[f"GammaPhysNetGeometry_tel_core_{axis}"])
        np.testing.assert_array_equal(np.isfinite(core), valid)
        assert np.isnan(table[f"GammaPhysNetGeometry_core_{axis}"]).all()


def test_header_and_provenance(apply, short, model, tmp_path):
    path, output = short(), tmp_path / "x.h5"
    assert apply([path], output, "--no-dl1-images") == 0
    with tables.open_file(output) as file:
        header = file.root._v_attrs
        assert header["CTA PRODUCT DATA LEVELS"] == "DL1_PARAMETERS,DL2"
        assert header["CTA ACTIVITY NAME"] == "gphysnet-apply"
        meta = file.root[ENERGY].attrs
        assert meta["GammaPhysNetEnergy_model"] == "small"
        assert meta["GammaPhysNetEnergy_model_sha256"] == read_model(model).identity
    (activity,) = json.loads((tmp_path / "gphysnet-apply.provenance.log").read_text())
    inputs = {(entry["url"], entry["role"]) for entry in activity["input"]}
    assert (str(model), "GammaPhysNet model") in inputs
    assert (str(path), "data product to merge") in inputs
    (entry,) = activity["output"]
    assert (entry["url"], entry["role"]) == (str(output), "DL2/Event")


def test_file_without_events(apply, short, tmp_path):
    empty, output = short(0, "empty.h5", 100), tmp_path / "x.h5"
    assert apply([empty], output) == 0
    assert not [path for path in tables_of(output) if "GammaPhysNetEnergy" in path]
    assert apply([empty, short()], output, "--overwrite") == 0
    assert len(read_table(output, ENERGY)) == 20


def test_triggered_telescope_without_data(apply, short, tmp_path):
    path, output = short(), tmp_path / "x.h5"
    with tables.open_file(path, "a") as file:
        for table in (file.root[IMAGES], file.root[PARAMETERS]):
            table.remove_rows(3, 5)
    assert apply([path], output) == 0
    table = read_table(output, ENERGY)
    assert len(table) == 20
    assert not table["GammaPhysNetEnergy_tel_is_valid"][3:5].any()
    assert apply([short()], output, "--overwrite") == 0
    expected = read_table(output, ENERGY)[ENERGY_COLUMN]
    expected[3:5] = np.nan
    np.testing.assert_allclose(table[ENERGY_COLUMN], expected, rtol=1e-4)


def test_no_criteria_needs_no_parameters(apply, short, tmp_path):
    path, output = short(), tmp_path / "x.h5"
    with tables.open_file(path, "a") as file:
        file.remove_node(PARAMETERS)
    option = "--GammaPhysNetReconstructor.GammaPhysNetQualityQuery.quality_criteria=[]"
    assert apply([path], output, option) == 0
    assert read_table(output, ENERGY)["GammaPhysNetEnergy_tel_is_valid"].all()


# Bad input


def change(path, what):
    """Damage a DL1 file."""
    with tables.open_file(path, "a") as file:
        if what == "no images":
            file.remove_node("/dl1/event/telescope/images", recursive=True)
        elif what == "no images of a telescope":
            file.remove_node(IMAGES)
        elif what == "no parameters":
            file.remove_node(PARAMETERS)
        elif what == "no pointing":
            pointing = file.root["/configuration/telescope/pointing/tel_001"]
            pointing.modify_column(colname="obs_id", column=pointing.col("obs_id") + 1000)
        elif what == "another order":
            images = file.root[IMAGES]
            images.modify_column(5, 7, colname="event_id", column=[0, 0])
        elif what == "no parameters of an image":
            file.root[PARAMETERS].remove_rows(3, 4)
        elif what in ("peak_time", "pixels"):
            images = file.root[IMAGES]
            rows = Table(images[:])
            if what == "pixels":
                rows["image"] = rows["image"][:, :-1]
            else:
                rows.remove_column(what)
            file.remove_node(IMAGES)
            parent, _, name = IMAGES.rpartition("/")
            file.create_table(parent, name, obj=rows.as_array())


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("no images", "no images .*--write-images"),
        ("no images of a telescope", "telescope 1 has triggered, but there is no table"),
        ("no parameters", f"no image parameters .{PARAMETERS} is missing"),
        ("no pointing", "no pointing of telescope 1 for obs_id"),
        ("another order", f"{IMAGES} is not in the order .* from row 5 on"),
        ("no parameters of an image", f"{PARAMETERS} is not in the order .* from row 3"),
        ("peak_time", f"no column peak_time in {IMAGES}"),
        ("pixels", "column image of .* has shape .1854,., but the camera has 1855"),
    ],
)
def test_bad_input(refused, short, what, message):
    path = short()
    change(path, what)
    before = path.read_bytes()
    line = refused([path])
    assert str(path) in line
    assert re.search(message, line), line
    assert path.read_bytes() == before


@pytest.mark.parametrize("size", [100, 1_000_000, 2_900_000])
def test_truncated_input(refused, sample_path, tmp_path, size):
    path = tmp_path / "truncated.h5"
    path.write_bytes(sample_path.read_bytes()[:size])
    line = refused([sample_path, path])
    assert f"{path}: cannot be read as a DL1 file" in line


def test_damaged_images(refused, short):
    path = short()
    with tables.open_file(path) as file:
        offset = file.root[IMAGES].chunk_info((0,)).offset
    with path.open("r+b") as file:
        file.seek(offset + 1000)
        file.write(bytes(1000))
    assert str(path) in refused([path])


def test_images_of_another_camera(refused, sample_path, array_path, random_model):
    model = random_model("foreign", SubarrayDescription.from_hdf(array_path).tel[7])
    line = refused([sample_path], models=[model])
    assert f"{sample_path}: No telescope of subarray" in line
    assert "foreign: focal_length is" in line


def test_files_of_different_arrays(refused, short, array_path):
    assert "its subarray is not that of" in refused([short(), array_path])


def test_repeated_observation(refused, short):
    inputs = [short(name="a.h5"), short(name="b.h5")]
    assert "obs_ids already included" in refused(inputs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--device=tpu"], "device must be auto, cpu"),
        (["--precision=float8"], "precision must be one of"),
        (["--batch-size=0"], "batch_size must be positive"),
        (["--GammaPhysNetReconstructor.modles=x"], "`modles` not recognized"),
    ],
)
def test_unusable_options(refused, short, options, message):
    assert message in refused([short()], *options)


def test_unusable_criterion(refused, short, tmp_path):
    option = criterion(tmp_path, "parameters.x > 1")
    assert "Error evaluating expression" in refused([short()], option)


# Output


def test_output_is_an_input(refused, short, tmp_path):
    one, two = short(name="a.h5"), short(name="b.h5", obs_offset=100)
    link = tmp_path / "link.h5"
    link.symlink_to(two.name)
    before = two.read_bytes()
    for output in (two, link):
        line = refused([one, two], "--overwrite", output=output)
        assert f"{output} is an input file" in line
    assert two.read_bytes() == before
    assert "given twice" in refused([two, link])


def test_output_exists(refused, apply, short, tmp_path):
    output = tmp_path / "out" / "x.h5"
    output.parent.mkdir()
    output.write_text("old")
    assert "--overwrite" in refused([short()], output=output)
    assert output.read_text() == "old"
    assert apply([short()], output, "--overwrite") == 0
    assert len(read_table(output, ENERGY)) == 20


def test_no_folder(apply, short, tmp_path, capfd):
    assert apply([short()], tmp_path / "nowhere" / "x.h5") == 2
    assert "nowhere is not a directory" in capfd.readouterr().err


def test_no_permission(refused, short, monkeypatch):
    path = short()
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    assert "no permission to write there" in refused([path])


def test_nothing_to_do(refused, sample_path, apply, tmp_path):
    assert "give files with --input" in refused([])
    assert run(ApplyTool(), f"--input={sample_path}", cwd=tmp_path) == 2


@contextmanager
def file_size_limit(size):
    """As a disk that is full after so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("missing", [1, 20_000, 2_000_000])
def test_disk_is_full(refused, apply, sample_path, tmp_path, missing):
    whole = tmp_path / "whole.h5"
    assert apply([sample_path], whole) == 0
    output = tmp_path / "out" / "x.h5"
    output.parent.mkdir()
    output.write_text("old")
    with file_size_limit(whole.stat().st_size - missing):
        line = refused([sample_path], "--overwrite", output=output)
    assert f"{output} cannot be written" in line
    assert "GB are free there" in line
    assert output.read_text() == "old"


@pytest.mark.parametrize(
    ("error", "code"), [(KeyboardInterrupt, 130), (MemoryError("no memory"), 1)]
)
def test_exception_on_the_way(apply, short, tmp_path, monkeypatch, error, code):
    def fail(self, images):
        raise error

    monkeypatch.setattr(Predictor, "predict", fail)
    output = tmp_path / "out" / "x.h5"
    output.parent.mkdir()
    output.write_text("old")
    assert apply([short()], output, "--overwrite") == code
    assert os.listdir(output.parent) == ["x.h5"]
    assert output.read_text() == "old"


SLOW = """
import signal, sys, time
from ctapipe_gphysnet.inference import Predictor
from ctapipe_gphysnet.tools.apply import main
signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs ignore it
def predict(self, images):
    print("busy", flush=True)
    for _ in range(600):  # a signal just before a sleep is seen only after it
        time.sleep(0.1)
Predictor.predict = predict
main()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_killed_on_the_way(short, model, tmp_path, number):
    folder = tmp_path / "out"
    folder.mkdir()
    arguments = ("-i", short(), "-m", model, "-o", folder / "x.h5")
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, *arguments, "--no-progress", "--device=cpu", "-q"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout.readline() == "busy\n"
        process.send_signal(number)
        code = process.wait(timeout=50)  # less than the sleeps
    assert code == (130 if number == signal.SIGINT else -signal.SIGKILL)
    left = os.listdir(folder)
    assert left == [] if number == signal.SIGINT else "x.h5" not in left


def test_help_names_the_options():
    result = subprocess.run(
        [sys.executable, "-m", "ctapipe_gphysnet.tools.apply", "--help"],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0
    for option in ("--input", "--model", "--batch-size", "--no-dl1-images"):
        assert option in result.stdout
