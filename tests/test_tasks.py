import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import AltAz, SkyCoord, angular_separation
from astropy.table import QTable, Table
from ctapipe.coordinates import GroundFrame, TelescopeFrame, TiltedGroundFrame
from scipy.special import softmax

from ctapipe_gphysnet.tasks import (
    TASKS,
    horizontal_to_telescope,
    telescope_to_horizontal,
)

POINTINGS = {
    "anywhere": (np.linspace(-85, 85, 40), np.linspace(0, 359, 40)),
    "near the zenith": (np.linspace(89.9, 90, 40), np.linspace(0, 359, 40)),
    "across north": (np.full(40, 70.0), np.linspace(-1, 1, 40) % 360),
}


def sky(alt, az):
    return SkyCoord(alt=alt, az=az, frame=AltAz())


def ground_to_tilted(position, pointing):
    """ctapipe's tilted (x, y) of positions (N, 3) on the ground."""
    x, y, z = position.T
    frame = TiltedGroundFrame(pointing_direction=pointing.frame)
    tilted = SkyCoord(x=x, y=y, z=z, frame=GroundFrame()).transform_to(frame)
    return u.Quantity([tilted.x, tilted.y]).T


@pytest.fixture(params=[2, 60], ids=["field of view", "whole sky"])
def offsets(request):
    """Longitude and latitude from the pointing."""
    rng = np.random.default_rng(11)
    scale = np.array([[3], [1.4]]) * request.param
    return rng.uniform(-scale, scale, size=(2, 40)) * u.deg


@pytest.fixture(params=POINTINGS)
def pointing(request):
    return sky(*(np.array(angle) * u.deg for angle in POINTINGS[request.param]))


@pytest.fixture
def events():
    """True values in the units and types of a DL1 table."""
    rng = np.random.default_rng(4)
    n = 30
    return QTable(
        {
            "true_energy": 10 ** rng.uniform(-2, 2, n) * u.TeV,
            "true_alt": rng.uniform(60, 80, n) * u.deg,
            "true_az": rng.uniform(0, 360, n) * u.deg,
            "pointing_alt": rng.uniform(1.1, 1.5, n) * u.rad,
            "pointing_az": rng.uniform(0, 6.28, n) * u.rad,
            "true_core_x": rng.uniform(-500, 500, n) * u.m,
            "true_core_y": rng.uniform(-500, 500, n) * u.m,
            "tel_pos_x": rng.uniform(-100, 100, n) * u.m,
            "tel_pos_y": rng.uniform(-100, 100, n) * u.m,
            "tel_pos_z": rng.uniform(20, 60, n) * u.m,
            "true_shower_primary_id": rng.choice([0, 1, 101, 402], n),
        }
    )


def test_sky_position_is_astropys(offsets, pointing):
    frame = TelescopeFrame(telescope_pointing=pointing.frame)
    lon, lat = offsets
    expected = SkyCoord(fov_lon=lon, fov_lat=lat, frame=frame).transform_to(AltAz())
    alt, az = telescope_to_horizontal(lon, lat, pointing.alt, pointing.az)
    assert angular_separation(az, alt, expected.az, expected.alt).max() < 1e-9 * u.deg
    assert (az >= 0).all()
    assert (az <= 360 * u.deg).all()


def test_sky_position_of_an_unknown_offset_is_unknown():
    unknown = [np.nan, 0.0] * u.deg
    alt, az = telescope_to_horizontal(unknown, 0 * u.deg, 70 * u.deg, 180 * u.deg)
    np.testing.assert_allclose(alt.to_value(u.deg), [np.nan, 70])
    np.testing.assert_allclose(az.to_value(u.deg), [np.nan, 180])


def test_offset_is_astropys(offsets, pointing):
    target = pointing.directional_offset_by(offsets[0], abs(offsets[1]))
    frame = TelescopeFrame(telescope_pointing=pointing.frame)
    expected = sky(target.alt, target.az).transform_to(frame)
    lon, lat = horizontal_to_telescope(target.alt, target.az, pointing.alt, pointing.az)
    separation = angular_separation(lon, lat, expected.fov_lon, expected.fov_lat)
    assert separation.max() < 1e-9 * u.deg
    assert (abs(lon) <= 180 * u.deg).all()


def test_offset_round_trip(offsets, pointing):
    there = telescope_to_horizontal(*offsets, pointing.alt, pointing.az)
    back = horizontal_to_telescope(*there, pointing.alt, pointing.az)
    difference = (u.Quantity(back) - offsets + 180 * u.deg) % (360 * u.deg)
    np.testing.assert_allclose(difference.to_value(u.deg), 180, atol=1e-9)


def test_direction_target_and_its_inverse(events):
    task = TASKS["direction"]
    pointing = sky(events["pointing_alt"], events["pointing_az"])
    source = sky(events["true_alt"], events["true_az"])
    target = task.target(events)
    expected = source.transform_to(TelescopeFrame(telescope_pointing=pointing.frame))
    expected = u.Quantity([expected.fov_lon.wrap_at(180 * u.deg), expected.fov_lat])
    np.testing.assert_allclose(target.T, expected.to_value(u.deg), atol=1e-9)
    alt, az = task.to_horizontal(target, pointing.alt, pointing.az)
    assert angular_separation(az, alt, source.az, source.alt).max() < 1e-9 * u.deg


