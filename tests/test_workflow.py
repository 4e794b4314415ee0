"""The Snakemake workflow: what it is asked for, and what it makes."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tables
import yaml
from plan import PlanError, read_plan

from ctapipe_gphysnet.lstchain import DL2_PARAMETERS

WORKFLOW = Path(__file__).parents[1] / "workflow"
RUNS = """# a comment
run, use, sample, source
a, train, gamma, simulate:gamma_diffuse:10:1
b, train, proton, {file}
c, regression, gamma, {file}
d, test, gamma, {file}
e, test, gamma, simulate:gamma_point:10:2
g, train, gamma, simulate:my.airshower.yaml:10:3
f, observed, Crab, raw.fits.fz
"""


@pytest.fixture
def folder(tmp_path):
    """Folder with a run list and the files that it names."""
    (tmp_path / "x.dl1.h5").touch()
    (tmp_path / "raw.fits.fz").touch()
    (tmp_path / "runs.csv").write_text(RUNS.format(file="x.dl1.h5"))
    return tmp_path


MODELS = {
    "Net": {"train": {"blocks": 1, "compile": True}, "seeds": [1, 2]},
    "Other": {"file": "lst1-mono-zenith20"},
    "Two": {"train": {"nodes": 2, "config": ["paper-2021", "train.yaml"]}},
    "More": {
        "train": {
            "config": "best",
            "initial-model": "old.safetensors",
            "compile": False,
            "TrainTool.turn_images": False,
        }
    },
    "HillasRF": {"forests": "ctapipe"},
}


def test_plan(folder):
    plan = read_plan({"runs": "runs.csv", "models": MODELS, "gpus": 4}, folder)
    file = str(folder / "x.dl1.h5")
    assert plan.dl1("train") == ["dl1/a.dl1.h5", file, "dl1/g.dl1.h5"]
    assert plan.runs["g"].simulation["card"] == str(folder / "my.airshower.yaml")
    assert plan.dl1("train", "proton") == plan.dl1("regression") == [file]
    assert plan.runs["e"].simulation == {
        "card": "gamma_point",
        "events": "10",
        "number": "2",
    }
    assert plan.runs["f"].simulation is None
    assert plan.dl1("observed") == ["dl1/f.dl1.h5"]
    assert plan.samples("test", "observed") == ["gamma", "Crab"]
    assert plan.results("Net", "gamma") == [
        "results/Net/d.dl2.h5",
        "results/Net/e.dl2.h5",
    ]
    networks = ["NetSeed1", "NetSeed2", "Other", "Two", "More"]
    assert list(plan.models) == [*networks, "HillasRF"]
    assert plan.models["NetSeed2"].arguments == (
        "--TrainTool.model_name=NetSeed2 --blocks=1 --compile --seed=2"
    )
    assert plan.models["Two"].processes == 8
    assert plan.models["Two"].launch == "srun --nodes=2 --ntasks-per-node=4"
    assert plan.models["NetSeed1"].launch == ""
    config = folder / "train.yaml"
    assert f"--config=paper-2021 --config={config}" in plan.models["Two"].arguments
    assert plan.models["Two"].files == [str(config)]
    model = folder / "old.safetensors"
    assert plan.models["More"].arguments == (
        f"--TrainTool.model_name=More --config=best --initial-model={model}"
        " --TrainTool.turn_images=False"
    )
    assert plan.models["More"].files == [str(model)]
    assert plan.merged("observed")[0] == "merged/NetSeed1/Crab.dl2.h5"
    assert plan.settings == {"gpus": 4}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"runs": "absent.csv"}, "absent.csv"),
        ({"models": {}}, "no models"),
        ({"modles": 1}, "unknown modles"),
        ({"models": {"Net": {"train": {}, "file": "x"}}}, "model Net has train, file"),
        ({"models": {"Net": {"file": "x", "seed": 1}}}, "model Net has file, seed"),
        ({"models": {"a b": {"file": "x"}}}, "'a b': no name of a table"),
        ({"models": {"RF": {"forests": "ctapipe"}}}, "HillasRF: forests: ctapipe"),
        ({"models": {"lstchain": {"forests": "lstchain"}}}, "the folder of its commands"),
    ],
)
def test_bad_configuration(folder, change, message):
    with pytest.raises(PlanError, match=message):
        read_plan({"runs": "runs.csv", "models": MODELS, **change}, folder)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a, test, gamma, x.dl1.h5", "run a is there twice"),
        ("z, tset, gamma, x.dl1.h5", "run z: use 'tset' is none of train"),
        ("z, test, gamma, y.dl1.h5", "run z: there is no file .*y.dl1.h5"),
        ("z, test, gamma, simulate:gamma", "run z: source simulate:gamma is not"),
        ("z/y, test, gamma, x.dl1.h5", "run 'z/y' cannot be the name of a file"),
        ("z, observed, gamma, x.dl1.h5", "sample gamma has runs of test and observed"),
    ],
)
def test_bad_runs(folder, line, message):
    path = folder / "runs.csv"
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(PlanError, match=message) as error:
        read_plan({"runs": "runs.csv", "models": MODELS}, folder)
    assert str(path) in str(error.value)


def test_runs_that_are_no_use(folder):
    path = folder / "runs.csv"
    path.write_text("run,use,sample\n")
    with pytest.raises(PlanError, match="no column source"):
        read_plan({"runs": "runs.csv", "models": MODELS}, folder)
    path.write_text("run,use,sample,source\na,test,gamma,x.dl1.h5\n")
    with pytest.raises(PlanError, match="no run whose use is train"):
        read_plan({"runs": "runs.csv", "models": MODELS}, folder)
    path.write_text("run,use,sample,source\na,train,gamma,x.dl1.h5\n")
    with pytest.raises(PlanError, match="nothing to do"):
        read_plan({"runs": "runs.csv", "models": MODELS}, folder)


@pytest.fixture
def snakemake(tmp_path):
    """Function: what the workflow prints, and whether it succeeded."""
    pytest.importorskip("snakemake", reason="the extra workflow is not installed")

    def run(config, *arguments):
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump(config))
        commands = Path(sys.executable).parent
        command = [sys.executable, "-m", "snakemake", f"--snakefile={WORKFLOW}/Snakefile"]
        done = subprocess.run(
            [*command, f"--configfile={path}", "--cores=2", *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            env={**os.environ, "PATH": f"{commands}:{os.environ['PATH']}"},
        )
        return done.returncode == 0, done.stdout + done.stderr

    return run


def test_what_is_missing_is_made(snakemake, tmp_path, lstchain_path, random_model):
    """Of observed runs, here of lstchain: DL2 of each, merged; then only what is lost."""
    other = tmp_path / "dl1_other.h5"
    with tables.open_file(lstchain_path) as file:
        file.copy_file(str(other))
    with tables.open_file(other, "r+") as file:
        for table in file.walk_nodes("/", "Table"):
            if "obs_id" in table.colnames:
                table.modify_column(column=np.full(len(table), 9), colname="obs_id")
    (tmp_path / "runs.csv").write_text(
        "run, use, sample, source\n"
        f"one, observed, Crab, {lstchain_path}\n"
        f"two, observed, Crab, {other}\n"
    )
    config = {"runs": "runs.csv", "models": {"Net": {"file": str(random_model("net"))}}}
    done, output = snakemake(config)
    assert done, output
    runs = [tmp_path / f"results/Net/{name}.dl2.h5" for name in ("one", "two")]
    merged = tmp_path / "merged/Net/Crab.dl2.h5"
    rows = []
    for path in (*runs, merged):
        with tables.open_file(path) as file:
            rows.append(file.get_node(DL2_PARAMETERS).read())
    assert len(rows[0]) > 100
    assert rows[2].tobytes() == np.concatenate(rows[:2]).tobytes()
    times = [path.stat().st_mtime_ns for path in runs]
    runs[1].unlink()
    merged.unlink()
    done, output = snakemake(config)
    assert done, output
    assert runs[0].stat().st_mtime_ns == times[0]
    assert runs[1].stat().st_mtime_ns > times[1]
    assert merged.exists()
    done, output = snakemake(config)
    assert "Nothing to be done" in output


@pytest.mark.slow
def test_trained_and_compared(snakemake, tmp_path):
    """The whole of the configuration that comes with the workflow."""
    (tmp_path / "runs.csv").write_text((WORKFLOW / "runs.csv").read_text())
    done, output = snakemake(yaml.safe_load((WORKFLOW / "config.yaml").read_text()))
    assert done, output
    assert (tmp_path / "report/report.html").exists()
    for name in ("Shipped", "SmallSeed1", "SmallSeed2", "HillasRF"):
        for sample in ("gamma", "proton"):
            assert (tmp_path / f"merged/{name}/{sample}.dl2.h5").exists()
    assert not list(tmp_path.glob("training/*/last.ckpt"))


def test_bad_plan_is_told(snakemake):
    done, output = snakemake({"runs": "absent.csv", "models": {"Net": {"file": "x"}}})
    assert not done
    assert "absent.csv" in output
    assert "Traceback" not in output
