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
