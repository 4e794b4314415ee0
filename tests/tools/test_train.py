import json
import os
import pickle
import subprocess
import sys
from functools import partial
from importlib.metadata import version

import numpy as np
import pytest
import torch
from ctapipe.core import ToolConfigurationError, run_tool

from ctapipe_gphysnet.checkpoint import read_card, read_model

lightning = pytest.importorskip("lightning", reason="the extra train is not installed")

SMALL = [
    "--blocks=1",
    "--TrainTool.channels=4",
    "--TrainTool.channels=8",
    "--TrainTool.channels=8",
    "--TrainTool.head_width=8",
    "--device=cpu",
]

pytestmark = pytest.mark.filterwarnings("ignore:::lightning")


def train(output, sample_path, *arguments, batch_size=16):
    from ctapipe_gphysnet.tools.train import TrainTool

    files = [f"--input={sample_path}", f"--output={output}"]
    return run_tool(
        TrainTool(),
        [*files, *SMALL, f"--batch-size={batch_size}", *arguments],
        cwd=output.parent,
        raises=True,
    )


@pytest.fixture(scope="module")
def trained(sample_path, tmp_path_factory):
    output = tmp_path_factory.mktemp("train") / "model.safetensors"
    train(
        output,
        sample_path,
        "--epochs=4",
        "--learning-rate=0.01",
        "--seed=3",
        f"--export-ctapipe={output.parent / 'pickles'}",
    )
    return output


def test_the_loss_falls(trained):
    log = next(trained.parent.glob("model.training/log/*/metrics.csv"))
    table = np.genfromtxt(log, delimiter=",", names=True)
    losses = table["validation_energy"]
    losses = losses[np.isfinite(losses)]
    assert len(losses) == 4
    assert losses[-1] < 0.95 * losses[0]


def test_card_says_how_it_was_trained(trained, sample_path):
    card = read_card(trained)
    training = card["training"]
    assert card["name"] == "model"
    assert training["inputs"][0]["file"] == sample_path.name
    assert len(training["inputs"][0]["product_id"]) > 10
    assert training["options"]["epochs"] == 4
    assert training["options"]["seed"] == 3
    assert training["selection"][0]["criterion"] == "TOTAL"
    assert training["selection"][0]["passed"] > training["selection"][1]["passed"]
    left = training["selection"][-1]
    assert left["passed_so_far_by_primary_id"] == training["images_by_primary_id"]
    assert sum(training["images_by_primary_id"].values()) == left["passed_so_far"]
    assert set(training["images_by_primary_id"]) == {"0", "101"}
    steps = training["n_images"] // 16
    assert training["image_presentations"] == 4 * 16 * steps
    assert training["pointing_deg"]["alt"] == pytest.approx([70, 70])
    assert 0 <= card["validation"]["auc"] <= 1
    assert card["software"]["torch"] == version("torch")


def test_model_can_be_read(trained):
    model = read_model(trained)
    assert model.network.options.channels == (4, 8, 8)
    assert all(torch.isfinite(p).all() for p in model.network.parameters())


def test_exported_for_ctapipe(trained):
    paths = sorted(trained.parent.glob("pickles/*"))
    assert len(paths) == 3
    for path in paths:
        assert pickle.loads(path.read_bytes()).model == str(trained)


def test_export_is_refused_before_training(trained, sample_path, tmp_path):
    folder = trained.parent / "pickles"
    with pytest.raises(Exception, match="energy.pkl exists"):
        train(tmp_path / "model.safetensors", sample_path, f"--export-ctapipe={folder}")
    assert not (tmp_path / "model.training").exists()


def test_same_seed_same_model(sample_path, tmp_path):
    """Also where the images do not fit in memory."""
    outputs = [tmp_path / f"{name}.safetensors" for name in "abc"]
    for output, seed, limit in zip(outputs, (1, 1, 2), (1, 0, 1)):
        options = ["--epochs=1", f"--seed={seed}", f"--memory-limit={limit}"]
        train(output, sample_path, *options)
    first, again, other = (read_card(output)["weights_sha256"] for output in outputs)
    assert first == again
    assert first != other


