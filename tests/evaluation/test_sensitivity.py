import shutil

import astropy.units as u
import numpy as np
import pytest
import tables
from astropy.table import QTable, Table, vstack
from ctapipe.io import read_table, write_table
from ctapipe.io.hdf5dataformat import (
    SHOWER_DISTRIBUTION_TABLE,
    SIMULATION_RUN_TABLE,
    SIMULATION_SHOWER_TABLE,
)
from pyirf.cut_optimization import optimize_gh_cut
from pyirf.cuts import calculate_percentile_cut
from pyirf.exceptions import MissingColumns
from scipy.integrate import quad
from scipy.optimize import brentq

from ctapipe_gphysnet.evaluation.sensitivity import (
    SPECTRA,
    Cuts,
    Simulation,
    SimulationError,
    effective_area,
    event_weights,
    optimize_cuts,
    read_simulation,
    sensitivity,
)

BINS = np.geomspace(0.01, 10, 7) * u.TeV
HOURS = 50 * u.hour


def simulation(viewcone=0, n_showers=60_000, **options):
    return Simulation(
        n_showers=n_showers,
        energy_min=0.01 * u.TeV,
        energy_max=10 * u.TeV,
        max_impact=300 * u.m,
        spectral_index=-2.0,
        viewcone_min=0 * u.deg,
        viewcone_max=viewcone * u.deg,
        **options,
    )


def thrown_energies(n, low=0.01, high=10):
    """Quantiles of a power law of index -2: as good as a very large sample."""
    q = (np.arange(n) + 0.5) / n
    return u.Quantity(1 / (1 / low - q * (1 / low - 1 / high)), u.TeV)


def thrown_offsets(n, viewcone, generator):
    cosine = 1 - generator.random(n) * (1 - np.cos(np.deg2rad(viewcone)))
    return np.rad2deg(np.arccos(cosine)) * u.deg


@pytest.fixture
def generator():
    return np.random.default_rng(0)


@pytest.fixture
def short(sample_path, tmp_path):
    """Function: copy of the sample with one run, of other values."""

    def copy(name, obs_id, **values):
        path = tmp_path / name
        shutil.copy(sample_path, path)
        with tables.open_file(path, "a") as file:
            table = file.root[SIMULATION_RUN_TABLE]
            table.truncate(1)
            rows = table[:]
            for column, value in {"obs_id": obs_id, **values}.items():
                rows[column] = value
            table.modify_rows(0, 1, rows=rows)
        return path

    return copy


def test_read_simulation(short):
    path = short("1.h5", 1)
    row = read_table(path, SIMULATION_RUN_TABLE)[0]
    found = read_simulation([path])
    assert found.n_showers == row["n_showers"] * row["shower_reuse"]
    assert found.max_impact == row["max_scatter_range"] * u.m
    assert found.energy_max == row["energy_range_max"] * u.TeV
    assert found.spectral_index == row["spectral_index"]
    assert found.viewcone_max == row["max_viewcone_radius"] * u.deg
    assert found.is_diffuse == (row["max_viewcone_radius"] > 0)


def test_read_simulation_of_several_files(short):
    paths = [
        short("1.h5", 1, n_showers=100, shower_reuse=10),
        short("2.h5", 2, n_showers=30, shower_reuse=5),
    ]
    assert read_simulation(paths).n_showers == 1150


def test_read_simulation_prefers_what_was_counted(short):
    path = short("1.h5", 1, n_showers=100, shower_reuse=10)
    # a run that ended early
    counted = Table({"obs_id": [1, 1], "n_entries": [400, 450]})
    write_table(counted, path, SHOWER_DISTRIBUTION_TABLE)
    other = short("2.h5", 2, n_showers=1, shower_reuse=1)
    assert read_simulation([path, other]).n_showers == 851


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"spectral_index": -2.5}, r"2\.h5: spectral_index is -2\.5, but -2 in run 1"),
        ({"max_scatter_range": 400}, r"max_scatter_range is 400 m, but \d+ m in"),
        ({"max_viewcone_radius": 9}, r"max_viewcone_radius is 9 deg, but"),
        ({"energy_range_min": 0.5}, r"energy_range_min is 0\.5 TeV, but"),
    ],
)
def test_files_that_differ(short, values, message):
    with pytest.raises(SimulationError, match=message):
        read_simulation([short("1.h5", 1), short("2.h5", 2, **values)])


