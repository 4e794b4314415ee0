import pytest
import torch

from ctapipe_gphysnet.network.heads import MultiTaskHead
from ctapipe_gphysnet.network.layout import LAYOUTS, make_layout

OUTPUTS = {"e": ("global", 1), "d": ("local", 2), "i": ("local", 2), "p": ("class", 2)}


@pytest.mark.parametrize("backend", LAYOUTS)
@pytest.mark.parametrize("tasks", ["edip", "edp", "e", "d", "p"])
def test_paths_of_the_tasks(backend, lattice, tasks, randomize):
    layout = make_layout(backend, lattice)
    head = MultiTaskHead(layout, 3, {task: OUTPUTS[task] for task in tasks}, 7)
    randomize(head.double())
    images = torch.randn(4, 3, lattice.n_pixels, dtype=torch.float64)
    out = head(layout.from_pixels(images))
    assert list(out) == list(tasks)
    state = head.state_dict()

    def linear(x, name):
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    features = {"class": images.reshape(4, -1)}
    if "e" in tasks:
        features["global"] = linear(images.mean(dim=2), "hidden.global.0").clamp(min=0)
    if {"d", "i"} & set(tasks):
        features["local"] = linear(features["class"], "hidden.local.0").clamp(min=0)
    # no layer for a path without a task
    assert len(state) == 2 * (len(features) - 1 + len(tasks))
    for task, values in out.items():
        expected = linear(features[OUTPUTS[task][0]], f"outputs.{task}")
        assert values.shape == (4, OUTPUTS[task][1])
        torch.testing.assert_close(values, expected)


@pytest.mark.parametrize("tasks", ["edip", "ep", "d"])
def test_uncertainties_read_all_hidden_layers(lattice, tasks, randomize):
    layout = make_layout("dense", lattice)
    outputs = {task: OUTPUTS[task] for task in tasks}
    head = MultiTaskHead(layout, 3, outputs, 7, ["u", "v"])
    randomize(head.double())
    maps = layout.from_pixels(torch.randn(4, 3, lattice.n_pixels, dtype=torch.float64))
    out = head(maps)
    assert list(out) == [*tasks, "u", "v"]
    state = head.state_dict()
    hidden = [
        head.hidden[path](values)
        for path, values in (
            ("global", layout.mean(maps)),
            ("local", layout.to_pixels(maps).flatten(1)),
        )
        if path in head.hidden
    ]
    for name in "uv":
        weight, bias = (state[f"uncertainties.{name}.{p}"] for p in ("weight", "bias"))
        torch.testing.assert_close(out[name], torch.cat(hidden, 1) @ weight.T + bias)


def test_uncertainties_leave_the_rest_alone(ragged_lattice):
    layout = make_layout("dense", ragged_lattice)
    states = []
    for uncertainties in ([], ["u"]):
        torch.manual_seed(3)
        head = MultiTaskHead(layout, 3, OUTPUTS, 7, uncertainties)
        states.append(head.state_dict())
        for name, parameter in head.named_parameters():
            is_new = name.startswith("uncertainties.")
            assert parameter.requires_grad is not is_new
            assert (parameter == 0).all() == is_new
    without, extended = states
    assert set(extended) - set(without) == {
        "uncertainties.u.weight",
        "uncertainties.u.bias",
    }
    for name, values in without.items():
        assert torch.equal(extended[name], values)