def test_resume_goes_on_after_the_last_whole_epoch(sample_path, tmp_path, monkeypatch):
    from ctapipe_gphysnet.training import GammaPhysNetTraining

    output = tmp_path / "model.safetensors"
    step = GammaPhysNetTraining.training_step

    def die_in_second_epoch(self, batch, index):
        if self.current_epoch == 1:
            raise RuntimeError("killed")
        return step(self, batch, index)

    with monkeypatch.context() as patch:
        patch.setattr(GammaPhysNetTraining, "training_step", die_in_second_epoch)
        with pytest.raises(RuntimeError, match="killed"):
            train(output, sample_path, "--epochs=2")
    assert not output.exists()
    with pytest.raises(Exception, match="epochs is 3, but the training to resume had 2"):
        train(output, sample_path, "--epochs=3", "--resume")
    train(output, sample_path, "--epochs=2", "--resume")
    uninterrupted = tmp_path / "uninterrupted.safetensors"
    train(uninterrupted, sample_path, "--epochs=2")
    expected = read_model(uninterrupted).network.state_dict()
    for name, value in read_model(output).network.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=0)
    log = sorted(output.parent.glob("model.training/log/*/metrics.csv"))[-1]
    epochs = np.genfromtxt(log, delimiter=",", names=True)["epoch"]
    assert set(epochs[np.isfinite(epochs)]) == {1}
    assert read_card(output)["training"]["options"]["epochs"] == 2


IN_TWO_PROCESSES = """
import sys
from ctapipe_gphysnet import training
from ctapipe_gphysnet.tools.train import TrainTool

training.VALIDATION_BATCH_SIZE = 16
step = training.GammaPhysNetTraining.training_step

def training_step(self, batch, index):
    if {fails} and self.global_rank == 1 and index == 1:
        batch["images"][:] = float("nan")
    return step(self, batch, index)

training.GammaPhysNetTraining.training_step = training_step
TrainTool().run(sys.argv[1:])
"""


