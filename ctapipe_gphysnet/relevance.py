"""How well the relevance of pixels and the shower agree."""

from dataclasses import dataclass

import astropy.units as u
import numpy as np
from astropy.coordinates import angular_separation

__all__ = [
    "ALL",
    "Shower",
    "centroid",
    "mean_and_error",
    "mean_and_spread",
    "share_inside",
    "shares",
    "showers_of",
    "statistic",
    "summarize",
]

#: In place of a model's name: all models of a group.
ALL = "all"


@dataclass
class Shower:
    """Where the shower is in some images.

    Attributes
    ----------
    inside : ndarray of bool, shape (N, P)
        Its pixels.
    charge : ndarray, shape (N, P)
        Photo-electrons, zero outside.
    """

    inside: np.ndarray
    charge: np.ndarray


def showers_of(events, true_charge_above):
    """The shower by every definition that a table of events allows.

    Parameters
    ----------
    events : astropy.table.Table, N rows
        As `ctapipe.io.TableLoader` reads them, with images.
    true_charge_above : float
        Photo-electrons of the simulated shower above which a pixel is one of its own.

    Returns
    -------
    showers : dict of str to Shower
        "true", the simulated light of the shower alone, where there are true images;
        "cleaned", the pixels that the image cleaning left, where there is its mask.
    """
    showers = {}
    if "true_image" in events.colnames:
        charge = np.asarray(events["true_image"], dtype=np.float64)
        showers["true"] = _shower(charge > true_charge_above, charge)
    if "image_mask" in events.colnames:
        charge = np.asarray(events["image"], dtype=np.float64)
        showers["cleaned"] = _shower(np.asarray(events["image_mask"], bool), charge)
    return showers


def _shower(inside, charge):
    return Shower(inside, np.where(inside, charge, 0))


def shares(maps):
    """Maps as shares of their sum, so that those of different networks compare.

    Parameters
    ----------
    maps : ndarray, shape (..., P)
        Not negative.

    Returns
    -------
    shares : ndarray, shape (..., P)
        Sums are 1; NaN where a map is zero all over.
    """
    total = maps.sum(axis=-1, keepdims=True)
    return maps / np.where(total > 0, total, np.nan)


def share_inside(maps, inside):
    """Share of the sum of maps that is in some pixels.

    Parameters
    ----------
    maps : ndarray, shape (..., P)
        Not negative.
    inside : ndarray of bool, shape (..., P)

    Returns
    -------
    share : ndarray, shape (...)
        NaN where a map is zero all over, or where there are no such pixels.
    """
    share = (shares(maps) * inside).sum(axis=-1)
    return np.where(inside.any(axis=-1), share, np.nan)


def centroid(maps, positions):
    """Mean position, weighted by maps.

    Of the charge in the cleaned pixels it is the centroid of the Hillas parameters.

    Parameters
    ----------
    maps : ndarray, shape (..., P)
        Not negative.
    positions : ndarray, shape (P, 2)

    Returns
    -------
    centroid : ndarray, shape (..., 2)
        NaN where a map is zero all over, or infinite somewhere.
    """
    with np.errstate(invalid="ignore"):
        return shares(maps) @ positions


def statistic(maps, showers, positions):
    """Shares of maps inside the shower, and distances between their centroids.

    Parameters
    ----------
    maps : dict of str to ndarray, shape (N, S, P)
        Of S networks; not negative.
    showers : dict of str to Shower
    positions : ndarray, shape (P, 2)
        Of the pixels, (fov_lon, fov_lat) in degrees.

    Returns
    -------
    columns : dict of str to ndarray or Quantity
        For every map and shower ``MAP_SHOWER_share`` and ``MAP_SHOWER_distance`` [deg] of
        shape (N, S); the same for "uniform", a map of equal values, of shape (N,).
    """
    n_pixels = len(positions)
    columns = {}
    for shower_name, shower in showers.items():
        place = centroid(shower.charge, positions)
        for name, values in {"uniform": np.ones((1, 1, n_pixels)), **maps}.items():
            share = share_inside(values, shower.inside[:, None])
            distance = _separation(centroid(values, positions), place[:, None])
            if name == "uniform":
                share, distance = share[:, 0], distance[:, 0]
            columns[f"{name}_{shower_name}_share"] = share
            columns[f"{name}_{shower_name}_distance"] = distance * u.deg
    return columns


