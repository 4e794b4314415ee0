import pytest
from ctapipe.core import ToolConfigurationError

from ctapipe_gphysnet.tools.apply import ApplyTool
from ctapipe_gphysnet.tools.command_line import repeat_options
from ctapipe_gphysnet.tools.evaluate import EvaluateTool
from ctapipe_gphysnet.tools.explain import ExplainTool
from ctapipe_gphysnet.tools.merge import MergeTool
from ctapipe_gphysnet.tools.noise import NoiseTool
from ctapipe_gphysnet.tools.robustness import RobustnessTool
from ctapipe_gphysnet.tools.simulate import SimulateTool
from ctapipe_gphysnet.tools.train import TrainTool


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Names of files in the working directory."""
    monkeypatch.chdir(tmp_path)
    names = ["a.h5", "b.h5", "c.h5", "d.h5", "e.h5"]
    for name in names:
        (tmp_path / name).touch()
    return names


def names_of(paths):
    return [path.name for path in paths]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("-i a b -o c -i d e", "-i a -i b -o c -i d -i e"),
        ("--input=a b -v c", "--input=a --input b -v c"),
        ("x -i a", "x -i a"),
        ("-i", "-i"),
        ("-i -o a b", "-i -o a b"),
    ],
)
def test_options_are_repeated(given, expected):
    repeated = repeat_options(given.split(), {"-i", "--input"})
    assert repeated == expected.split()


@pytest.mark.parametrize(
    "tool", [ApplyTool, EvaluateTool, ExplainTool, MergeTool, RobustnessTool, TrainTool]
)
def test_several_inputs_behind_an_option(files, tool):
    a, b, c, d, e = files
    tool = tool()
    tool.parse_command_line(["-i", a, b, "--input", c, "-o", "out", f"--input={d}", e])
    assert names_of(tool.inputs) == files
    assert tool.output.name == "out"


def test_several_files_of_other_kinds(files):
    a, b, c, d, e = files
    tool = TrainTool()
    command = ["--config", a, b, "--TrainTool.regression_inputs", c, d, "-i", e]
    tool.parse_command_line(command)
    assert names_of(tool.config_files) == [a, b]
    assert names_of(tool.regression_inputs) == [c, d]
    tool = ExplainTool()
    tool.parse_command_line(["-m", "one", "two", "-i", a])
    assert tool.models == ["one", "two"]
    tool = RobustnessTool()
    tool.parse_command_line(["--random-forest", a, b, "-i", c])
    assert names_of(tool.random_forests) == [a, b]


@pytest.mark.parametrize("tool", [ApplyTool, MergeTool, NoiseTool, TrainTool])
def test_arguments_that_belong_to_no_option(files, tool):
    with pytest.raises(ToolConfigurationError, match="a.h5: to which option"):
        tool().parse_command_line(["-o", "out", files[0]])


@pytest.mark.parametrize(
    ("tool", "option"),
    [
        (TrainTool, "--batch_size"),
        (TrainTool, "--epoch"),
        (ApplyTool, "--models"),
        (SimulateTool, "--n_events"),
    ],
)
def test_misspelt_options(tool, option):
    for words in ([option, "5"], [f"{option}=5"]):
        with pytest.raises(ToolConfigurationError, match=f"no option {option}; see"):
            tool().parse_command_line(words)


def test_misspelt_classes(capsys):
    TrainTool().parse_command_line(["--TrainTol.epochs=3", "--EventSelection.x=1"])
    (message,) = [m for m in capsys.readouterr().err.splitlines() if "misspelt" in m]
    assert "TrainTol is none" in message


def test_a_run_card_belongs_to_no_option():
    tool = SimulateTool()
    tool.parse_command_line(["proton", "-o", "out.h5", "--n-events", "5"])
    assert tool.extra_args == ["proton"]


def test_arguments_that_are_inputs(files):
    tool = EvaluateTool()
    tool.parse_command_line(["--cuts", "low", *files])
    assert tool.extra_args == files
