import astropy.units as u
import pytest
import yaml
from ctapipe.core import Component, ToolConfigurationError
from ctapipe.core.traits import AstroQuantity, CaselessStrEnum, Dict, Int, Path, Set

from ctapipe_gphysnet.resources import RESOURCES
from ctapipe_gphysnet.simulation.card import (
    find_card,
    plain_options,
    preset_names,
    read_card,
)


class Thrower(Component):
    energy = AstroQuantity(
        default_value=1 * u.TeV, physical_type=u.physical.energy, help="Of all particles"
    ).tag(config=True)
    number = Int(3, min=1, help="How many").tag(config=True)
    kind = CaselessStrEnum(["gamma", "proton"], "gamma", help="Which").tag(config=True)
    places = Dict(default_value={2: [1.0, 2.0]}, help="Where").tag(config=True)
    chosen = Set(default_value={3, 1}, help="Some").tag(config=True)
    table = Path(default_value=None, allow_none=True, help="File").tag(config=True)


class Catcher(Component):
    input_url = Path(help="Not of a card").tag(config=True)


@pytest.fixture
def read(tmp_path):
    """Function: what is read from a card of some text."""

    def read_text(text):
        path = tmp_path / "test.airshower.yaml"
        path.write_text(text)
        return read_card(path, [Thrower, Catcher])

    return read_text


def test_options_reach_the_component(read):
    config = read("Thrower: {energy: 300 GeV, number: 5, kind: PROTON}\nCatcher:\n")
    thrower = Thrower(config=config)
    assert thrower.energy == 300 * u.GeV
    assert thrower.number == 5
    assert thrower.kind == "proton"


def test_empty_card(read):
    assert Thrower(config=read("# all defaults\n")).number == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Throwr: {}", "no section 'Throwr', only Thrower, Catcher"),
        ("Thrower: {engery: 1 TeV}", "Thrower has no option 'engery', only chosen, ene"),
        (
            "Thrower: {energy: 1 m}",
            "Thrower.energy cannot be '1 m': Given quantity is of",
        ),
        (
            "Thrower: {energy: 1}",
            "Thrower.energy cannot be 1: Given quantity is of physi",
        ),
        (
            "Thrower: {energy: much}",
            "Its default is '1.0 TeV'. What it is: Of all partic",
        ),
        ("Thrower: {number: 0}", "Thrower.number cannot be 0: "),
        ("Thrower: {number: 1.5}", "expected an int, not the float 1.5"),
        ("Thrower: {kind: iron}", "expected any of ['gamma', 'proton']"),
        ("Thrower: 5", "section Thrower has to consist of options, not of 5"),
        ("Catcher: {input_url: x}", "Catcher has no option 'input_url'"),
        ("- Thrower", "is not a run card: it has to consist of sections (Thrower, Catch"),
        ("Thrower: [1", "cannot be read: "),
    ],
)
def test_mistakes_are_named(read, text, message):
    with pytest.raises(ToolConfigurationError) as error:
        read(text)
    assert message in str(error.value)
    assert "test.airshower.yaml" in str(error.value)
    assert "\n" not in str(error.value)


def test_options_written_out_are_read_again(read, tmp_path):
    thrower = Thrower(energy=0.238 * u.GeV, table=tmp_path / "x")
    options = plain_options(thrower)
    again = Thrower(config=read(yaml.safe_dump({"Thrower": options})))
    for name in options:
        assert getattr(again, name) == getattr(thrower, name)
    assert options["chosen"] == [1, 3]


def test_presets_are_found_by_name(tmp_path, monkeypatch):
    assert set(preset_names()) >= {
        *("gamma_diffuse", "gamma_point", "proton", "helium", "electron", "muon")
    }
    assert find_card("proton") == RESOURCES / "proton.airshower.yaml"
    own = tmp_path / "own.airshower.yaml"
    own.write_text("")
    assert find_card(own) == own
    monkeypatch.setenv("CARDS", str(tmp_path))
    assert find_card("$CARDS/own.airshower.yaml") == own


def test_no_such_card(tmp_path):
    with pytest.raises(ToolConfigurationError, match="neutrino.*gamma_diffuse"):
        find_card("neutrino")
    other = tmp_path / "own.yaml"
    other.write_text("")
    with pytest.raises(ToolConfigurationError, match=r"has to end in \.airshower\.yaml"):
        find_card(other)
