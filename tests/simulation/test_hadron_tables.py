import json
import sys

import numpy as np
import pytest

from ctapipe_gphysnet.simulation import hadron_tables
from ctapipe_gphysnet.simulation.hadron_building import _proton_inelastic
from ctapipe_gphysnet.simulation.hadron_tables import (
    PROJECTILES,
    HadronTable,
    cached_table_path,
    main,
    read_hadron_card,
    read_hadron_table,
    write_hadron_table,
)
from ctapipe_gphysnet.simulation.particles import (
    CHARGE,
    KAON_PLUS,
    MASS,
    NEUTRON,
    PHOTON,
    PION_MINUS,
    PION_PLUS,
    PION_ZERO,
    POSITRON,
    PROTON,
)

NUCLEON_MASS = 0.938  # GeV


@pytest.fixture(scope="module")
def table():
    return read_hadron_table()


class Node:
    """Interactions of one projectile at one energy."""

    def __init__(self, table, projectile, energy):
        row = PROJECTILES.index(projectile)
        node = np.abs(np.log(table.energy / energy)).argmin()
        self.energy = table.energy[node]
        self.cross_section = table.cross_section[row, node]
        first, last = table.first_event[row, node : node + 2]
        self.n_events = last - first
        bounds = table.first_particle[first : last + 1]
        self.event = np.repeat(np.arange(self.n_events), np.diff(bounds))
        particles = slice(bounds[0], bounds[-1])
        self.species = table.species[particles]
        self.fraction = table.energy_fraction[particles].astype(float)
        self.transverse = table.transverse_momentum[particles]

    def share(self, *species):
        """Mean share of the energy that goes to some species; all if none."""
        chosen = np.isin(self.species, species) if species else slice(None)
        return self.fraction[chosen].sum() / self.n_events

    def leading(self, *species):
        """Largest share of the energy of one such particle, for every event."""
        chosen = np.isin(self.species, species)
        largest = np.zeros(self.n_events)
        np.maximum.at(largest, self.event[chosen], self.fraction[chosen])
        return largest


@pytest.fixture(scope="module")
def nodes(table):
    """All nodes, by projectile and energy."""
    return [Node(table, name, energy) for name in PROJECTILES for energy in table.energy]


# -- what is in the table that comes with the package


def test_shipped_table_has_events_everywhere(table):
    assert table.energy[0] == pytest.approx(2, rel=0.01)
    assert table.energy[-1] == pytest.approx(1e5, rel=0.15)
    number = np.diff(table.first_event, axis=1)
    assert (number[:2, table.energy < 1e4] >= 800).all()
    assert (number[:, table.energy > 5] >= 200).all()
    assert (number >= 20).all()  # of slow kaons, which mostly scatter elastically


def test_shipped_table_is_small_and_says_how_it_was_made():
    assert hadron_tables.SHIPPED_TABLE.stat().st_size <= 7e6
    card = read_hadron_card()
    assert card["format_version"] == 1
    assert set(card["models"]) == {"UrQMD34", "Sibyll23e"}
    assert {"chromo", "seed", "n_events"} <= set(card)


def test_indices_hold_together(table):
    assert table.first_event[0, 0] == 0
    assert (table.first_event[1:, 0] == table.first_event[:-1, -1]).all()
    assert table.first_event[-1, -1] == len(table.first_particle) - 1
    assert (np.diff(table.first_particle) >= 0).all()
    assert table.first_particle[-1] == len(table.species)
    for name in ("energy_fraction", "transverse_momentum", "azimuth"):
        assert getattr(table, name).shape == table.species.shape
        assert getattr(table, name).dtype == np.float32


def test_no_interaction_makes_energy(nodes):
    """The target gives a few nucleons; steps of 0.5 % hardly add up."""
    for node in nodes:
        total = np.bincount(node.event, node.fraction) * node.energy
        assert total.max() < 1.005 * node.energy + 8 * NUCLEON_MASS


def test_mean_energy_is_kept(nodes):
    for node in nodes:
        if node.energy > 80:
            assert node.share() == pytest.approx(1, abs=0.01)
        elif node.energy > 10:
            assert node.share() == pytest.approx(1, abs=0.04)
        else:  # slow particles are left out
            assert 0.35 < node.share() < 1.05


