import numpy as np
import pytest
import torch
from astropy.table import Table

from ctapipe_gphysnet.batches import (
    Augmentation,
    Batches,
    OrderedBatches,
    Share,
    ShuffledBatches,
)
from ctapipe_gphysnet.events import EventSample
from ctapipe_gphysnet.preprocessing import Preprocessing

N_PIXELS = 1855
RAW = Preprocessing(charge="none", time_reference="none", time_charge_scale=0.0)


def make_sample(camera, charge, **targets):
    n_events = len(charge)
    return EventSample(
        charge=charge.astype(np.float16),
        peak_time=np.full(charge.shape, 20, dtype=np.float16),
        targets={name: np.asarray(v, dtype=np.float32) for name, v in targets.items()},
        truth=Table({"true_shower_primary_id": np.arange(n_events) % 2 * 101}),
        camera=camera,
        classified=np.ones(n_events, dtype=bool),
    )


def batch_of(sample, augmentation=None, seed=3, preprocessing=RAW):
    events = np.arange(len(sample))
    return Batches(sample, events, preprocessing, augmentation)[seed, events]


def test_turned_images_and_targets_belong_together(small_model):
    """A lit pixel at the source's position stays there in every orientation."""
    camera = small_model.camera
    pixels = np.arange(0, N_PIXELS, 37)
    charge = np.zeros((len(pixels), N_PIXELS))
    charge[np.arange(len(pixels)), pixels] = 1
    direction = camera.positions[pixels]
    # the impact point of a core on the line from the pointing through the
    # source: TiltedGroundFrame's axes are -fov_lat and -fov_lon
    sample = make_sample(camera, charge, direction=direction, impact=-direction[:, ::-1])
    turned = batch_of(sample, Augmentation())
    lit = turned["images"][:, 0].argmax(dim=1)
    expected = torch.from_numpy(camera.positions[lit]).float()
    torch.testing.assert_close(turned["direction"], expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(turned["impact"], -expected[:, [1, 0]], atol=1e-4, rtol=0)
    assert (lit.numpy() != pixels).mean() > 0.5
    np.testing.assert_allclose(sample.targets["direction"], direction, rtol=1e-6)


def test_without_augmentation_images_are_prepared_as_in_use(small_model):
    rng = np.random.default_rng(1)
    charge = rng.gamma(1, 5, (6, N_PIXELS))
    sample = make_sample(small_model.camera, charge, energy=np.zeros((6, 1)))
    batch = batch_of(sample, preprocessing=Preprocessing())
    expected = Preprocessing()(
        sample.charge, sample.peak_time, small_model.camera.lattice
    )
    np.testing.assert_array_equal(batch["images"], expected)
    assert batch["images"].dtype == torch.float32
    assert batch["is_signal"].tolist() == [True, False] * 3
    assert batch["classified"].all()


def test_night_sky_adds_noise_and_no_charge(small_model):
    sample = make_sample(small_model.camera, np.full((40, N_PIXELS), 10.0))
    images = batch_of(sample, Augmentation(turn=False, night_sky=3.0))["images"]
    charge = images[:, 0].numpy().astype(float)
    np.testing.assert_allclose(charge.mean(axis=1), 10, atol=5 * np.sqrt(3 / N_PIXELS))
    # the variance of a Poisson distribution is its expectation, uniform from 0 to 3 here
    variance = charge.var(axis=1)
    assert variance.min() < 0.4
    assert 2.6 < variance.max() < 3.5
    assert abs(variance.mean() - 1.5) < 5 * 3 / np.sqrt(12 * 40)
    np.testing.assert_allclose(images[:, 1], 2.0)  # the times, in units of 10 ns


def test_charge_error_scales_whole_images(small_model):
    rng = np.random.default_rng(1)
    charge = rng.uniform(5, 50, (40, N_PIXELS)).astype(np.float16).astype(float)
    sample = make_sample(small_model.camera, charge)
    images = batch_of(sample, Augmentation(turn=False, charge_error=0.25))["images"]
    scale = images[:, 0].numpy() / charge
    np.testing.assert_allclose(scale.std(axis=1), 0, atol=1e-5)
    assert 0.75 < scale.min() < 0.8
    assert 1.2 < scale.max() < 1.25


def test_dead_pixels_are_filled_from_their_neighbors(small_model):
    charge = np.full((40, N_PIXELS), 4.0)
    charge[:, ::50] = 1000
    sample = make_sample(small_model.camera, charge)
    images = batch_of(sample, Augmentation(turn=False, dead_pixels=0.5))["images"]
    bright = images[:, 0, ::50].numpy()
    alive = (bright == 1000).mean(axis=1)
    assert alive.min() < 0.65
    assert alive.max() > 0.9
    assert abs(alive.mean() - 0.75) < 0.1
    assert np.median(bright[bright < 1000]) == 4


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("night_sky", -1),
        ("dead_pixels", 1),
        ("charge_error", np.nan),
        ("charge_error", 1),
    ],
)
def test_bad_augmentation(name, value):
    with pytest.raises(ValueError, match=name):
        Augmentation(**{name: value})


