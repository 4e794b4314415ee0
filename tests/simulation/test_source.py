import astropy.units as u
import numpy as np
import pytest
from ctapipe.atmosphere import AtmosphereDensityProfile
from ctapipe.calib import CameraCalibrator
from ctapipe.containers import EventType
from ctapipe.coordinates.impact_distance import shower_impact_distance
from ctapipe.core import ToolConfigurationError
from ctapipe.io import DataLevel, EventSource
from traitlets.config import Config

from ctapipe_gphysnet.simulation.card import find_card, preset_names
from ctapipe_gphysnet.simulation.source import AirShowerSource

CARD = """
AirShowerSource: {n_showers: 6, seed: 3}
ParticleGenerator:
  energy_min: 50 GeV
  energy_max: 300 GeV
  viewcone_radius: 1 deg
  max_core_distance: 250 m
  uses: 4
"""
FOUR = """
AirShowerSource:
  n_showers: 3
  min_telescopes: 2
  telescope_positions: {1: [-70.9, -52.1, 43], 2: [-35.3, 66.1, 32], 7: [75, 50, 29]}
ParticleGenerator:
  energy_min: 300 GeV
  energy_max: 300 GeV
  max_core_distance: 100 m
  uses: 3
"""


@pytest.fixture(scope="module")
def card(tmp_path_factory):
    """Function: file of a run card."""
    folder = tmp_path_factory.mktemp("cards")

    def write(text, name="few"):
        path = folder / f"{name}.airshower.yaml"
        path.write_text(text)
        return path

    return write


@pytest.fixture(scope="module")
def few(card):
    return card(CARD)


@pytest.fixture(scope="module")
def source(few):
    return AirShowerSource(few)


@pytest.fixture(scope="module")
def events(source):
    return list(source)


@pytest.fixture(scope="module")
def array_source(card):
    return AirShowerSource(card(FOUR, "four"))


@pytest.fixture(scope="module")
def array_events(array_source):
    return list(array_source)


def identity(event):
    return event.index.obs_id, event.index.event_id


def assert_same_events(found, expected):
    assert [identity(e) for e in found] == [identity(e) for e in expected]
    for event, other in zip(found, expected):
        assert event.simulation.shower.energy == other.simulation.shower.energy
        assert list(event.r1.tel) == list(other.r1.tel)
        for tel_id, r1 in event.r1.tel.items():
            np.testing.assert_array_equal(r1.waveform, other.r1.tel[tel_id].waveform)


def test_ctapipe_finds_the_source(few):
    source = EventSource(few)
    assert isinstance(source, AirShowerSource)
    assert source.is_simulation
    assert source.datalevels == (DataLevel.R1,)
    assert not AirShowerSource.is_compatible("few.yaml")


def test_events_can_be_calibrated_by_ctapipe(source, events):
    calibrate = CameraCalibrator(source.subarray)
    assert 5 < len(events) < 24
    for event in events:
        r1 = event.r1.tel[1]
        assert r1.waveform.shape == (1, 1855, 40)
        calibrate(event)
        image = event.dl1.tel[1].image
        truth = event.simulation.tel[1].true_image
        bright = truth > 20
        assert np.isclose(image[bright].sum(), truth[bright].sum(), rtol=0.35)
        event.dl1.tel.clear()


def test_fast_images_are_those_of_ctapipe(few, events):
    broken = [40, 1000]
    options = Config({"CameraSimulator": {"broken_pixels": broken}})
    window = {"window_width": 8, "window_shift": 4}
    slow = AirShowerSource(few, config=options, max_events=5)
    fast = AirShowerSource(few, config=options, max_events=5, extract_images=True)
    assert fast.datalevels == (DataLevel.DL1_IMAGES,)
    calibrate = CameraCalibrator(
        slow.subarray,
        image_extractor_type="LocalPeakWindowSum",
        config=Config({"LocalPeakWindowSum": window}),
    )
    count = 0
    for event, other in zip(slow, fast):
        calibrate(event)
        assert identity(event) == identity(other)
        for name in ("image", "peak_time"):
            np.testing.assert_array_equal(event.dl1.tel[1][name], other.dl1.tel[1][name])
        assert (event.r1.tel[1].waveform[0, broken] == 0).all()
        assert (event.r1.tel[1].pixel_status[broken] == 0).all()
        count += 1
    assert count == 5


