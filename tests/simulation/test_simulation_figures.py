import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples" / "simulation"
FIGURES = ["area", "hillas", "images", "light_pool", "likeness", "xmax"]


@pytest.mark.slow
def test_figures_are_drawn_and_small(tmp_path):
    """As the documentation says, with a fiftieth of the showers."""
    command = [sys.executable, EXAMPLES / "figures.py", "--output", tmp_path]
    subprocess.run([*command, "--scale", "0.02"], check=True)
    drawn = sorted(tmp_path.glob("*.png"))
    assert [path.stem for path in drawn] == [f"simulation_{name}" for name in FIGURES]
    assert all(5_000 < path.stat().st_size < 150_000 for path in drawn)