def test_impact_target_is_ctapipes(events):
    task = TASKS["impact"]
    pointing = sky(events["pointing_alt"], events["pointing_az"])
    core = u.Quantity([events["true_core_x"], events["true_core_y"]]).T
    core = np.column_stack([core, np.zeros(len(core)) * u.m])
    telescope = u.Quantity([events[f"tel_pos_{axis}"] for axis in "xyz"]).T
    expected = ground_to_tilted(core, pointing) - ground_to_tilted(telescope, pointing)
    target = task.target(events)
    np.testing.assert_allclose(100 * target, expected.to_value(u.m), atol=1e-6)
    found = u.Quantity(task.to_core(target, telescope, pointing.alt, pointing.az))
    np.testing.assert_allclose(
        found.T.to_value(u.m), core[:, :2].to_value(u.m), atol=1e-6
    )


@pytest.mark.parametrize("reflection", [False, True])
@pytest.mark.parametrize("angle", [60, 90, 201])
def test_direction_and_impact_turn_together(angle, reflection):
    """A core that lies where the source is offset to stays there.

    The components of the same direction in both frames come from ctapipe:
    rays a little off the pointing, as positions on the ground.
    """
    alt, az = 0.9, 2.3
    pointing = sky(alt * u.rad, az * u.rad)
    offset = 1e-4 * np.array([[1.0, 0], [0, 1], [2, -3]])
    frame = TelescopeFrame(telescope_pointing=pointing.frame)
    ray = SkyCoord(*(offset.T * u.rad), frame=frame).transform_to(AltAz())
    alt, az = ray.alt.rad, ray.az.rad
    # the ground frame's axes lead to north, west and the zenith
    ray = np.column_stack(
        [np.cos(alt) * np.cos(az), -np.cos(alt) * np.sin(az), np.sin(alt)]
    )
    core = ground_to_tilted(ray * u.m, pointing).to_value(u.m)
    np.testing.assert_allclose(np.hypot(*core.T), np.hypot(*offset.T), rtol=1e-5)

    c, s = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    matrix = np.array([[c, -s], [s, c]]) @ np.diag([1, -1 if reflection else 1])
    turned_offset = TASKS["direction"].turn(offset, matrix)
    np.testing.assert_allclose(turned_offset, [matrix @ one for one in offset])
    # both sets of components are linear in one another
    tilted_from_offset = np.linalg.lstsq(offset, core, rcond=None)[0]
    np.testing.assert_allclose(
        TASKS["impact"].turn(core, matrix),
        turned_offset @ tilted_from_offset,
        atol=1e-9,
    )


@pytest.mark.parametrize("name", ["energy", "particle_type"])
def test_scalars_do_not_turn(name, events):
    target = TASKS[name].target(events)
    np.testing.assert_array_equal(TASKS[name].turn(target, -np.eye(2)), target)


def test_energy_target_and_its_inverse(events):
    events["true_energy"][0] = 10 * u.GeV
    task = TASKS["energy"]
    target = task.target(events)
    assert target.shape == (30, 1)
    assert target[0, 0] == pytest.approx(-2)
    energy = task.to_energy(target)
    assert energy.unit == u.TeV
    np.testing.assert_allclose(
        energy.to_value(u.GeV), events["true_energy"].to_value(u.GeV), rtol=1e-12
    )
    extreme = task.to_energy(np.array([[-40], [40]], dtype=np.float32))
    np.testing.assert_allclose(extreme.to_value(u.TeV), [1e-40, 1e40])


def test_particle_type_target(events):
    target = TASKS["particle_type"].target(events)
    assert target.dtype == np.int64
    np.testing.assert_array_equal(target, events["true_shower_primary_id"] == 0)
    assert 0 < target.sum() < len(target)


def test_gammaness_is_the_softmax():
    logits = np.random.default_rng(0).normal(0, 5, size=(100, 2))
    gammaness = TASKS["particle_type"].to_gammaness(logits)
    np.testing.assert_allclose(gammaness, softmax(logits, axis=1)[:, 1], atol=1e-15)


def test_gammaness_of_extreme_logits():
    logits = np.array([[-3e38, 3e38], [0, 1e4], [7e4, 7e4], [1e4, 0], [3e38, -3e38]])
    gammaness = TASKS["particle_type"].to_gammaness(logits.astype(np.float32))
    np.testing.assert_array_equal(gammaness, [1, 1, 0.5, 0, 0])


@pytest.mark.parametrize("name", TASKS)
def test_targets_of_float32_columns_in_other_units(name, events):
    """Tables hold float32 and units of their own; the trigonometry is float64."""
    task = TASKS[name]
    columns, exact = {}, {}
    for column in task.columns:
        value = events[column]
        if isinstance(value, u.Quantity):
            unit = {"length": u.km, "energy": u.GeV, "angle": u.deg}[
                str(value.unit.physical_type).split("/")[0]
            ]
            value = value.to(unit).astype(np.float32)
            exact[column] = value.astype(np.float64)
        columns[column] = value
        exact.setdefault(column, value)
    target = task.target(Table(columns))
    assert target.dtype == (np.int64 if name == "particle_type" else np.float64)
    np.testing.assert_allclose(target, task.target(QTable(exact)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["energy", "direction", "impact"])
def test_columns_without_unit_are_refused(name, events):
    table = Table(events)
    for column in TASKS[name].columns:
        table[column].unit = None
    with pytest.raises(u.UnitConversionError):
        TASKS[name].target(table)


@pytest.mark.parametrize("name", TASKS)
def test_shape_of_targets(name, events):
    task = TASKS[name]
    target = task.target(events)
    assert task.name == name
    if task.loss == "cross_entropy":
        assert target.shape == (30,)
        assert target.max() < task.n_outputs
    else:
        assert target.shape == (30, task.n_outputs)
        assert np.isfinite(target).all()
