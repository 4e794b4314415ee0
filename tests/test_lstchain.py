"""Files of lstchain: what it has written itself, and what an example makes of ours."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import astropy.units as u
import numpy as np
import observe
import pytest
import tables
import to_lstchain_dl1
from astropy.coordinates import AltAz, SkyCoord
from astropy.table import Table
from ctapipe.coordinates import CameraFrame, TelescopeFrame
from ctapipe.image import hillas_parameters, timing_parameters
from ctapipe.instrument import FocalLengthKind, SubarrayDescription
from ctapipe.io import read_table

from ctapipe_gphysnet.dl1 import DL1Error
from ctapipe_gphysnet.events import EventError, EventSelection, read_events
from ctapipe_gphysnet.lstchain import (
    DL1_PARAMETERS,
    DL2_PARAMETERS,
    IMAGES,
    NOT_RECONSTRUCTED,
    RUN_CONFIG,
    LstchainFile,
    camera_position,
    displacement,
    is_lstchain,
    read_dl2,
)
from ctapipe_gphysnet.tasks import TASKS

EXAMPLES = Path(__file__).parents[1] / "examples" / "lstchain"
EFFECTIVE = FocalLengthKind.EFFECTIVE
N_EVENTS = 600
# what other versions of ctapipe compute otherwise
ROUGH = {"time_gradient": 0.2, "length_uncertainty": 0.02, "width_uncertainty": 0.02}
TRUTH = ("mc_", "log_mc_", "disp_", "src_")


@pytest.fixture(scope="module")
def dl1_path(lstchain_path):
    return lstchain_path


@pytest.fixture(scope="module")
def real_path(shared_path):
    """What lstchain makes of an event of CORSIKA and sim_telarray."""
    return shared_path("lstchain/dl1_history_meta_75.h5")


@pytest.fixture
def refused(apply, tmp_path, capfd):
    """Function: the line in which gphysnet-apply says why it stops."""

    def run_apply(*inputs, arguments=(), **options):
        output = tmp_path / "refused.h5"
        assert apply(inputs, output, *arguments, **options) != 0
        assert not output.exists()
        assert not list(tmp_path.glob(".*"))
        error = capfd.readouterr().err
        assert "Traceback" not in error
        return next(line for line in error.splitlines() if "ERROR" in line)

    return run_apply


@pytest.fixture
def changed(dl1_path, tmp_path):
    """Function: a copy of the DL1 file whose tables are changed by functions."""

    def change(name="changed.h5", **functions):
        path = tmp_path / name
        shutil.copyfile(dl1_path, path)
        places = {"images": IMAGES, "parameters": DL1_PARAMETERS, "run": RUN_CONFIG}
        with tables.open_file(path, "a") as file:
            for table, function in functions.items():
                node = file.get_node(places[table])
                rows = function(node.read())
                node.remove()
                if rows is not None:
                    file.create_table(*places[table].rpartition("/")[::2], obj=rows)
        return path

    return change


def read_rows(path, name=DL2_PARAMETERS):
    with tables.open_file(path) as file:
        return file.get_node(name).read()


def setting(column, value, rows=slice(None)):
    """Function that sets some values of a column."""

    def change(table):
        table[column][rows] = value
        return table

    return change


def without(table, *starts):
    """Rows without the columns whose names begin so."""
    names = [name for name in table.dtype.names if not name.startswith(starts)]
    return Table(table)[names].as_array()


def observed(rows):
    """Parameters as of observed events, every third of which is for calibration."""
    table = Table(without(rows, *TRUTH))
    table["dragon_time"] = 1.6e9 + 0.25 * np.arange(len(rows)) ** 1.5
    table["event_type"][::3] = 2  # sky pedestal
    table["event_type"][1::30] = 0  # flat field
    return table.as_array()


def test_is_lstchain(dl1_path, sample_path, tmp_path):
    assert is_lstchain(dl1_path)
    assert not is_lstchain(sample_path)
    no_hdf5 = tmp_path / "text.h5"
    no_hdf5.write_text("text")
    assert not is_lstchain(no_hdf5)
    assert not is_lstchain(tmp_path / "nothing.h5")


def test_camera_position_is_that_of_ctapipe():
    alt, az = [68, 70, 71.5] * u.deg, [181, 180, 177] * u.deg
    pointing = SkyCoord(alt=70 * u.deg, az=180 * u.deg, frame=AltAz())
    frame = CameraFrame(focal_length=29.3 * u.m, telescope_pointing=pointing)
    expected = SkyCoord(alt=alt, az=az, frame=AltAz()).transform_to(frame)
    x, y = camera_position(alt, az, pointing.alt, pointing.az, 29.3)
    np.testing.assert_allclose(x, expected.x.to_value(u.m), atol=1e-9)
    np.testing.assert_allclose(y, expected.y.to_value(u.m), atol=1e-9)


def test_displacement_is_that_of_lstchain(real_path):
    row = read_rows(real_path, DL1_PARAMETERS)
    for name, value in displacement(row["src_x"], row["src_y"], row).items():
        np.testing.assert_allclose(value, row[f"disp_{name}"], rtol=1e-5, err_msg=name)


def test_source_position_is_that_of_lstchain(real_path):
    """lstchain's DL1 has it with the focal length of the design, 28 m."""
    row = read_rows(real_path, DL1_PARAMETERS)
    angles = [row[n] * u.rad for n in ("mc_alt", "mc_az", "mc_alt_tel", "mc_az_tel")]
    x, y = camera_position(*angles, 28)
    np.testing.assert_allclose(x, row["src_x"], rtol=1e-5)
    np.testing.assert_allclose(y, row["src_y"], rtol=1e-5)


