import re

import numpy as np
import pytest
from astropy.table import QTable
from running import run

from ctapipe_gphysnet.tools.evaluate import EvaluateTool

SELECTIONS = """
EvaluateTool:
  selections:
    bright: [[bright, hillas_intensity > 300]]
    nothing: [[none, hillas_intensity < 0]]
  bins_per_decade: 2
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "evaluate.yaml"
    path.write_text(SELECTIONS)
    return path


@pytest.fixture(scope="module")
def report(dl2_path, config, tmp_path_factory):
    """Folder of a report."""
    folder = tmp_path_factory.mktemp("evaluate")
    arguments = [dl2_path, f"--config={config}", "--cuts=bright", "--overlay"]
    output = ["-o", folder / "report"]
    assert run(EvaluateTool(), *arguments, *output, cwd=folder) == 0
    assert {path.name for path in folder.iterdir()} == {
        "report",
        "gphysnet-evaluate.provenance.log",
    }
    return folder / "report"


def test_tables(report):
    table = QTable.read(report / "bright" / "angular_resolution.ecsv")
    assert set(table["reconstructor"]) == {"GammaPhysNet", "Other"}
    assert table["angular_resolution"].unit == "deg"
    other = table[np.asarray(table["reconstructor"]) == "Other"]
    assert (other["n_seeds"] == 2).all()
    by_seed = QTable.read(report / "bright" / "by_seed" / "angular_resolution.ecsv")
    assert set(by_seed["seed"]) == {-1, 1, 2}
    auc = QTable.read(report / "bright" / "auc.ecsv")
    overall = auc[np.asarray(auc["axis"]) == "all"]
    assert len(overall) == 2
    assert ((overall["auc"] > 0) & (overall["auc"] < 1)).all()


def test_pulls(report):
    table = QTable.read(report / "bright" / "pull_width.ecsv")
    assert set(table["reconstructor"]) == {"GammaPhysNet"}
    assert set(table["of"]) == {"energy", "direction"}
    overall = table[np.asarray(table["axis"]) == "all"]
    assert (overall["n_events"] > 100).all()
    assert (overall["width"] > 0).all()
    assert (overall["width_error"] > 0).all()
    assert (report / "bright" / "pulls.png").read_bytes()[1:4] == b"PNG"
    text = (report / "report.html").read_text()
    assert "Width of the pulls of energy and direction" in text
    assert "bright/pull_distribution.ecsv" in text


def test_edges_of_energy(dl2_path, tmp_path):
    edges = [f"--EvaluateTool.energy_edges={edge}" for edge in (0.02, 0.1, 5)]
    arguments = [dl2_path, "--cuts=low", "--no-response", "-o", tmp_path / "report"]
    assert run(EvaluateTool(), *arguments, *edges, cwd=tmp_path) == 0
    table = QTable.read(tmp_path / "report" / "low" / "angular_resolution.ecsv")
    assert set(table["true_energy_low"].to_value("TeV")) == {0.02, 0.1}
    assert set(table["true_energy_high"].to_value("TeV")) == {0.1, 5}


def test_figures(report):
    for name in ("angular_resolution", "energy_resolution", "auc", "roc", "migration"):
        assert (report / "bright" / f"{name}.png").read_bytes()[1:4] == b"PNG"
        assert (report / "bright" / f"{name}.pdf").read_bytes()[:4] == b"%PDF"


def test_report_says_what_was_done(report, dl2_path, random_model):
    text = (report / "report.html").read_text()
    assert str(dl2_path) in text
    assert "400 gammas, 200 protons" in text
    for model in ("GammaPhysNet", "OtherSeed1", "OtherSeed2"):
        identity = re.search(rf"{model} \(sha256 ([0-9a-f]{{64}})\)", text)
        assert identity, model
    assert "hillas_intensity &gt; 300" in text
    assert "GammaPhysNet against Other" in text
    assert "another sample" in text  # the overlay
    assert "effective area and sensitivity" in text  # that there is none, and why
    # nothing from outside
    assert not re.findall(r'(?:src|href)="(?!data:|#)', text)
    assert text.count("data:image/png;base64,") >= 9


def message_of(capfd):
    error = capfd.readouterr().err
    assert "Traceback" not in error
    return next(line for line in error.splitlines() if "ERROR" in line)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cuts=nothing"], "no gamma passes the criteria of selection nothing"),
        (["--cuts=absent"], "no selection absent; there are bright, nothing"),
        (["--reconstructor=Forest"], "of reconstructor Forest"),
        (
            ["--EvaluateTool.energy_edges=1", "--EvaluateTool.energy_edges=0.1"],
            "edges have to be two or more that ascend",
        ),
    ],
)
def test_bad_options(dl2_path, config, tmp_path, capfd, arguments, message):
    output = tmp_path / "report"
    arguments = [dl2_path, f"--config={config}", "-o", output, *arguments]
    assert run(EvaluateTool(), *arguments, cwd=tmp_path) != 0
    assert message in message_of(capfd)
    assert not output.exists()


def test_needs_input_and_output(dl2_path, tmp_path, capfd):
    assert run(EvaluateTool(), "-o", tmp_path / "report", cwd=tmp_path) != 0
    assert "no input" in message_of(capfd)
    assert run(EvaluateTool(), dl2_path, cwd=tmp_path) != 0
    assert "no output" in message_of(capfd)
    assert (
        run(EvaluateTool(), dl2_path, "-o", tmp_path / "no" / "report", cwd=tmp_path) != 0
    )
    assert "is not a directory" in message_of(capfd)


def test_does_not_replace_a_folder_of_other_things(dl2_path, tmp_path, capfd):
    output = tmp_path / "thesis"
    output.mkdir()
    (output / "chapter1.tex").write_text("years of work")
    assert run(EvaluateTool(), dl2_path, "-o", output, cwd=tmp_path) != 0
    assert "exists; choose another name or give --overwrite" in message_of(capfd)
    assert run(EvaluateTool(), dl2_path, "-o", output, "--overwrite", cwd=tmp_path) != 0
    assert "has no report.html, so it is not an output of this tool" in message_of(capfd)
    assert (output / "chapter1.tex").exists()


def test_an_earlier_report_stays_until_the_new_one_is_whole(
    dl2_path, config, tmp_path, monkeypatch
):
    output = tmp_path / "report"
    output.mkdir()
    (output / "report.html").write_text("the earlier one")

    def fail(*args):
        raise OSError("No space left on device")

    monkeypatch.setattr("ctapipe_gphysnet.tools.evaluate.save", fail)
    arguments = [dl2_path, f"--config={config}", "--cuts=bright", "-o", output]
    assert run(EvaluateTool(), *arguments, "--overwrite", cwd=tmp_path) != 0
    assert (output / "report.html").read_text() == "the earlier one"
    assert {p.name for p in tmp_path.iterdir()} <= {
        "report",
        "gphysnet-evaluate.provenance.log",
    }
