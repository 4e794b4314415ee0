import astropy.units as u
import numpy as np
import pytest
from astropy.table import Table
from ctapipe.atmosphere import ExponentialAtmosphereDensityProfile

from ctapipe_gphysnet.simulation.atmosphere import (
    Atmosphere,
    density,
    height_at_depth,
    overburden,
    refractivity,
)

# not next to 4 and 10 km, where the density of the layers jumps
HEIGHTS = [0.0, 2200.0, 3850.0, 8050.0, 12_345.0, 30_000.0, 70_000.0]


@pytest.fixture(scope="module")
def atmosphere():
    return Atmosphere()


@pytest.fixture(scope="module")
def medium(atmosphere):
    return atmosphere.medium()


@pytest.mark.parametrize("height", HEIGHTS)
def test_tables_are_the_profile(atmosphere, medium, height):
    at = height * u.m
    expected = atmosphere.profile(at).to_value(u.g / u.cm**2 / u.m)
    assert density(medium, height) == pytest.approx(expected, rel=1e-4)
    expected = atmosphere.profile.integral(at).to_value(u.g / u.cm**2)
    assert overburden(medium, height) == pytest.approx(expected, rel=1e-4)
    assert height_at_depth(medium, expected) == pytest.approx(height, abs=1)


def test_us_standard_atmosphere(medium):
    # US Standard Atmosphere 1976: density at sea level, 5 km and 20 km, and pressure.
    # CORSIKA's five layers follow it to some per cent.
    assert density(medium, 0.0) == pytest.approx(1.2250e-3 * 100, rel=0.01)
    assert density(medium, 5e3) == pytest.approx(0.73643e-3 * 100, rel=0.02)
    assert density(medium, 20e3) == pytest.approx(0.08891e-3 * 100, rel=0.03)
    assert overburden(medium, 0.0) == pytest.approx(1033.2, rel=0.005)


def test_refractivity_falls_with_the_density(medium):
    assert refractivity(medium, 0.0) == pytest.approx(2.83e-4)
    ratio = density(medium, 8e3) / density(medium, 0.0)
    assert refractivity(medium, 8e3) == pytest.approx(2.83e-4 * ratio)


def test_molecules_scatter_as_one_mean_free_path(atmosphere):
    clear = Atmosphere(aerosol_optical_depth=0.0, ozone_scale=0.0)
    below = clear.profile.integral([2200, 10_000] * u.m).to_value(u.g / u.cm**2)
    transmission = clear.transmission(np.array([400.0]), [10_000.0], np.radians(60))
    assert transmission[0, 0] == pytest.approx(np.exp(-2 * (below[0] - below[1]) / 2974))


def test_transmission_is_better_for_long_wavelengths_and_low_origins(atmosphere):
    wavelength = np.array([300.0, 350, 400, 500, 600])
    transmission = atmosphere.transmission(wavelength, [2200.0, 5e3, 10e3, 20e3], 0.0)
    np.testing.assert_allclose(transmission[0], 1)
    assert (np.diff(transmission, axis=1)[1:] > 0).all()
    assert (np.diff(transmission, axis=0) < 0).all()
    hazy = Atmosphere(aerosol_optical_depth=0.3)
    ratio = hazy.transmission(np.array([550.0]), [20e3], 0.0) / atmosphere.transmission(
        np.array([550.0]), [20e3], 0.0
    )
    assert ratio[0, 0] == pytest.approx(np.exp(-0.25), rel=1e-3)


def test_profile_from_a_file(tmp_path, atmosphere):
    path = tmp_path / "profile.ecsv"
    atmosphere.profile.table.write(path)
    other = Atmosphere(profile_table=path).medium()
    np.testing.assert_allclose(other.density, atmosphere.medium().density)


def test_any_profile_of_ctapipe_makes_a_medium(atmosphere):
    atmosphere = Atmosphere()
    atmosphere.profile = ExponentialAtmosphereDensityProfile(
        scale_height=8 * u.km, scale_density=1.2e-3 * u.g / u.cm**3
    )
    medium = atmosphere.medium()
    assert density(medium, 8e3) == pytest.approx(0.12 / np.e, rel=1e-4)
    assert overburden(medium, 8e3) == pytest.approx(0.12 / np.e * 8e3, rel=1e-3)


def test_file_without_a_profile(tmp_path):
    path = tmp_path / "other.ecsv"
    Table({"height": [1.0]}).write(path)
    with pytest.raises(ValueError, match="other.ecsv is not a density profile"):
        Atmosphere(profile_table=path)
