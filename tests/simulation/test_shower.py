import astropy.units as u
import numpy as np
import pytest

from ctapipe_gphysnet.simulation import shower as module
from ctapipe_gphysnet.simulation.atmosphere import Atmosphere
from ctapipe_gphysnet.simulation.optics import MirrorOptics
from ctapipe_gphysnet.simulation.shower import PRIMARIES, ShowerSimulator

POSITIONS = np.array([[80.0, 0, 16], [0, 120, 16], [-200, 50, 16]])


@pytest.fixture(scope="module")
def simulator():
    return ShowerSimulator(Atmosphere(), MirrorOptics())


def simulate(simulator, primary="gamma", energy=100 * u.GeV, seed=1, **options):
    options = {"altitude": 70 * u.deg, "positions": POSITIONS, **options}
    return simulator.simulate(
        primary,
        energy,
        azimuth=180 * u.deg,
        pointing_altitude=70 * u.deg,
        pointing_azimuth=180 * u.deg,
        seed=seed,
        **options,
    )


@pytest.mark.parametrize("primary", PRIMARIES)
def test_same_seed_same_shower(simulator, primary):
    first, again, other = (
        simulate(simulator, primary, 300 * u.GeV, seed=seed) for seed in (3, 3, 4)
    )
    assert first.track_length > 0
    for name in ("starts", "x", "y", "time", "profile"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    assert first.track_length == again.track_length != other.track_length


def test_photo_electrons_are_sorted_by_telescope(simulator):
    shower = simulate(simulator)
    assert len(shower.starts) == 4
    assert shower.starts[0] == 0
    assert shower.starts[-1] == len(shower.x) > 100
    assert (np.diff(shower.starts) > 0).all()


def test_the_image_is_where_the_gamma_ray_comes_from(simulator):
    # on the shower's axis; one degree of altitude is 0.51 m along CameraFrame's x
    for altitude, x in ((71, 0.51), (70, 0), (69, -0.51)):
        showers = [
            simulate(
                simulator,
                altitude=altitude * u.deg,
                energy=300 * u.GeV,
                positions=[[0, 0, 16]],
                seed=seed,
            )
            for seed in range(8)
        ]
        assert np.mean([np.median(s.x) for s in showers]) == pytest.approx(x, abs=0.1)
        assert np.mean([np.median(s.y) for s in showers]) == pytest.approx(0, abs=0.05)


def test_light_arrives_together(simulator):
    shower = simulate(simulator, energy=1 * u.TeV)
    for first, last in zip(shower.starts[:-1], shower.starts[1:]):
        low, high = np.quantile(shower.time[first:last], [0.05, 0.95])
        assert high - low < 40  # ns


def test_room_for_photons_grows_and_changes_nothing(simulator, monkeypatch):
    expected = simulate(simulator)
    monkeypatch.setattr(module, "FIRST_PHOTONS", 10)
    small = ShowerSimulator(Atmosphere(), MirrorOptics())
    shower = simulate(small)
    np.testing.assert_array_equal(shower.x, expected.x)
    assert shower.track_length == expected.track_length


def test_first_interaction(simulator):
    heights = [
        simulate(simulator, seed=i, positions=[]).first_interaction_depth.value
        for i in range(300)
    ]
    # exponential with 9/7 radiation lengths
    mean = 9 / 7 * 36.66
    assert np.mean(heights) == pytest.approx(mean, abs=4 * mean / np.sqrt(300))


def test_proton_interaction_length(simulator):
    depths = [
        simulate(
            simulator, "proton", 100 * u.GeV, seed=i, positions=[]
        ).first_interaction_depth.value
        for i in range(300)
    ]
    # PDG: nuclear interaction length of air 90 g/cm2
    assert np.mean(depths) == pytest.approx(88, rel=0.2)


def test_chosen_first_interaction(simulator):
    shower = simulate(simulator, first_interaction_height=15 * u.km)
    assert shower.first_interaction_height.to_value(u.km) == pytest.approx(15, rel=1e-3)


def test_light_grows_with_energy_and_efficiency(simulator):
    low = len(simulate(simulator, energy=50 * u.GeV).x)
    high = len(simulate(simulator, energy=500 * u.GeV).x)
    assert 5 < high / low < 25
    dim = ShowerSimulator(Atmosphere(), MirrorOptics(efficiency=0.375))
    ratio = len(simulate(dim, energy=1 * u.TeV).x) / len(
        simulate(simulator, energy=1 * u.TeV).x
    )
    assert ratio == pytest.approx(0.5, abs=0.15)


def test_helium_has_the_nucleons_interactions(simulator):
    depth = {
        primary: np.median(
            [
                simulate(
                    simulator, primary, 400 * u.GeV, seed=i, positions=[]
                ).first_interaction_depth.value
                for i in range(100)
            ]
        )
        for primary in ("proton", "helium")
    }
    # the first of four
    assert depth["helium"] < 0.6 * depth["proton"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"primary": "iron"}, "'iron' cannot be simulated, only gamma, electron"),
        ({"altitude": 10 * u.deg}, "altitude of 10.0 deg cannot be simulated"),
        ({"primary": "proton", "energy": 0.5 * u.GeV}, "more than the mass, 0.938 GeV"),
        (
            {"primary": "proton", "first_interaction_height": 20 * u.km},
            "for gamma rays only, not for proton",
        ),
    ],
)
def test_bad_input(simulator, options, message):
    with pytest.raises(ValueError, match=message):
        simulate(simulator, **options)
