import math

import numpy as np
import pytest

from ctapipe_gphysnet.simulation import hadronic
from ctapipe_gphysnet.simulation.hadron_tables import read_hadron_table
from ctapipe_gphysnet.simulation.particles import (
    CHARGE,
    KAON_PLUS,
    MASS,
    MUON_MINUS,
    MUON_PLUS,
    NEUTRON,
    PHOTON,
    PION_MINUS,
    PION_PLUS,
    PION_ZERO,
    PROTON,
)
from ctapipe_gphysnet.simulation.random_numbers import random_state
from ctapipe_gphysnet.simulation.stack import new_stack

DOWN = (0.0, 0.0, -1.0)
HERE = (0.0, 0.0, 5e3)


def momenta(stack, size):
    species = stack[:size, 0].astype(int)
    momentum = np.sqrt(stack[:size, 1] ** 2 - MASS[species] ** 2)
    return species, momentum[:, None] * stack[:size, 5:8]


def test_neutral_pions_become_two_photons():
    stack, state = new_stack(), random_state(1)
    for energy in (0.5, 20.0):
        size = 0
        while size < 2:  # both above the cut
            size = hadronic.decay_neutral_pion(energy, HERE, DOWN, 0.0, stack, 0, state)
        species, momentum = momenta(stack, size)
        assert (species == PHOTON).all()
        assert stack[:2, 1].sum() == pytest.approx(energy)
        square = energy**2 - (momentum.sum(axis=0) ** 2).sum()
        assert math.sqrt(square) == pytest.approx(MASS[PION_ZERO], rel=1e-6)


@pytest.mark.parametrize(
    ("species", "muon"), [(PION_PLUS, MUON_PLUS), (PION_MINUS, MUON_MINUS)]
)
def test_charged_pions_become_muons(species, muon):
    stack, state = new_stack(), random_state(2)
    energy = 10.0
    momentum = math.sqrt(energy**2 - MASS[species] ** 2)
    shares = []
    for _ in range(500):
        size = hadronic._decay(
            species, energy, momentum, HERE, DOWN, 0.0, stack, 0, state
        )
        assert size == 1
        assert stack[0, 0] == muon
        # the neutrino has no mass
        _, own = momenta(stack, 1)
        missing = np.array([0, 0, -momentum]) - own[0]
        left = energy - stack[0, 1]
        assert left**2 - missing @ missing == pytest.approx(0, abs=1e-9)
        shares.append(stack[0, 1] / energy)
    # uniform between (m_mu / m_pi)2 and 1 for fast pions
    assert min(shares) == pytest.approx((MASS[muon] / MASS[species]) ** 2, abs=0.01)
    assert max(shares) == pytest.approx(1, abs=0.01)


def test_kaons_decay_in_two_ways():
    stack, state = new_stack(), random_state(3)
    energy = 20.0
    momentum = math.sqrt(energy**2 - MASS[KAON_PLUS] ** 2)
    n, muons = 2000, 0
    for _ in range(n):
        size = hadronic._decay(
            KAON_PLUS, energy, momentum, HERE, DOWN, 0.0, stack, 0, state
        )
        if stack[0, 0] == MUON_PLUS:
            muons += 1
        else:
            species, own = momenta(stack, size)
            assert set(species) == {PION_PLUS, PION_ZERO}
            np.testing.assert_allclose(own.sum(axis=0), [0, 0, -momentum], atol=1e-6)
    assert muons / n == pytest.approx(0.636, abs=4 * math.sqrt(0.25 / n))


def test_electrons_of_muons():
    stack, state = new_stack(), random_state(4)
    shares = []
    for _ in range(3000):
        size = hadronic._decay_muon(MUON_PLUS, 50.0, HERE, DOWN, 0.0, stack, 0, state)
        shares.extend(stack[:size, 1] / 50)
    # mean of 5/3 - 3 x2 + 4/3 x3 is 7/20
    assert np.mean(shares) == pytest.approx(0.35, abs=0.02)


def test_mirror_images_keep_the_charge():
    for projectile, image in ((PION_PLUS, PION_MINUS), (PROTON, NEUTRON)):
        for secondary in (PION_PLUS, PION_MINUS, PROTON, PION_ZERO):
            mirrored = hadronic._mirrored(image, secondary)
            if image == PION_MINUS and secondary != PROTON:
                assert CHARGE[mirrored] == -CHARGE[secondary]
            assert hadronic._mirrored(projectile, secondary) == secondary
    assert hadronic._mirrored(NEUTRON, PROTON) == NEUTRON


def test_interactions_do_not_make_energy():
    table, stack, state = read_hadron_table(), new_stack(), random_state(5)
    for energy in (3.0, 100.0, 5e3):
        seen = []
        for _ in range(200):
            size = hadronic._interact(
                PROTON, 0, energy, HERE, DOWN, 0.0, table, stack, 0, state
            )
            seen.append(stack[:size, 1].sum() / energy)
            np.testing.assert_allclose(
                np.linalg.norm(stack[:size, 5:8], axis=1), 1, rtol=1e-6
            )
        # a struck nucleus adds its nucleons' masses
        assert max(seen) < 1.05 + 14 / energy
        if energy > 1e3:
            assert 0.85 < np.mean(seen) < 1.02


def test_cross_section_between_nodes():
    table = read_hadron_table()
    for projectile in range(3):
        at = hadronic._cross_section(table, projectile, table.energy[5])
        assert at == pytest.approx(table.cross_section[projectile, 5])
    # beyond the table's end it stays what it is there
    end = hadronic._cross_section(table, 0, 10 * table.energy[-1])
    assert end == pytest.approx(table.cross_section[0, -1])