def test_runs_of_a_file_that_differ(sample_path):
    """The sample is of several kinds of simulations."""
    message = r"run \d+ of .*sample.dl1.h5: energy_range_min is .* TeV, but .* in run \d+"
    with pytest.raises(SimulationError, match=message):
        read_simulation([sample_path])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"energy_range_min": 20.0, "energy_range_max": 20.0}, "energy_range: .* no"),
        ({"energy_range_min": np.nan}, "energy_range: .* no range"),
        ({"spectral_index": -1.0}, "spectral_index: -1 is not below -1"),
        ({"max_scatter_range": np.nan}, "max_scatter_range: nan m is no radius"),
        ({"min_scatter_range": 50.0}, "cores on a ring"),
        ({"core_pos_mode": 2}, "cores on a rectangle"),
        ({"n_showers": 0}, "no showers were thrown"),
    ],
)
def test_simulations_that_are_not_covered(short, values, message):
    with pytest.raises(SimulationError, match=rf"1\.h5: .*{message}|1\.h5: {message}"):
        read_simulation([short("1.h5", 1, **values)])


def test_files_that_cannot_be_used(short, array_path, tmp_path):
    with pytest.raises(SimulationError, match=r"2\.h5: run 1 is also in .*1\.h5"):
        read_simulation([short("1.h5", 1), short("2.h5", 1)])
    with pytest.raises(SimulationError, match="array.dl1.h5: it has no simulation"):
        read_simulation([array_path])
    with pytest.raises(SimulationError, match="no file"):
        read_simulation([])
    damaged = tmp_path / "damaged.h5"
    damaged.write_text("not HDF5")
    with pytest.raises(SimulationError, match="damaged.h5 cannot be read"):
        read_simulation([damaged])


def test_effective_area_of_a_perfect_detector():
    thrown = simulation()
    events = QTable({"true_energy": thrown_energies(thrown.n_showers)})
    # the bins reach beyond the simulated energies on both sides
    edges = np.geomspace(0.001, 50, 9) * u.TeV
    table = effective_area(events, thrown, edges)
    expected = np.pi * 300**2
    inside = table["n_thrown"] > 0
    np.testing.assert_array_equal(inside, [False, *[True] * 6, False])
    np.testing.assert_allclose(
        table["n_selected"][inside], table["n_thrown"][inside], 0.2
    )
    np.testing.assert_allclose(table["n_selected"].sum(), table["n_thrown"][inside].sum())
    many = table["n_selected"] > 1000
    assert many.sum() >= 3
    area = table["effective_area"].to_value(u.m**2)
    np.testing.assert_allclose(area[many], expected, rtol=1e-3)
    assert np.isnan(area[~inside]).all()


def test_effective_area_of_half_of_the_events():
    thrown = simulation()
    events = QTable({"true_energy": thrown_energies(thrown.n_showers)})
    mask = np.arange(thrown.n_showers) % 2 == 0
    all_events = effective_area(events, thrown, BINS)
    table = effective_area(events, thrown, BINS, mask)
    np.testing.assert_allclose(table["n_selected"], all_events["n_selected"] / 2, atol=1)
    n, area = table["n_selected"], table["effective_area"]
    assert (n > 10).all()
    # close to the square root of the number
    up = (table["effective_area_high"] / area - 1).value
    down = (1 - table["effective_area_low"] / area).value
    np.testing.assert_allclose((up + down) / 2, n**-0.5, rtol=0.1)


