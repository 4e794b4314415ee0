import shutil

import numpy as np
import pytest
import tables
from ctapipe.io import TableLoader

from ctapipe_gphysnet.events import (
    EventError,
    EventSelection,
    read_events,
    shower_numbers,
)
from ctapipe_gphysnet.tasks import TASKS


def read(paths, **options):
    return read_events(paths, EventSelection(), list(TASKS), progress=False, **options)


@pytest.fixture(scope="module")
def sample(sample_path):
    return read([sample_path])


@pytest.fixture
def copy(sample_path, tmp_path):
    return shutil.copy(sample_path, tmp_path / "copy.dl1.h5")


def test_selection_and_truth(sample, sample_path):
    with TableLoader(sample_path) as loader:
        table = loader.read_telescope_events(dl1_images=True)
    passed = table[
        (table["hillas_intensity"] > 50) & (table["leakage_intensity_width_2"] < 0.2)
    ]
    assert 0 < len(passed) < len(table)
    for column in ("obs_id", "event_id", "tel_id", "true_energy"):
        np.testing.assert_array_equal(sample.truth[column], passed[column])
    np.testing.assert_array_equal(sample.is_signal, passed["true_shower_primary_id"] == 0)
    assert 0 < sample.is_signal.sum() < len(sample)
    np.testing.assert_allclose(
        sample.targets["energy"][:, 0], np.log10(passed["true_energy"]), rtol=1e-5
    )
    np.testing.assert_array_equal(sample.targets["particle_type"], sample.is_signal)


def test_images_are_those_of_the_file(sample, sample_path):
    with TableLoader(sample_path) as loader:
        table = loader.read_telescope_events(dl1_images=True)
    keys = {(row["obs_id"], row["event_id"]): row for row in table}
    row = keys[tuple(sample.truth["obs_id", "event_id"][5])]
    np.testing.assert_allclose(sample.charge[5], row["image"], rtol=1e-3)
    np.testing.assert_allclose(sample.peak_time[5], row["peak_time"], rtol=1e-3)


def test_impact_distance_is_the_simulated_one(sample, sample_path):
    with TableLoader(sample_path) as loader:
        table = loader.read_telescope_events(dl1_images=True)
    keys = {(row["obs_id"], row["event_id"]): row for row in table}
    rows = [keys[row["obs_id"], row["event_id"]] for row in sample.truth]
    distance = np.array([row["true_impact_distance"] for row in rows])
    # ctapipe's distance is to the shower's axis, the target is in the plane
    # perpendicular to the pointing: they differ by the offset of the source
    ours = 100 * np.hypot(*sample.targets["impact"].T)
    np.testing.assert_allclose(ours, distance, rtol=0.02, atol=5)


def test_split_keeps_showers_whole(sample):
    first, second = sample.split(0.3, seed=1)
    assert sorted([*first, *second]) == list(range(len(sample)))
    shower = shower_numbers(sample.truth)
    assert not set(shower[first]) & set(shower[second])
    assert len(np.unique(shower)) < len(sample)
    assert 0.1 < len(second) / len(sample) < 0.5
    again = sample.split(0.3, seed=1)
    np.testing.assert_array_equal(again[1], second)


def test_several_files_and_events_for_regression_only(sample, sample_path):
    both = read([sample_path], regression_paths=[sample_path])
    assert len(both) == 2 * len(sample)
    np.testing.assert_array_equal(both.classified, np.arange(len(both)) < len(sample))
    np.testing.assert_array_equal(both.charge, np.tile(sample.charge, (2, 1)))


def test_selection_counts_go_on_over_files(sample_path):
    selection = EventSelection()
    for _ in range(2):
        read_events([sample_path], selection, ["energy"], progress=False)
    with TableLoader(sample_path) as loader:
        n_events = len(loader.read_telescope_events(dl1_images=False))
    assert selection.to_table()["counts"][0] == 2 * n_events


def test_direction_of_the_point_source(sample):
    """The sample's gammas come from one point, 0.4 degrees off axis."""
    offset = sample.targets["direction"][sample.is_signal]
    np.testing.assert_allclose(np.hypot(*offset.T), 0.4, atol=1e-3)


def test_no_event_passes(sample_path):
    selection = EventSelection(quality_criteria=[("bright", "hillas_intensity > 1e9")])
    with pytest.raises(EventError, match="no event passes the selection"):
        read_events([sample_path], selection, ["energy"], progress=False)


def test_selection_on_a_missing_column(sample_path):
    selection = EventSelection(quality_criteria=[("colour", "colour > 1")])
    with pytest.raises(EventError, match="copy|sample.*colour"):
        read_events([sample_path], selection, ["energy"], progress=False)


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ("/dl1/event/telescope/images", "no column 'image'; training needs images"),
        ("/simulation/event/subarray/shower", "training needs simulated truth"),
    ],
)
def test_file_without_images_or_truth(copy, node, message):
    with tables.open_file(copy, "a") as file:
        file.remove_node(node, recursive=True)
    with pytest.raises(EventError, match=message):
        read([copy])


def test_truth_that_is_nan(copy):
    with tables.open_file(copy, "a") as file:
        energy = file.root.simulation.event.subarray.shower.cols.true_energy
        energy[:] = np.full(len(energy), np.nan)
    with pytest.raises(EventError, match="no finite energy: true_energy = nan"):
        read([copy])


def test_truncated_file(copy):
    data = copy.read_bytes()
    copy.write_bytes(data[: len(data) // 2])
    with pytest.raises(EventError, match="copy.dl1.h5: cannot be read"):
        read([copy])


def test_camera_of_another_model(sample, sample_path):
    from dataclasses import replace

    camera = replace(sample.camera, focal_length=16.0)
    with pytest.raises(EventError, match="no telescope with the camera.*focal_length"):
        read([sample_path], camera=camera)
