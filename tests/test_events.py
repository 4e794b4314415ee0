import shutil

import numpy as np
import pytest
import tables
from ctapipe.instrument import FocalLengthKind
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
    """Of all events and of every kind of primary, from the parameters alone."""
    selection = EventSelection()
    for _ in range(2):
        read_events([sample_path], selection, ["energy"], progress=False)
    with TableLoader(sample_path) as loader:
        events = loader.read_telescope_events(dl1_images=False)
    bright = events["hillas_intensity"] > 50
    inside = events["leakage_intensity_width_2"] < 0.2
    table = selection.to_table()
    steps = [np.ones(len(events), bool), bright, bright & inside]
    np.testing.assert_array_equal(
        table["counts"], [2 * len(events), 2 * bright.sum(), 2 * inside.sum()]
    )
    np.testing.assert_array_equal(
        table["cumulative_counts"], [2 * passed.sum() for passed in steps]
    )
    for primary in (0, 101):
        of_primary = events["true_shower_primary_id"] == primary
        np.testing.assert_array_equal(
            table[f"primary_{primary}"], [2 * (p & of_primary).sum() for p in steps]
        )
    assert len(table.colnames) == 5
    assert 0 < table["primary_0"][2] < table["primary_0"][1] < table["primary_0"][0]


def test_direction_of_the_point_source(sample):
    """The sample's gammas come from one point, 0.4 degrees off axis."""
    offset = sample.targets["direction"][sample.is_signal]
    np.testing.assert_allclose(np.hypot(*offset.T), 0.4, atol=1e-3)


def test_no_event_passes(sample_path):
    selection = EventSelection(quality_criteria=[("bright", "hillas_intensity > 1e9")])
    message = r"(?s)no event passes the selection in .*sample.*bright +0"
    with pytest.raises(EventError, match=message):
        read_events([sample_path], selection, ["energy"], progress=False)


def test_selection_on_a_missing_column(sample_path):
    selection = EventSelection(quality_criteria=[("colour", "colour > 1")])
    with pytest.raises(EventError, match="copy|sample.*colour"):
        read_events([sample_path], selection, ["energy"], progress=False)


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ("/dl1/event/telescope/images", "no column 'image'; .*--write-images"),
        ("/dl1/event/telescope/parameters", "no image parameters.*--write-parameters"),
        ("/simulation/event/subarray/shower", "'true_energy'; .*simulated truth"),
        ("/configuration/telescope/pointing", "'pointing_alt'; .*the pointing"),
        ("/dl1/event/subarray/trigger", "cannot be read as a DL1 file"),
    ],
)
def test_file_without_what_is_needed(copy, node, message):
    with tables.open_file(copy, "a") as file:
        file.remove_node(node, recursive=True)
    with pytest.raises(EventError, match=f"copy.dl1.h5: .*{message}"):
        read([copy])


def test_file_without_parameters_and_criteria(copy):
    """Cleaning is not needed where nothing is asked of its results."""
    with tables.open_file(copy, "a") as file:
        file.remove_node("/dl1/event/telescope/parameters", recursive=True)
        n_events = len(file.root.dl1.event.telescope.images.tel_001)
    every = EventSelection(quality_criteria=[])
    assert len(read_events([copy], every, ["energy"], progress=False)) == n_events


def test_observed_events(array_path):
    with pytest.raises(EventError, match="array.dl1.h5: no column 'true_.*observed"):
        read([array_path])


@pytest.mark.parametrize("version", ["v99.0.0", "v1.0.0"])
def test_unknown_data_model(copy, version):
    with tables.open_file(copy, "a") as file:
        file.root._v_attrs["CTA PRODUCT DATA MODEL VERSION"] = version
    message = rf"copy.dl1.h5: is of version {version} .*ctapipe [\d.]+ reads v4"
    with pytest.raises(EventError, match=message):
        read([copy])


@pytest.mark.parametrize("content", [b"", b"no HDF5", None])
def test_other_files(tmp_path, content):
    path = tmp_path / "other.h5"
    if content is None:
        tables.open_file(path, "w").close()
    else:
        path.write_bytes(content)
    with pytest.raises(EventError, match="other.h5: .*(cannot be read|is no file of)"):
        read([path])


def test_tables_of_other_lengths(copy):
    with tables.open_file(copy, "a") as file:
        images = file.root.dl1.event.telescope.images.tel_001
        images.remove_rows(images.nrows - 1)
    with pytest.raises(EventError, match="copy.dl1.h5: .*identical length"):
        read([copy])


