import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import tables
from ctapipe.core import Component
from ctapipe.image import hillas_parameters, tailcuts_clean
from ctapipe.instrument import FocalLengthKind
from traitlets.config import Config

from ctapipe_gphysnet.dl1 import DL1File
from ctapipe_gphysnet.perturbations import ImagePerturbation, PerturbedFile

PIXELS = 1855
DATA = ("images", "parameters")
CLEANING = {
    "picture_threshold_pe": 8,
    "boundary_threshold_pe": 4,
    "min_picture_neighbors": 2,
}
EFFECTIVE = FocalLengthKind.EFFECTIVE


class Parent(Component):
    """Something to be configured by."""


@pytest.fixture(scope="module")
def parent():
    return Parent(config=Config({"TailcutsImageCleaner": CLEANING}))


@pytest.fixture(scope="module")
def subarray(sample_path):
    with DL1File(sample_path, EFFECTIVE) as dl1:
        return dl1.subarray


@pytest.fixture
def image():
    return np.random.default_rng(1).normal(2, 3, PIXELS).astype(np.float32)


@pytest.fixture
def peak_time():
    return np.random.default_rng(2).uniform(0, 40, PIXELS).astype(np.float32)


@pytest.fixture
def perturbed(subarray, image, peak_time):
    """Function: what becomes of an image."""

    def perturb(obs_id=3, event_id=1203, **options):
        before = image.copy(), peak_time.copy()
        found = ImagePerturbation(subarray, **options)(
            1, image, peak_time, obs_id, event_id
        )
        np.testing.assert_array_equal(before, (image, peak_time))
        assert [values.dtype for values in found] == [np.float32] * 2
        return SimpleNamespace(image=found[0], peak_time=found[1])

    return perturb


def test_by_default_nothing_changes(perturbed, image, peak_time):
    found = perturbed()
    np.testing.assert_array_equal(found.image, image)
    np.testing.assert_array_equal(found.peak_time, peak_time)


@pytest.mark.parametrize("level", [0.5, 4])
def test_night_sky_has_the_moments_of_its_distribution(
    perturbed, image, peak_time, level
):
    found = [perturbed(event_id=i, night_sky=level) for i in range(20)]
    np.testing.assert_array_equal(found[3].peak_time, peak_time)
    added = np.array([one.image - image for one in found], dtype=float)
    number = added + level
    np.testing.assert_allclose(number, np.round(number), atol=1e-4)
    assert number.min() > -1e-4
    # mean, variance and third moment of a Poisson distribution, five deviations
    n = added.size
    assert abs(added.mean()) < 5 * np.sqrt(level / n)
    assert abs(added.var() - level) < 5 * np.sqrt((level + 2 * level**2) / n)
    assert np.mean(added**3) == pytest.approx(level, rel=0.25)


def test_dead_pixels_take_the_mean_of_living_neighbors(
    perturbed, image, peak_time, lst_geometry
):
    zero = perturbed(dead_pixels=0.1, invalid_pixel_handler_type=None)
    dead = zero.image == 0
    assert abs(dead.sum() - 0.1 * PIXELS) < 5 * np.sqrt(0.1 * 0.9 * PIXELS)
    assert (zero.peak_time[dead] == 0).all()
    found = perturbed(dead_pixels=0.1)
    for values, original in ((found.image, image), (found.peak_time, peak_time)):
        np.testing.assert_array_equal(values[~dead], original[~dead])
        for pixel in np.flatnonzero(dead):
            living = [n for n in lst_geometry.neighbors[pixel] if not dead[n]]
            expected = original[living].mean() if living else 0
            assert values[pixel] == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_a_pixel_dead_among_few_is_dead_among_many(perturbed):
    few, many = (
        perturbed(dead_pixels=level, invalid_pixel_handler_type=None).image == 0
        for level in (0.02, 0.2)
    )
    assert few.sum() < many.sum()
    assert many[few].all()


def test_every_pixel_can_be_dead(perturbed):
    found = perturbed(dead_pixels=1)
    assert not found.image.any()
    assert not found.peak_time.any()


def test_scale_comes_after_night_sky_and_before_dead_pixels_are_filled(perturbed):
    options = {"night_sky": 2, "dead_pixels": 0.05}
    found, expected = perturbed(charge_scale=1.25, **options), perturbed(**options)
    np.testing.assert_allclose(found.image, 1.25 * expected.image, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found.peak_time, expected.peak_time)


def test_draws_depend_on_seed_event_and_telescope_only(subarray, image, peak_time):
    options = {"night_sky": 1, "dead_pixels": 0.1}
    perturb = ImagePerturbation(subarray, seed=5, **options)
    keys = [(1, 10), (1, 11), (2, 10)]
    first = [perturb(1, image, peak_time, *key)[0] for key in keys]
    again = [perturb(1, image, peak_time, *key)[0] for key in reversed(keys)]
    np.testing.assert_array_equal(first, again[::-1])
    others = [ImagePerturbation(subarray, seed=6, **options)(1, image, peak_time, 1, 10)]
    others = [*first, others[0][0]]
    for i, one in enumerate(others):
        assert all((one != other).mean() > 0.5 for other in others[:i])


def test_dead_pixels_do_not_depend_on_night_sky(perturbed):
    options = {"dead_pixels": 0.1, "invalid_pixel_handler_type": None}
    dark, bright = perturbed(**options), perturbed(night_sky=3, **options)
    np.testing.assert_array_equal(dark.image == 0, bright.image == 0)