def test_particles_can_make_light(nodes):
    for node in nodes:
        kinetic = node.fraction * node.energy - MASS[node.species]
        hadron = (node.species > POSITRON) & (node.species != PION_ZERO)
        assert (kinetic[hadron] > 0.48).all()
        light = node.species <= POSITRON
        assert (kinetic[light] > 0.019).all()


def test_momentum_is_not_above_energy(nodes):
    """But for the steps of the file."""
    for node in nodes:
        own = node.fraction * node.energy
        momentum = np.sqrt(np.maximum(own**2 - MASS[node.species] ** 2, 0))
        fast = own > 1.5 * MASS[node.species]
        assert (node.transverse[fast] <= 1.04 * momentum[fast]).all()


# -- against measurements


@pytest.mark.parametrize("energy", [1e3, 1e4, 2.2e4, 9e4])
def test_charged_multiplicity(table, energy):
    """Protons on protons (Thome et al., Nucl. Phys. B129 (1977) 365) times (1 + n) / 2.

    n is the mean number of nucleons of the target that are hit (Busza et al., Phys. Rev.
    Lett. 34 (1975) 836). At lower energies more particles are too slow for the table.
    """
    node = Node(table, "proton", energy)
    total = np.log(2 * NUCLEON_MASS * (node.energy + NUCLEON_MASS))
    on_protons = 0.88 + 0.44 * total + 0.118 * total**2
    hit = 14.5 * _proton_inelastic(node.energy) / node.cross_section
    found = (CHARGE[node.species] != 0).sum() / node.n_events
    assert found == pytest.approx(on_protons * (1 + hit) / 2, rel=0.12)


@pytest.mark.parametrize(
    ("projectile", "species", "moment", "tolerance"),
    [
        ("proton", (PROTON, NEUTRON), 0.263 + 0.035, 0.12),
        ("proton", (PION_PLUS,), 0.046, 0.2),
        ("proton", (PION_MINUS,), 0.033, 0.25),
        ("proton", (PION_ZERO,), 0.039, 0.2),
        ("proton", (KAON_PLUS,), 0.0090, 0.4),
        ("pion", (PION_PLUS,), 0.243, 0.2),
        ("pion", (PION_ZERO, PHOTON), 0.098, 0.35),
    ],
)
def test_spectrum_weighted_moments(table, projectile, species, moment, tolerance):
    """Gaisser, Cosmic Rays and Particle Physics (1990), table 5.2: sums of x^1.7.

    Old fits to data of some 100 GeV, with fewer neutrons from protons than Sibyll 2.3;
    today's models differ from them by 20 %, and by more for rarer particles.
    """
    near = [Node(table, projectile, energy) for energy in (141, 224, 355, 562, 891)]
    found = [
        (node.fraction[np.isin(node.species, species)] ** 1.7).sum() / node.n_events
        for node in near
    ]
    assert np.mean(found) == pytest.approx(moment, rel=tolerance)


def test_inelasticity_of_protons(table):
    """About 0.6 of the energy leaves the leading nucleon, at all energies."""
    for energy in (10, 40, 100, 1000, 1e4, 1e5):
        node = Node(table, "proton", energy)
        assert 0.3 < node.leading(PROTON, NEUTRON).mean() < 0.6
    assert 0.33 < Node(table, "proton", 1000).leading(PROTON, NEUTRON).mean() < 0.45


def test_a_sixth_to_a_fourth_goes_to_neutral_pions(nodes):
    for node in nodes:
        if node.energy > 20:
            assert 0.13 < node.share(PION_ZERO, PHOTON) < 0.33


def test_isospin_of_pions_from_protons(table):
    """On as many neutrons as protons: the neutral as the mean of the charged ones.

    But for decays, of eta mesons above all, and the charge of the proton.
    """
    for energy in (100, 1000, 1e4):
        node = Node(table, "proton", energy)
        charged = (node.share(PION_PLUS) + node.share(PION_MINUS)) / 2
        assert 1 < node.share(PION_ZERO) / charged < 1.3
        assert node.share(PION_PLUS) > node.share(PION_MINUS)