def _separation(one, other):
    """Angle between places (..., 2) in the field of view, all in degrees."""
    one, other = np.deg2rad(one), np.deg2rad(other)
    return np.rad2deg(
        angular_separation(one[..., 0], one[..., 1], other[..., 0], other[..., 1])
    )


def mean_and_spread(values, axis):
    """Mean and standard deviation of what is not NaN.

    Parameters
    ----------
    values : ndarray
    axis : int
        Along which.

    Returns
    -------
    mean : ndarray
        NaN where all values are.
    spread : ndarray
        Estimate from a sample, with Bessel's correction; NaN where fewer than two values
        are not.
    """
    values = np.ma.masked_invalid(values)
    mean, spread = values.mean(axis=axis), values.std(axis=axis, ddof=1)
    return np.ma.filled(mean, np.nan), np.ma.filled(spread, np.nan)


def mean_and_error(values, shower):
    """Mean of values that are NaN in part, and its standard error.

    Events of one shower look alike, so the error is that of a mean over groups of them
    (Liang and Zeger 1986, https://doi.org/10.1093/biomet/73.1.13).

    Parameters
    ----------
    values : ndarray, shape (N,)
    shower : ndarray of int, shape (N,)
        The same number for events of one shower, from 0 on.

    Returns
    -------
    mean, error : float
        NaN where nothing is left, the error also where only one shower is.
    """
    good = np.isfinite(values)
    n_good = np.count_nonzero(good)
    n_showers = len(np.unique(shower[good]))
    if n_good == 0:
        return np.nan, np.nan
    mean = values[good].mean()
    if n_showers == 1:
        return mean, np.nan
    residual = np.bincount(shower[good], values[good] - mean)
    return mean, np.sqrt((residual**2).sum() * n_showers / (n_showers - 1)) / n_good


def summarize(column, names, showers, models, particle, shower_number):
    """Means over events of what `statistic` says of each.

    Parameters
    ----------
    column : callable
        A column of `statistic`, ndarray of shape (N, S) or (N,), by its name.
    names : iterable of str
        Of the maps.
    showers : iterable of str
    models : list of str
        Names of the S networks.
    particle : ndarray of str, shape (N,)
    shower_number : ndarray of int, shape (N,)
        See `mean_and_error`.

    Returns
    -------
    rows : list of dict
        For every particle, map, shower and model. For `ALL` of several models their
        mean is taken event by event; ``share_spread`` and ``distance_spread`` are the
        standard deviation between the models. ``share_uniform`` and
        ``distance_uniform`` are what a map of equal values has on the same events.
    """
    rows = []
    for shower in showers:
        for name in names:
            for kind in np.unique(particle):
                mine = particle == kind
                measured = {
                    what: (
                        column(f"{name}_{shower}_{what}")[mine],
                        column(f"uniform_{shower}_{what}")[mine],
                    )
                    for what in ("share", "distance")
                }
                rows += [
                    {"particle": kind, "map": name, "shower": shower, **row}
                    for row in _rows_of_models(measured, models, shower_number[mine])
                ]
    return rows


def _rows_of_models(measured, models, shower_number):
    """Rows of every model, and of the mean of all if there are several."""
    several = len(models) > 1
    rows = [{"model": name} for name in ([*models, ALL] if several else [ALL])]
    for what, (values, uniform) in measured.items():
        if several:
            values = np.column_stack([values, mean_and_spread(values, axis=1)[0]])
        means = []
        for row, value in zip(rows, values.T):
            good = np.isfinite(value)
            mean, error = mean_and_error(value, shower_number)
            means.append(mean)
            if what == "share":
                row["n_events"] = np.count_nonzero(good)
            row[what], row[f"{what}_error"] = mean, error
            row[f"{what}_median"] = np.median(value[good]) if good.any() else np.nan
            row[f"{what}_uniform"] = uniform[good].mean() if good.any() else np.nan
            row[f"{what}_spread"] = np.nan
        if several:
            rows[-1][f"{what}_spread"] = float(mean_and_spread(means[:-1], axis=0)[1])
    return rows
