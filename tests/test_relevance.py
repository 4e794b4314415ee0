import warnings

import astropy.units as u
import numpy as np
import pytest
from ctapipe.coordinates import TelescopeFrame
from ctapipe.io import TableLoader

from ctapipe_gphysnet.relevance import (
    ALL,
    Shower,
    centroid,
    mean_and_error,
    mean_and_spread,
    share_inside,
    shares,
    showers_of,
    statistic,
    summarize,
)


@pytest.fixture(scope="module")
def events(sample_path):
    """Some events of the sample, and the positions of the pixels."""
    with warnings.catch_warnings(), TableLoader(sample_path) as loader:
        warnings.simplefilter("ignore")  # of a file of another version of ctapipe
        table = loader.read_telescope_events(
            start=0, stop=100, dl1_images=True, true_images=True, true_parameters=True
        )
        camera = loader.subarray.tel[1].camera.geometry.transform_to(TelescopeFrame())
    positions = u.Quantity([camera.pix_x, camera.pix_y]).to_value(u.deg).T
    return table, positions


@pytest.mark.parametrize(
    ("name", "columns"),
    [("cleaned", "hillas_fov_{}"), ("true", "true_hillas_fov_{}")],
)
def test_centroids_are_those_of_ctapipe(events, name, columns):
    table, positions = events
    shower = showers_of(table, true_charge_above=0)[name]
    found = centroid(shower.charge, positions)
    expected = np.column_stack(
        [table[columns.format(axis)].quantity.to_value(u.deg) for axis in ("lon", "lat")]
    )
    known = np.isfinite(expected).all(axis=1)
    assert known.sum() > 50
    # ctapipe stores images rounded to 0.1 p.e.
    np.testing.assert_allclose(found[known], expected[known], atol=2e-3)


def test_pixels_of_the_shower(events):
    table, _ = events
    showers = showers_of(table, true_charge_above=0)
    assert list(showers) == ["true", "cleaned"]
    true = np.asarray(table["true_image"])
    np.testing.assert_array_equal(showers["true"].inside, true > 0)
    np.testing.assert_array_equal(showers["cleaned"].inside, table["image_mask"])
    brighter = showers_of(table, true_charge_above=3)["true"]
    np.testing.assert_array_equal(brighter.inside, true >= 4)
    np.testing.assert_array_equal(brighter.charge, np.where(true >= 4, true, 0))
    del table["true_image"]
    assert list(showers_of(table, true_charge_above=0)) == ["cleaned"]


def test_shares():
    maps = np.array([[1.0, 3, 0, 0], [0, 0, 0, 0]])
    np.testing.assert_array_equal(shares(maps), [[0.25, 0.75, 0, 0], [np.nan] * 4])
    inside = np.array([[False, True, True, False]] * 2)
    np.testing.assert_array_equal(share_inside(maps, inside), [0.75, np.nan])
    nowhere = np.zeros((2, 4), dtype=bool)
    np.testing.assert_array_equal(share_inside(maps, nowhere), [np.nan, np.nan])


def test_centroid_without_weight_or_with_a_saturated_pixel():
    positions = np.array([[0.0, 0], [1, 0], [0, 2]])
    maps = np.array([[0.0, 1, 1], [0, 0, 0], [0, np.inf, 1]])
    expected = [[0.5, 1], [np.nan] * 2, [np.nan] * 2]
    np.testing.assert_array_equal(centroid(maps, positions), expected)


def test_statistic():
    positions = np.array([[0.0, 0], [1, 0], [0, 1], [1, 1]])
    inside = np.array([[False, True, False, True], [True, False, False, False]])
    shower = Shower(inside, charge=np.array([[0, 1, 0, 1], [2, 0, 0, 0]]))
    maps = np.array([[[0, 1, 0, 0], [1, 0, 1, 0]], [[1, 1, 1, 1], [0, 0, 0, 0]]], float)
    found = statistic({"energy": maps}, {"true": shower}, positions)
    assert list(found) == [
        *("uniform_true_share", "uniform_true_distance"),
        *("energy_true_share", "energy_true_distance"),
    ]
    np.testing.assert_allclose(found["uniform_true_share"], [0.5, 0.25])
    np.testing.assert_allclose(found["energy_true_share"], [[1, 0], [0.25, np.nan]])
    # on the sphere, and so a little less than in the plane
    half_diagonal = np.sqrt(0.5)
    np.testing.assert_allclose(
        found["uniform_true_distance"].to_value(u.deg), [0.5, half_diagonal], rtol=1e-3
    )
    np.testing.assert_allclose(
        found["energy_true_distance"].to_value(u.deg),
        [[0.5, 1], [half_diagonal, np.nan]],
        rtol=1e-3,
    )


