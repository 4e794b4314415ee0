"""Bootstrap uncertainties, without drawing the samples one by one.

A bootstrap sample of n events is n draws with replacement. What is drawn here has
exactly the distribution that the statistic has over such samples.
"""

import numpy as np

__all__ = ["auc_samples", "fraction_error", "quantile_samples"]

AUC_BINS = 2000


def quantile_samples(values, probabilities, n_samples, rng):
    """Quantiles of bootstrap samples.

    Of n uniform random numbers the r-th smallest has the distribution
    Beta(r, n + 1 - r), and those above it are again uniform (David & Nagaraja, Order
    Statistics, 2003, section 2). The r-th smallest value of a bootstrap sample is the
    value to which that uniform number leads in the sorted sample.

    Parameters
    ----------
    values : ndarray, shape (N,)
        Finite.
    probabilities : sequence of float, length Q
        Of the quantiles, interpolated linearly as `numpy.quantile` does.
    n_samples : int
    rng : numpy.random.Generator

    Returns
    -------
    quantiles : ndarray, shape (n_samples, Q)
        NaN if there are no values.
    """
    n = len(values)
    if n == 0:
        return np.full((n_samples, len(probabilities)), np.nan)
    position = np.asarray(probabilities) * (n - 1)
    below = np.floor(position).astype(int)
    above = np.minimum(below + 1, n - 1)
    ranks, place = np.unique(np.concatenate([below, above]), return_inverse=True)
    uniform = _order_statistics(ranks + 1, n, n_samples, rng)
    chosen = np.minimum((uniform * n).astype(int), n - 1)
    found = np.sort(values)[chosen][:, place]
    low, high = found[:, : len(below)], found[:, len(below) :]
    return low + (high - low) * (position - below)


def _order_statistics(ranks, n, n_samples, rng):
    """The smallest, second smallest ... of n uniform numbers, for ascending ranks."""
    uniform = np.zeros((n_samples, len(ranks)))
    previous, last_rank = np.zeros(n_samples), 0
    for i, rank in enumerate(ranks):
        step = rng.beta(rank - last_rank, n + 1 - rank, size=n_samples)
        previous = uniform[:, i] = previous + (1 - previous) * step
        last_rank = rank
    return uniform


def auc_samples(signal, background, n_samples, rng):
    """Area under the ROC curve of bootstrap samples of both classes.

    The scores are sorted into `AUC_BINS` bins of equally many events, within which
    signal and background count as tied; how often each bin is drawn is multinomial.

    Parameters
    ----------
    signal, background : ndarray, shape (S,) and (B,)
        Scores, finite; signal has the higher ones.
    n_samples : int
    rng : numpy.random.Generator

    Returns
    -------
    auc : ndarray, shape (n_samples,)
        NaN if a class is empty.
    """
    if not len(signal) or not len(background):
        return np.full(n_samples, np.nan)
    scores = np.concatenate([signal, background])
    edges = np.unique(np.quantile(scores, np.linspace(0, 1, AUC_BINS + 1)[1:-1]))
    drawn = []
    for values in (signal, background):
        counts = np.bincount(np.searchsorted(edges, values), minlength=len(edges) + 1)
        drawn.append(rng.multinomial(len(values), counts / len(values), size=n_samples))
    signal, background = drawn
    lower = np.cumsum(background, axis=1) - background / 2
    return np.sum(signal * lower, axis=1) / (signal[0].sum() * background[0].sum())


def fraction_error(count, total):
    """Standard deviation of a fraction over bootstrap samples: the binomial one.

    Parameters
    ----------
    count, total : array-like of int

    Returns
    -------
    error : ndarray
        NaN where the total is 0.
    """
    count, total = np.asarray(count, dtype=float), np.asarray(total, dtype=float)
    with np.errstate(invalid="ignore", divide="ignore"):
        fraction = count / total
        return np.sqrt(fraction * (1 - fraction) / total)
