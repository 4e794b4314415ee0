import shutil

import numpy as np
import pytest
import tables
from ctapipe.io import read_table, write_table

from ctapipe_gphysnet.events import EventError
from ctapipe_gphysnet.explain_events import ImageFile

IMAGES = "/dl1/event/telescope/images"


@pytest.fixture(scope="module")
def short_path(sample_path, tmp_path_factory):
    """The first events of the sample."""
    path = tmp_path_factory.mktemp("events") / "short.dl1.h5"
    shutil.copy(sample_path, path)
    with tables.open_file(path, "a") as file:
        for table in file.walk_nodes("/", "Table"):
            if table.nrows == 600:
                table.truncate(20)
    return path


@pytest.fixture
def changed(short_path, tmp_path):
    """Function: copy of these events, changed by a function of the open file."""

    def change(function):
        path = tmp_path / "changed.dl1.h5"
        shutil.copy(short_path, path)
        with tables.open_file(path, "a") as file:
            function(file)
        return path

    return change


def without_mask(file):
    table = read_table(file, f"{IMAGES}/tel_001")
    del table["image_mask"]
    write_table(table, file, f"{IMAGES}/tel_001", overwrite=True)


def test_chunks(short_path, monkeypatch):
    monkeypatch.setattr("ctapipe_gphysnet.explain_events.CHUNK_SIZE", 8)
    with ImageFile(short_path) as source:
        assert len(source) == 20
        assert source.showers == {"true", "cleaned"}
        assert source.has_parameters
        assert source.is_simulated
        chunks = list(source.chunks([1]))
    assert [n_events for n_events, _ in chunks] == [8, 8, 4]
    assert [list(events) for _, events in chunks] == [[1]] * 3
    expected = read_table(short_path, f"{IMAGES}/tel_001")
    for name in ("event_id", "image", "image_mask"):
        found = np.concatenate([events[1][name] for _, events in chunks])
        np.testing.assert_array_equal(found, expected[name])
    for name in ("true_image", "true_energy", "true_alt", "telescope_pointing_altitude"):
        assert name in chunks[0][1][1].colnames


def test_parameters_alone(short_path):
    with ImageFile(short_path) as source:
        ((_, events),) = source.chunks([1], images=False)
    assert "hillas_intensity" in events[1].colnames
    assert "image" not in events[1].colnames
    assert "true_image" not in events[1].colnames


def test_observed_events_of_an_array(array_path):
    with ImageFile(array_path) as source:
        assert source.showers == {"cleaned"}
        assert not source.is_simulated
        ((n_events, events),) = source.chunks([1, 3, 5])
    assert n_events == 20
    assert {tel_id: len(table) for tel_id, table in events.items()} == {1: 12, 3: 12}
    assert set(events[3]["tel_id"]) == {3}


@pytest.mark.filterwarnings("ignore:Table order does not match")
def test_events_without_an_image_are_left_out(changed):
    def change(file):
        table = file.root[f"{IMAGES}/tel_001"]
        image, event_id = table.col("image"), table.col("event_id")
        image[0] = np.iinfo(np.int32).min + 1  # NaN
        event_id[3] = 123  # that is no event
        table.modify_column(column=image, colname="image")
        table.modify_column(column=event_id, colname="event_id")

    path = changed(change)
    with ImageFile(path) as source:
        _, events = next(source.chunks([1]))
    expected = np.delete(read_table(path, f"{IMAGES}/tel_001")["event_id"], [0, 3])
    np.testing.assert_array_equal(events[1]["event_id"], expected)


def test_tables_of_different_length(changed):
    path = changed(lambda file: file.root[f"{IMAGES}/tel_001"].remove_rows(3, 5))
    with ImageFile(path) as source:
        with pytest.raises(EventError, match=r"changed\.dl1\.h5: .* a row for each"):
            list(source.chunks([1]))


def test_no_images(changed):
    path = changed(lambda file: file.remove_node(IMAGES, recursive=True))
    with pytest.raises(EventError, match=r"changed\.dl1\.h5: no images .*--write-images"):
        ImageFile(path)


def test_nothing_tells_where_the_shower_is(changed):
    def change(file):
        without_mask(file)
        file.remove_node("/simulation/event/telescope/images", recursive=True)

    with pytest.raises(
        EventError, match="neither true images .* nor a column image_mask"
    ):
        ImageFile(changed(change))


def test_no_mask(changed):
    with ImageFile(changed(without_mask)) as source:
        assert source.showers == {"true"}


def test_not_a_file_of_ctapipe(tmp_path):
    path = tmp_path / "x.h5"
    path.write_text("no")
    with pytest.raises(EventError, match=r"x\.h5: cannot be read as a ctapipe file"):
        ImageFile(path)


def test_a_table_that_is_missing(changed):
    path = changed(lambda file: file.remove_node("/dl1/event/telescope/trigger"))
    with ImageFile(path) as source, pytest.raises(EventError, match="cannot be read: "):
        list(source.chunks([1]))
