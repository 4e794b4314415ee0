"""Configurations of training that come with the package."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from ctapipe.core import ToolConfigurationError
from running import run

from ctapipe_gphysnet.balance import BALANCES
from ctapipe_gphysnet.checkpoint import read_card
from ctapipe_gphysnet.events import EventSelection
from ctapipe_gphysnet.network.attention import ATTENTIONS
from ctapipe_gphysnet.network.model import GammaPhysNet, NetworkOptions
from ctapipe_gphysnet.preprocessing import Preprocessing
from ctapipe_gphysnet.resources import find_recipe, recipe_names

lightning = pytest.importorskip("lightning", reason="the extra train is not installed")

pytestmark = pytest.mark.filterwarnings("ignore:::lightning")

EXAMPLES = Path(__file__).parents[2] / "examples" / "recipes"

TINY = [
    "--blocks=1",
    "--TrainTool.channels=4",
    "--TrainTool.channels=8",
    "--TrainTool.channels=8",
    "--TrainTool.head_width=8",
    "--batch-size=8",
    "--TrainTool.validation_fraction=0.8",
    "--device=cpu",
]


@pytest.fixture
def configured(sample_path, tmp_path):
    """Function: the tool after its setup with some arguments."""
    from ctapipe_gphysnet.tools.train import TrainTool

    def set_up(*arguments):
        tool = TrainTool()
        files = [f"--input={sample_path}", f"--output={tmp_path / 'm.safetensors'}"]
        tool.initialize([*files, *arguments])
        tool.setup()
        return tool

    return set_up


@pytest.fixture
def train(sample_path, tmp_path):
    """Function: train with some arguments; the model file and the last checkpoint."""
    from ctapipe_gphysnet.tools.train import TrainTool

    def train_tiny(*arguments, epochs=1):
        output = tmp_path / "model.safetensors"
        options = [f"--input={sample_path}", f"--output={output}", f"--epochs={epochs}"]
        run(TrainTool(), *options, *TINY, *arguments, cwd=tmp_path, raises=True)
        last = output.with_suffix(".training") / "last.ckpt"
        return output, torch.load(last, weights_only=False)

    return train_tiny


def test_defaults_and_choices_are_those_of_the_classes(configured):
    from ctapipe_gphysnet.optimization import OPTIMIZERS, SCHEDULES
    from ctapipe_gphysnet.resuming import CHECKPOINTS
    from ctapipe_gphysnet.training import CLASS_BALANCES, TrainingOptions

    tool = configured()
    assert tool.training_options == TrainingOptions()
    assert tool.network_options == NetworkOptions()
    assert tool.preparation == Preprocessing()
    traits = tool.traits()
    for name, choices in (
        ("attention", ["none", *ATTENTIONS]),
        ("optimizer", OPTIMIZERS),
        ("schedule", SCHEDULES),
        ("class_balance", CLASS_BALANCES),
        ("keep", CHECKPOINTS),
        ("balance", BALANCES),
    ):
        assert set(traits[name].values) == set(choices)


def test_paper_to_the_letter(configured, lst_lattice):
    tool = configured("--config=paper-2021")
    options = tool.training_options
    assert (options.epochs, options.learning_rate, options.weight_decay) == (
        25,
        1e-3,
        1e-4,
    )
    assert (options.optimizer, options.schedule, options.step_epochs) == (
        "adam",
        "steps",
        10,
    )
    assert options.balance.name == "uncertainty"
    assert options.balance_learning_rate == 0.025
    assert options.balance_weight_decay == 1e-4
    assert options.class_balance == "none"
    assert options.label_smoothing == options.gradient_penalty == 0
    assert options.gradient_clip == options.average_weights == options.patience == 0
    assert (options.keep, options.precision) == ("last", "32-true")
    change = options.augmentation
    assert not change.turn
    assert change.night_sky == change.dead_pixels == change.charge_error == 0
    network = GammaPhysNet(lst_lattice, tool.network_options)
    assert sum(p.numel() for p in network.parameters()) == 2_637_465
    raw = Preprocessing("none", time_reference="none", time_scale=1, time_charge_scale=0)
    assert tool.preparation == raw


@pytest.mark.parametrize(
    ("name", "intensity", "others"),
    [
        ("standard", "hillas_intensity >= 300", ["morphology_n_pixels >= 3"]),
        ("high-cuts", "hillas_intensity > 1000", []),
        ("low-cuts", "hillas_intensity > 50", []),
    ],
)
def test_selections_of_the_papers(configured, name, intensity, others):
    tool = configured("--config=paper-2021", f"--config=selection-{name}")
    expressions = [expression for _, expression in tool.selection.quality_criteria]
    assert expressions == [intensity, "leakage_intensity_width_2 < 0.2", *others]
    assert tool.training_options.epochs == 25


def test_steps_lead_from_the_paper_to_best(configured):
    """Those of the examples, at the size at which they were compared."""
    optimization = ("one-cycle", "adamw", "clipping", "class-weights")
    steps = ("transforms", *optimization, "turns", "states")
    small = f"--config={EXAMPLES / 'small.yaml'}"
    files = [f"--config={EXAMPLES / step}.yaml" for step in steps]
    made = configured("--config=paper-2021", *files, small)
    best = configured("--config=best", small)
    assert made.training_options == best.training_options
    assert made.network_options == best.network_options
    assert made.preparation == best.preparation == Preprocessing()
    criteria = [tuple(criterion) for criterion in best.selection.quality_criteria]
    assert criteria == EventSelection().quality_criteria


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("no-attention", {"attention": "none"}),
        (
            "squeeze-excitation",
            {"attention": "squeeze-excitation", "reduction_ratio": 4},
        ),
        ("self-attention", {"attention": "self", "reduction_ratio": 12}),
        ("no-impact", {"tasks": ("energy", "direction", "particle_type")}),
    ],
)
def test_ablations_change_nothing_else(configured, name, expected):
    best = configured("--config=best").network_options
    tool = configured("--config=best", f"--config={EXAMPLES / name}.yaml")
    assert tool.network_options == replace(best, **expected)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("averaged-weights", {"average_weights": 0.99}),
        ("label-smoothing", {"label_smoothing": 0.05}),
    ],
)
def test_what_did_not_help_changes_nothing_else(configured, name, expected):
    best = configured("--config=best").training_options
    tool = configured("--config=best", f"--config={EXAMPLES / name}.yaml")
    assert tool.training_options == replace(best, **expected)


def test_later_ones_and_the_command_line_go_first(configured, tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text("TrainTool: {epochs: 7, learning_rate: 0.5}")
    tool = configured("--config=paper-2021", f"--config={own}", "--learning-rate=0.25")
    assert tool.training_options.epochs == 7
    assert tool.training_options.learning_rate == 0.25
    assert tool.training_options.optimizer == "adam"


def test_a_name_goes_before_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "best").write_text("")
    assert find_recipe("best").read_text().startswith("# What has been shown")
    assert find_recipe("./best") == "./best"


def test_unknown_name(configured, capfd):
    with pytest.raises(SystemExit):
        configured("--config=paper-1921")
    message = capfd.readouterr().err
    assert "paper-1921': does not exist" in message
    assert "one of best, paper-2021, selection-high-cuts" in message


def test_none_is_forgotten_here():
    selections = [f"selection-{name}" for name in ("high-cuts", "low-cuts", "standard")]
    assert recipe_names() == ["best", "paper-2021", *selections]


def test_training_with_the_recipe_of_the_paper(train):
    options = ["--config=selection-standard", "--TrainTool.step_epochs=1"]
    output, checkpoint = train("--config=paper-2021", *options, epochs=2)
    network, balance = checkpoint["optimizer_states"][0]["param_groups"]
    assert network["lr"] == pytest.approx(1e-5)  # divided by 10 after either epoch
    assert balance["lr"] == 0.025
    assert network["weight_decay"] == balance["weight_decay"] == 1e-4
    assert not network["decoupled_weight_decay"]
    assert checkpoint["state_dict"]["class_weights"].tolist() == [1, 1]
    training = read_card(output)["training"]
    assert training["options"]["optimizer"] == "adam"
    assert [row["criterion"] for row in training["selection"]][1:] == [
        "intensity >= 300 p.e.",
        "leakage < 20 %",
        "pixels >= 3",
    ]


@pytest.mark.parametrize("penalty", [0.0, 0.1])
def test_training_with_gradnorm_and_a_gradient_penalty(train, penalty):
    """The penalty alone needs the convolutions of torch."""
    output, checkpoint = train(
        "--config=best",
        "--config=selection-high-cuts",
        "--TrainTool.balance=gradnorm",
        f"--TrainTool.gradient_penalty={penalty}",
        "--TrainTool.label_smoothing=0.1",
    )
    state = checkpoint["state_dict"]
    weights, first = state["balance.weights"], state["balance.first_losses"]
    assert weights.shape == (4,)
    assert weights.sum().item() == pytest.approx(4, abs=0.2)
    assert (weights != 1).all()
    assert (first > 0).all()
    assert read_card(output)["training"]["options"]["balance"]["name"] == "gradnorm"


def test_training_with_weights_of_ones_own(train):
    tasks = ("energy", "direction", "impact", "particle_type")
    weights = [f"--TrainTool.task_weights={task}={i}" for i, task in enumerate(tasks, 1)]
    configs = ["--config=best", "--config=selection-low-cuts"]
    output, checkpoint = train(*configs, "--TrainTool.balance=fixed", *weights)
    state = checkpoint["state_dict"]
    assert not [name for name in state if name.startswith("balance.")]
    background, signal = state["class_weights"].tolist()
    assert background > 1 > signal  # the sample has more gamma rays
    balance = read_card(output)["training"]["options"]["balance"]
    assert balance["task_weights"] == dict(zip(tasks, (1.0, 2.0, 3.0, 4.0)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--TrainTool.balance=fixed"], "task_weights belong to the balance 'fixed'"),
        (
            ["--TrainTool.balance=fixed", "--TrainTool.task_weights=energy=2"],
            r"task_weights are of \['energy'\], but the tasks are",
        ),
        (["--TrainTool.gradient_penalty=1", "--compile"], "torch.compile does not have"),
        (["--TrainTool.gradient_penalty=-1"], "gradient_penalty must be 0 or more"),
    ],
)
def test_what_cannot_be_is_said_at_once(configured, arguments, message):
    with pytest.raises(ToolConfigurationError, match=message):
        configured(*arguments)
