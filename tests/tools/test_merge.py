import numpy as np
import pytest
import tables
from ctapipe.io import read_table
from running import run

from ctapipe_gphysnet.lstchain import DL2_PARAMETERS, NOT_RECONSTRUCTED, RUN_CONFIG
from ctapipe_gphysnet.tools.merge import MergeTool

ENERGY = "/dl2/event/telescope/energy/GammaPhysNetEnergy/tel_001"
SHOWERS = "/simulation/event/subarray/shower"


def copy_as_run(source, path, obs_id):
    """Copy a file, as if it were of another run."""
    with tables.open_file(source) as file:
        file.copy_file(str(path))
    with tables.open_file(path, "r+") as file:
        for table in file.walk_nodes("/", "Table"):
            if "obs_id" in table.colnames:
                table.modify_column(column=np.full(len(table), obs_id), colname="obs_id")
    return path


@pytest.fixture
def merge(tmp_path):
    """Function: exit code of gphysnet-merge."""

    def run_merge(inputs, output, *arguments):
        return run(
            MergeTool(),
            *[f"--input={path}" for path in inputs],
            f"--output={output}",
            "--no-progress",
            *arguments,
            cwd=tmp_path,
        )

    return run_merge


@pytest.fixture
def refused(merge, tmp_path, capfd):
    """Function: message of a run that makes no file."""

    def message_of(inputs, *arguments):
        output = tmp_path / "refused.h5"
        assert merge(inputs, output, *arguments) != 0
        assert not output.exists()
        assert not list(tmp_path.glob(".*refused*"))
        return capfd.readouterr().err

    return message_of


@pytest.fixture(scope="module")
def lstchain_dl2(lstchain_path, random_model, tmp_path_factory):
    """Function: DL2 file of lstchain by a model with random weights."""
    from ctapipe_gphysnet.tools.apply import ApplyTool

    folder = tmp_path_factory.mktemp("dl2")

    def apply(name):
        output = folder / f"dl2_{name}.h5"
        if not output.exists():
            seed = sum(map(ord, name))
            model = random_model(name, seed=seed)
            arguments = [f"--input={lstchain_path}", f"--model={model}", "--no-progress"]
            run(ApplyTool(), *arguments, f"--output={output}", cwd=folder, raises=True)
        return output

    return apply


def test_files_of_ctapipe(merge, dl2_path, tmp_path):
    other = copy_as_run(dl2_path, tmp_path / "other.h5", obs_id=99)
    output = tmp_path / "both.h5"
    assert merge([dl2_path, other], output) == 0
    for table in (ENERGY, SHOWERS):
        parts = [read_table(path, table) for path in (dl2_path, other)]
        both = read_table(output, table)
        for name in ("obs_id", "event_id", parts[0].colnames[-1]):
            expected = np.concatenate([part[name] for part in parts])
            np.testing.assert_array_equal(both[name], expected)
    meta = read_table(output, ENERGY).meta
    assert meta["GammaPhysNetEnergy_model"] == "GammaPhysNet"


def test_files_of_lstchain(merge, lstchain_dl2, tmp_path):
    first = lstchain_dl2("one")
    other = copy_as_run(first, tmp_path / "dl2_other.h5", obs_id=99)
    output = tmp_path / "dl2_both.h5"
    assert merge([first, other], output) == 0
    for table in (DL2_PARAMETERS, NOT_RECONSTRUCTED, RUN_CONFIG):
        with tables.open_file(output) as file:
            both = file.get_node(table).read()
            attributes = file.get_node(DL2_PARAMETERS).attrs
            assert attributes["GammaPhysNetEnergy_model"] == "one"
        parts = []
        for path in (first, other):
            with tables.open_file(path) as file:
                parts.append(file.get_node(table).read())
        assert len(both) == 2 * len(parts[0]) > 0
        assert both.tobytes() == np.concatenate(parts).tobytes()


def test_a_file_stays_as_it_is(merge, dl2_path, tmp_path):
    output = tmp_path / "out.h5"
    output.write_text("old")
    assert merge([dl2_path], output) != 0
    assert output.read_text() == "old"
    assert merge([dl2_path], output, "--overwrite") == 0
    assert len(read_table(output, ENERGY)) == len(read_table(dl2_path, ENERGY))


def test_results_of_another_model(refused, lstchain_dl2, dl2_path, tmp_path):
    other = copy_as_run(lstchain_dl2("two"), tmp_path / "dl2_other.h5", obs_id=99)
    message = refused([lstchain_dl2("one"), other])
    assert "dl2_other.h5" in message
    assert "is of the model two" in message
    assert "before is one" in message
    changed = copy_as_run(dl2_path, tmp_path / "changed.dl2.h5", obs_id=99)
    with tables.open_file(changed, "r+") as file:
        attributes = file.get_node(ENERGY).attrs
        attributes["GammaPhysNetEnergy_model_sha256"] = "f" * 64
    message = refused([dl2_path, changed])
    assert "changed.dl2.h5" in message
    assert "ffffffffffff" in message


def test_other_simulation_or_columns(refused, lstchain_dl2, lstchain_path, tmp_path):
    first = lstchain_dl2("one")
    other = copy_as_run(first, tmp_path / "dl2_other.h5", obs_id=99)
    with tables.open_file(other, "r+") as file:
        file.get_node(RUN_CONFIG).modify_column(
            column=np.full(len(file.get_node(RUN_CONFIG)), 5.0),
            colname="energy_range_max",
        )
    assert "energy_range_max in /simulation/run_config is 5.0" in refused([first, other])
    with tables.open_file(lstchain_path) as file, tables.open_file(other, "r+") as out:
        rows = file.root.dl1.event.telescope.parameters.LST_LSTCam.read()
        out.remove_node(DL2_PARAMETERS)
        out.create_table(*DL2_PARAMETERS.rpartition("/")[::2], obj=rows)
    with tables.open_file(other, "r+") as file:
        file.get_node(RUN_CONFIG).modify_column(
            column=_maximal_energy(first), colname="energy_range_max"
        )
    assert f"{DL2_PARAMETERS} has other columns" in refused([first, other])


def _maximal_energy(path):
    with tables.open_file(path) as file:
        return file.get_node(RUN_CONFIG).col("energy_range_max")


def test_two_formats(refused, dl2_path, lstchain_path):
    assert "dl1_sample.h5 is a file of lstchain" in refused([dl2_path, lstchain_path])


def test_what_is_no_file(refused, tmp_path, dl2_path):
    junk = tmp_path / "junk.h5"
    junk.write_text("no HDF5")
    assert "junk.h5" in refused([dl2_path, junk])
    assert "no input" in refused([])
    assert "given twice" in refused([dl2_path, dl2_path])