def test_effective_area_without_selected_events():
    events = QTable({"true_energy": [] * u.TeV})
    table = effective_area(events, simulation(), BINS)
    assert (table["effective_area"] == 0).all()
    # upper limit of a Poisson mean where nothing is seen: 1.841
    expected = 1.841 / table["n_thrown"] * np.pi * (300 * u.m) ** 2
    np.testing.assert_allclose(table["effective_area_high"], expected, rtol=1e-3)


def test_effective_area_where_the_radius_depends_on_the_energy(generator):
    def radius(energy):
        return (250 + 100 * np.log10(energy.to_value(u.TeV)) / 2) * u.m

    n = 300_000
    events = QTable({"true_energy": thrown_energies(n)})
    impact = radius(events["true_energy"]) * generator.random(n) ** 0.5
    seen = impact < 100 * u.m
    expected = np.pi * 100**2
    table = effective_area(events, simulation(0, n, scatter_radius=radius), BINS, seen)
    low = table["effective_area_low"].to_value(u.m**2)
    high = table["effective_area_high"].to_value(u.m**2)
    assert (low - 2 * (high - low) < expected).all()
    assert (high + 2 * (high - low) > expected).all()
    # what the largest radius alone leads to
    naive = effective_area(events, simulation(0, n), BINS, seen)
    assert naive["effective_area"][0].to_value(u.m**2) > 2 * expected


def test_effective_area_in_a_ring(generator):
    thrown = simulation(6)
    n = thrown.n_showers
    offset = thrown_offsets(n, 6, generator)
    events = QTable({"true_energy": thrown_energies(n), "true_source_fov_offset": offset})
    table = effective_area(events, thrown, BINS, fov_offset=[1, 3] * u.deg)
    np.testing.assert_allclose(table["n_thrown"].sum(), n * 8 / 36, rtol=0.01)
    np.testing.assert_allclose(
        table["effective_area"][:3].to_value(u.m**2), np.pi * 300**2, rtol=0.1
    )
    # per solid angle, all rings have the same
    whole = effective_area(events, thrown, BINS)
    np.testing.assert_allclose(
        whole["effective_area"][:3], np.pi * (300 * u.m) ** 2, 1e-2
    )


def test_effective_area_of_the_prototype(shared_path):
    """Against numbers counted by hand, from what its script draws cores from."""
    path = shared_path("dl1/gamma_point.dl1.h5")

    def radius(energy):
        decades = np.log10(energy.to_value(u.TeV) / 0.01)
        return np.minimum(180 + 110 * decades, 500) * u.m

    energy = read_table(path, SIMULATION_SHOWER_TABLE)["true_energy"].quantity
    table = effective_area(
        QTable({"true_energy": energy}), read_simulation([path], radius), BINS
    )
    found = table["effective_area"].to_value(u.m**2)
    for low, high, area in zip(BINS[:-1], BINS[1:], found):
        inside = energy[(energy >= low) & (energy < high)]
        # 225 showers, each used ten times, of 10 GeV to 20 TeV
        thrown = 2250 * (0.01 / low - 0.01 / high).to_value(1 / u.TeV)
        thrown /= 1 - 0.01 / 20
        expected = sum(np.pi * radius(e).value ** 2 for e in inside) / thrown
        np.testing.assert_allclose(area, expected)


def rate(spectrum, thrown, solid_angle=1):
    """Particles that come in 50 h, by numerical integration."""
    unit = spectrum(1 * u.TeV).unit
    integral, _ = quad(
        lambda x: np.exp(x) * spectrum(np.exp(x) * u.TeV).value, *np.log([0.01, 10])
    )
    area = np.pi * thrown.max_impact**2
    return (integral * unit * u.TeV * area * HOURS * solid_angle).to_value(u.one)