def test_converted_parameters_are_those_of_lstchain(real_path):
    """ctapipe's parameters of the same pixels, in its own frame, and back again."""
    row, image = (read_rows(real_path, name)[0] for name in (DL1_PARAMETERS, IMAGES))
    subarray = SubarrayDescription.from_hdf(real_path, EFFECTIVE)
    geometry = subarray.tel[1].camera.geometry.transform_to(TelescopeFrame())
    chosen = image["image_mask"]
    geometry, charge = geometry[chosen], image["image"][chosen]
    hillas = hillas_parameters(geometry, charge)
    timing = timing_parameters(geometry, charge, image["peak_time"][chosen], hillas)
    table = Table({f"hillas_{name}": [value] for name, value in hillas.items()})
    table["timing_slope"] = u.Quantity([timing.slope])
    table["tel_id"] = 1
    for name, (value,) in to_lstchain_dl1.image_columns(table, subarray).items():
        rtol = ROUGH.get(name, 1e-4)
        np.testing.assert_allclose(value, row[name], rtol=rtol, err_msg=name)


def test_extents_as_parameters_of_ctapipe(real_path):
    """With the effective focal length, as in ctapipe's telescope frame."""
    image = read_rows(real_path, IMAGES)[0]
    with LstchainFile(real_path, EFFECTIVE) as file:
        ((block,),) = [list(file.blocks([1]))]
        geometry = file.subarray.tel[1].camera.geometry.transform_to(TelescopeFrame())
    parameters = block.telescopes[0].parameters
    chosen = image["image_mask"]
    hillas = hillas_parameters(geometry[chosen], image["image"][chosen])
    for name in ("intensity", "width", "length", "kurtosis"):
        (value,), expected = u.Quantity(parameters[f"hillas_{name}"]), hillas[name]
        assert u.isclose(value, expected, rtol=1e-4), name


def test_point_source_is_a_ring_to_lstchain(dl1_path):
    runs = read_rows(dl1_path, RUN_CONFIG)
    is_point = runs["obs_id"] != runs["obs_id"].max()  # the last are diffuse protons
    for name in ("min_viewcone_radius", "max_viewcone_radius"):
        np.testing.assert_allclose(runs[name][is_point], 0.4, atol=1e-3)
    assert runs["max_viewcone_radius"][~is_point] == 6


def test_tables_are_compressed_as_those_of_lstchain(dl1_path, real_path):
    with tables.open_file(dl1_path) as ours, tables.open_file(real_path) as theirs:
        for name in (IMAGES, DL1_PARAMETERS, RUN_CONFIG):
            assert ours.get_node(name).filters == theirs.get_node(name).filters


