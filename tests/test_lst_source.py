"""Raw data of LST-1, read with ctapipe_io_lst: none is public, so they are made."""

from pathlib import Path

import astropy.units as u
import numpy as np
import pytest
import tables
import yaml
from astropy.coordinates import AltAz, SkyCoord
from astropy.io.fits import BinTableHDU, HDUList, PrimaryHDU
from astropy.table import Table
from ctapipe.containers import ArrayEventContainer, EventType
from ctapipe.coordinates import TelescopeFrame
from ctapipe.core import ToolConfigurationError
from ctapipe.instrument import SubarrayDescription
from ctapipe.io import EventSource, MonitoringType, read_table, write_table
from ctapipe.tools.process import ProcessorTool
from running import run

from ctapipe_gphysnet.inference import Predictor
from ctapipe_gphysnet.lst_monitoring import LSTUnusablePixels
from ctapipe_gphysnet.products import PRODUCTS
from ctapipe_gphysnet.tasks import TASKS

pytest.importorskip("ctapipe_io_lst", reason="part of the extra test")

import lst_run  # noqa: E402

EXAMPLE = Path(__file__).parents[1] / "examples" / "lstchain" / "observed.yaml"
RAW, DL2 = "LST-1.1.Run10000.0000.fits.fz", "LST-1.Run10000.0000.dl2.h5"
TEL = "/dl2/event/telescope/{slot}/{prefix}/tel_001"
ARRAY = "/dl2/event/subarray/{slot}/{prefix}"
# the drive, which turns through north
SECONDS, AZIMUTH, ALTITUDE = [-10, 35, 100], [356, 359, 364], [70, 71.5, 70.5]
SPACING = 10  # seconds between events
FLAT_FIELD, PEDESTAL, BROKEN, REDUCED = 1, 3, 4, 5  # events that are not ordinary


@pytest.fixture(scope="module")
def events(sample_path):
    """Bright simulated showers as raw events, and two for calibration."""
    with EventSource(sample_path) as source:
        dl1 = [event.dl1.tel[1] for event in source]
    dl1 = [d for d in dl1 if d.parameters.hillas.intensity > 300][::40][:8]
    events = [
        lst_run.RawEvent(i + 1, SPACING * i, d.image.copy(), d.peak_time)
        for i, d in enumerate(dl1)
    ]
    for event in events:
        event.charge[lst_run.UNUSABLE] = 300
    flat_field, pedestal = events[FLAT_FIELD], events[PEDESTAL]
    flat_field.event_type = EventType.FLATFIELD
    flat_field.charge, flat_field.peak_time = np.full(1855, 70.0), np.full(1855, 20.0)
    # only its type can tell that this one is no shower
    pedestal.event_type = EventType.SKY_PEDESTAL
    brightest = np.argsort(events[BROKEN].charge)[-15:]
    events[BROKEN].broken = np.setdiff1d(
        brightest, np.union1d(lst_run.MISSING, lst_run.UNUSABLE)
    )
    faint = np.flatnonzero(events[REDUCED].charge < 2)
    events[REDUCED].left_out = np.setdiff1d(faint, lst_run.MISSING)
    return events


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    """Folder with the files that the example's configuration names."""
    folder = tmp_path_factory.mktemp("night")
    source = yaml.safe_load(EXAMPLE.read_text())["LSTEventSource"]
    drive_report = folder / source["PointingSource"]["drive_report_path"]
    lst_run.write_drive_report(drive_report, SECONDS, AZIMUTH * u.deg, ALTITUDE * u.deg)
    lst_run.write_run_summary(folder / source["EventTimeCalculator"]["run_summary_path"])
    corrections = source["LSTR0Corrections"]
    lst_run.write_calibration(
        folder / corrections["drs4_pedestal_path"],
        folder / corrections["drs4_time_calibration_path"],
        folder / corrections["calibration_path"],
    )
    return folder