@pytest.mark.parametrize("option", ["night_sky", "dead_pixels", "charge_scale"])
def test_negative_levels_are_refused(subarray, option):
    with pytest.raises(Exception, match=option):
        ImagePerturbation(subarray, **{option: -0.5})


def read(path, parent, max_events=None, tel_ids=(1,), **perturbation):
    """All blocks of a file."""
    with PerturbedFile(path, EFFECTIVE, parent, max_events, **perturbation) as dl1:
        return list(dl1.blocks(list(tel_ids)))


def test_file_gives_changed_images_and_their_parameters(
    sample_path, parent, subarray, lst_geometry
):
    options = {"night_sky": 2, "dead_pixels": 0.03, "charge_scale": 1.1, "seed": 9}
    (block,) = read(sample_path, parent, 30, **options)
    with DL1File(sample_path, EFFECTIVE) as dl1:
        original = next(dl1.blocks([1], with_parameters=True))
    perturb = ImagePerturbation(subarray, **options)
    telescope, before = block.telescopes[0], original.telescopes[0]
    assert len(block.index) == len(telescope.parameters) == 30
    np.testing.assert_array_equal(block.index, original.index[:30])
    n_bright = 0
    for i, key in enumerate(block.index.tolist()):
        image, peak_time = perturb(1, before.image[i], before.peak_time[i], *key)
        np.testing.assert_array_equal(telescope.image[i], image)
        np.testing.assert_array_equal(telescope.peak_time[i], peak_time)
        mask = tailcuts_clean(lst_geometry, image, 8, 4, False, 2)
        row = telescope.parameters[i]
        assert row["morphology_n_pixels"] == (mask.sum() if mask.sum() > 1 else -1)
        if mask.sum() > 1:
            n_bright += 1
            hillas = hillas_parameters(lst_geometry[mask], image[mask])
            assert row["hillas_intensity"] == pytest.approx(hillas.intensity, rel=1e-6)
            assert row["hillas_kurtosis"] == pytest.approx(hillas.kurtosis, rel=1e-4)
    assert n_bright > 10


def test_parameters_are_in_the_columns_of_dl1_files(sample_path, parent):
    (block,) = read(sample_path, parent, 50)
    with DL1File(sample_path, EFFECTIVE) as dl1:
        original = next(dl1.blocks([1], with_parameters=True)).telescopes[0].parameters
    found = block.telescopes[0].parameters
    assert set(found.colnames) == set(original.colnames)
    for name in found.colnames:
        assert found[name].unit == original[name].unit, name
        assert found[name].dtype.kind == original[name].dtype.kind, name
    # without a change, but for the rounding of the images in the file
    same = np.isclose(
        found["hillas_length"], original["hillas_length"][:50], rtol=0.02, equal_nan=True
    )
    assert same.mean() > 0.9
    assert np.isfinite(found["hillas_length"]).mean() > 0.7


def together(blocks, tel_id):
    """Event, image and intensity of a telescope from all blocks."""
    event, image, intensity, start = [], [], [], 0
    for block in blocks:
        for telescope in block.telescopes:
            if telescope.tel_id == tel_id:
                event.append(start + telescope.event)
                image.append(telescope.image)
                intensity.append(telescope.parameters["hillas_intensity"])
                assert (telescope.parameters["tel_id"] == tel_id).all()
                assert len(telescope.altitude) == len(telescope.image)
        start += len(block.index)
    return [np.concatenate(values) for values in (event, image, intensity)]


@pytest.mark.parametrize("max_events", [None, 11])
def test_blocks_of_an_array_make_no_difference(
    array_path, parent, monkeypatch, max_events
):
    options = {"tel_ids": (1, 3, 5, 7), "night_sky": 1, "dead_pixels": 0.02}
    whole = read(array_path, parent, max_events, **options)
    assert len(whole) == 1
    monkeypatch.setattr("ctapipe_gphysnet.perturbations.BLOCK_EVENTS", 3)
    monkeypatch.setattr("ctapipe_gphysnet.dl1.BLOCK_SIZE", 150_000)
    parts = read(array_path, parent, max_events, **options)
    assert max(len(part.index) for part in parts) == 3
    assert sum(len(part.index) for part in parts) == (max_events or 20)
    for tel_id in (1, 3, 7):
        for found, expected in zip(together(parts, tel_id), together(whole, tel_id)):
            np.testing.assert_array_equal(found, expected)


def test_triggered_telescope_without_image(array_path, parent, tmp_path):
    path = tmp_path / "gap.dl1.h5"
    shutil.copy(array_path, path)
    images, parameters = (f"/dl1/event/telescope/{n}/tel_001" for n in DATA)
    with tables.open_file(path, "a") as file:
        for table in (file.root[images], file.root[parameters]):
            table.remove_rows(2, 4)
    (whole,), (gap,) = read(array_path, parent, 12), read(path, parent, 12)
    (whole,), (gap,) = whole.telescopes, gap.telescopes
    np.testing.assert_array_equal(gap.event, whole.event)
    assert np.flatnonzero(~gap.has_image).tolist() == [2, 3]
    kept = np.delete(np.arange(len(whole.image)), [2, 3])
    np.testing.assert_array_equal(gap.image, whole.image[kept])
    np.testing.assert_array_equal(
        gap.parameters["hillas_intensity"], whole.parameters["hillas_intensity"][kept]
    )


def test_length_is_what_is_read(sample_path, parent):
    for max_events, expected in ((None, 600), (7, 7), (1000, 600)):
        with PerturbedFile(sample_path, EFFECTIVE, parent, max_events) as dl1:
            assert len(dl1) == expected
