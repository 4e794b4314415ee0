import numpy as np
import pytest
import torch

pytest.importorskip("lightning", reason="the extra train is not installed")

from ctapipe_gphysnet.training import (  # noqa: E402
    GammaPhysNetTraining,
    TrainingOptions,
    validation_metrics,
)


def test_turned_images_and_targets_belong_together(small_model):
    """A lit pixel at the source's position stays there in every orientation."""
    torch.manual_seed(0)
    camera = small_model.camera
    pixels = np.arange(0, 1855, 37)
    images = torch.zeros(len(pixels), 2, 1855)
    images[np.arange(len(pixels)), 0, pixels] = 1
    direction = torch.from_numpy(camera.positions[pixels]).float()
    # the impact point of a core on the line from the pointing through the
    # source: TiltedGroundFrame's axes are -fov_lat and -fov_lon
    impact = -direction[:, [1, 0]]
    module = GammaPhysNetTraining(small_model.network, TrainingOptions(), [1, 1])
    batch = {"images": images, "direction": direction, "impact": impact}
    turned = module.turn(batch)
    lit = turned["images"][:, 0].argmax(dim=1)
    expected = torch.from_numpy(camera.positions[lit]).float()
    torch.testing.assert_close(turned["direction"], expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(turned["impact"], -expected[:, [1, 0]], atol=1e-4, rtol=0)
    assert (lit.numpy() != pixels).mean() > 0.5
    assert torch.equal(batch["images"], images)


def test_metrics_against_their_definitions():
    rng = np.random.default_rng(8)
    n = 400
    signal = rng.random(n) < 0.5
    logits = rng.normal(size=(n, 2))
    direction, energy = rng.normal(size=(2, n, 2)), rng.normal(size=(2, n, 1))
    metrics = validation_metrics(
        {
            "particle_type": torch.tensor(logits),
            "direction": torch.tensor(direction[0]),
            "energy": torch.tensor(energy[0]),
        },
        {
            "is_signal": torch.tensor(signal),
            "classified": torch.ones(n, dtype=bool),
            "particle_type": torch.tensor(signal.astype(int)),
            "direction": torch.tensor(direction[1]),
            "energy": torch.tensor(energy[1]),
        },
    )
    score = logits[:, 1] - logits[:, 0]
    pairs = score[signal][:, None] > score[~signal][None, :]
    assert metrics["auc"] == pytest.approx(pairs.mean(), abs=1e-4)
    miss = np.hypot(*(direction[0] - direction[1])[signal].T)
    assert metrics["angle_68"] == pytest.approx(np.quantile(miss, 0.68), rel=1e-5)
    ratio = 10 ** (energy[0] - energy[1])[signal, 0]
    expected = np.quantile(np.abs(ratio - 1), 0.68)
    assert metrics["energy_68"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    "option",
    [
        {"epochs": 0},
        {"batch_size": 0},
        {"learning_rate": 0.0},
        {"validation_fraction": 1.0},
    ],
)
def test_bad_options_are_named(option):
    with pytest.raises(ValueError, match=next(iter(option))):
        TrainingOptions(**option)