def configuration(folder, calibrated):
    """The example, without calibration where the event builder has done it."""
    options = yaml.safe_load(EXAMPLE.read_text())
    corrections = options["LSTEventSource"]["LSTR0Corrections"]
    for name in [name for name in corrections if name.endswith("_path")]:
        if calibrated:
            del corrections[name]
    if calibrated:
        del options["ProcessorTool"], options["LSTUnusablePixels"]
    path = folder / "configuration.yaml"
    path.write_text(yaml.safe_dump(options))
    return path


@pytest.fixture(
    scope="module",
    params=[("R1v1", False), ("ProtoR1", False), ("R1v1", True)],
    ids=["raw", "raw of old", "calibrated"],
)
def kind(request):
    """Format of the raw data, and whether they are calibrated."""
    return request.param


@pytest.fixture(scope="module")
def output(kind, events, night, random_model):
    """What ctapipe-process makes of the raw data."""
    protocol, calibrated = kind
    for event in (events[FLAT_FIELD], events[PEDESTAL]):
        event.both_gains = not calibrated
    lst_run.write_run(night / RAW, events, protocol, calibrated)
    run(
        ProcessorTool(),
        f"--config={configuration(night, calibrated)}",
        f"--input={RAW}",
        f"--output={DL2}",
        f"--GammaPhysNetReconstructor.models={random_model('small')}",
        "--GammaPhysNetReconstructor.device=cpu",
        "--write-images",
        "--overwrite",
        cwd=night,
        raises=True,
    )
    return night / DL2


def results(path, template):
    """Columns of all products, by the product's task and their names."""
    found = {}
    for product in PRODUCTS:
        name = template.format(slot=product.slot, prefix=product.prefix)
        start = f"{product.prefix}_{'tel_' if template is TEL else ''}"
        table = read_table(path, name)
        found[product.task] = {
            column.removeprefix(start): table[column] for column in table.colnames
        }
    return found


def is_calibration(events):
    return np.array([e.event_type is not EventType.SUBARRAY for e in events])


def sound_pixels(event):
    """Those that were read."""
    return ~np.isin(np.arange(1855), np.union1d(event.broken, lst_run.MISSING))


@pytest.mark.parametrize("template", [TEL, ARRAY])
def test_no_event_is_lost(output, events, template):
    trigger = read_table(output, "/dl1/event/subarray/trigger")
    kinds = [event.event_type.value for event in events]
    assert trigger["event_type"].tolist() == kinds
    for columns in results(output, template).values():
        assert columns["obs_id"].tolist() == [lst_run.RUN] * len(events)
        assert columns["event_id"].tolist() == [event.event_id for event in events]
        assert columns["is_valid"].tolist() == (~is_calibration(events)).tolist()
    energy = results(output, template)["energy"]["energy"]
    assert np.isnan(energy).tolist() == is_calibration(events).tolist()


