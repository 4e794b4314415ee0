import json

import pytest

from ctapipe_gphysnet.camera import CameraLayout
from ctapipe_gphysnet.checkpoint import Model, read_card, read_model, write_model
from ctapipe_gphysnet.network.model import GammaPhysNet, NetworkOptions
from ctapipe_gphysnet.preprocessing import Preprocessing
from ctapipe_gphysnet.tools.info import main

INFORMATION = {
    "name": "a model",
    "description": "for a test",
    "training": {"inputs": [{"file": "a.h5", "n": 2}, {"file": "b.h5", "n": 3}]},
    "validation": {"auc": 0.912345678, "by_energy": {"bins": [1.5, 2.0]}, "remark": None},
}


@pytest.fixture(scope="module")
def network(lst_lattice):
    options = NetworkOptions(
        blocks=1, channels=(2, 4, 4), head_width=4, attention="none", tasks=("energy",)
    )
    return GammaPhysNet(lst_lattice, options)


@pytest.fixture(scope="module")
def path(lst_telescope, network, tmp_path_factory):
    path = tmp_path_factory.mktemp("info") / "model.safetensors"
    camera = CameraLayout.from_telescope(lst_telescope)
    write_model(path, Model(network, camera, Preprocessing(), INFORMATION))
    return path


def test_shows_what_the_card_says(path, network, capsys):
    assert main([str(path)]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    n_parameters = sum(p.numel() for p in network.parameters())
    assert lines[0] == "a model"
    for expected in (
        f"file {path}",
        f"identity {read_model(path).identity}",
        "description for a test",
        "name LSTCam",
        "n_pixels 1855",
        f"n_parameters {n_parameters}",
        "channels 2, 4, 4",
        "description Decimal logarithm of the energy in TeV.",
        "charge_scale 5",
        "file: b.h5, n: 3",
        "auc 0.912346",
        "bins 1.5, 2",
        "remark -",
    ):
        assert expected in lines


def test_pixel_positions_are_left_out(path, capsys):
    main([str(path)])
    text = capsys.readouterr().out
    assert "pixel_positions" not in text
    assert max(len(line) for line in text.splitlines()) < 200


def test_json_is_the_raw_card(path, capsys):
    assert main([str(path), "--json"]) == 0
    card = json.loads(capsys.readouterr().out)
    assert card == read_card(path)
    assert len(card["camera"]["pixel_positions_m"]) == 1855


def test_shipped_model_by_name(path, capsys, monkeypatch):
    monkeypatch.setattr("ctapipe_gphysnet.resources.RESOURCES", path.parent)
    assert main([path.stem]) == 0
    assert capsys.readouterr().out.startswith("a model\n")


def damaged(path, tmp_path):
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    (tmp_path / "damaged").write_bytes(content)
    return tmp_path / "damaged", "the weights differ from the hash on the card"


def truncated(path, tmp_path):
    (tmp_path / "truncated").write_bytes(path.read_bytes()[:1000])
    return tmp_path / "truncated", "cannot be read as a model file"


def missing(path, tmp_path):
    return tmp_path / "missing", "no model '"


@pytest.mark.parametrize("make", [damaged, truncated, missing])
def test_bad_file_is_one_line_and_exit_code_1(path, tmp_path, capsys, make):
    bad, message = make(path, tmp_path)
    assert main([str(bad)]) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("gphysnet-info: ")
    assert output.err.count("\n") == 1
    assert str(bad) in output.err
    assert message in output.err


def test_help_says_what_to_give(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    assert "FILE_OR_NAME" in capsys.readouterr().out
