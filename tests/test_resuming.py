import errno
import json
import multiprocessing
import os
import resource
import signal
import time
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

pytest.importorskip("lightning", reason="the extra train is not installed")

from lightning.pytorch.loggers import CSVLogger
from torch.optim.optimizer import register_optimizer_step_post_hook

from ctapipe_gphysnet import training  # noqa: E402
from ctapipe_gphysnet.batches import Batches  # noqa: E402
from ctapipe_gphysnet.events import EventSelection, read_events  # noqa: E402
from ctapipe_gphysnet.network.model import GammaPhysNet, NetworkOptions  # noqa: E402
from ctapipe_gphysnet.preprocessing import Preprocessing  # noqa: E402
from ctapipe_gphysnet.resuming import (  # noqa: E402
    CheckpointError,
    TrainingStopped,
    WholeCheckpoints,
    configuration,
    first_difference,
    read_checkpoint,
    remove_partial_checkpoints,
)
from ctapipe_gphysnet.training import (  # noqa: E402
    GammaPhysNetTraining,
    TrainingOptions,
    monitored_quantities,
    train,
)

pytestmark = pytest.mark.filterwarnings("ignore:::lightning")

TASKS = ("direction", "particle_type")
NETWORK = NetworkOptions(
    tasks=TASKS, attention="none", blocks=1, channels=(4, 4), head_width=4
)
OPTIONS = TrainingOptions(
    epochs=2, batch_size=16, device="cpu", learning_rate=0.01, validation_fraction=0.2
)


@pytest.fixture(scope="module")
def sample(sample_path):
    """Enough events for a few steps."""
    whole = read_events([sample_path], EventSelection(), TASKS, progress=False)
    some = np.arange(0, len(whole), len(whole) // 100)
    return replace(
        whole,
        charge=whole.charge[some],
        peak_time=whole.peak_time[some],
        targets={task: target[some] for task, target in whole.targets.items()},
        truth=whole.truth[some],
        classified=whole.classified[some],
    )


@pytest.fixture
def run(sample, tmp_path):
    """Function: train; the network and what `train` says of it."""

    def run_training(directory=tmp_path / "training", resume=False, **options):
        torch.manual_seed(0)
        network = GammaPhysNet(sample.camera.lattice, NETWORK)
        options = replace(OPTIONS, **options)
        result = train(network, sample, Preprocessing(), options, directory, resume)
        return network, result

    return run_training


@pytest.fixture
def interrupted(monkeypatch):
    """Context: something happens in a step of an epoch, the first by default."""
    step = GammaPhysNetTraining.training_step

    @contextmanager
    def interrupt(epoch, action, step_number=0):
        def interrupted_step(self, batch, index):
            if self.current_epoch == epoch and index == step_number:
                action()
            return step(self, batch, index)

        with monkeypatch.context() as patch:
            patch.setattr(GammaPhysNetTraining, "training_step", interrupted_step)
            yield

    return interrupt


@pytest.fixture
def recorded(monkeypatch):
    """Weights and running statistics at the end of every step."""
    states = []

    def record(self, *_):
        state = self.network.state_dict()
        states.append({name: value.clone() for name, value in state.items()})

    monkeypatch.setattr(GammaPhysNetTraining, "on_train_batch_end", record)
    return states


@pytest.fixture
def aucs(monkeypatch):
    """The next values of this metric, one an epoch."""
    values = []
    monkeypatch.setattr(training, "validation_metrics", lambda *_: {"auc": values.pop(0)})
    return values


def fail():
    raise RuntimeError("failed")


def assert_same(network, state):
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, state[name], rtol=0, atol=0, msg=name)