def test_a_batch_follows_from_its_seed(small_model):
    rng = np.random.default_rng(1)
    sample = make_sample(small_model.camera, rng.gamma(1, 5, (6, N_PIXELS)))
    everything = Augmentation(night_sky=2.0, dead_pixels=0.1, charge_error=0.2)
    first, again, other = (batch_of(sample, everything, seed) for seed in (1, 1, 2))
    assert torch.equal(first["images"], again["images"])
    assert not torch.equal(first["images"], other["images"])


def test_shuffled_batches():
    """Whole batches; the order and the seeds follow from seed and epoch."""
    batches = ShuffledBatches(103, 10, seed=4)
    orders = {}
    for epoch in (0, 1, 0):
        batches.set_epoch(epoch)
        found = list(batches)
        assert len(found) == len(batches) == 10
        places = np.concatenate([places for _, places in found])
        assert len(set(places.tolist())) == 100
        seeds = [seed for seed, _ in found]
        assert len(set(seeds)) == 10
        if epoch in orders:
            assert orders[epoch] == (seeds, places.tolist())
        orders[epoch] = seeds, places.tolist()
    assert orders[0] != orders[1]
    assert next(iter(ShuffledBatches(103, 10, seed=5)))[0] != orders[0][0][0]


def test_ordered_batches():
    found = [places.tolist() for _, places in OrderedBatches(7, 3)]
    assert found == [[0, 1, 2], [3, 4], [5, 6]]
    assert len(OrderedBatches(7, 3)) == 3


def test_processes_share_every_batch():
    """Together they have what one process has, each event once."""
    shares = [Share(rank, 3) for rank in range(3)]
    whole = list(ShuffledBatches(103, 12, seed=4))
    parts = [list(ShuffledBatches(103, 12, seed=4, share=share)) for share in shares]
    for (_, places), *found in zip(whole, *parts, strict=True):
        seeds, shared = zip(*found)
        assert {len(part) for part in shared} == {4}
        assert sorted(np.concatenate(shared)) == sorted(places)
        assert len(set(seeds)) == 3  # other changes of the images


@pytest.mark.parametrize(
    ("n_events", "batch_size", "number", "n_batches"),
    [(7, 2, 3, 2), (513, 256, 2, 2), (512, 256, 2, 1), (3, 256, 3, 1)],
)
def test_processes_have_as_many_batches(n_events, batch_size, number, n_batches):
    shares = [Share(rank, number) for rank in range(number)]
    batches = [list(OrderedBatches(n_events, batch_size, share)) for share in shares]
    assert {len(found) for found in batches} == {n_batches}
    parts = [places for found in batches for _, places in found]
    assert all(0 < len(places) <= batch_size for places in parts)
    assert sorted(np.concatenate(parts)) == list(range(n_events))