def test_results_are_those_for_files_of_ctapipe(apply, dl1_path, sample_path, tmp_path):
    ours, theirs = tmp_path / "ctapipe.h5", tmp_path / "dl2_sample.h5"
    assert apply([sample_path], ours) == 0
    assert apply([dl1_path], theirs) == 0
    rows, others = read_rows(theirs), read_rows(theirs, NOT_RECONSTRUCTED)
    assert 400 < len(rows) < N_EVENTS
    assert len(rows) + len(others) == N_EVENTS
    assert (rows["intensity"] > 50).all()
    assert not (others["intensity"] > 50).any()
    known = read_rows(dl1_path, DL1_PARAMETERS)["intensity"] > 50
    expected = {
        "reco_energy": ("energy", "Energy", "energy", u.TeV),
        "reco_alt": ("geometry", "Geometry", "alt", u.rad),
        "reco_az": ("geometry", "Geometry", "az", u.rad),
    }
    for name, (group, table, column, unit) in expected.items():
        product = f"GammaPhysNet{table}"
        values = read_table(ours, f"/dl2/event/telescope/{group}/{product}/tel_001")
        np.testing.assert_array_equal(values["event_id"][known], rows["event_id"])
        values = u.Quantity(values[f"{product}_tel_{column}"][known]).to_value(unit)
        np.testing.assert_allclose(rows[name], values, rtol=1e-12, err_msg=name)
    np.testing.assert_allclose(rows["log_reco_energy"], np.log10(rows["reco_energy"]))
    assert not [name for name in rows.dtype.names if name.endswith("_uncert")]


def test_uncertainties(apply, random_model, dl1_path, sample_path, tmp_path):
    model = random_model("uncertain", uncertainty=True)
    ours, theirs = tmp_path / "ctapipe.h5", tmp_path / "dl2_sample.h5"
    assert apply([sample_path], ours, models=[model]) == 0
    assert apply([dl1_path], theirs, models=[model]) == 0
    rows, events = read_rows(theirs), read_dl2(theirs)
    for group, product, name, column, unit in (
        ("energy", "Energy", "energy_uncert", "reco_energy_uncert", u.TeV),
        (
            *("geometry", "Geometry", "ang_distance_uncert"),
            *("reco_ang_distance_uncert", u.rad),
        ),
    ):
        product = f"GammaPhysNet{product}"
        table = read_table(ours, f"/dl2/event/telescope/{group}/{product}/tel_001")
        found = np.isin(table["event_id"], rows["event_id"])
        values = u.Quantity(table[f"{product}_tel_{name}"][found]).to_value(unit)
        assert np.ptp(values) > 0
        np.testing.assert_allclose(rows[column], values, rtol=1e-12)
        read = u.Quantity(events[f"{product}_tel_{name}"]).to_value(unit)
        np.testing.assert_allclose(read, values, rtol=1e-12)


def test_columns_hang_together(apply, dl1_path, tmp_path):
    output = tmp_path / "dl2.h5"
    assert apply([dl1_path], output) == 0
    before, rows = read_rows(dl1_path, DL1_PARAMETERS), read_rows(output)
    before = before[before["intensity"] > 50]
    for name in before.dtype.names:
        if not name.startswith(("disp_", "src_")):
            np.testing.assert_array_equal(rows[name], before[name], err_msg=name)
    # lstchain's DL2 has the true position with the effective focal length
    scale = rows["src_x"] / before["src_x"]
    np.testing.assert_allclose(scale, 29.30565 / 28, rtol=1e-3)
    np.testing.assert_allclose(rows["reco_src_x"], rows["x"] + rows["reco_disp_dx"])
    np.testing.assert_allclose(rows["reco_src_y"], rows["y"] + rows["reco_disp_dy"])
    along = [np.cos(rows["psi"]), np.sin(rows["psi"])]
    along = rows["reco_disp_dx"] * along[0] + rows["reco_disp_dy"] * along[1]
    np.testing.assert_allclose(along, rows["reco_disp_norm"] * rows["reco_disp_sign"])
    np.testing.assert_allclose(
        rows["signed_skewness"], -np.sign(along) * rows["skewness"]
    )
    np.testing.assert_array_equal(
        rows["reco_type"], np.where(rows["gammaness"] > 0.5, 0, 101)
    )