def test_telescopes_of_one_camera_are_pooled(simulated_array_path, sample, caplog):
    """Every event is seen by two LSTs and, out of the pool, another telescope."""
    pool = read([simulated_array_path])
    assert set(pool.truth["tel_id"]) == {1, 3}
    first, second = (np.flatnonzero(pool.truth["tel_id"] == i) for i in (1, 3))
    n_events = len(first)
    assert n_events == len(second) > 5
    np.testing.assert_array_equal(pool.charge[first], sample.charge[:n_events])
    np.testing.assert_array_equal(pool.charge[first], pool.charge[second])
    np.testing.assert_array_equal(
        pool.targets["direction"][first], pool.targets["direction"][second]
    )
    # telescope 3 stands 100 m further north, and the pointing is 20 degrees from zenith
    # to the south: the core is nearer by that, as seen along the pointing
    difference = pool.targets["impact"][second] - pool.targets["impact"][first]
    az = pool.truth["pointing_az"][0]
    expected = [-np.cos(az) * np.sin(pool.truth["pointing_alt"][0]), -np.sin(az)]
    np.testing.assert_allclose(
        difference, np.tile(expected, (n_events, 1)), rtol=1e-3, atol=1e-3
    )
    shower = shower_numbers(pool.truth)
    np.testing.assert_array_equal(shower[first], shower[second])
    assert "left out" in caplog.text
    assert "(telescopes 7): focal_length is" in caplog.text


def test_first_file_chooses_the_camera(simulated_array_path, sample_path, sample):
    both = read([sample_path, simulated_array_path])
    n_pooled = len(read([simulated_array_path]))
    assert len(both) == len(sample) + n_pooled > len(sample)


def test_truth_that_is_nan(copy):
    with tables.open_file(copy, "a") as file:
        energy = file.root.simulation.event.subarray.shower.cols.true_energy
        energy[:] = np.full(len(energy), np.nan)
    with pytest.raises(EventError, match="copy.*has no true_energy: it is nan"):
        read([copy])


def test_pointing_that_is_missing_for_one_run(copy):
    with tables.open_file(copy, "a") as file:
        pointing = file.root.configuration.telescope.pointing.tel_001
        gone = int(pointing.cols.obs_id[0])
        pointing.remove_rows(0, 1)
    message = f"copy.*event .* of obs {gone} has no pointing_alt"
    with pytest.raises(EventError, match=message):
        read([copy])


def test_direction_of_another_focal_length(with_focal_length, sample, sample_path):
    """Equal places in the focal plane mean equal targets, of the first file's camera."""
    ours = sample.camera.focal_length
    both = read([sample_path, with_focal_length(28.5)])
    half = len(both) // 2
    offset = both.targets["direction"]
    np.testing.assert_array_equal(both.charge[:half], both.charge[half:])
    np.testing.assert_allclose(offset[half:] * ours, offset[:half] * 28.5, rtol=1e-5)
    assert not np.allclose(offset[:half], offset[half:], rtol=1e-2)


@pytest.mark.parametrize("telescopes", [[3], ["LST_LST_LSTCam", 3]])
def test_telescopes_can_be_chosen(simulated_array_path, telescopes):
    chosen = read([simulated_array_path], telescopes=telescopes)
    assert set(chosen.truth["tel_id"]) == ({3} if telescopes == [3] else {1, 3})


def test_telescope_chooses_the_camera(simulated_array_path):
    """The last one has other optics, and would be left out beside the first."""
    chosen = read([simulated_array_path], telescopes=[7])
    assert set(chosen.truth["tel_id"]) == {7}


def test_unknown_telescopes(sample_path):
    message = r"sample.*not in subarray. Telescopes asked for are \[7\], there are 1 "
    with pytest.raises(EventError, match=message):
        read([sample_path], telescopes=[7])


def test_focal_length_that_is_unknown(with_focal_length):
    path = with_focal_length(np.nan)
    with pytest.raises(EventError, match="length_nan.dl1.h5.*focal_length_choice"):
        read([path])
    sample = read([path], focal_length_choice=FocalLengthKind.EQUIVALENT)
    assert sample.camera.focal_length == 28
    offset = sample.targets["direction"][sample.is_signal]
    np.testing.assert_allclose(np.hypot(*offset.T), 0.4, atol=1e-3)


def test_truncated_file(copy):
    data = copy.read_bytes()
    copy.write_bytes(data[: len(data) // 2])
    with pytest.raises(EventError, match="copy.dl1.h5: cannot be read"):
        read([copy])


def test_all_files_are_looked_at_before_reading(copy, sample_path):
    copy.write_bytes(copy.read_bytes()[:-1])
    selection = EventSelection()
    with pytest.raises(EventError, match="copy.dl1.h5: cannot be read"):
        read_events([sample_path, copy], selection, ["energy"], progress=False)
    assert selection.to_table()["counts"][0] == 0


def test_camera_of_another_model(sample, sample_path):
    from dataclasses import replace

    camera = replace(sample.camera, focal_length=16.0)
    with pytest.raises(EventError, match="no telescope has the camera.*focal_length"):
        read([sample_path], camera=camera)