@pytest.fixture
def train_in_two(sample_path, tmp_path):
    """Function: train in two processes, as users do: Lightning starts the other one."""

    def train(output, fails=False):
        script = tmp_path / "script.py"
        script.write_text(IN_TWO_PROCESSES.format(fails=fails))
        environment = {k: v for k, v in os.environ.items() if not k.startswith("SLURM")}
        return subprocess.run(
            [
                *[sys.executable, script, *SMALL, "--batch-size=16", "--epochs=1"],
                *[f"--input={sample_path}", f"--output={output}", "--seed=5"],
                *["--devices=2", "--memory-limit=0", "--log-level=INFO"],
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            env={**environment, "OMP_NUM_THREADS": "1"},
            timeout=300,
        )

    return train


def test_processes_train_together(train_in_two, sample_path, tmp_path):
    """What they say of the validation events is what one process finds."""
    from ctapipe_gphysnet.batches import Batches
    from ctapipe_gphysnet.events import EventSelection, read_events
    from ctapipe_gphysnet.training import validation_metrics

    output = tmp_path / "model.safetensors"
    done = train_in_two(output)
    assert done.returncode == 0, done.stderr[-2000:]
    assert f"images are in a file without a name in {tmp_path}" in done.stderr
    model = read_model(output)
    assert model.information["training"]["n_processes"] == 2
    sample = read_events([sample_path], EventSelection(), model.network.options.tasks)
    _, validation = sample.split(0.1, seed=5)
    assert len(validation) == 33  # 17 and 16, which makes two batches of each
    assert model.information["validation"]["n_images"] == len(validation)
    batches = Batches(sample, validation, model.preprocessing)
    truth = batches[0, np.arange(len(validation))]
    with torch.no_grad():
        outputs = model.network.eval()(truth["images"])
    for name, value in validation_metrics(outputs, truth).items():
        assert model.information["validation"][name] == pytest.approx(value, rel=1e-3)


def test_all_processes_notice_what_one_of_them_meets(train_in_two, tmp_path):
    output = tmp_path / "model.safetensors"
    done = train_in_two(output, fails=True)
    assert done.returncode != 0
    assert done.stderr.count("the loss is not finite in epoch 1") == 2
    assert not output.exists()


def test_nothing_to_resume(sample_path, tmp_path):
    with pytest.raises(Exception, match="nothing to resume"):
        train(tmp_path / "model.safetensors", sample_path, "--resume")


def test_start_from_another_model(trained, sample_path, tmp_path):
    output = tmp_path / "more.safetensors"
    train(output, sample_path, "--epochs=1", f"--initial-model={trained}")
    start = read_card(output)["training"]["initial_model"]
    assert start["identity"] == read_model(trained).identity
    assert start["training"]["options"]["epochs"] == 4
    with pytest.raises(Exception, match="its network is"):
        train(
            tmp_path / "other.safetensors",
            sample_path,
            f"--initial-model={trained}",
            "--attention=none",
        )


def test_start_with_another_focal_length(trained, with_focal_length, tmp_path):
    """Directions are those of the model's camera, whose place the new one takes."""
    output = tmp_path / "more.safetensors"
    train(output, with_focal_length(28.5), "--epochs=1", f"--initial-model={trained}")
    before, now = read_card(trained)["camera"], read_card(output)["camera"]
    assert now == before
    other = [with_focal_length(16.0), "--overwrite", f"--initial-model={trained}"]
    with pytest.raises(Exception, match="or of the initial model.*is 16.00 m"):
        train(output, *other)


def test_telescopes_are_chosen_and_remembered(simulated_array_path, tmp_path):
    output = tmp_path / "model.safetensors"
    one = ("--TrainTool.tasks=energy", "--attention=none", "--epochs=1")  # gammas alone
    run = partial(train, output, simulated_array_path, *one)
    run("--allowed-tels=3", "--allowed-tels=1")
    training = read_card(output)["training"]
    assert training["allowed_tels"] == [1, 3]  # in any order, the same
    assert training["focal_length_choice"] == "EFFECTIVE"
    with pytest.raises(Exception, match="number of .*allowed_tels"):
        run("--allowed-tels=LST_LST_LSTCam", "--resume", "--overwrite")
    with pytest.raises(Exception, match="Telescopes asked for are \\[5\\]"):
        run("--allowed-tels=5", "--overwrite")


def weights_of(path):
    state = read_model(path).network.state_dict()
    layers = {name for name in state if name.startswith("head.uncertainties.")}
    return {n: v for n, v in state.items() if n not in layers}, {
        name: state[name] for name in layers
    }


def test_uncertainty_leaves_the_rest_alone(sample_path, tmp_path):
    """In one go, or later: the same network, and the same uncertainty."""
    options = ["--epochs=1", "--seed=1", "--TrainTool.validation_fraction=0.5"]
    plain, both, later = (tmp_path / f"{name}.safetensors" for name in "abc")
    train(plain, sample_path, *options)
    train(both, sample_path, *options, "--uncertainty")
    start = f"--initial-model={plain}"
    train(later, sample_path, *options, "--only-uncertainty", start)
    assert not (tmp_path / "c.training").exists()
    expected, nothing = weights_of(plain)
    assert nothing == {}
    for path in (both, later):
        weights, layers = weights_of(path)
        assert weights.keys() == expected.keys()
        assert all(torch.equal(weights[name], expected[name]) for name in weights)
        assert len(layers) == 4
        for name, values in layers.items():
            assert (values != 0).any()  # features that are never there have no weight
            torch.testing.assert_close(values, weights_of(both)[1][name])
        found = read_card(path)["validation"]["uncertainty"]
        assert set(found) == {"energy", "direction"}
        assert (
            100 <= found["energy"]["n_images"] < read_card(path)["validation"]["n_images"]
        )
        assert 0.2 < found["direction"]["pull_width"] < 5
    card = read_card(later)["training"]
    assert card["only_uncertainty"]
    assert card["image_presentations"] == card["n_images"] == 0
    assert card["initial_model"]["identity"] == read_model(plain).identity
    assert card["initial_model"]["validation"] == read_card(plain)["validation"]


def test_uncertainty_needs_events(sample_path, tmp_path):
    with pytest.raises(Exception, match=r"2\d gamma rays to fit .*_fraction"):
        train(tmp_path / "model.safetensors", sample_path, "--uncertainty")
    assert not (tmp_path / "model.training").exists()


def test_uncertainty_alone_needs_a_model(sample_path, tmp_path):
    with pytest.raises(Exception, match="--initial-model"):
        train(tmp_path / "model.safetensors", sample_path, "--only-uncertainty")


def test_uncertainty_is_not_fitted_to_events_that_the_model_knows(
    sample_path, tmp_path, capsys
):
    plain, later = tmp_path / "plain.safetensors", tmp_path / "later.safetensors"

    def train_again(*arguments, output=later, seed=1, fraction=0.5):
        shares = (f"--seed={seed}", f"--TrainTool.validation_fraction={fraction}")
        train(output, sample_path, "--epochs=1", *shares, *arguments)

    train_again(output=plain)
    start = f"--initial-model={plain}"
    with pytest.raises(Exception, match="same files with seed 1, not 2.* too small"):
        train_again("--only-uncertainty", start, seed=2)
    with pytest.raises(Exception, match="with validation_fraction 0.5, not 0.4"):
        train_again("--uncertainty", start, fraction=0.4)
    with pytest.raises(Exception, match="not for n_seeds"):
        train_again("--only-uncertainty", "--n-seeds=2", start)
    train_again(start, seed=2)
    assert "knows showers that are kept for validation now" in capsys.readouterr().err


def test_single_task(sample_path, tmp_path):
    output = tmp_path / "energy.safetensors"
    train(
        output, sample_path, "--epochs=1", "--TrainTool.tasks=energy", "--attention=none"
    )
    assert json.dumps(read_card(output)["tasks"]).count("n_outputs") == 1


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--blocks=0", "blocks"),
        ("--device=abacus", "abacus"),
        ("--epochs=0", "epochs"),
        ("--memory-limit=-1", "memory_limit is -1.0 GB"),
        ("--devices=3", "a batch of 16 images cannot be shared"),
        ("--TrainTool.preprocessing=charge=cube", "cube"),
        ("--input=absent.dl1.h5", "absent.dl1.h5"),
    ],
)
def test_bad_options(sample_path, tmp_path, argument, message):
    with pytest.raises(Exception, match=message):
        train(tmp_path / "model.safetensors", sample_path, argument)
    assert not (tmp_path / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("criterion", "message"),
    [
        ("hillas_intensity > 1e9", "no event passes the selection"),
        ("true_shower_primary_id == 0", "no background events"),
        ("true_shower_primary_id > 0", "no signal events"),
        ("colour > 1", "the selection cannot be applied.*colour"),
    ],
)
def test_nothing_to_learn_from(sample_path, tmp_path, criterion, message):
    config = tmp_path / "selection.json"
    criteria = {"quality_criteria": [["criterion", criterion]]}
    config.write_text(json.dumps({"EventSelection": criteria}))
    with pytest.raises(Exception, match=message):
        train(tmp_path / "model.safetensors", sample_path, f"--config={config}")
    assert not (tmp_path / "model.safetensors").exists()


