import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tables
from ctapipe.io import TableLoader, read_table
from matplotlib.image import imread

from ctapipe_gphysnet.checkpoint import write_model
from ctapipe_gphysnet.tasks import GAMMA_ID

DEMO = Path(__file__).parents[1] / "examples" / "demo.py"
BINS = ["20 - 50", "50 - 100", "100 - 300", "300 - 1000", "above 1000"]


@pytest.fixture(scope="module")
def showers(sample_path):
    """Truth of the sample's events."""
    return read_table(sample_path, "/simulation/event/subarray/shower")


@pytest.fixture
def model_path(small_model, tmp_path):
    """A network with random weights."""
    small_model.information["name"] = "some small model"
    path = tmp_path / "small model.safetensors"
    write_model(path, small_model)
    return path


def run_demo(*arguments, cwd):
    """Run the demo as a user does; its exit code, output and error output."""
    result = subprocess.run(
        [sys.executable, DEMO, *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
    )
    return result.returncode, result.stdout, result.stderr


def rows_of_table(output, title):
    """Cells of the rows of a table, by the row's label."""
    lines = output.split(f"\n{title}\n")[1].split("\n\n")[0].splitlines()[2:]
    return {line[:12].strip(): line[12:].split() for line in lines}


def test_sample_is_small(sample_path):
    assert sample_path.stat().st_size <= 3_000_000


def test_sample_is_readable_by_the_oldest_version(sample_path):
    with tables.open_file(sample_path) as file:
        version = file.root._v_attrs["CTA PRODUCT DATA MODEL VERSION"]
    assert version == "v7.1.0"


def test_sample_has_gammas_of_all_energies_and_protons(showers):
    is_gamma = showers["true_shower_primary_id"] == GAMMA_ID
    energy = showers["true_energy"].quantity.to_value("GeV")
    counts, _ = np.histogram(energy[is_gamma], [0, 20, 50, 100, 300, 1000, 1e6])
    assert counts.tolist() == [0, 80, 80, 80, 80, 80]
    assert np.count_nonzero(~is_gamma) == 200


def test_sample_has_images_parameters_and_truth(sample_path):
    with TableLoader(sample_path) as loader:
        events = loader.read_telescope_events(dl1_images=True, simulated=True)
    assert len(events) == 600
    assert events["image"].shape == events["peak_time"].shape == (600, 1855)
    assert np.isfinite(events["image"]).all()
    assert np.mean(events["hillas_intensity"] > 50) > 0.75
    for name in ("true_energy", "true_alt", "true_az", "true_core_x", "true_core_y"):
        assert np.isfinite(events[name]).all()


def test_sample_says_nothing_about_the_machine_it_was_made_on(sample_path):
    with tables.open_file(sample_path) as file:
        attributes = file.root._v_attrs
        texts = [str(attributes[name]) for name in attributes._f_list("user")]
    assert not [text for text in texts if text.startswith(("/", "root"))]


def test_demo(model_path, sample_path, showers, tmp_path):
    folder = tmp_path / "out" / "of the demo"
    folder.mkdir(parents=True)
    for name in ("demo.dl2.h5", "demo.png"):
        (folder / name).write_text("from an earlier demo, to be replaced")

    command = ["--model", model_path, "--output", "out/of the demo"]
    code, output, complaints = run_demo(*command, cwd=tmp_path)
    assert (code, complaints) == (0, "")

    assert "Model some small model\n" in output
    assert "of the package's simulation" in output
    gammas = rows_of_table(output, "Gamma rays")
    assert list(gammas) == BINS
    for gammas_in_bin, n_reconstructed, *rest in gammas.values():
        assert gammas_in_bin == "80"
        assert 50 <= int(n_reconstructed) <= 80
        assert len(rest) == 4
        assert np.isfinite(np.array(rest, dtype=float)).all()
    protons = rows_of_table(output, "Protons")
    assert list(protons) == ["below 20", *BINS]
    parameters = read_table(sample_path, "/dl1/event/telescope/parameters/tel_001")
    bright = parameters["hillas_intensity"] > 50
    expected = np.count_nonzero(bright & (showers["true_shower_primary_id"] != 0))
    assert sum(int(count) for count, _ in protons.values()) == expected
    assert 0 < float(output.split("ROC curve: ")[1].split()[0]) < 1

    # nothing but what it was asked for, where it was asked for
    assert {path.name for path in tmp_path.iterdir()} == {"out", model_path.name}
    for name in ("demo.dl2.h5", "demo.png"):
        assert str(Path("out/of the demo", name)) in output
    assert_is_picture(folder / "demo.png")
    assert_result_is_in_both_tables(folder / "demo.dl2.h5")


def assert_is_picture(path):
    """Camera images in color in all six places, and text."""
    image = imread(path)[:, :, :3]
    height, width, _ = image.shape
    assert height > 800
    assert width > 1200
    for row in np.array_split(image, 2, axis=0):
        for place in np.array_split(row, 3, axis=1):
            assert place.var() > 0.05
            assert np.abs(place[:, :, 0] - place[:, :, 2]).mean() > 0.02


def assert_result_is_in_both_tables(path):
    """The array-wise result of one telescope is the telescope's."""
    tables_of = "/dl2/event/{}/energy/GammaPhysNetEnergy{}"
    telescope = read_table(path, tables_of.format("telescope", "/tel_001"))
    array = read_table(path, tables_of.format("subarray", ""))
    assert len(telescope) == len(array) == 600
    np.testing.assert_array_equal(
        telescope["GammaPhysNetEnergy_tel_energy"], array["GammaPhysNetEnergy_energy"]
    )


def test_demo_ends_where_ctapipe_process_fails(tmp_path):
    command = ["--model", "nowhere.safetensors", "--output", "new/folder"]
    code, _, complaints = run_demo(*command, cwd=tmp_path)
    assert code == 1
    assert "no model 'nowhere.safetensors'" in complaints
    assert complaints.endswith("demo: ctapipe-process failed, see above\n")
    assert "Traceback" not in complaints
