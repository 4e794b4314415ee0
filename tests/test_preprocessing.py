import numpy as np
import pytest

from ctapipe_gphysnet.lattice import CameraLattice
from ctapipe_gphysnet.preprocessing import Preprocessing

PLAIN = {"charge": "none", "time_reference": "none", "time_charge_scale": 0}


@pytest.fixture(scope="module")
def lattice():
    """Four by five square pixels: pixel 5 * row + column."""
    x, y = np.meshgrid(np.arange(5.0), np.arange(4.0))
    return CameraLattice.from_positions(np.column_stack([x.ravel(), y.ravel()]), "square")


@pytest.fixture
def images():
    rng = np.random.default_rng(1)
    charge = rng.normal(2, 3, size=(3, 20))
    charge[:, 7] = 300
    return charge, rng.uniform(5, 30, size=(3, 20))


def test_plain_options_change_only_the_time_unit(lattice, images):
    charge, time = images
    out = Preprocessing(**PLAIN, time_scale=10)(charge, time, lattice)
    assert out.shape == (3, 2, 20)
    assert out.dtype == np.float32
    np.testing.assert_allclose(out[:, 0], charge, rtol=1e-6)
    np.testing.assert_allclose(out[:, 1], time / 10, rtol=1e-6)


def test_formulas(lattice, images):
    charge, time = images
    out = Preprocessing(charge_scale=5, time_scale=10, time_charge_scale=4)(
        charge, time, lattice
    )
    light = np.clip(charge, 0, None)
    mean = np.average(time, axis=1, weights=light**2)
    expected = (time - mean[:, None]) / 10 * light / (light + 4)
    np.testing.assert_allclose(out[:, 0], np.arcsinh(charge / 5), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(out[:, 1], expected, rtol=1e-4, atol=1e-5)


def test_moving_the_readout_window_changes_nothing(lattice, images):
    charge, time = images
    prepare = Preprocessing()
    np.testing.assert_allclose(
        prepare(charge, time, lattice), prepare(charge, time + 17, lattice), atol=1e-4
    )


@pytest.mark.parametrize("broken_as", ["mask", "nan", "minus infinity"])
def test_broken_pixels_take_the_mean_of_sound_neighbors(lattice, images, broken_as):
    charge, time = images
    expected = [charge[1, [1, 2, 3, 6, 8, 11, 12, 13]].mean()]
    broken = np.zeros(charge.shape, dtype=bool)
    broken[1, 7] = broken_as == "mask"
    if broken_as != "mask":
        charge[1, 7] = {"nan": np.nan, "minus infinity": -np.inf}[broken_as]
    out = Preprocessing(**PLAIN, time_scale=1)(charge, time, lattice, broken)
    np.testing.assert_allclose(out[1, 0, 7], expected, rtol=1e-6)
    np.testing.assert_allclose(out[1, 1, 7], time[1, [1, 2, 3, 6, 8, 11, 12, 13]].mean())
    others = np.arange(20) != 7
    np.testing.assert_allclose(out[1, 0, others], charge[1, others], rtol=1e-6)
    np.testing.assert_allclose(out[0, 0], charge[0], rtol=1e-6)


def test_saturated_pixels_are_bright_not_broken(lattice, images):
    charge, time = images
    charge[0, 7] = np.inf
    out = Preprocessing(**PLAIN, max_charge=5000)(charge, time, lattice)
    assert out[0, 0, 7] == 5000


def test_time_of_a_saturated_pixel_without_time_is_that_of_the_shower(lattice, images):
    charge, time = images
    time[0, 7] = np.inf
    out = Preprocessing()(charge, time, lattice)
    assert out[0, 1, 7] == 0
    assert np.isfinite(out).all()


@pytest.mark.parametrize("value", [np.nan, 0.0, -5.0, np.inf])
def test_no_image_gives_nan(lattice, value):
    charge, time = np.full((2, 20), value), np.full((2, 20), np.nan)
    assert np.isfinite(Preprocessing()(charge, time, lattice)).all()


def test_input_is_left_alone(lattice, images):
    charge, time = images
    charge[0, 3] = np.nan
    before = charge.copy(), time.copy()
    Preprocessing()(charge, time, lattice)
    np.testing.assert_array_equal(charge, before[0])
    np.testing.assert_array_equal(time, before[1])


def test_wrong_number_of_pixels(lattice):
    with pytest.raises(ValueError, match=r"\(2, 19\).*\(N, 20\)"):
        Preprocessing()(np.zeros((2, 19)), np.zeros((2, 19)), lattice)


@pytest.mark.parametrize(
    "option",
    [{"charge": "log"}, {"time_reference": "first"}, {"charge_scale": 0.0},
     {"max_charge": np.nan}, {"time_charge_scale": -1.0}],
)  # fmt: skip
def test_bad_options_are_named(option):
    (name, _) = next(iter(option.items()))
    with pytest.raises(ValueError, match=name):
        Preprocessing(**option)