@pytest.mark.parametrize(("batch_size", "left"), [(16, 2), (32, 1)])
def test_threads_are_left_to_the_images(
    sample_path, tmp_path, monkeypatch, set_n_threads, batch_size, left
):
    from ctapipe_gphysnet.training import GammaPhysNetTraining

    def fail(self, batch, index):
        seen.append(torch.get_num_threads())
        raise RuntimeError("enough")

    set_n_threads(2)
    seen, output = [], tmp_path / "model.safetensors"
    with monkeypatch.context() as patch:
        patch.setattr(GammaPhysNetTraining, "training_step", fail)
        with pytest.raises(RuntimeError, match="enough"):
            train(output, sample_path, batch_size=batch_size)
    assert seen == [left]
    assert torch.get_num_threads() == 2
    train(output, sample_path, "--epochs=1", "--overwrite", batch_size=batch_size)
    assert torch.get_num_threads() == 2


def test_missing_extra_is_named(sample_path, tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "ctapipe_gphysnet.training", raising=False)
    monkeypatch.setitem(sys.modules, "lightning", None)
    with pytest.raises(ToolConfigurationError, match=r"install 'ctapipe_gphysnet\[train"):
        train(tmp_path / "model.safetensors", sample_path)


def test_output_is_not_overwritten_unasked(trained, sample_path):
    before = trained.read_bytes()
    with pytest.raises(Exception, match="exists"):
        train(trained, sample_path)
    assert trained.read_bytes() == before