def test_other_tables_are_copied(apply, dl1_path, tmp_path):
    output = tmp_path / "dl2.h5"
    assert apply([dl1_path], output) == 0
    with tables.open_file(dl1_path) as before, tables.open_file(output) as after:
        for node in before.walk_nodes(classname="Leaf"):
            name = node._v_pathname
            assert (name in after) == (name not in (IMAGES, DL1_PARAMETERS))
            if name in after:
                assert after.get_node(name).read().tobytes() == node.read().tobytes()
        assert after.root._v_attrs["LSTCHAIN_VERSION"] == "0.12.3"
        attributes = after.get_node(DL2_PARAMETERS).attrs
        assert attributes["GammaPhysNetEnergy_model"] == "small"
    assert SubarrayDescription.from_hdf(output) == SubarrayDescription.from_hdf(dl1_path)


def test_event_of_lstchain(apply, real_path, tmp_path):
    """A gamma ray of 1.3 TeV, by the model that comes with the package."""
    output = tmp_path / "dl2.h5"
    assert apply([real_path], output, models=("lst1-mono-zenith20",)) == 0
    (row,) = read_rows(output)
    assert 0.7 < row["reco_energy"] / row["mc_energy"] < 1.4
    assert np.hypot(
        row["reco_src_x"] - row["src_x"], row["reco_src_y"] - row["src_y"]
    ) < (np.deg2rad(0.2) * 29.3)
    assert row["gammaness"] > 0.5


def test_observed_events(apply, changed, tmp_path):
    """Calibration events are not reconstructed, and not lost."""
    path, output = changed(parameters=observed), tmp_path / "dl2.h5"
    assert apply([path], output) == 0
    before, rows = read_rows(path, DL1_PARAMETERS), read_rows(output)
    expected = (before["event_type"] == 32) & (before["intensity"] > 50)
    np.testing.assert_array_equal(rows["event_id"], before["event_id"][expected])
    others = read_rows(output, NOT_RECONSTRUCTED)
    np.testing.assert_array_equal(others["event_id"], before["event_id"][~expected])
    # since the event before, also if that was not reconstructed
    new_run = np.diff(before["obs_id"]) != 0
    since = np.append(0, np.where(new_run, 0, np.diff(before["dragon_time"])))
    np.testing.assert_allclose(rows["delta_t"], since[expected])
    assert not {"src_x", "disp_norm"} & set(rows.dtype.names)


def test_missing_pointing(apply, refused, changed, tmp_path):
    some = changed(parameters=setting("mc_alt_tel", np.nan, slice(10)))
    output = tmp_path / "dl2.h5"
    assert apply([some], output) == 0
    before, rows = read_rows(some, DL1_PARAMETERS), read_rows(output)
    expected = (before["intensity"] > 50) & np.isfinite(before["mc_alt_tel"])
    np.testing.assert_array_equal(rows["event_id"], before["event_id"][expected])
    none = changed("none.h5", parameters=setting("alt_tel", np.nan))
    assert "no pointing" in refused(none)


def test_several_telescopes(apply, changed, tmp_path):
    """Rows of telescopes that are not in the subarray's description stay empty."""

    def second_telescope(rows):
        rows["tel_id"][1::2] = 2
        return rows

    path = changed(images=second_telescope, parameters=second_telescope)
    with tables.open_file(path, "a") as file:
        layout = file.root.configuration.instrument.subarray.layout
        row = layout.read(0, 1)
        row["tel_id"] = 2
        layout.append(row)
    output, whole = tmp_path / "two.h5", tmp_path / "one.h5"
    assert apply([path], output) == 0
    assert apply([changed("same.h5")], whole) == 0
    np.testing.assert_array_equal(
        read_rows(output)["gammaness"], read_rows(whole)["gammaness"]
    )


def one_run(number=1, **values):
    """Function that keeps the configuration of one simulated run, with changes."""

    def change(rows):
        rows = rows[:1]
        rows["run_number"] = number
        for name, value in values.items():
            rows[name] = value
        return rows

    return change


def test_several_files(apply, changed, tmp_path):
    inputs = [changed(f"{i}.h5", run=one_run(i)) for i in (1, 2)]
    output = tmp_path / "dl2.h5"
    assert apply(inputs, output) == 0
    rows, run_config = read_rows(output), read_rows(output, RUN_CONFIG)
    first, second = np.split(rows["event_id"], 2)
    np.testing.assert_array_equal(first, second)
    assert run_config["run_number"].tolist() == [1, 2]
    assert len(read_rows(output, "/configuration/instrument/subarray/layout")) == 1