def test_truth(source, events):
    for count, event in enumerate(events):
        assert event.count == count
        assert event.index.obs_id == 1
        number, use = divmod(event.index.event_id, 100)
        assert 1 <= number <= 6
        assert 0 <= use < 4
        shower = event.simulation.shower
        assert 0.05 * u.TeV <= shower.energy <= 0.3 * u.TeV
        assert shower.shower_primary_id == 0
        assert shower.starting_grammage == 0 * u.g / u.cm**2
        assert 10 * u.km < shower.h_first_int < 60 * u.km
        assert 100 < shower.x_max.to_value(u.g / u.cm**2) < 700
        camera = event.simulation.tel[1]
        assert camera.true_image.sum() == camera.true_image_sum > 0
        distance = shower_impact_distance(shower, source.subarray)
        assert u.isclose(camera.impact.distance, distance[0])
        assert event.trigger.event_type is EventType.SUBARRAY
        assert list(event.trigger.tels_with_trigger) == [1]
        pointing = event.monitoring.tel[1].pointing
        assert u.isclose(pointing.altitude, 70 * u.deg)
        assert u.isclose(pointing.azimuth, 180 * u.deg)
    times = [event.trigger.time for event in events]
    assert all(after >= before for before, after in zip(times, times[1:]))


def test_uses_of_a_shower_share_it(events):
    first = {}
    for event in events:
        shower = event.simulation.shower
        other = first.setdefault(event.index.event_id // 100, shower)
        assert shower.energy == other.energy
        assert shower.x_max == other.x_max
        assert shower is other or shower.core_x != other.core_x
    assert len(first) < len(events)


def test_a_second_time_the_same(source, events):
    assert_same_events(list(source), events)


def test_a_shower_depends_on_nothing_but_its_numbers(few, events):
    later = AirShowerSource(few, n_showers=2)
    expected = [event for event in events if event.index.event_id < 300]
    assert 0 < len(expected) < len(events)
    assert_same_events(list(later), expected)
    for options in ({"seed": 4}, {"run_number": 2}):
        other = AirShowerSource(few, n_showers=2, **options)
        energies = {event.simulation.shower.energy for event in other}
        assert energies.isdisjoint(e.simulation.shower.energy for e in events)


def test_configuration_goes_before_the_card(few):
    config = Config(
        {"AirShowerSource": {"seed": 8}, "ParticleGenerator": {"energy_min": "200 GeV"}}
    )
    source = AirShowerSource(few, config=config, run_number=5)
    options = source.options()
    assert options["AirShowerSource"]["seed"] == 8
    assert options["AirShowerSource"]["n_showers"] == 6
    assert options["ParticleGenerator"]["energy_min"] == "200.0 GeV"
    assert list(source.observation_blocks) == [5]


def test_simulation_configuration(source, events):
    config = source.simulation_config[1]
    assert (config.n_showers, config.shower_reuse) == (6, 4)
    assert config.energy_range_min == 0.05 * u.TeV
    assert config.energy_range_max == 0.3 * u.TeV
    assert config.spectral_index == -2
    assert config.max_scatter_range == 250 * u.m
    assert config.max_viewcone_radius == 1 * u.deg
    assert config.diffuse
    assert config.prod_site_alt == 2200 * u.m
    # La Palma: 38.7 uT, the field is 37 degrees below the horizon
    assert np.isclose(config.prod_site_B_total.to_value(u.uT), 38.6, atol=0.2)
    assert np.isclose(config.prod_site_B_inclination.to_value(u.deg), 37, atol=0.5)


def test_all_that_was_thrown_is_counted(source, events):
    list(source)
    thrown = source.simulated_shower_distributions[1]
    assert thrown.n_entries == thrown.histogram.sum() == 24
    assert thrown.histogram.shape == (
        len(thrown.bins_energy) - 1,
        len(thrown.bins_core_dist) - 1,
    )
    # most are outwards
    by_distance = thrown.histogram.sum(axis=0)
    assert by_distance[10:].sum() > by_distance[:10].sum()


def test_first_events_only(few, events):
    source = AirShowerSource(few, max_events=3)
    assert_same_events(list(source), events[:3])
    number = events[2].index.event_id // 100
    thrown = source.simulated_shower_distributions[1]
    assert thrown.n_entries == 4 * number


def test_distant_showers_count_as_thrown(few):
    source = AirShowerSource(
        few, config=Config({"ParticleGenerator": {"max_core_distance": "50 km"}})
    )
    assert list(source) == []
    assert source.simulated_shower_distributions[1].n_entries == 24


def test_atmosphere_is_the_simulated_one(source):
    profile = source.atmosphere_density_profile
    assert isinstance(profile, AtmosphereDensityProfile)
    heights = [0, 2.2, 8, 25.1] * u.km
    np.testing.assert_allclose(
        profile.integral(heights).to_value(u.g / u.cm**2),
        source.atmosphere.profile.integral(heights).to_value(u.g / u.cm**2),
        rtol=1e-3,
    )


def test_several_telescopes(array_source, array_events):
    assert array_source.subarray.tel_ids.tolist() == [1, 2, 7]
    patterns = set()
    for event in array_events:
        tel_ids = event.trigger.tels_with_trigger.tolist()
        patterns.add(tuple(tel_ids))
        assert len(tel_ids) >= 2
        assert list(event.r1.tel) == list(event.simulation.tel) == tel_ids
        assert list(event.trigger.tel) == tel_ids
        distances = shower_impact_distance(event.simulation.shower, array_source.subarray)
        for tel_id in tel_ids:
            found = event.simulation.tel[tel_id].impact.distance
            index = array_source.subarray.tel_ids_to_indices(tel_id)[0]
            assert u.isclose(found, distances[index])
            delay = event.trigger.tel[tel_id].time - event.trigger.time
            assert 0 <= delay.to_value(u.ns) < 500
    assert (1, 2, 7) in patterns
    energies = {event.simulation.shower.energy for event in array_events}
    assert {round(e.to_value(u.GeV), 6) for e in energies} == {300}


def test_telescopes_left_out(card, array_events):
    source = AirShowerSource(card(FOUR, "four"), allowed_tels={2, 7})
    assert source.subarray.tel_ids.tolist() == [2, 7]
    found = list(source)
    expected = [e for e in array_events if not {2, 7}.isdisjoint(e.r1.tel)]
    assert [identity(e) for e in found] == [identity(e) for e in expected]
    for event, other in zip(found, expected):
        assert set(event.r1.tel) == set(other.r1.tel) & {2, 7}
        for tel_id, r1 in event.r1.tel.items():
            np.testing.assert_array_equal(r1.waveform, other.r1.tel[tel_id].waveform)
        assert list(event.trigger.tel) == event.trigger.tels_with_trigger.tolist()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("AirShowerSource: {telescope_positions: {1: [0, 0]}}", "has [0, 0] for telesco"),
        ("AirShowerSource: {telescope_positions: {0: [0, 0, 0]}}", "for telescope 0"),
        ("AirShowerSource: {telescope_positions: {1: [0, 0, .nan]}}", "for telescope 1"),
        ("AirShowerSource: {telescope_positions: {a: [0, 0, 1]}}", "for telescope 'a'"),
        ("AirShowerSource: {min_telescopes: 2}", "min_telescopes is 2, more than there"),
        ("AirShowerSource: {allowed_tels: [1, 5]}", "allowed_tels has [5], but telescop"),
        ("ParticleGenerator: {energy_max: 1 GeV}", "below energy_min"),
        ("ParticleGenerator: {pointing_altitude: 20 deg}", "60 deg from the zenith"),
        ("ParticleGenerator: {primary: iron}", "'gamma', 'electron', 'muon', 'proton'"),
        ("CameraSimulator: {trigger_position: 99}", "only 40 samples"),
        ("ImageProcessor: {}", "no section 'ImageProcessor', only AirShowerSource, Part"),
    ],
)
def test_mistakes_name_the_card(card, text, message):
    with pytest.raises(ToolConfigurationError) as error:
        AirShowerSource(card(text, "wrong"))
    assert message in str(error.value)
    assert "wrong.airshower.yaml: " in str(error.value)


@pytest.mark.parametrize("name", preset_names())
def test_presets(name):
    source = AirShowerSource(find_card(name), n_showers=60)
    event = next(iter(source))
    assert event.r1.tel[1].waveform.shape == (1, 1855, 40)
    primary = event.simulation.shower.shower_primary_id
    expected = {"electron": 1, "muon": 2, "proton": 101, "helium": 402}
    assert primary == expected.get(name, 0)
    if name == "muon":
        grammage = event.simulation.shower.starting_grammage.to_value(u.g / u.cm**2)
        assert 600 < grammage < 900
        assert np.isnan(event.simulation.shower.h_first_int)
    if name == "gamma_point":
        assert source.simulation_config[1].max_viewcone_radius == 0 * u.deg
        assert not source.simulation_config[1].diffuse