def test_mean_and_spread_leave_out_what_is_nan():
    values = np.array([[1.0, 3, np.nan], [5, np.nan, np.nan], [np.nan] * 3])
    mean, spread = mean_and_spread(values, axis=1)
    np.testing.assert_allclose(mean, [2, 5, np.nan])
    np.testing.assert_allclose(spread, [np.sqrt(2), np.nan, np.nan])


def test_error_of_the_mean():
    values = np.random.default_rng(0).normal(size=30)
    mean, error = mean_and_error(values, np.arange(30))
    assert mean == pytest.approx(values.mean())
    assert error == pytest.approx(values.std(ddof=1) / np.sqrt(30))
    # three copies of every event tell nothing new
    copies = np.append(np.repeat(values, 3), np.nan)
    shower = np.append(np.repeat(np.arange(30), 3), 30)
    assert mean_and_error(copies, shower) == pytest.approx((mean, error))
    assert np.isnan(mean_and_error(values, np.zeros(30, int))[1])
    assert np.isnan(mean_and_error(np.full(3, np.nan), np.arange(3))).all()


def test_error_of_the_mean_is_its_scatter():
    """Showers of different numbers of events that have something in common."""
    rng = np.random.default_rng(1)
    means, errors = [], []
    for _ in range(400):
        shower = np.repeat(np.arange(60), rng.integers(1, 8, 60))
        values = rng.normal(size=60)[shower] + rng.normal(size=len(shower))
        mean, error = mean_and_error(values, shower)
        means.append(mean)
        errors.append(error)
    assert np.mean(errors) == pytest.approx(np.std(means), rel=0.1)


def test_summary():
    columns = {
        "energy_true_share": np.array([[0.2, 0.4], [0.4, 0.4], [0.9, np.nan]]),
        "energy_true_distance": np.array([[1.0, 3], [1, 1], [5, np.nan]]),
        "uniform_true_share": np.array([0.1, 0.3, 0.5]),
        "uniform_true_distance": np.array([2.0, 4, 6]),
    }
    rows = summarize(
        columns.__getitem__,
        ["energy"],
        ["true"],
        ["one", "two"],
        particle=np.array(["gamma", "gamma", "proton"]),
        shower_number=np.arange(3),
    )
    rows = {(row["particle"], row["model"]): row for row in rows}
    assert list(rows) == [
        (particle, model)
        for particle in ("gamma", "proton")
        for model in ("one", "two", ALL)
    ]
    gamma = rows["gamma", ALL]
    assert (gamma["map"], gamma["shower"], gamma["n_events"]) == ("energy", "true", 2)
    assert gamma["share"] == pytest.approx(0.35)
    assert gamma["share_error"] == pytest.approx(0.05)
    assert gamma["share_median"] == pytest.approx(0.35)
    assert gamma["share_uniform"] == pytest.approx(0.2)
    assert gamma["share_spread"] == pytest.approx(np.std([0.3, 0.4], ddof=1))
    assert gamma["distance"] == pytest.approx(1.5)
    assert gamma["distance_uniform"] == pytest.approx(3)
    assert rows["gamma", "one"]["share"] == pytest.approx(0.3)
    assert rows["gamma", "two"]["distance"] == pytest.approx(2)
    assert np.isnan(rows["gamma", "one"]["share_spread"])
    # one model has no relevance
    assert rows["proton", ALL]["share"] == pytest.approx(0.9)
    assert rows["proton", "two"]["n_events"] == 0
    assert np.isnan(rows["proton", "two"]["share_uniform"])


def test_summary_of_one_model():
    columns = {
        f"energy_cleaned_{what}": np.ones((4, 1)) for what in ("share", "distance")
    }
    columns |= {f"uniform_cleaned_{what}": np.ones(4) for what in ("share", "distance")}
    (row,) = summarize(
        columns.__getitem__,
        ["energy"],
        ["cleaned"],
        ["one"],
        np.full(4, "unknown"),
        np.arange(4),
    )
    assert (row["model"], row["particle"], row["n_events"]) == (ALL, "unknown", 4)
    assert row["share"] == 1
    assert row["share_error"] == 0
    assert np.isnan(row["share_spread"])