def test_mesons_do_not_scatter_elastically(table):
    for projectile, own in (("pion", PION_PLUS), ("kaon", KAON_PLUS)):
        for energy in table.energy[table.energy < 50]:
            node = Node(table, projectile, energy)
            assert (node.leading(own) > 0.99).mean() < 0.03


def test_interaction_lengths(table):
    """Of 200 GeV nucleons and pions in air: 90.1 and 122.0 g/cm2 (PDG)."""
    for projectile, expected in (("proton", 90.1), ("pion", 122.0)):
        length = 24160 / Node(table, projectile, 200).cross_section
        assert length == pytest.approx(expected, rel=0.06)


def test_low_energy_cross_sections(table):
    """Protons on carbon at 31 GeV/c make particles with 230.7 mb (NA61/SHINE, Eur. Phys.
    J. C 76 (2016) 84); air is (14.5 / 12)^0.7 as large."""
    node = Node(table, "proton", 31)
    assert node.cross_section == pytest.approx(230.7 * (14.5 / 12) ** 0.7, rel=0.05)
    steps = np.diff(np.log(table.cross_section), axis=1)
    assert (steps >= 0).all()
    assert (steps < 0.12).all()


# -- the file


def make_table(random):
    """A small table with the extremes that there are."""
    n_events = random.integers(1, 4, (3, 2))
    ends = np.cumsum([0, *n_events.ravel()])
    n_particles = random.integers(0, 9, ends[-1])
    size = n_particles.sum()
    fraction = 10 ** random.uniform(-6, 0, size)
    transverse = 10 ** random.uniform(-2.9, 1.3, size)
    fraction[:2] = 1, 1.02
    transverse[:2] = 0, 1e-5
    return HadronTable(
        energy=np.array([2.0, 50.0]),
        first_event=ends[2 * np.arange(3)[:, None] + np.arange(3)],
        first_particle=np.cumsum([0, *n_particles]),
        species=random.integers(0, len(MASS), size).astype(np.int8),
        energy_fraction=fraction.astype(np.float32),
        transverse_momentum=transverse.astype(np.float32),
        azimuth=random.uniform(-np.pi, np.pi, size).astype(np.float32),
        cross_section=random.uniform(150, 350, (3, 2)),
    )


@pytest.fixture
def small(tmp_path):
    """A small table and its file."""
    table = make_table(np.random.default_rng(3))
    write_hadron_table(table, tmp_path / "small.npz", {"seed": 3})
    return table, tmp_path / "small.npz"


def test_file_keeps_values_to_its_steps(small):
    table, path = small
    again = read_hadron_table(path)
    exact = ("energy", "cross_section", "first_event", "first_particle", "species")
    for name in exact:
        np.testing.assert_array_equal(getattr(again, name), getattr(table, name))
    ratio = again.energy_fraction / np.minimum(table.energy_fraction, 1)
    assert np.abs(np.log(ratio)).max() < 0.00501
    assert again.transverse_momentum[:2].tolist() == [0, 0]
    ratio = again.transverse_momentum[2:] / table.transverse_momentum[2:]
    assert np.abs(np.log(ratio)).max() < 0.0201
    turn = np.angle(np.exp(1j * (again.azimuth - table.azimuth)))
    assert np.abs(turn).max() < np.pi / 256 + 1e-5


def test_writing_what_was_read_changes_nothing(small, tmp_path):
    first = read_hadron_table(small[1])
    write_hadron_table(first, tmp_path / "again.npz", {})
    for one, other in zip(first, read_hadron_table(tmp_path / "again.npz")):
        np.testing.assert_array_equal(one, other)


def test_card(small):
    assert read_hadron_card(small[1]) == {"format_version": 1, "seed": 3}


def test_numba_takes_the_table(table):
    from numba import typeof

    assert "HadronTable" in str(typeof(table))


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.npz"):
        read_hadron_table(tmp_path / "nowhere.npz")


