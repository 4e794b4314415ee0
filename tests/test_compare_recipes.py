"""The example that trains by several recipes and compares what comes out."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from matplotlib.image import imread
from running import run

from ctapipe_gphysnet.tools.simulate import SimulateTool

SCRIPT = Path(__file__).parents[1] / "examples" / "compare_recipes.sh"
TINY = """
TrainTool:
  blocks: 1
  channels: [4, 8]
  head_width: 8
  epochs: 2
  batch_size: 16
  device: cpu
"""


def compare(*arguments, cwd):
    """Run the script as a user does, with the commands of this environment."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = ["bash", SCRIPT, *map(str, arguments)]
    environment = {**os.environ, "PATH": path}
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--what"], "unknown option --what"),
        (["--seeds", "1"], "it must be 2 or more"),
        (
            ["--test-gamma", "a/test.gamma.h5", "--test-proton", "test.p.h5"],
            "both are test",
        ),
        ([], "no events to train on"),
        (["--gamma", "a.h5"], "no recipe"),
    ],
)
def test_bad_arguments(tmp_path, arguments, message):
    files = ["--output", "o", "--test-gamma", "gamma.h5", "--test-proton", "proton.h5"]
    done = compare(*files, *arguments, cwd=tmp_path)
    assert done.returncode == 1
    assert message in done.stderr
    assert not list(tmp_path.iterdir())


def test_no_test_files(tmp_path):
    done = compare("--output", "o", cwd=tmp_path)
    assert done.returncode == 1
    assert "--test-gamma and --test-proton are needed" in done.stderr


@pytest.mark.slow
def test_compared(sample_path, tmp_path):
    pytest.importorskip("lightning", reason="the extra train is not installed")
    (tmp_path / "tiny.yaml").write_text(TINY)
    (tmp_path / "equal.yaml").write_text("TrainTool: {balance: equal}")
    for number, card in enumerate(("gamma_point", "proton"), 1):
        output = tmp_path / f"{card}.dl1.h5"
        arguments = ["--n-events=100", f"--run-number={number}", "--no-progress"]
        run(SimulateTool(), card, "-o", output, *arguments, cwd=tmp_path, raises=True)
    arguments = [
        *["--output", "out", "--gamma", sample_path, "--seeds", 2],
        *["--test-gamma", "gamma_point.dl1.h5", "--test-proton", "proton.dl1.h5"],
        *["--config", "tiny.yaml", "Learnt=best", "Equal=best,equal.yaml"],
    ]
    done = compare(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    output = tmp_path / "out"
    assert (output / "report" / "report.html").exists()
    assert imread(output / "curves.png").std() > 0
    models = sorted(output.glob("*.safetensors"))
    assert [path.stem.split("_")[0] for path in models] == [
        *["Equal"] * 2,
        *["Learnt"] * 2,
    ]
    times = [path.stat().st_mtime_ns for path in models]
    assert compare(*arguments, cwd=tmp_path).returncode == 0
    assert [path.stat().st_mtime_ns for path in models] == times  # nothing again
