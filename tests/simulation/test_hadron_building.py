import subprocess
import sys

import numpy as np
import pytest

from ctapipe_gphysnet.simulation import hadron_building
from ctapipe_gphysnet.simulation.hadron_tables import read_hadron_card, read_hadron_table
from ctapipe_gphysnet.simulation.particles import (
    KAON_LONG,
    MASS,
    MUON_PLUS,
    NEUTRON,
    PHOTON,
    PION_PLUS,
    PION_ZERO,
    PROTON,
)


@pytest.mark.parametrize(
    ("pid", "projectile", "elastic"),
    [
        ([211, 2212, 2112], "pion", True),
        ([321, 2112], "kaon", True),
        ([211, 211, 2112], "pion", False),  # one more
        ([111, 2212, 2212], "pion", False),  # exchange of charge
        ([2212, 2112], "pion", False),  # absorbed
        ([130, 2212], "kaon", False),
        ([2212, 2112], "proton", False),  # UrQMD leaves out elastic ones by itself
    ],
)
def test_elastic(pid, projectile, elastic):
    assert hadron_building._is_elastic(np.array(pid), projectile) == elastic


def test_particles_that_make_no_light_are_left_out():
    pid, momentum, kept = zip(
        *[
            (22, (0, 0, 0.03), True),
            (22, (0, 0, 0.01), False),
            (22, (0, 0, -5), False),  # backwards
            (111, (0, 0, 0.001), True),
            (211, (0, 0, 0.6), False),
            (211, (0.3, 0, 0.8), True),
            (-13, (0, 0.2, 1), True),
            (14, (0, 0, 5), False),
            (-2112, (0, 0, 9), True),
            (2212, (0, 0, 0.5), False),
            (130, (-0.1, 0, 4), True),
            (1000060120, (0, 0, 0.1), False),
        ]
    )
    event, species, energy, transverse, azimuth = hadron_building._particles(
        np.arange(12), np.array(pid), np.array(momentum, dtype=float)
    )
    assert event.tolist() == np.flatnonzero(kept).tolist()
    assert species.tolist() == [
        *(PHOTON, PION_ZERO, PION_PLUS, MUON_PLUS, NEUTRON, KAON_LONG),
    ]
    squared = energy**2 - MASS[species] ** 2
    np.testing.assert_allclose(
        squared, (np.array(momentum)[event] ** 2).sum(1), rtol=1e-6
    )
    np.testing.assert_allclose(transverse, [0, 0, 0.3, 0.2, 0, 0.1])
    np.testing.assert_allclose(azimuth, [0, 0, 0, np.pi / 2, 0, np.pi])


def test_order_within_an_event():
    """By species, the fastest first."""
    event, species, energy, _, _ = hadron_building._particles(
        np.array([1, 0, 0, 0]),
        np.array([2212, 211, 2212, 211]),
        np.array([[0, 0, 9.0], [0, 0, 2], [0, 0, 3], [0, 0, 5]]),
    )
    assert event.tolist() == [0, 0, 0, 1]
    assert species.tolist() == [PROTON, PION_PLUS, PION_PLUS, PROTON]
    assert energy[1] > energy[2]


def test_unknown_particle():
    with pytest.raises(RuntimeError, match=r"cannot place particles \[331\]"):
        hadron_building._particles(np.array([0]), np.array([331]), np.ones((1, 3)))


def test_number_of_events():
    number = hadron_building.events_of_node
    assert number("proton", 1e3, 800) == number("pion", 9e3, 800) == 800
    assert number("kaon", 1e3, 800) == number("pion", 2e4, 800) == 400
    assert number("kaon", 2e4, 1) == 1


@pytest.mark.parametrize(
    ("momentum", "expected"), [(2.0, 25), (3.0, 27.5), (24.0, 30.6), (100.0, 31.4)]
)
def test_inelastic_cross_section_of_protons(momentum, expected):
    """Total less elastic, measured (PDG), in mb."""
    energy = np.hypot(momentum, MASS[PROTON])
    assert hadron_building._proton_inelastic(energy) == pytest.approx(expected, rel=0.05)


def test_low_energy_cross_section_joins():
    energy = np.array([hadron_building.HIGH_ENERGIES[0]])
    for projectile in ("proton", "pion", "kaon"):
        joined = hadron_building.low_energy_cross_section(projectile, energy, 270.0)
        np.testing.assert_allclose(joined, 270)


def test_build(tmp_path):
    """In a process of its own, as the models can be started only once."""
    pytest.importorskip("chromo", reason="the extra hadrons is not installed")
    path = tmp_path / "table.npz"
    module = "ctapipe_gphysnet.simulation.hadron_tables"
    command = [sys.executable, "-m", module, "--events", "3", "--output", str(path)]
    result = subprocess.run(command, check=True, capture_output=True, text=True, cwd="/")
    assert str(path) in result.stdout
    assert "interactions/s" in result.stderr
    assert "Warning" not in result.stderr
    card = read_hadron_card(path)
    assert (card["seed"], card["n_events"]) == (1, 3)
    table, shipped = read_hadron_table(path), read_hadron_table()
    assert len(table.first_particle) > 26 * 5
    np.testing.assert_allclose(table.energy, shipped.energy)
    np.testing.assert_allclose(table.cross_section, shipped.cross_section, rtol=1e-6)