def test_half_a_file_and_no_file_at_all(small, tmp_path):
    whole = small[1].read_bytes()
    for content in (b"", b"text", whole[: len(whole) // 2], whole[:-40]):
        path = tmp_path / "bad.npz"
        path.write_bytes(content)
        with pytest.raises(ValueError, match="bad.npz is not a table of hadronic"):
            read_hadron_table(path)
    with pytest.raises(ValueError, match="is not a table of hadronic"):
        read_hadron_table(tmp_path)


def test_flipped_byte(small, tmp_path):
    content = bytearray(small[1].read_bytes())
    start = content.index(b"cross_section") + 150
    content[start] ^= 255
    (tmp_path / "bad.npz").write_bytes(content)
    with pytest.raises(ValueError, match="bad.npz"):
        read_hadron_table(tmp_path / "bad.npz")


def change(path, **changes):
    """Replace arrays of a file."""
    with np.load(path) as file:
        stored = dict(file)
    np.savez(path, **{**stored, **changes})
    return stored


def test_other_version(small):
    path = small[1]
    change(path, card=np.array(json.dumps({"format_version": 7})))
    with pytest.raises(ValueError, match=r"small.npz .* of version 7; .* reads 1"):
        read_hadron_table(path)


def test_pickled_objects_are_not_loaded(small):
    change(small[1], species=np.array([print], dtype=object))
    with pytest.raises(ValueError, match="small.npz is not a table"):
        read_hadron_table(small[1])


@pytest.mark.parametrize(
    ("name", "spoil", "message"),
    [
        ("species", lambda a: a[:-1], "has the shape"),
        ("species", lambda a: a + np.uint8(100), "unknown particle"),
        ("azimuth", lambda a: a.astype(float), "azimuth is float64, not uint8"),
        ("energy_fraction", lambda a: a[0], "energy_fraction has the shape"),
        ("energy", lambda a: a[::-1], "rising"),
        ("energy", lambda a: a[0], "energy has the shape"),
        ("n_events", lambda a: a[:2], "n_events has the shape"),
        ("n_events", lambda a: a * np.uint32([[0], [1], [1]]), "has the shape"),
        ("n_particles", lambda a: a[::-1] * 2, "does not add up"),
        ("cross_section", lambda a: -a, "cross_section has values"),
        ("cross_section", lambda a: a * np.nan, "cross_section has values"),
    ],
)
def test_damaged_file(small, name, spoil, message):
    with np.load(small[1]) as file:
        array = file[name]
    change(small[1], **{name: spoil(array)})
    with pytest.raises(ValueError, match=f"small.npz is damaged: .*{message}"):
        read_hadron_table(small[1])


def test_interrupted_writing_leaves_the_old_file(small, monkeypatch):
    table, path = small
    before = path.read_bytes()

    def fail(file, **arrays):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez_compressed", fail)
    with pytest.raises(KeyboardInterrupt):
        write_hadron_table(table, path, {})
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["small.npz"]


# -- the command


def test_command_keeps_a_file_that_is_there(small):
    with pytest.raises(SystemExit, match="small.npz is there already; --overwrite"):
        main(["--output", str(small[1])])


def test_command_without_folder(tmp_path):
    with pytest.raises(SystemExit, match="there is no folder"):
        main(["--output", str(tmp_path / "nowhere" / "table.npz")])


@pytest.mark.parametrize("option", ["--events=0", "--events=x", "--seed=-1"])
def test_command_with_a_bad_number(option, capsys):
    with pytest.raises(SystemExit):
        main([option])
    assert f"argument {option[:6]}" in capsys.readouterr().err


def test_command_without_chromo(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "chromo", None)
    monkeypatch.setitem(sys.modules, "chromo.kinematics", None)
    with pytest.raises(SystemExit, match=r"needs chromo: pip install .*\[hadrons\]"):
        main(["--output", str(tmp_path / "table.npz")])
    assert list(tmp_path.iterdir()) == []


def test_cache_follows_ctapipe(tmp_path, monkeypatch):
    monkeypatch.setenv("CTAPIPE_CACHE", str(tmp_path))
    path = cached_table_path(2000, 4)
    assert path.parent == tmp_path / "ctapipe_gphysnet"
    assert path.name == "hadron-interactions-v1-UrQMD34-Sibyll23e-2000-seed4.npz"
