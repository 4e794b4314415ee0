import astropy.units as u
import numpy as np
import pytest
import tables
from astropy.table import Table
from ctapipe.core import QualityQuery
from ctapipe.core.expression_engine import ExpressionError
from ctapipe.instrument import FocalLengthKind
from ctapipe.io import EventSource, read_table

from ctapipe_gphysnet import dl1
from ctapipe_gphysnet.dl1 import DL1File
from ctapipe_gphysnet.files import close_verified, replaced_when_whole
from ctapipe_gphysnet.quality import GammaPhysNetQualityQuery


def blocks_of(path, tel_ids):
    with DL1File(path, FocalLengthKind.EFFECTIVE) as file:
        return list(file.blocks(tel_ids, with_parameters=True))


def test_blocks_are_the_events_of_the_event_source(array_path, monkeypatch):
    monkeypatch.setattr(dl1, "BLOCK_SIZE", 100_000)
    blocks = blocks_of(array_path, [1, 3, 5, 7])
    sizes = [len(block.index) for block in blocks]
    assert len(sizes) > 3
    assert sum(sizes) == 20
    telescopes = (
        (block.index[telescope.event[i]].tolist(), telescope, i)
        for block in blocks
        for telescope in block.telescopes
        for i in range(len(telescope.event))
    )
    found = {(*key, telescope.tel_id): (telescope, i) for key, telescope, i in telescopes}
    with EventSource(array_path) as source:
        n_events = 0
        for event in source:
            for tel_id, expected in event.dl1.tel.items():
                key = (event.index.obs_id, event.index.event_id, tel_id)
                telescope, i = found[key]
                np.testing.assert_array_equal(telescope.image[i], expected.image)
                np.testing.assert_array_equal(telescope.peak_time[i], expected.peak_time)
                np.testing.assert_equal(
                    telescope.parameters["hillas_intensity"][i],
                    expected.parameters.hillas.intensity,
                )
                pointing = event.monitoring.tel[tel_id].pointing
                assert u.isclose(telescope.altitude[i], pointing.altitude, rtol=1e-12)
                assert u.isclose(telescope.azimuth[i], pointing.azimuth, rtol=1e-12)
                n_events += 1
    assert n_events == len(found)


def test_blocks_are_bounded(sample_path, monkeypatch):
    monkeypatch.setattr(dl1, "BLOCK_SIZE", 10 * 13004)  # bytes of an image's row
    sizes = [len(block.index) for block in blocks_of(sample_path, [1])]
    assert max(sizes) == 10
    assert sum(sizes) == 600


@pytest.mark.parametrize(
    "expressions",
    [
        ["parameters.hillas.intensity > 100"],
        [
            "parameters.hillas.width > 0.1 * u.deg",
            "parameters.leakage.pixels_width_1 < 1",
        ],
        # these do not work on columns
        ["50 < parameters.hillas.intensity < 200"],
        ["not parameters.hillas.intensity < 100"],
        ["max(parameters.hillas.length.value, 0.3) > 0.3"],
        ["np.max([parameters.hillas.length.value, 0.3]) > 0.3"],
        ["True"],
        [],
    ],
)
def test_criteria_on_tables_are_those_on_events(sample_path, expressions):
    criteria = [(str(i), expression) for i, expression in enumerate(expressions)]
    on_table = GammaPhysNetQualityQuery(quality_criteria=criteria)
    table = read_table(sample_path, "/dl1/event/telescope/parameters/tel_001", stop=50)
    passed = on_table.passed(table)
    on_events = QualityQuery(quality_criteria=criteria)
    with EventSource(sample_path, max_events=50) as source:
        expected = [
            on_events(parameters=event.dl1.tel[1].parameters).all() for event in source
        ]
    np.testing.assert_array_equal(passed, expected)
    assert passed.all() == (expressions in ([], ["True"]))
    assert (
        on_table.to_table()["counts"].tolist() == on_events.to_table()["counts"].tolist()
    )


def test_a_missing_parameter_fails_criteria():
    query = GammaPhysNetQualityQuery()
    assert not query.passed(Table({"leakage_pixels_width_1": [0.1, 0.2]})).any()
    assert query.passed(Table({"camera_frame_hillas_intensity": [10, 60]})).tolist() == [
        False,
        True,
    ]
    assert query.passed(Table({"hillas_intensity": []})).shape == (0,)


def test_criterion_with_a_mistake():
    query = GammaPhysNetQualityQuery(quality_criteria=[("", "parameters.hilas.x > 1")])
    with pytest.raises(ExpressionError, match="hilas"):
        query.passed(Table({"hillas_intensity": [1.0]}))


def test_file_appears_when_it_is_whole(tmp_path):
    path = tmp_path / "x"
    with replaced_when_whole(path) as aside:
        aside.write_text("new")
        assert aside.parent == tmp_path
        assert aside.name.startswith(".")
        assert not path.exists()
    assert [p.name for p in tmp_path.iterdir()] == ["x"]
    assert path.read_text() == "new"
    ordinary = tmp_path / "ordinary"
    ordinary.write_text("")
    assert path.stat().st_mode == ordinary.stat().st_mode


def test_file_behind_a_link_is_replaced(tmp_path):
    link = tmp_path / "link"
    link.symlink_to("target")
    with replaced_when_whole(link) as aside:
        aside.write_text("new")
    assert link.is_symlink()
    assert (tmp_path / "target").read_text() == "new"


def test_failure_leaves_what_was_there(tmp_path):
    path = tmp_path / "x"
    path.write_text("old")

    def fail():
        with replaced_when_whole(path) as aside:
            aside.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert [p.name for p in tmp_path.iterdir()] == ["x"]
    assert path.read_text() == "old"


def test_lost_rows_are_noticed(tmp_path):
    path = tmp_path / "x.h5"
    rows = np.zeros(10, dtype=[("a", int)])
    with tables.open_file(path, "w") as file:
        file.create_table("/", "table", obj=rows)
        close_verified(file)
    file = tables.open_file(path, "a")
    file.root.table.append(rows)
    # as if nothing of it reached the disk
    lost = tmp_path / "lost.h5"
    lost.write_bytes(path.read_bytes())

    class Lost:
        filename = str(lost)
        close = file.close
        walk_nodes = file.walk_nodes

    with pytest.raises(OSError, match="was not written to the end"):
        close_verified(Lost())
