import shutil

import astropy.units as u
import numpy as np
import pytest
import tables

from ctapipe_gphysnet.evaluation.response import (
    ResponseNotPossible,
    make_response_tables,
    read_simulations,
)
from ctapipe_gphysnet.evaluation.sample import read_sample

BRIGHT = {"bright": [("bright", "hillas_intensity > 100")]}
EDGES = np.array([0.02, 0.2, 2, 20]) * u.TeV
RUNS = {"gamma": 70001, "proton": 70003}
CONFIGURATION = (
    "/configuration/simulation/run",
    "/simulation/service/shower_distribution",
)


@pytest.fixture(scope="module")
def paths(dl2_path, tmp_path_factory):
    """The sample, a file for the run of each particle."""
    folder = tmp_path_factory.mktemp("response")
    found = []
    for particle, run in RUNS.items():
        path = folder / f"{particle}.dl2.h5"
        shutil.copy(dl2_path, path)
        with tables.open_file(path, "a") as file:
            n_events = file.root["/dl1/event/subarray/trigger"].nrows
            for table in list(file.walk_nodes("/", "Table")):
                is_about_events = table.nrows == n_events
                if is_about_events or table._v_pathname in CONFIGURATION:
                    rows = table[:][table.col("obs_id") == run]
                    table.truncate(0)
                    table.append(rows)
        found.append(path)
    return found


@pytest.fixture(scope="module")
def sample(paths):
    return read_sample(paths, BRIGHT, names=["Other"])


def test_tables(sample):
    simulations = read_simulations(sample.files, {})
    found = make_response_tables(sample, "bright", simulations, EDGES, 50 * u.hour)
    assert set(found) == {"effective_area", "cuts", "sensitivity"}
    for table in found.values():
        assert set(table["reconstructor"]) == {"Other"}
        assert set(table["seed"]) == {1, 2}
    area = found["effective_area"]
    chosen = np.asarray(area["stage"]) == "all selected events"
    chosen &= np.asarray(area["seed"]) == 1
    # by hand: selected gammas of all thrown in the bin, times the area they came on
    energy = sample.events["true_energy"][
        sample.selected["bright"] & sample.is_particle("gamma")
    ]
    simulation = simulations["gamma"]
    low, high = simulation.energy_min, simulation.energy_max
    for row in area[chosen]:
        edges = row["true_energy_low"], min(row["true_energy_high"], high)
        part = (1 / edges[0] - 1 / edges[1]) / (1 / low - 1 / high)
        selected = np.count_nonzero((energy >= edges[0]) & (energy < edges[1]))
        expected = (
            selected / (part * simulation.n_showers) * np.pi * simulation.max_impact**2
        )
        found_area = row["effective_area"].to_value(u.m**2)
        assert found_area == pytest.approx(expected.to_value(u.m**2), rel=1e-6)
    after = np.asarray(area["stage"]) == "after the optimized cuts"
    assert area["n_selected"][after].sum() < area["n_selected"][~after].sum()


def test_radius_that_depends_on_the_energy(sample):
    expressions = {"gamma": "180 + 110 * log10(energy / 0.01)"}
    simulation = read_simulations(sample.files, expressions)["gamma"]
    found = simulation.scatter_radius(np.array([10, 1000]) * u.GeV)
    np.testing.assert_allclose(found.to_value(u.m), [180, 400])


def test_several_particles_in_a_file(dl2_path):
    sample = read_sample([dl2_path], BRIGHT)
    with pytest.raises(ResponseNotPossible, match="has gamma and proton"):
        read_simulations(sample.files, {})


def test_an_array_is_left_to_ctapipe(paths, sample):
    simulations = read_simulations(sample.files, {})
    array_wise = read_sample(paths, {"all": []}, names=["Other"], array_wise=True)
    with pytest.raises(ResponseNotPossible, match="ctapipe-compute-irf"):
        make_response_tables(array_wise, "all", simulations, EDGES, 50 * u.hour)


def test_without_simulation_configuration(paths, sample, tmp_path):
    path = tmp_path / "gamma.dl2.h5"
    shutil.copy(paths[0], path)
    with tables.open_file(path, "a") as file:
        file.remove_node(CONFIGURATION[0])
    files = [{**sample.files[0], "path": str(path)}]
    with pytest.raises(ResponseNotPossible, match="no simulation configuration"):
        read_simulations(files, {})
