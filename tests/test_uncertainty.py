import numpy as np
import pytest
import torch
from sklearn.model_selection import cross_val_predict

from ctapipe_gphysnet import uncertainty
from ctapipe_gphysnet.batches import OrderedBatches
from ctapipe_gphysnet.inference import Predictor
from ctapipe_gphysnet.network.model import GammaPhysNet, NetworkOptions
from ctapipe_gphysnet.tasks import TASKS
from ctapipe_gphysnet.uncertainty import MIN_EVENTS, fit_uncertainties

N = 1200
SIZE = 100  # of a batch


@pytest.fixture
def predictor(small_model):
    options = NetworkOptions(
        blocks=1,
        channels=(4, 4, 8),
        head_width=8,
        attention="none",
        uncertainty=True,
    )
    torch.manual_seed(0)
    network = GammaPhysNet(small_model.network.lattice, options).eval()
    with torch.no_grad():
        # as initialised, all images have nearly the same features
        network.head.hidden["global"][0].weight *= 30
        network.head.hidden["local"][0].weight *= 10
    small_model.network = network
    return Predictor(small_model, device="cpu")


@pytest.fixture
def events(predictor):
    """Images, raw outputs, and the true scales of their errors by task."""
    rng = np.random.default_rng(1)
    shape = (2 * N, 2, predictor.model.camera.lattice.n_pixels)
    brightness = rng.uniform(0.1, 2, (2 * N, 2, 1))
    images = (brightness * rng.random(shape, dtype=np.float32)).astype(np.float32)
    seen = []
    layer = predictor.model.network.head.uncertainties["energy_uncertainty"]
    with layer.register_forward_pre_hook(lambda _, x: seen.append(x[0].numpy())):
        raw = predictor.predict(images)
    features = np.concatenate(seen)
    assert features.shape == (2 * N, 16)  # of both hidden layers
    logarithm = features @ rng.normal(size=(16, 2))
    logarithm *= 0.5 / logarithm.std(axis=0)
    energy, direction = np.exp(logarithm - logarithm.mean(axis=0)).T
    scales = {"energy": 0.2 * energy, "direction": 0.1 * direction}
    return images, raw, scales


def errors(kind, rng, n):
    """Errors of log10 E and of the two angles, for a scale of 1."""
    if kind == "normal":
        return rng.normal(size=n), rng.normal(size=(n, 2))
    return rng.laplace(size=n), rng.standard_t(3, size=(n, 2))  # with tails


def batches_of(images, raw, errors, is_signal):
    targets = {
        "energy": raw["energy"] - errors["energy"][:, None],
        "direction": raw["direction"] - errors["direction"],
    }
    for _, places in OrderedBatches(len(images), SIZE):
        batch = {"images": images[places], "is_signal": is_signal[places]}
        batch |= {task: target[places] for task, target in targets.items()}
        yield {name: torch.from_numpy(values) for name, values in batch.items()}


@pytest.mark.parametrize("kind", ["normal", "tails"])
def test_calibrated_on_other_events(predictor, events, kind):
    images, raw, scales = events
    rng = np.random.default_rng(2)
    drawn = dict(zip(("energy", "direction"), errors(kind, rng, 2 * N)))
    drawn["energy"] = drawn["energy"] * scales["energy"]
    drawn["direction"] = drawn["direction"] * scales["direction"][:, None]
    is_signal = rng.random(2 * N) < 0.8
    # those of background must not count
    drawn = {
        task: np.where(np.reshape(is_signal, (-1,) + (1,) * (e.ndim - 1)), e, 1e3)
        for task, e in drawn.items()
    }
    first, second = np.arange(2 * N) < N, np.arange(2 * N) >= N
    calibration = fit_uncertainties(
        predictor,
        batches_of(
            images[first],
            {task: r[first] for task, r in raw.items()},
            {task: e[first] for task, e in drawn.items()},
            is_signal[first],
        ),
        np.arange(N) // 3,
    )
    found = predictor.predict(images)
    for task, scale in scales.items():
        assert calibration[task]["n_images"] == is_signal[:N].sum()
        # the network itself is the same
        np.testing.assert_array_equal(found[task], raw[task])
        log_scale = found[f"{task}_uncertainty"][:, 0]
        assert np.corrcoef(log_scale[second], np.log(scale[second]))[0, 1] > 0.95
        error = drawn[task] if task == "energy" else np.hypot(*drawn[task].T)
        pulls = (error / np.exp(log_scale))[second & is_signal]
        # three standard deviations of the share of 960 events; less for half of them
        assert np.mean(np.abs(pulls) < 1) == pytest.approx(0.6827, abs=0.045)
        # both where errors are large and where they are small
        large = scale > np.median(scale)
        for half in (large, ~large):
            pulls = (error / np.exp(log_scale))[second & is_signal & half]
            assert np.mean(np.abs(pulls) < 1) == pytest.approx(0.6827, abs=0.08)