def test_files_that_cannot_be_together(refused, changed, sample_path):
    first = changed("first.h5", run=one_run())
    message = refused(first, changed("other.h5", run=one_run(spectral_index=-2.7)))
    assert "other.h5: spectral_index" in message
    assert "-2.7" in message
    message = refused(first, changed("data.h5", run=one_run(), parameters=observed))
    assert "other columns" in message
    assert "is a file of ctapipe" in refused(first, sample_path)


def test_output_format(refused, apply, dl1_path, tmp_path):
    arguments = ["--output-format=ctapipe"]
    assert "lstchain_dl2_converter" in refused(dl1_path, arguments=arguments)
    assert apply([dl1_path], tmp_path / "x.h5", "--output-format=lstchain") == 0


def test_files_that_cannot_be_used(refused, changed, tmp_path):
    assert "no images" in refused(changed(images=lambda rows: None))
    assert "600 images, but parameters of 599" in refused(
        changed(parameters=lambda rows: rows[:-1])
    )
    assert "row 3 of the parameters has event_id 5" in refused(
        changed(parameters=setting("event_id", 5, 3))
    )
    message = refused(changed(parameters=lambda rows: without(rows, "psi")))
    assert "no column psi" in message
    assert "lstchain 0.12.3" in message
    path = changed()
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert str(path) in refused(path)


def test_model_without_direction(refused, random_model, dl1_path):
    message = refused(dl1_path, models=[random_model("energy_only", tasks=["energy"])])
    assert "direction" in message
    assert "particle_type" in message


def test_training_events_are_those_of_ctapipe(dl1_path, sample_path):
    samples = [
        read_events([p], EventSelection(), list(TASKS), progress=False)
        for p in (sample_path, dl1_path)
    ]
    for name in ("charge", "peak_time"):
        np.testing.assert_array_equal(*(getattr(s, name) for s in samples))
    for task in TASKS:
        np.testing.assert_allclose(
            samples[1].targets[task], samples[0].targets[task], rtol=1e-5, atol=1e-5
        )


def test_observed_events_are_not_for_training(changed):
    path = changed(parameters=observed)
    with pytest.raises(EventError, match="no simulations"):
        read_events([path], EventSelection(), list(TASKS), progress=False)


def test_close_after_error(changed):
    with pytest.raises(DL1Error, match="no images"):
        LstchainFile(changed(images=lambda rows: None), EFFECTIVE)


def test_observed_run_of_the_example(apply, dl1_path, tmp_path):
    path, output = tmp_path / "dl1_LST-1.Run00007.h5", tmp_path / "dl2_LST-1.Run00007.h5"
    observe.observe([dl1_path, dl1_path], path, run=7, rate=50)
    assert apply([path], output) == 0
    rows, others = read_rows(output), read_rows(output, NOT_RECONSTRUCTED)
    assert len(rows) + len(others) == 2 * N_EVENTS
    time = np.sort(np.append(rows["dragon_time"], others["dragon_time"]))
    assert 0.9 / 50 < np.diff(time).mean() < 1.1 / 50
    assert (np.diff(rows["dragon_time"]) > 0).all()
    assert set(rows["event_type"]) == {32}
    assert not [n for n in rows.dtype.names if n.startswith(("mc_", "src_", "disp_"))]


@pytest.mark.slow
def test_pipeline_with_the_tools_of_lstchain(tmp_path):
    if "LSTCHAIN" not in os.environ:
        pytest.skip(
            "needs lstchain, in an environment of its own; LSTCHAIN names the folder of"
            " its commands"
        )
    command = [EXAMPLES / "pipeline.sh", tmp_path, "2000"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    area = re.search(
        r"point-like.*\n.*\n.*\n.*at 1.0 TeV, 0.4 deg off axis: (.*) m2", done.stdout
    )
    assert 1e5 < float(area[1]) < 4e5
    assert re.search(r"dl3_LST-1.Run00001.fits: \d\d+ events", done.stdout)
    assert (tmp_path / "converted.dl2.h5").exists()