@pytest.mark.parametrize(
    ("particle", "viewcone"),
    [("gamma", 0), ("proton", 6), ("electron", 6), ("gamma", 3)],
)
def test_weights_give_the_analytic_rate(particle, viewcone):
    thrown = simulation(viewcone)
    events = QTable({"true_energy": thrown_energies(thrown.n_showers)})
    solid_angle = 1
    if particle != "gamma":
        solid_angle = 2 * np.pi * (1 - np.cos(np.deg2rad(viewcone))) * u.sr
    weights = event_weights(events, thrown, SPECTRA[particle])
    expected = rate(SPECTRA[particle], thrown, solid_angle)
    np.testing.assert_allclose(weights.sum(), expected, rtol=2e-3)
    half = event_weights(events, thrown, SPECTRA[particle], 25 * u.hour)
    np.testing.assert_allclose(half, weights / 2)


def test_weights_of_a_point_source_in_a_ring(generator):
    thrown = simulation(3)
    n = thrown.n_showers
    offset = thrown_offsets(n, 3, generator)
    events = QTable({"true_energy": thrown_energies(n), "true_source_fov_offset": offset})
    weights = event_weights(events, thrown, SPECTRA["gamma"], fov_offset=[0.5, 2] * u.deg)
    outside = (offset < 0.5 * u.deg) | (offset >= 2 * u.deg)
    assert (weights[outside] == 0).all()
    assert (weights[~outside] > 0).all()
    np.testing.assert_allclose(weights.sum(), rate(SPECTRA["gamma"], thrown), rtol=0.05)


def test_weights_where_the_radius_depends_on_the_energy():
    thrown = simulation(scatter_radius=lambda energy: np.full(len(energy), 150) * u.m)
    events = QTable({"true_energy": thrown_energies(thrown.n_showers)})
    weights = event_weights(events, thrown, SPECTRA["gamma"])
    expected = rate(SPECTRA["gamma"], thrown) / 4
    np.testing.assert_allclose(weights.sum(), expected, rtol=2e-3)


def test_protons_from_a_point():
    events = QTable({"true_energy": [1] * u.TeV})
    with pytest.raises(SimulationError, match="a single direction"):
        event_weights(events, simulation(), SPECTRA["proton"])


