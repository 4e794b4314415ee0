import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import angular_separation, offset_by
from ctapipe.coordinates.impact_distance import impact_distance
from ctapipe.coordinates.utils import altaz_to_righthanded_cartesian
from ctapipe.core import ToolConfigurationError
from scipy.stats import kstest

from ctapipe_gphysnet.simulation.generator import ParticleGenerator

N = 400


def throw(generator, n=N):
    random = np.random.default_rng(7)
    return [generator.throw(random) for _ in range(n)]


def offsets(generator, showers):
    """Angular distance from the pointing [deg]."""
    altitude = u.Quantity([s.altitude for s in showers])
    azimuth = u.Quantity([s.azimuth for s in showers])
    return angular_separation(
        azimuth, altitude, generator.pointing_azimuth, generator.pointing_altitude
    ).to_value(u.deg)


@pytest.mark.parametrize("index", [-2.7, -2.0, -1.0, 0.0])
def test_energies_follow_the_power_law(index):
    generator = ParticleGenerator(
        energy_min=30 * u.GeV, energy_max=3 * u.TeV, spectral_index=index, uses=1
    )
    energies = [s.energy.to_value(u.GeV) for s in throw(generator)]
    edges = np.geomspace(30, 3000, 20_001)
    middles = np.sqrt(edges[1:] * edges[:-1])
    integral = np.cumsum(middles**index * np.diff(edges))

    def cumulative(energy):
        return np.interp(energy, edges[1:], integral / integral[-1])

    assert kstest(energies, cumulative).pvalue > 0.01
    assert min(energies) >= 30
    assert max(energies) <= 3000


def test_one_energy():
    generator = ParticleGenerator(energy_min=100 * u.GeV, energy_max=0.1 * u.TeV)
    for shower in throw(generator, 5):
        assert u.isclose(shower.energy, 100 * u.GeV)


def test_cone_is_filled_uniformly():
    generator = ParticleGenerator(viewcone_radius=6 * u.deg, uses=1)
    distance = offsets(generator, throw(generator))
    assert distance.max() <= 6
    depth = (1 - np.cos(np.deg2rad(distance))) / (1 - np.cos(np.deg2rad(6)))
    assert kstest(depth, "uniform").pvalue > 0.01


@pytest.mark.parametrize(
    ("position_angle", "up", "right"),
    [(0, 0.4, 0), (90, 0, 0.4), (180, -0.4, 0), (270, 0, -0.4)],
)
def test_place_of_a_point_source(position_angle, up, right):
    generator = ParticleGenerator(
        offset=0.4 * u.deg,
        position_angle=position_angle * u.deg,
        pointing_altitude=45 * u.deg,
    )
    (shower,) = throw(generator, 1)
    altitude, azimuth = shower.altitude.to_value(u.deg), shower.azimuth.to_value(u.deg)
    assert np.allclose(offsets(generator, [shower]), 0.4)
    expected = offset_by(180 * u.deg, 45 * u.deg, position_angle * u.deg, 0.4 * u.deg)
    np.testing.assert_allclose([azimuth, altitude], [x.to_value(u.deg) for x in expected])
    assert np.isclose(altitude - 45, up, atol=0.002)
    assert np.isclose((azimuth - 180) * np.cos(np.deg2rad(45)), right, atol=0.002)
    assert generator.source[0].to_value(u.deg) == pytest.approx(altitude)


def test_cores_fill_a_disc_perpendicular_to_the_axis():
    generator = ParticleGenerator(
        viewcone_radius=5 * u.deg,
        pointing_altitude=35 * u.deg,
        pointing_azimuth=250 * u.deg,
        max_core_distance=300 * u.m,
        uses=20,
    )
    showers = throw(generator, 40)
    angles = []
    for shower in showers:
        core = np.column_stack([shower.core, np.zeros(20)])
        axis = altaz_to_righthanded_cartesian(alt=shower.altitude, az=shower.azimuth)
        found = impact_distance(np.zeros(3), axis, core)
        np.testing.assert_allclose(found, shower.core_distance)
        across = np.cross(axis, [0, 0, 1])
        across /= np.linalg.norm(across)
        angles.extend(np.arctan2(core @ np.cross(across, axis), core @ across))
    distance = np.concatenate([s.core_distance for s in showers])
    assert kstest((distance / 300) ** 2, "uniform").pvalue > 0.01
    assert kstest((np.array(angles) / np.pi + 1) / 2, "uniform").pvalue > 0.01


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"energy_min": 0.5 * u.GeV}, "energy_min is 0.5 GeV: it has to be from 1 GeV"),
        ({"energy_max": 1 * u.PeV}, "energy_max is 1.0 PeV: the most is 100 TeV"),
        ({"energy_max": 5 * u.GeV}, "energy_max is 5.0 GeV, below energy_min, 10.0 GeV"),
        ({"energy_min": np.nan * u.GeV}, "energy_min is nan GeV"),
        ({"pointing_altitude": 29 * u.deg}, "at most 60 deg from the zenith"),
        ({"viewcone_radius": 11 * u.deg}, "viewcone_radius is 11.0 deg"),
        ({"offset": -1 * u.deg}, "offset is -1.0 deg"),
        (
            {"offset": 1 * u.deg, "viewcone_radius": 1 * u.deg},
            "a point source has no cone",
        ),
        ({"max_core_distance": 0 * u.m}, "max_core_distance is 0.0 m"),
    ],
)
def test_impossible_options(options, message):
    with pytest.raises(ToolConfigurationError, match="ParticleGenerator") as error:
        ParticleGenerator(**options)
    assert message in str(error.value)