@contextmanager
def greatest_file(size):
    """A disk that is full, for files that are larger."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_full_disk_keeps_the_checkpoint_before(tmp_path):
    path = tmp_path / "new" / "last.ckpt"
    files = WholeCheckpoints()
    with greatest_file(1000):
        with pytest.raises(
            CheckpointError, match="last.ckpt cannot be written: File too"
        ):
            files.save_checkpoint({"weights": torch.zeros(1000)}, path)
    assert list(path.parent.iterdir()) == []
    files.save_checkpoint({"weights": torch.zeros(1000)}, path)
    before = path.read_bytes()
    with greatest_file(1000):
        with pytest.raises(CheckpointError, match="from the checkpoint before"):
            files.save_checkpoint({"weights": torch.ones(1000)}, path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_resumed_after_a_full_disk(run, interrupted, tmp_path):
    expected, _ = run(tmp_path / "whole")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))  # noqa: E731
    try:
        with interrupted(1, limit):
            with pytest.raises(CheckpointError, match="last.ckpt cannot be written"):
                run()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert read_checkpoint(tmp_path / "training" / "last.ckpt")["epoch"] == 0
    network, _ = run(resume=True)
    assert_same(network, expected.state_dict())


def test_disk_that_is_full_for_a_log(run, monkeypatch):
    def fail(self):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(CSVLogger, "save", fail)
        with pytest.raises(CheckpointError, match=r"No space.* GB are free there"):
            run()


def test_damaged_checkpoint(run, tmp_path):
    run(epochs=1)
    path = tmp_path / "training" / "last.ckpt"
    whole = path.read_bytes()
    changed = bytearray(whole)
    changed[len(whole) // 2] ^= 0xFF
    for content in (b"", b"text", whole[:-100], bytes(changed)):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="last.ckpt cannot be read as a check"):
            run(epochs=1, resume=True)
    assert path.read_bytes() == content


def test_other_configuration(run, tmp_path):
    run(epochs=1)
    with pytest.raises(CheckpointError, match="night_sky is 2.0, but .* had 0.0"):
        run(epochs=1, resume=True, augmentation=training.Augmentation(night_sky=2.0))


def test_differences_of_configurations():
    inputs = {"inputs": [{"file": "a.h5", "product_id": "1"}]}
    before = configuration(OPTIONS, NETWORK, Preprocessing(), inputs)
    assert json.loads(json.dumps(before)) == before

    def difference(options=OPTIONS, network=NETWORK, inputs=inputs, **preprocessing):
        now = configuration(options, network, Preprocessing(**preprocessing), inputs)
        return first_difference(before, now)

    assert difference() is None
    assert difference(replace(OPTIONS, device="cuda", devices=4)) is None
    assert difference(replace(OPTIONS, seed=4)) == ("seed", 0, 4)
    network = replace(NETWORK, channels=(4, 8))
    assert difference(network=network) == ("network.channels[1]", 4, 8)
    assert difference(charge="none")[0] == "preprocessing.charge"
    other = {"inputs": [{"file": "a.h5", "product_id": "2"}]}
    assert difference(inputs=other) == ("inputs[0].product_id", "1", "2")
    more = {"inputs": inputs["inputs"] * 2}
    assert difference(inputs=more) == ("number of inputs", 1, 2)
    assert difference(inputs={}) == ("inputs", inputs["inputs"], None)


def test_leftovers_are_removed(tmp_path):
    for name in (".last.ckpt.a1b2", ".best.ckpt.c3d4", "last.ckpt", "other"):
        (tmp_path / name).touch()
    remove_partial_checkpoints(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.ckpt", "other"]


@pytest.mark.parametrize(
    ("number", "name"), [(signal.SIGINT, "Ctrl-C"), (signal.SIGTERM, "SIGTERM")]
)
def test_stopped_by_a_signal(run, interrupted, tmp_path, number, name):
    """In the first epoch, of which nothing is validated yet, and in the second."""
    handler = signal.getsignal(number)
    expected, _ = run(tmp_path / "whole")
    for epoch in (0, 1):
        place = f"after step 1 of epoch {epoch + 1},"
        with interrupted(epoch, lambda: os.kill(os.getpid(), number)):
            with pytest.raises(TrainingStopped, match=f"{name} .* {place}") as e:
                run()
        assert e.value.exit_code == 128 + number
        assert signal.getsignal(number) == handler
        network, _ = run(resume=True)
        assert_same(network, expected.state_dict())


@pytest.mark.parametrize("step", [0, 2])
def test_resumed_where_processes_load_the_batches(
    run, interrupted, tmp_path, monkeypatch, step
):
    """They ask for the first batches before the epoch is told."""
    expected, _ = run(tmp_path / "whole")
    loader = partial(training.ResumableLoader, batch_size=None, num_workers=1)

    def with_worker(batches, order, _):
        return loader(
            batches,
            sampler=order,
            persistent_workers=True,
            worker_init_fn=training.ignore_interrupts,
        )

    def press():
        """As a terminal has it: all processes get the signal."""
        workers = [worker.pid for worker in multiprocessing.active_children()]
        assert workers
        for pid in [*workers, os.getpid()]:
            os.kill(pid, signal.SIGINT)

    monkeypatch.setattr(training, "_loader", with_worker)
    action = fail if step == 0 else press
    with interrupted(1, action, step), pytest.raises((RuntimeError, TrainingStopped)):
        run()
    network, _ = run(resume=True)
    assert_same(network, expected.state_dict())


def test_stopped_in_the_last_validation(run, monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        press = lambda _: os.kill(os.getpid(), signal.SIGINT)  # noqa: E731
        patch.setattr(GammaPhysNetTraining, "on_validation_start", press)
        with pytest.raises(TrainingStopped, match="goes on after epoch 1,"):
            run(epochs=1)
    network, result = run(epochs=1, resume=True)
    expected, _ = run(tmp_path / "whole", epochs=1)
    assert_same(network, expected.state_dict())


def test_time_and_logs_of_what_was_interrupted(run, interrupted, tmp_path):
    folder = tmp_path / "training" / "log"
    start = time.monotonic()
    with interrupted(1, fail), pytest.raises(RuntimeError, match="failed"):
        run()
    last = tmp_path / "training" / "last.ckpt"
    checkpoint = read_checkpoint(last)
    assert 0 < checkpoint["wall_time_s"] < time.monotonic() - start
    WholeCheckpoints().save_checkpoint({**checkpoint, "wall_time_s": 1000.0}, last)
    start = time.monotonic()
    result = run(resume=True)[1]
    assert 1000 < result["wall_time_s"] < 1000.1 + time.monotonic() - start
    assert [path.name for path in sorted(folder.iterdir())] == ["version_0", "version_1"]
    assert run(resume=True)[1]["wall_time_s"] == result["wall_time_s"]
    run()
    assert [path.name for path in folder.iterdir()] == ["version_0"]


def test_best_epoch_is_kept(run, aucs, recorded, interrupted, tmp_path):
    options = {"epochs": 3, "monitor": "auc", "keep": "best"}
    aucs += [0.5, 0.9, 0.7]
    network, result = run(**options)
    steps = len(recorded) // 3
    assert_same(network, recorded[2 * steps - 1])
    assert result["epochs"] == 2
    assert result["metrics"]["auc"] == pytest.approx(0.9)
    # the same, if it is interrupted and its folder is moved
    aucs += [0.5, 0.9, 0.7]
    with interrupted(2, fail), pytest.raises(RuntimeError, match="failed"):
        run(tmp_path / "there", **options)
    (tmp_path / "there").rename(tmp_path / "here")
    network, result = run(tmp_path / "here", resume=True, **options)
    assert result["metrics"]["auc"] == pytest.approx(0.9)
    assert_same(network, recorded[2 * steps - 1])


def test_stops_early_and_stays_so(run, aucs, recorded, interrupted):
    options = {"epochs": 9, "monitor": "auc", "patience": 2}
    aucs += [0.9, 0.5, 0.8]
    network, result = run(**options)
    assert result["epochs"] == 3
    assert result["metrics"]["auc"] == pytest.approx(0.8)
    assert_same(network, recorded[-1])
    # killed before the model file was there
    with interrupted(3, fail):
        network, result = run(resume=True, **options)
    assert result["metrics"]["auc"] == pytest.approx(0.8)
    assert_same(network, recorded[-1])


def test_averaged_weights(run, recorded, interrupted, sample, tmp_path):
    options = {"average_weights": 0.95, "epochs": 3}
    network, result = run(**options)
    average = recorded[0]
    for n, state in enumerate(recorded[1:], start=1):
        decay = min(0.95, (1 + n) / (10 + n))
        average = {k: decay * average[k] + (1 - decay) * v for k, v in state.items()}
    for name, value in network.state_dict().items():
        if name.endswith("num_batches_tracked"):
            assert value == len(recorded)
        else:
            torch.testing.assert_close(value, average[name], rtol=1e-4, atol=1e-6)
    # the metrics are those of the averaged weights
    _, validation = sample.split(OPTIONS.validation_fraction, OPTIONS.seed)
    truth = Batches(sample, validation, Preprocessing())[0, np.arange(len(validation))]
    with torch.no_grad():
        outputs = network.eval()(truth["images"])
    metrics = training.validation_metrics(outputs, truth)
    assert result["metrics"]["angle_68"] == pytest.approx(metrics["angle_68"], rel=1e-5)
    # and they are the same, if it is interrupted
    directory = tmp_path / "interrupted"
    with interrupted(1, fail), pytest.raises(RuntimeError, match="failed"):
        run(directory, **options)
    resumed, _ = run(directory, resume=True, **options)
    assert_same(resumed, network.state_dict())
    assert run(directory, resume=True, **options)[1]["metrics"] == result["metrics"]


def test_gradients_are_clipped(run, tmp_path):
    norms = []

    def measure(optimizer, *_):
        weights = [p for group in optimizer.param_groups for p in group["params"]]
        gradients = [p.grad.flatten() for p in weights if p.grad is not None]
        norms.append(float(torch.cat(gradients).norm()))

    handle = register_optimizer_step_post_hook(measure)
    try:
        run(epochs=1, gradient_clip=0.0)
        free = norms.copy()
        limit = float(np.median(free))
        run(tmp_path / "clipped", epochs=1, gradient_clip=limit)
    finally:
        handle.remove()
    clipped = norms[len(free) :]
    assert clipped[0] == pytest.approx(min(free[0], limit), rel=1e-4)
    assert max(clipped) <= limit * (1 + 1e-4) < max(free)


def test_bfloat16_is_near(run, tmp_path):
    _, full = run()
    _, half = run(tmp_path / "half", precision="bf16-mixed")
    assert half["metrics"] != full["metrics"]
    assert half["metrics"] == pytest.approx(full["metrics"], rel=0.1, abs=0.05)


def test_logs(run, tmp_path):
    run()
    folder = tmp_path / "training" / "log" / "version_0"
    table = np.genfromtxt(folder / "metrics.csv", delimiter=",", names=True)
    losses = table["validation_loss"][np.isfinite(table["validation_loss"])]
    assert len(losses) == OPTIONS.epochs
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    curves = EventAccumulator(str(folder)).Reload()
    values = [event.value for event in curves.Scalars("validation_loss")]
    assert values == pytest.approx(losses, rel=1e-6)


@pytest.mark.parametrize("when", ["training_step", "on_validation_epoch_start"])
def test_no_checkpoint_of_a_loss_that_is_not_finite(run, monkeypatch, tmp_path, when):
    original = getattr(GammaPhysNetTraining, when)

    def spoil(self, *arguments):
        if self.current_epoch == 1:
            next(self.network.parameters()).data.fill_(torch.nan)
        return original(self, *arguments)

    monkeypatch.setattr(GammaPhysNetTraining, when, spoil)
    with pytest.raises(FloatingPointError, match="in epoch 2: .*lower learning_rate"):
        run()
    checkpoint = read_checkpoint(tmp_path / "training" / "last.ckpt")
    assert checkpoint["epoch"] == 0
    assert all(torch.isfinite(value).all() for value in checkpoint["state_dict"].values())


def test_too_few_events(run):
    with pytest.raises(ValueError, match="too few for a batch_size of 1000"):
        run(batch_size=1000)


def test_one_of_a_kind_is_not_enough(sample, tmp_path):
    """It is either for training or for validation."""
    classified = sample.is_signal.copy()
    classified[np.argmin(classified)] = True
    events = replace(sample, classified=classified)
    network = GammaPhysNet(sample.camera.lattice, NETWORK)
    with pytest.raises(ValueError, match="no background events to .* of 1 in all"):
        train(network, events, Preprocessing(), OPTIONS, tmp_path)


def test_signal_for_the_regressions_alone_is_not_enough(sample, tmp_path):
    events = replace(sample, classified=~sample.is_signal)
    network = GammaPhysNet(sample.camera.lattice, NETWORK)
    message = "no signal to classify events to train on .* of 0 in all.*--input"
    with pytest.raises(ValueError, match=message):
        train(network, events, Preprocessing(), OPTIONS, tmp_path)


def test_quantities_to_monitor():
    assert monitored_quantities(["energy"]) == {
        "validation_loss": "min",
        "validation_energy": "min",
        "energy_68": "min",
    }
    assert monitored_quantities(TASKS)["auc"] == "max"
