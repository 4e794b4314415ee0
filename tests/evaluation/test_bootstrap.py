import numpy as np
import pytest
from scipy.stats import bootstrap, ks_2samp
from sklearn.metrics import roc_auc_score

from ctapipe_gphysnet.evaluation.bootstrap import (
    auc_samples,
    fraction_error,
    quantile_samples,
)


@pytest.mark.parametrize("n", [1, 2, 11, 400])
def test_quantiles_have_the_distribution_of_drawn_samples(n):
    rng = np.random.default_rng(1)
    values, probabilities = rng.gamma(2, size=n), [0.16, 0.5, 0.84]
    drawn = rng.choice(values, size=(4000, n))
    expected = np.quantile(drawn, probabilities, axis=1).T
    found = quantile_samples(values, probabilities, 4000, rng)
    assert found.shape == expected.shape
    # the same few values, but for rounding, which the test would take for others
    found, expected = found.round(9), expected.round(9)
    for column in range(3):
        assert ks_2samp(found[:, column], expected[:, column]).pvalue > 1e-3
    # and the quantiles depend on each other in the same way
    for pair in ((0, 1), (0, 2)):
        width = [np.diff(samples[:, pair])[:, 0] for samples in (found, expected)]
        assert ks_2samp(*width).pvalue > 1e-3


def test_quantile_error_is_scipys():
    rng = np.random.default_rng(2)
    values = rng.normal(size=300)
    expected = bootstrap(
        (values,),
        lambda x, axis: np.quantile(x, 0.68, axis=axis),
        n_resamples=4000,
        method="percentile",
        rng=rng,
    ).standard_error
    found = np.std(quantile_samples(values, [0.68], 4000, rng), ddof=1)
    assert found == pytest.approx(expected, rel=0.08)


def test_auc_has_the_distribution_of_drawn_samples():
    rng = np.random.default_rng(3)
    signal, background = rng.normal(1, size=150), rng.normal(0, size=80)
    label = np.repeat([1, 0], [150, 80])
    expected = [
        roc_auc_score(
            label, np.concatenate([rng.choice(signal, 150), rng.choice(background, 80)])
        )
        for _ in range(1500)
    ]
    found = auc_samples(signal, background, 1500, rng)
    assert ks_2samp(found, expected).pvalue > 1e-3


def test_auc_of_many_events_is_in_the_middle_of_its_samples():
    rng = np.random.default_rng(4)
    signal, background = rng.beta(3, 1, size=30_000), rng.beta(1, 2, size=20_000)
    label = np.repeat([1, 0], [30_000, 20_000])
    exact = roc_auc_score(label, np.concatenate([signal, background]))
    found = auc_samples(signal, background, 400, rng)
    assert np.mean(found) == pytest.approx(exact, abs=3 * np.std(found) / 20)


def test_nothing_gives_nan():
    rng = np.random.default_rng(0)
    assert np.isnan(quantile_samples(np.array([]), [0.5], 3, rng)).all()
    assert np.isnan(auc_samples(np.array([]), np.ones(3), 3, rng)).all()
    assert np.isnan(fraction_error(0, 0))


def test_fraction_error():
    rng = np.random.default_rng(5)
    drawn = rng.choice(np.repeat([0, 1], [70, 30]), size=(20_000, 100)).mean(axis=1)
    assert fraction_error(30, 100) == pytest.approx(drawn.std(), rel=0.03)