def test_cross_validation_is_by_shower(predictor, events, monkeypatch):
    """Else uses of one shower on both sides hide what was learnt by heart."""
    images, raw, scales = events
    n_events = 300
    images = images[:n_events]
    raw = {task: r[:n_events] for task, r in raw.items()}
    drawn = {"energy": scales["energy"], "direction": np.ones((2 * N, 2))}
    drawn = {task: e[:n_events] for task, e in drawn.items()}
    is_signal = np.random.default_rng(3).random(n_events) < 0.7
    showers = np.repeat(np.arange(n_events // 10), 10)
    parts = []

    def spy(model, features, values, groups, cv):
        parts.extend(groups[part] for _, part in cv.split(features, values, groups))
        return cross_val_predict(model, features, values, groups=groups, cv=cv)

    monkeypatch.setattr(uncertainty, "cross_val_predict", spy)
    fit_uncertainties(predictor, batches_of(images, raw, drawn, is_signal), showers)
    assert len(parts) == 10  # five for each of two tasks
    for task in (parts[:5], parts[5:]):
        assert sorted(np.concatenate(task)) == list(showers[is_signal])
        assert sum(len(set(part)) for part in task) == len(set(showers[is_signal]))


def test_too_few_events(predictor, events):
    images, raw, scales = events
    is_signal = np.arange(2 * N) < MIN_EVENTS - 1
    drawn = {"energy": scales["energy"], "direction": np.zeros((2 * N, 2))}
    with pytest.raises(ValueError, match="99 gamma rays .* at least 100"):
        fit_uncertainties(
            predictor, batches_of(images, raw, drawn, is_signal), np.arange(2 * N)
        )


def test_inverses():
    """One standard deviation of log10 E, and a radius in degrees."""
    raw = np.log([[0.1], [0.05]])
    energy = TASKS["energy"].to_energy(np.array([[0.0], [1.0]]))
    sigma = TASKS["energy"].to_uncertainty(raw, energy).to_value("TeV")
    # to first order, the difference that a standard deviation makes
    up, down = 10 ** (np.array([0, 1]) + 1e-4 * np.exp(raw[:, 0])), 10 ** np.array([0, 1])
    np.testing.assert_allclose(sigma, (up - down) / 1e-4, rtol=1e-4)
    radius = TASKS["direction"].to_uncertainty(raw).to_value("deg")
    np.testing.assert_allclose(radius, [0.1, 0.05])


def test_errors_and_widths():
    rng = np.random.default_rng(4)
    target = rng.normal(size=(50_000, 2))
    error = rng.normal(size=(50_000, 2))
    energy, direction = TASKS["energy"], TASKS["direction"]
    found = energy.error(target[:, :1] + error[:, :1], target[:, :1])
    np.testing.assert_allclose(found, error[:, 0], atol=1e-12)
    assert energy.width(found + 5) == pytest.approx(1, abs=0.02)  # whatever the bias
    found = direction.error(target + error, target)
    np.testing.assert_allclose(found, np.hypot(*error.T), atol=1e-12)
    # Rayleigh's distribution
    assert direction.width(found) == pytest.approx(
        np.sqrt(-2 * np.log(1 - 0.6827)), abs=0.02
    )
