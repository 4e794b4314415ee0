import pytest

from ctapipe_gphysnet import resources


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """A folder of resources with two models and something else."""
    for name in ("b.safetensors", "a.safetensors", "sample.h5"):
        (tmp_path / name).touch()
    monkeypatch.setattr(resources, "RESOURCES", tmp_path)
    return tmp_path


def test_model_names_are_files_without_suffix(shipped):
    assert resources.model_names() == ["a", "b"]


def test_find_model_by_name(shipped):
    assert resources.find_model("b") == shipped / "b.safetensors"


def test_find_model_by_path(shipped, tmp_path, monkeypatch):
    monkeypatch.setenv("MODELS", str(tmp_path))
    assert resources.find_model(tmp_path / "a.safetensors") == tmp_path / "a.safetensors"
    assert resources.find_model("$MODELS/a.safetensors") == tmp_path / "a.safetensors"


def test_a_name_goes_before_a_file(shipped, tmp_path, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "a").touch()
    monkeypatch.chdir(elsewhere)
    assert resources.find_model("a") == shipped / "a.safetensors"


@pytest.mark.parametrize("name", ["c", "nowhere/a.safetensors", "."])
def test_unknown_model_names_those_there_are(shipped, name):
    with pytest.raises(FileNotFoundError, match=r"no model '.*\(a, b\)"):
        resources.find_model(name)
