import numpy as np
import pytest

from ctapipe_gphysnet.simulation.hadron_decays import (
    DECAYS,
    MASS,
    SHORT_LIVED,
    decay_short_lived,
)

ANTIPARTICLES = tuple(-identifier for identifier in SHORT_LIVED if identifier > 1000)


def energies(species, momentum):
    mass = np.array([MASS[abs(identifier)] for identifier in species.tolist()])
    return np.sqrt((momentum**2).sum(1) + mass**2)


def decayed(identifier, momentum, seed=5):
    count = len(momentum)
    return decay_short_lived(
        np.arange(count),
        np.full(count, identifier),
        momentum,
        np.random.default_rng(seed),
    )


@pytest.fixture
def momentum():
    """From at rest to 10 TeV."""
    random = np.random.default_rng(1)
    scale = 10 ** random.uniform(-2, 4, (2000, 1))
    scale[:10] = 0
    return random.normal(size=(2000, 3)) * scale


@pytest.mark.parametrize("identifier", SHORT_LIVED + ANTIPARTICLES)
def test_energy_and_momentum_are_conserved(identifier, momentum):
    event, species, own = decayed(identifier, momentum)
    before = energies(np.full(len(momentum), identifier), momentum)
    after = np.bincount(event, energies(species, own))
    np.testing.assert_allclose(after, before, rtol=1e-12)
    for axis in range(3):
        total = np.bincount(event, own[:, axis])
        assert (np.abs(total - momentum[:, axis]) < 1e-11 * before).all()


@pytest.mark.parametrize("identifier", SHORT_LIVED + ANTIPARTICLES)
def test_charge_and_baryon_number_are_conserved(identifier, momentum):
    charge = {22: 0, 111: 0, 211: 1, 321: 1, 2112: 0, 2212: 1}
    own_charge = {3222: 1, 3112: -1, 3312: -1, 3334: -1}
    event, species, _ = decayed(identifier, momentum)
    sign = np.sign(species)
    charges = sign * [charge[abs(s)] for s in species.tolist()]
    expected = np.sign(identifier) * own_charge.get(abs(identifier), 0)
    assert (np.bincount(event, charges) == expected).all()
    baryons = np.bincount(event, sign * (np.abs(species) > 2000))
    assert (baryons == np.sign(identifier) * (abs(identifier) > 3000)).all()


def test_branching_ratios():
    """Mean numbers of products, PDG: Lambda -> p pi- 64.1 %; K0S -> pi+ pi- 69.2 %; of
    the eta, photons 0.787 + 0.043 and neutral pions 0.977 + 0.230."""
    at_rest = np.zeros((20_000, 3))
    expected = {
        (3122, 2212): 0.641,
        (310, 211): 0.692,
        (221, 22): (0.787 + 0.043) / 0.992,
        (221, 111): (0.977 + 0.230) / 0.992,
    }
    for (parent, product), number in expected.items():
        _, species, _ = decayed(parent, at_rest)
        assert (species == product).sum() / 20_000 == pytest.approx(number, abs=0.02)


def test_two_bodies_go_anywhere_at_rest():
    _, species, momentum = decayed(3112, np.zeros((20_000, 3)))
    pion = momentum[species == -211]
    size = np.linalg.norm(pion, axis=1)
    np.testing.assert_allclose(size, 0.193, atol=0.0005)  # GeV (PDG)
    for axis in range(3):
        cosine = pion[:, axis] / size
        assert np.mean(cosine) == pytest.approx(0, abs=0.02)
        assert np.mean(cosine**2) == pytest.approx(1 / 3, abs=0.01)


def test_three_bodies_fill_phase_space():
    """Evenly, so that no one of three equal pions differs from another."""
    event, species, momentum = decayed(221, np.zeros((60_000, 3)))
    neutral = np.bincount(event, species == 111) == 3
    order = np.argsort(event, kind="stable")
    chosen = order[neutral[event[order]]]
    pions = momentum[chosen].reshape(-1, 3, 3)
    energy = np.sqrt((pions**2).sum(2) + MASS[111] ** 2)
    np.testing.assert_allclose(energy.mean(0), MASS[221] / 3, rtol=0.003)
    # the axes of the Dalitz plot
    x = (energy[:, 0] - energy[:, 1]) / np.sqrt(3)
    y = energy[:, 2] - MASS[221] / 3
    assert np.std(x) == pytest.approx(np.std(y), rel=0.02)
    assert np.corrcoef(x, y)[0, 1] == pytest.approx(0, abs=0.02)


def test_nothing_to_decay():
    event, species = np.array([0, 0, 3]), np.array([2212, -211, 111])
    momentum = np.arange(9.0).reshape(3, 3)
    for before, after in zip(
        (event, species, momentum),
        decay_short_lived(event, species, momentum, np.random.default_rng(0)),
    ):
        np.testing.assert_array_equal(after, before)


def test_branching_ratios_add_up():
    for channels in DECAYS.values():
        assert sum(ratio for ratio, _ in channels) == pytest.approx(1, abs=0.01)