@pytest.mark.filterwarnings("ignore::ctapipe.coordinates.MissingFrameAttributeWarning")
def test_results_are_those_of_the_network_at_the_pointing(
    output, kind, events, random_model
):
    """Broken and unusable pixels are left out, and the direction is astropy's."""
    images = read_table(output, "/dl1/event/telescope/images/tel_001")
    predictor = Predictor.from_file(random_model("small"), device="cpu")
    match = predictor.match(SubarrayDescription.from_hdf(output).tel[1])
    broken = ~np.array([sound_pixels(event) for event in events])
    # in DL1 they look like pixels without light
    assert (np.asarray(images["image"])[broken] == 0).all()
    _, calibrated = kind
    unusable = np.asarray(images["image"])[~is_calibration(events)][:, lst_run.UNUSABLE]
    assert np.median(unusable) > 200 if calibrated else np.median(unusable) < 20
    if not calibrated:  # a calibration file has told of them
        broken[:, lst_run.UNUSABLE] = True
    raw, naive = (
        predictor.predict(
            predictor.prepare(images["image"], images["peak_time"], match, mask)
        )
        for mask in (broken, None)
    )
    found, shower = results(output, TEL), ~is_calibration(events)
    energy, naive_energy = (
        TASKS["energy"].to_energy(output["energy"]).to_value(u.TeV)
        for output in (raw, naive)
    )
    np.testing.assert_allclose(found["energy"]["energy"][shower], energy[shower], 1e-5)
    assert abs(naive_energy[BROKEN] / energy[BROKEN] - 1) > 1e-3

    seconds = [event.seconds for event in events]
    pointing = SkyCoord(
        alt=np.interp(seconds, SECONDS, ALTITUDE) * u.deg,
        az=np.interp(seconds, SECONDS, AZIMUTH) * u.deg,
        frame=AltAz(),
    )
    fov_lon, fov_lat = raw["direction"].T * match.angle_scale * u.deg
    frame = TelescopeFrame(telescope_pointing=pointing.frame)
    expected = SkyCoord(fov_lon, fov_lat, frame=frame).transform_to(AltAz())
    direction = SkyCoord(
        alt=found["direction"]["alt"].quantity,
        az=found["direction"]["az"].quantity,
        frame=AltAz(),
    )
    assert direction[shower].separation(expected[shower]).max() < 0.001 * u.deg
    assert pointing[0].separation(pointing[-1]) > 1 * u.deg


def test_there_is_no_truth(output):
    with tables.open_file(output) as file:
        assert "/simulation" not in file
        assert not [n for n in file.walk_nodes() if "true_" in n._v_pathname]


def unusable_pixels(sample_path, path):
    subarray = SubarrayDescription.from_hdf(sample_path)
    return LSTUnusablePixels(subarray=subarray, calibration_path=path)


def test_unusable_pixels(night, sample_path, tmp_path):
    """Of HDF5 and of FITS files."""
    options = yaml.safe_load(EXAMPLE.read_text())["LSTUnusablePixels"]
    path = night / options["calibration_path"]
    fits = tmp_path / "calibration.fits.gz"
    mask = read_table(path, "/tel_1/calibration")["unusable_pixels"]
    hdu = BinTableHDU(Table({"unusable_pixels": mask}), name="calibration")
    HDUList([PrimaryHDU(), hdu]).writeto(fits)
    for name in (path, fits):
        source = unusable_pixels(sample_path, name)
        kind = MonitoringType.CAMERA_COEFFICIENTS
        found = source.get_values(kind, time=None, tel_id=1)["outlier_mask"]
        assert found.shape == (2, 1855)
        for channel in found:
            assert np.flatnonzero(channel).tolist() == lst_run.UNUSABLE.tolist()
        with pytest.raises(KeyError, match="telescope 2"):
            source.get_table(kind, tel_id=2)
        event = ArrayEventContainer()
        event.trigger.tels_with_trigger = [1]
        source.fill_monitoring_container(event)
        coefficients = event.monitoring.tel[1].camera.coefficients
        np.testing.assert_array_equal(coefficients.outlier_mask, found)


def test_files_without_unusable_pixels(sample_path, tmp_path):
    path = tmp_path / "text.h5"
    path.write_text("no HDF5")
    with pytest.raises(ToolConfigurationError, match=r"text.h5: no unusable_pixels"):
        unusable_pixels(sample_path, path)
    with pytest.raises(ToolConfigurationError, match="sample.*no unusable_pixels"):
        unusable_pixels(sample_path, sample_path)
    path = tmp_path / "short.h5"
    table = Table({"unusable_pixels": np.zeros((1, 2, 7), dtype=bool)})
    write_table(table, path, "/tel_1/calibration")
    with pytest.raises(ToolConfigurationError, match=r"short.h5.*\(2, 7\).*1855 pixels"):
        unusable_pixels(sample_path, path)
    with pytest.raises(ToolConfigurationError, match="calibration_path is not set"):
        unusable_pixels(sample_path, None)