def toy(generator, n, center, weight, kind):
    """Equally many events in each bin; the scores are normal around a center."""
    energy = np.repeat(np.sqrt(BINS[:-1] * BINS[1:]), n // 6)
    return QTable(
        {
            "true_energy": energy,
            "reco_energy": energy,
            "gh_score": generator.normal(center, 1, n),
            "theta": np.hypot(*generator.normal(0, 0.1, (2, n))) * u.deg,
            "reco_source_fov_offset": np.sqrt(generator.random(n)) * u.deg,
            "weight": np.full(n, float(weight)),
            "particle_type": np.full(n, kind),
        }
    )


@pytest.fixture
def gammas(generator):
    return toy(generator, 6_000, 1, 2, "gamma")


@pytest.fixture
def protons(generator):
    return toy(generator, 12_000, -1, 100, "proton")


@pytest.mark.parametrize("min_background", [0, 500])
def test_optimize_cuts(gammas, protons, min_background):
    efficiencies = np.array([0.2, 0.4, 0.6, 0.8])
    cuts = optimize_cuts(
        gammas, protons, BINS, efficiencies=efficiencies, min_background=min_background
    )
    theta = calculate_percentile_cut(
        gammas["theta"], gammas["reco_energy"], BINS, 0.32 * u.deg
    )
    _, direct = optimize_gh_cut(
        gammas, protons, BINS, efficiencies, theta, alpha=0.2, progress=False
    )
    if min_background == 0:
        np.testing.assert_array_equal(cuts.gammaness["cut"], direct["cut"])
    else:
        assert (cuts.gammaness["cut"] < direct["cut"]).all()
        table = sensitivity(gammas, protons, cuts)
        assert (table["n_background"] >= 500).all() or (
            cuts.gammaness["efficiency"] == 0.8
        ).all()
    passed = cuts.passed_gammaness(gammas)
    np.testing.assert_allclose(cuts.passed(gammas).sum() / passed.sum(), 0.68, rtol=0.01)
    share = np.histogram(gammas["reco_energy"][passed], BINS)[0] / 1000
    np.testing.assert_allclose(share, cuts.gammaness["efficiency"], atol=0.003)


def test_events_that_count_nothing_change_nothing(gammas, protons):
    options = {"reco_energy_bins": BINS, "efficiencies": [0.3, 0.6]}
    cuts = optimize_cuts(gammas, protons, **options)
    lost = gammas[:30].copy()
    lost["reco_energy"][:10] = np.nan
    lost["theta"][10:20] = np.nan
    lost["weight"][20:] = 0
    more = vstack([gammas, lost])
    again = optimize_cuts(more, protons, **options)
    np.testing.assert_array_equal(again.gammaness["cut"], cuts.gammaness["cut"])
    np.testing.assert_array_equal(again.theta["cut"], cuts.theta["cut"])
    np.testing.assert_array_equal(
        sensitivity(more, protons, cuts)["relative_sensitivity"],
        sensitivity(gammas, protons, cuts)["relative_sensitivity"],
    )


def test_cuts_need_events(gammas, protons):
    with pytest.raises(ValueError, match="no reconstructed gammas"):
        optimize_cuts(gammas[:0], protons, BINS)
    protons.remove_column("weight")
    with pytest.raises(MissingColumns, match="weight"):
        optimize_cuts(gammas, protons, BINS)


def open_cuts(theta=0.2 * u.deg):
    """Cuts that every event of the toy passes, but for theta."""
    table = QTable({"low": BINS[:-1], "high": BINS[1:]})
    table["center"] = (BINS[:-1] + BINS[1:]) / 2
    gammaness, containment = table.copy(), table.copy()
    gammaness["cut"] = -100.0
    containment["cut"] = theta
    return Cuts(gammaness, containment)


def li_ma(n_on, n_off, alpha):
    """Significance, formula 17 of Li and Ma (1983), doi 10.1086/161295."""
    on = n_on * np.log((1 + alpha) / alpha * n_on / (n_on + n_off))
    off = n_off * np.log((1 + alpha) * n_off / (n_on + n_off))
    return np.sqrt(2 * (on + off))


def test_sensitivity_of_a_counting_experiment(gammas, protons):
    protons["weight"] = 20.0  # few enough that significance is what limits
    table = sensitivity(gammas, protons, open_cuts())
    for i, row in enumerate(table):
        inside = (gammas["reco_energy"] >= BINS[i]) & (
            gammas["reco_energy"] < BINS[i + 1]
        )
        n_gammas = np.sum(inside & (gammas["theta"] <= 0.2 * u.deg))
        # 2000 protons in each bin within 1 deg, of which the on region sees
        # (0.2 / 1)**2, and the off regions five times as much
        n_off = 2000 * 20 * 0.2**2 / 0.2
        flux = brentq(
            lambda x, n=n_gammas, off=n_off: li_ma(2 * n * x + 0.2 * off, off, 0.2) - 5,
            1e-3,
            10,
        )
        assert 2 * n_gammas * flux > max(10, 0.05 * 0.2 * n_off)
        np.testing.assert_allclose(row["relative_sensitivity"], flux, rtol=1e-3)
        np.testing.assert_allclose(row["n_background_weighted"], n_off, rtol=1e-3)
        assert row["n_gammas"] == n_gammas
        assert row["n_background"] == row["n_proton"] == 2000
        expected = flux * SPECTRA["gamma"](row["reco_energy_center"])
        np.testing.assert_allclose(
            row["flux_sensitivity"].to(expected.unit), expected, 1e-3
        )
    energy_flux = table["flux_sensitivity"] * table["reco_energy_center"] ** 2
    np.testing.assert_allclose(table["energy_flux_sensitivity"], energy_flux)
    assert not table["few_events"].any()


def test_sensitivity_says_how_many_events_are_behind(gammas, protons, generator):
    # 2000 in each of the first four bins, then 5, then none
    protons = protons[: 4 * 2000 + 5]
    electrons = toy(generator, 12_000, -1, 1, "electron")[:2000]
    table = sensitivity(
        gammas,
        vstack([protons, electrons]),
        open_cuts(),
        generator=generator,
        n_replicates=20,
    )
    np.testing.assert_array_equal(table["n_proton"], [2000] * 4 + [5, 0])
    np.testing.assert_array_equal(table["n_electron"], [2000] + [0] * 5)
    np.testing.assert_array_equal(table["n_background"], [4000] + [2000] * 3 + [5, 0])
    np.testing.assert_array_equal(table["few_events"], [False] * 4 + [True] * 2)
    for name in ("relative_sensitivity", "flux_sensitivity", "relative_sensitivity_low"):
        np.testing.assert_array_equal(np.isnan(table[name]), [False] * 5 + [True])
    width = table["relative_sensitivity_high"] / table["relative_sensitivity_low"]
    assert width[4] > 1.2 > 1.1 > width[:4].max()


def test_heavy_particles_of_which_none_is_left(gammas, protons, generator):
    """Many electrons do not tell the background if a proton outweighs them."""
    electrons = toy(generator, 12_000, -1, 1, "electron")
    electrons["gh_score"] += 10  # all pass
    background = vstack([protons[:8000], electrons])
    strict = open_cuts()
    strict.gammaness["cut"] = protons["gh_score"].max() + 1e-9
    table = sensitivity(gammas, background, strict)
    np.testing.assert_array_equal(table["n_background"], 2000)
    np.testing.assert_array_equal(table["n_proton"], 0)
    # 2000 of weight 1, and one proton of weight 100 in four of the bins
    expected = [2000**2 / (2000 + 100**2)] * 4 + [2000] * 2
    np.testing.assert_allclose(table["n_background_effective"], expected)
    heavy = background.copy()
    heavy["weight"][:8000] *= 10
    table = sensitivity(gammas, heavy, strict)
    np.testing.assert_array_equal(table["few_events"], [True] * 4 + [False] * 2)


def test_sensitivity_without_background(gammas, protons):
    table = sensitivity(gammas, protons[:0], open_cuts())
    assert np.isnan(table["flux_sensitivity"]).all()
    assert table["few_events"].all()
    table = sensitivity(gammas[:0], protons, open_cuts())
    assert np.isnan(table["flux_sensitivity"]).all()


def test_pyirf_does_not_warn_of_every_bin(gammas, protons, caplog):
    gammas["weight"] = 1e6
    table = sensitivity(gammas, protons[:0], open_cuts())
    assert np.isnan(table["flux_sensitivity"]).all()  # the table says it
    assert not caplog.records


@pytest.mark.parametrize("n_uses", [1, 10])
def test_interval(gammas, protons, generator, n_uses):
    protons["weight"] = 20.0
    gammas["shower"] = np.arange(len(gammas)) // n_uses
    protons["shower"] = np.arange(len(protons)) // n_uses
    table = sensitivity(
        gammas, protons, open_cuts(), generator=generator, n_replicates=50
    )
    value, low, high = (
        table[f"relative_sensitivity{limit}"] for limit in ("", "_low", "_high")
    )
    # the limit by a large background is sqrt(background) / signal
    n_signal, n_background = table["n_gammas"], table["n_background"]
    variance = 1 / n_signal + 1 / (4 * n_background)
    expected = 2 * np.sqrt(n_uses * variance) * value
    np.testing.assert_allclose((high - low).mean(), expected.mean(), rtol=0.2)
    again = sensitivity(
        gammas, protons, open_cuts(), generator=np.random.default_rng(5), n_replicates=3
    )
    same = sensitivity(
        gammas, protons, open_cuts(), generator=np.random.default_rng(5), n_replicates=3
    )
    np.testing.assert_array_equal(
        again["flux_sensitivity_low"], same["flux_sensitivity_low"]
    )
