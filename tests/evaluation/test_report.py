import astropy.units as u
import pytest
from astropy.table import QTable

from ctapipe_gphysnet.evaluation.report import _comparison


@pytest.fixture
def summaries():
    """AUC and angular resolution of two reconstructors."""
    auc = QTable(
        rows=[
            (name, axis, low, high, value, 0.01, 1)
            for name, values in {"A": (0.90, 0.80, 0.80), "B": (0.85, 0.90, 0.95)}.items()
            for (axis, low, high), value in zip(
                [("all", 0, 0), ("intensity", 50, 200), ("intensity", 200, 800)], values
            )
        ],
        names="reconstructor axis low high auc auc_error n_seeds".split(),
    )
    angle = QTable(
        rows=[(name, 0.1, 1, value, 0.01, 1) for name, value in (("A", 0.2), ("B", 0.3))],
        names="reconstructor true_energy_low true_energy_high angular_resolution"
        " angular_resolution_error n_seeds".split(),
    )
    for name in ("true_energy_low", "true_energy_high"):
        angle[name] <<= u.TeV
    return {"auc": auc, "angular_resolution": angle, "energy_resolution": QTable()}


def test_losses_are_counted_and_the_worst_is_named(summaries):
    found = _comparison(summaries, "A", "B")
    assert found["sentence"] == (
        "A is worse than B by more than 2 σ in: AUC by intensity in 2 of 2 intervals,"
        " most at 200 to 800 p.e. (by 0.150, 10.6 σ)."
    )
    assert "<td class=text>AUC</td><td>1</td><td>1</td><td>0</td>" in found["table"]
    row = "<td class=text>angular resolution by true energy</td><td>1</td><td>1</td>"
    assert row in found["table"]


def test_no_losses(summaries):
    summaries["auc"] = QTable()
    sentence = _comparison(summaries, "A", "B")["sentence"]
    assert sentence == "A is nowhere worse than B by more than 2 σ."
    sentence = _comparison(summaries, "B", "A")["sentence"]
    assert "angular resolution by true energy at 0.1 to 1 TeV (by 0.100" in sentence
