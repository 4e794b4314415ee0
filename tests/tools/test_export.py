import shlex

import pytest
from ctapipe.tools.apply_models import ApplyModels

from ctapipe_gphysnet.checkpoint import write_model
from ctapipe_gphysnet.tools.export import main

NAMES = ["energy.pkl", "geometry.pkl", "particle_type.pkl"]


@pytest.fixture
def path(small_model, tmp_path):
    write_model(tmp_path / "model.safetensors", small_model)
    return tmp_path / "model.safetensors"


def test_prints_a_command_that_ctapipe_understands(path, tmp_path, capsys):
    folder = tmp_path / "my pickles"
    assert main([str(path), "--output", str(folder)]) == 0
    output = capsys.readouterr().out
    command = output[output.index("ctapipe-apply-models") :].replace("\\\n", "")
    program, *arguments = shlex.split(command)
    assert program == "ctapipe-apply-models"
    tool = ApplyModels()
    dl1 = path  # must exist
    tool.parse_command_line([a.replace("INPUT.dl1.h5", str(dl1)) for a in arguments])
    assert list(tool.reconstructor_paths) == [folder / name for name in NAMES]
    assert tool.config.TableLoader.dl1_images in (True, "True")
    assert tool.chunk_size < 10_000


def test_shipped_model(tmp_path, capsys):
    assert main(["lst1-mono-zenith20", "-o", str(tmp_path)]) == 0
    assert sorted(file.name for file in tmp_path.iterdir()) == NAMES


def test_overwrites_only_if_asked(path, tmp_path, capsys):
    arguments = [str(path), "-o", str(tmp_path / "pickles")]
    assert main(arguments) == 0
    assert main(arguments) == 1
    assert "exists; choose another folder" in capsys.readouterr().err
    assert main([*arguments, "--overwrite"]) == 0


@pytest.mark.parametrize(
    ("model", "message"),
    [("nowhere", "no model 'nowhere'"), (__file__, "cannot be read as a model file")],
)
def test_mistakes_are_one_line_and_exit_code_1(tmp_path, capsys, model, message):
    assert main([model, "-o", str(tmp_path / "pickles")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("gphysnet-export: ")
    assert error.count("\n") == 1
    assert message in error
    assert not (tmp_path / "pickles").exists()


def test_folder_is_a_file(path, capsys):
    assert main([str(path), "-o", str(path)]) == 1
    assert "gphysnet-export: " in capsys.readouterr().err
