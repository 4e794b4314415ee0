import shutil

import numpy as np
import pytest
import tables
import yaml
from running import run

from ctapipe_gphysnet.lstchain import IMAGES
from ctapipe_gphysnet.tools.noise import NoiseTool
from ctapipe_gphysnet.tools.train import TrainTool

ADDED, N_DEAD = 2.0, 37


@pytest.fixture
def observed(lstchain_path, tmp_path):
    """The sample with more night sky and dead pixels."""
    path = tmp_path / "dl1_LST-1.Run00001.h5"
    shutil.copyfile(lstchain_path, path)
    rng = np.random.default_rng(1)
    with tables.open_file(path, "a") as file:
        table = file.get_node(IMAGES)
        rows = table.read()
        rows["image"] += rng.poisson(ADDED, rows["image"].shape) - ADDED
        rows["image"][:, :N_DEAD] = 0
        table.modify_rows(0, len(rows), 1, rows)
    return path


@pytest.fixture
def measure(tmp_path):
    """Function: exit code of gphysnet-noise."""

    def run_noise(*arguments, output=tmp_path / "noise.yaml"):
        return run(NoiseTool(), *arguments, f"--output={output}", cwd=tmp_path)

    return run_noise


def test_settings(measure, observed, sample_path, tmp_path, capfd):
    assert measure(f"--observed={observed}", f"--simulated={sample_path}") == 0
    text = (tmp_path / "noise.yaml").read_text()
    assert text in capfd.readouterr().out
    assert f"{N_DEAD} of 1855 pixels dead (600 events)" in text
    settings = yaml.safe_load(text)["TrainTool"]
    assert settings["night_sky"] == pytest.approx(2 * ADDED, rel=0.1)
    assert settings["dead_pixels"] == pytest.approx(2 * N_DEAD / 1855, abs=1e-4)
    tool = TrainTool()
    tool.load_config_file(tmp_path / "noise.yaml")
    assert tool.night_sky == settings["night_sky"]


def test_less_noise_than_simulated(measure, observed, sample_path, tmp_path, capfd):
    assert measure(f"--observed={sample_path}", f"--simulated={observed}") == 0
    assert "The simulation has more noise" in capfd.readouterr().err
    assert yaml.safe_load((tmp_path / "noise.yaml").read_text()) == {
        "TrainTool": {"dead_pixels": 0.0, "night_sky": 0.0}
    }


def test_mistakes(measure, observed, sample_path, tmp_path, capfd):
    both = (f"--observed={observed}", f"--simulated={sample_path}")
    assert measure(both[0]) != 0
    assert "--simulated" in capfd.readouterr().err
    assert measure(*both, "--tel-id=7") != 0
    assert "no telescope 7" in capfd.readouterr().err
    assert measure(*both) == 0
    assert measure(*both) != 0
    assert "--overwrite" in capfd.readouterr().err
    assert measure(*both, "--overwrite") == 0
