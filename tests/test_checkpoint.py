import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ctapipe_gphysnet.checkpoint import (
    HEADER_KEY,
    ModelFileError,
    read_card,
    read_model,
    write_model,
)


@pytest.fixture
def model_file(small_model, tmp_path):
    path = tmp_path / "model.safetensors"
    write_model(path, small_model)
    return path


def rewrite(path, change_card=None, change_tensors=None):
    """Write the file anew with another card or other tensors."""
    tensors, card = load_file(path), read_card(path)
    if change_card:
        change_card(card)
    if change_tensors:
        change_tensors(tensors)
    save_file(tensors, path, metadata={HEADER_KEY: json.dumps(card)})


def test_others_can_read_the_file(model_file, tmp_path):
    ordinary = tmp_path / "ordinary"
    ordinary.write_text("")
    assert model_file.stat().st_mode == ordinary.stat().st_mode


def test_round_trip(model_file, small_model):
    model = read_model(model_file)
    assert model.name == "small"
    assert model.preprocessing == small_model.preprocessing
    assert model.network.options == small_model.network.options
    assert not model.network.training
    for name, tensor in small_model.network.state_dict().items():
        assert torch.equal(model.network.state_dict()[name], tensor)
    images = torch.randn(2, 2, model.camera.lattice.n_pixels)
    expected = small_model.network.eval()(images)
    for task, output in model.network(images).items():
        assert torch.equal(output, expected[task])


def test_backends_read_the_same_file(model_file):
    images = torch.randn(2, 2, 1855, dtype=torch.float64)
    dense, indexed = (
        read_model(model_file, backend).network.double()(images)
        for backend in ("dense", "indexedconv")
    )
    for task in dense:
        torch.testing.assert_close(dense[task], indexed[task], rtol=1e-10, atol=1e-12)


def test_identity_follows_card_and_weights(model_file, small_model, tmp_path):
    first = read_model(model_file).identity
    assert first == read_model(model_file).identity
    with torch.no_grad():
        next(small_model.network.parameters()).mul_(1.5)
    write_model(tmp_path / "other.safetensors", small_model)
    assert read_model(tmp_path / "other.safetensors").identity != first


@pytest.mark.parametrize("size", [0, 4, 500, -100])
def test_truncated_file(model_file, size):
    model_file.write_bytes(model_file.read_bytes()[:size])
    with pytest.raises(ModelFileError, match="model.safetensors: cannot be read"):
        read_model(model_file)


def test_missing_and_foreign_files(tmp_path):
    with pytest.raises(ModelFileError, match="absent"):
        read_model(tmp_path / "absent.safetensors")
    pickled = tmp_path / "pickle.safetensors"
    torch.save({"a": torch.zeros(3)}, pickled)
    with pytest.raises(ModelFileError, match="cannot be read as a model file"):
        read_model(pickled)
    foreign = tmp_path / "foreign.safetensors"
    save_file({"a": torch.zeros(3)}, foreign)
    with pytest.raises(ModelFileError, match="not one of ctapipe_gphysnet"):
        read_model(foreign)


def test_file_older_than_an_option(model_file):
    """It has the default; the option of a newer version is refused by name."""
    before = read_model(model_file)
    rewrite(model_file, lambda card: card["network"].pop("uncertainty"))
    model = read_model(model_file)
    assert not model.network.options.uncertainty
    assert model.network.options == before.network.options
    rewrite(model_file, lambda card: card["network"].update(memory=True))
    with pytest.raises(ModelFileError, match="card is unusable.*'memory'"):
        read_model(model_file)


def test_uncertainties_are_in_the_file(random_model):
    model = read_model(random_model("uncertain", uncertainty=True))
    layers = model.network.head.uncertainties
    assert set(layers) == {"energy_uncertainty", "direction_uncertainty"}
    assert all((layer.weight != 0).all() for layer in layers.values())


def test_newer_format(model_file):
    rewrite(model_file, lambda card: card.update(format_version=99))
    with pytest.raises(ModelFileError, match="version 99 is newer than 1.*update"):
        read_model(model_file)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["network"].update(attention="strange"), "strange"),
        (lambda c: c["network"].update(extra=1), "extra"),
        (lambda c: c["preprocessing"].update(charge="cube"), "cube"),
        (lambda c: c["camera"].update(sha256="0"), "hash"),
        (lambda c: c.pop("camera"), "camera"),
        (lambda c: c["tasks"]["energy"].update(description="ln(E)"), "tasks are not"),
        (lambda c: c["network"].update(blocks=2), "missing"),
        (lambda c: c["network"].update(blocks=1, head_width=9), "has shape"),
        (lambda c: c.update(weights_sha256="0"), "hash"),
    ],
)
def test_card_that_does_not_fit(model_file, change, message):
    rewrite(model_file, change)
    with pytest.raises(ModelFileError, match=message):
        read_model(model_file)


def test_changed_weights_are_noticed(model_file):
    rewrite(model_file, change_tensors=lambda t: t["backbone.conv.bias"].add_(1e-3))
    with pytest.raises(ModelFileError, match="weights differ"):
        read_model(model_file)


def test_failed_write_keeps_the_old_file(model_file, small_model, monkeypatch):
    before = model_file.read_bytes()

    def fail(path, content):
        with open(path, "wb") as file:
            file.write(content[: len(content) // 2])
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OSError, match="no space"):
        write_model(model_file, small_model)
    assert model_file.read_bytes() == before
    assert [path.name for path in model_file.parent.iterdir()] == ["model.safetensors"]


def test_card_cannot_hold_nan(small_model, tmp_path):
    small_model.information = {"validation": {"auc": np.nan}}
    with pytest.raises(ValueError, match="JSON"):
        write_model(tmp_path / "nan.safetensors", small_model)
    assert list(tmp_path.iterdir()) == []
