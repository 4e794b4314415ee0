import pytest
import torch

pytest.importorskip("lightning", reason="the extra train is not installed")

from ctapipe_gphysnet.averaging import moving_average  # noqa: E402


@pytest.mark.parametrize(
    ("n", "weight"),
    [(1, 2 / 11), (89, 90 / 99), (1000, 0.95)],
)
def test_weight_of_the_average_so_far(n, weight):
    averages, values = [torch.tensor([2.0, 4.0])], [torch.tensor([3.0, -4.0])]
    moving_average(0.95)(averages, values, torch.tensor(n))
    expected = torch.tensor([3 - weight, 8 * weight - 4])
    torch.testing.assert_close(averages[0], expected)


def test_counts_are_not_averaged():
    averages, values = [torch.tensor(5)], [torch.tensor(6)]
    moving_average(0.9)(averages, values, torch.tensor(5))
    assert averages[0] == 6
