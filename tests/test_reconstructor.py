import json
import logging
import subprocess
import sys
import warnings
from copy import deepcopy
from pathlib import Path

import astropy.units as u
import numpy as np
import pytest
import tables
import torch
from ctapipe.containers import (
    ArrayEventContainer,
    DL1CameraContainer,
    EventType,
    ImageParametersContainer,
    PixelStatus,
)
from ctapipe.core import Provenance, ToolConfigurationError, run_tool
from ctapipe.image import ImageProcessor
from ctapipe.instrument import SubarrayDescription
from ctapipe.io import EventSource, TableLoader
from ctapipe.reco import Reconstructor
from ctapipe.tools.merge import MergeTool
from ctapipe.tools.process import ProcessorTool
from models import make_model
from traitlets import TraitError
from traitlets.config import Config

from ctapipe_gphysnet.checkpoint import read_model
from ctapipe_gphysnet.inference import Predictor
from ctapipe_gphysnet.preprocessing import Preprocessing
from ctapipe_gphysnet.products import PRODUCTS, physical_columns
from ctapipe_gphysnet.reconstructor import GammaPhysNetReconstructor
from ctapipe_gphysnet.tasks import TASKS, horizontal_to_telescope

EXAMPLE = Path(__file__).parents[1] / "examples" / "gphysnet.yaml"
SLOTS = {product.prefix: product.slot for product in PRODUCTS}
ALT, AZ = 70 * u.deg, 359.9 * u.deg


@pytest.fixture(scope="module")
def model_path(lst_telescope, tmp_path_factory):
    return make_model(
        tmp_path_factory.mktemp("model") / "small.safetensors", lst_telescope
    )


@pytest.fixture(scope="module")
def subarray(lst_telescope):
    """Three telescopes like LST-1, and telescope 7 with other optics."""
    other = deepcopy(lst_telescope)
    other.optics.effective_focal_length *= 2
    return SubarrayDescription(
        "test array",
        tel_positions={t: [100 * t, 0, 0] * u.m for t in (1, 2, 3, 7)},
        tel_descriptions={1: lst_telescope, 2: lst_telescope, 3: lst_telescope, 7: other},
        reference_location=None,
    )


def make_image(seed):
    """Charge and peak time of a random blob on noise."""
    rng = np.random.default_rng(seed)
    charge = rng.normal(0, 1.5, 1855).astype(np.float32)
    start = rng.integers(0, 1800)
    charge[start : start + 30] += rng.uniform(10, 80)
    return charge, rng.uniform(10, 30, 1855).astype(np.float32)


def make_event(tel_ids, seed=0):
    """An event whose telescopes have images, but no image parameters."""
    event = ArrayEventContainer()
    event.index.obs_id, event.index.event_id = 1, 99
    event.trigger.tels_with_trigger = list(tel_ids)
    for tel_id in tel_ids:
        charge, time = make_image([seed, tel_id])
        event.dl1.tel[tel_id] = DL1CameraContainer(image=charge, peak_time=time)
        event.monitoring.tel[tel_id].pointing.altitude = ALT
        event.monitoring.tel[tel_id].pointing.azimuth = AZ
    return event


@pytest.fixture
def make(subarray, model_path):
    """Function: a reconstructor of the test array, without quality criteria."""

    def build(subarray=subarray, models=(model_path,), criteria=(), **options):
        config = Config(
            {"GammaPhysNetQualityQuery": {"quality_criteria": list(criteria)}}
        )
        return GammaPhysNetReconstructor(
            subarray=subarray,
            config=config,
            models=[str(model) for model in models],
            device="cpu",
            **options,
        )

    return build


def result(dl2, prefix):
    """Container of a telescope's or the array's results."""
    return dl2[SLOTS[prefix]][prefix]


def values(dl2):
    """All numbers of a telescope's or the array's results."""
    return np.array(
        [
            result(dl2, "GammaPhysNetEnergy").energy.to_value(u.TeV),
            result(dl2, "GammaPhysNetGeometry").alt.to_value(u.deg),
            result(dl2, "GammaPhysNetGeometry").az.to_value(u.deg),
            result(dl2, "GammaPhysNetClassifier").prediction,
        ]
    )


def valid(dl2):
    return [result(dl2, prefix).is_valid for prefix in SLOTS]


def test_import_leaves_torch_alone():
    # ctapipe itself imports it, by way of scikit-learn, where it is there; so hide it
    code = """
import sys

class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Hide())
import ctapipe_gphysnet.reconstructor
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_ctapipe_finds_it():
    classes = Reconstructor.non_abstract_subclasses()
    assert classes["GammaPhysNetReconstructor"] is GammaPhysNetReconstructor


def test_physical_columns():
    raw = {
        "energy": np.float32([[-1], [2]]),
        "direction": np.float32([[0, 1], [0, -2]]),
        "impact": np.float32([[0, 0], [1, 1]]),
        "particle_type": np.float32([[0, 0], [1000, -1000]]),
    }
    columns = physical_columns(
        raw, np.array([1, 0.5]), [0, 0, 0] * u.m, [60, 60] * u.deg, [10, 20] * u.deg
    )
    assert list(columns) == ["energy", "direction", "particle_type"]
    assert columns["direction"]["alt"].unit == columns["direction"]["az"].unit == u.deg
    np.testing.assert_allclose(columns["energy"]["energy"].to_value(u.TeV), [0.1, 100])
    np.testing.assert_allclose(columns["direction"]["alt"].value, [61, 59])
    np.testing.assert_allclose(columns["direction"]["az"].value, [10, 20])
    np.testing.assert_allclose(columns["particle_type"]["prediction"], [0.5, 0])
    assert all(column["is_valid"].all() for column in columns.values())


def test_uncertainties_in_physical_columns():
    raw = {
        "energy": np.float32([[-1], [2], [np.nan]]),
        "direction": np.zeros((3, 2), np.float32),
        "energy_uncertainty": np.log([[0.1], [0.2], [0.3]]),
        "direction_uncertainty": np.log([[0.3], [0.4], [0.5]]),
    }
    pointing = [60, np.nan, 60] * u.deg, [10, 10, 10] * u.deg
    columns = physical_columns(raw, np.array([1, 1, 0.5]), [0, 0, 0] * u.m, *pointing)
    uncertainty = columns["energy"]["energy_uncert"].to_value(u.TeV)
    expected = np.log(10) * np.array([0.1 * 0.1, 100 * 0.2, np.nan])
    np.testing.assert_allclose(uncertainty, expected, rtol=1e-6)
    radius = columns["direction"]["ang_distance_uncert"].to_value(u.deg)
    np.testing.assert_allclose(radius, [0.3, np.nan, 0.25])
    assert columns["energy"]["is_valid"].tolist() == [True, True, False]
    assert columns["direction"]["is_valid"].tolist() == [True, False, True]
    del raw["energy_uncertainty"], raw["direction_uncertainty"]
    columns = physical_columns(raw, np.array([1, 1, 0.5]), [0, 0, 0] * u.m, *pointing)
    assert np.isnan(columns["energy"]["energy_uncert"]).all()
    assert np.isnan(columns["direction"]["ang_distance_uncert"]).all()
    assert columns["energy"]["is_valid"].tolist() == [True, True, False]


def test_a_column_without_value_is_invalid():
    raw = {"energy": np.float32([[1], [np.nan]]), "direction": np.zeros((2, 2))}
    columns = physical_columns(
        raw, 1.0, [0, 0, 0] * u.m, [60, np.nan] * u.deg, [10, 20] * u.deg
    )
    assert columns["energy"]["is_valid"].tolist() == [True, False]
    assert columns["direction"]["is_valid"].tolist() == [True, False]


def test_fills_what_the_network_says(make, model_path, lst_telescope):
    event = make_event([2])
    make()(event)
    predictor = Predictor.from_file(model_path, device="cpu")
    dl1 = event.dl1.tel[2]
    match = predictor.match(lst_telescope)
    images = predictor.prepare(dl1.image[None], dl1.peak_time[None], match)
    raw = predictor.predict(images)
    alt, az = TASKS["direction"].to_horizontal(raw["direction"], ALT, AZ)
    expected = [
        TASKS["energy"].to_energy(raw["energy"])[0].to_value(u.TeV),
        alt[0].to_value(u.deg),
        az[0].to_value(u.deg),
        TASKS["particle_type"].to_gammaness(raw["particle_type"])[0],
    ]
    dl2 = event.dl2.tel[2]
    np.testing.assert_allclose(values(dl2), expected, rtol=1e-12)
    assert valid(dl2) == [True] * 3
    for prefix in SLOTS:
        assert result(dl2, prefix).prefix == f"{prefix}_tel"
        assert result(event.dl2.stereo, prefix).prefix == prefix


def test_telescopes_of_an_event_are_one_batch(make, monkeypatch):
    event = make_event([1, 2, 3])
    reconstructor = make()
    singly = []
    for tel_id in (1, 2, 3):
        single = make_event([1, 2, 3])
        single.trigger.tels_with_trigger = [tel_id]
        reconstructor(single)
        singly.append(values(single.dl2.tel[tel_id]))
    predict, sizes = Predictor.predict, []

    def count(self, images):
        sizes.append(len(images))
        return predict(self, images)

    monkeypatch.setattr(Predictor, "predict", count)
    reconstructor(event)
    assert sizes == [3]
    together = [values(event.dl2.tel[tel_id]) for tel_id in (1, 2, 3)]
    np.testing.assert_allclose(together, singly, rtol=1e-5)
    # the images differ, so must the results
    assert np.ptp(together, axis=0).min() > 1e-4


def test_angles_scale_with_the_focal_length(make, lst_telescope, subarray):
    longer = deepcopy(lst_telescope)
    longer.optics.effective_focal_length *= 1.04
    other = SubarrayDescription(
        "longer",
        tel_positions={1: [0, 0, 0] * u.m},
        tel_descriptions={1: longer},
        reference_location=None,
    )
    offsets = []
    for array in (subarray, other):
        event = make_event([1])
        make(array)(event)
        geometry = result(event.dl2.tel[1], "GammaPhysNetGeometry")
        offset = horizontal_to_telescope(geometry.alt, geometry.az, ALT, AZ)
        offsets.append([angle.to_value(u.deg) for angle in offset])
    np.testing.assert_allclose(offsets[1], np.array(offsets[0]) / 1.04, rtol=1e-6)
    assert np.hypot(*offsets[0]) > 0.01


def test_telescope_that_fails_the_criteria(make):
    reconstructor = make(criteria=[("many", "parameters.morphology.n_pixels > 10")])
    event = make_event([1, 2])
    for tel_id, n_pixels in ((1, 20), (2, 5)):
        parameters = ImageParametersContainer()
        parameters.morphology.n_pixels = n_pixels
        event.dl1.tel[tel_id].parameters = parameters
    reconstructor(event)
    assert valid(event.dl2.tel[1]) == [True] * 3
    assert valid(event.dl2.tel[2]) == [False] * 3
    assert np.isnan(values(event.dl2.tel[2])).all()
    assert (
        result(event.dl2.tel[2], "GammaPhysNetEnergy").prefix == "GammaPhysNetEnergy_tel"
    )
    assert result(event.dl2.stereo, "GammaPhysNetEnergy").telescopes == [1]
    statistics = reconstructor.quality_query.to_table()
    assert statistics["counts"].tolist() == [2, 1]


@pytest.mark.parametrize("parameters", [None, ImageParametersContainer()])
def test_image_without_parameters_fails_the_default_criteria(
    subarray, model_path, parameters
):
    reconstructor = GammaPhysNetReconstructor(subarray, models=[str(model_path)])
    event = make_event([1])
    event.dl1.tel[1].parameters = parameters
    reconstructor(event)
    assert valid(event.dl2.tel[1]) == [False] * 3
    assert valid(event.dl2.stereo) == [False] * 3


def test_all_pixels_nan(make):
    event = make_event([1])
    event.dl1.tel[1].image[:] = np.nan
    make()(event)
    assert valid(event.dl2.tel[1]) == [False] * 3
    assert np.isnan(values(event.dl2.tel[1])).all()
    assert np.isnan(values(event.dl2.stereo)).all()


def test_triggered_telescope_without_data(make):
    event = make_event([1, 2])
    del event.dl1.tel[2]
    make()(event)
    assert valid(event.dl2.tel[1]) == [True] * 3
    assert valid(event.dl2.tel[2]) == [False] * 3
    assert 2 not in event.dl1.tel


def test_no_images(make):
    event = make_event([1, 2])
    event.dl1.tel[2].image = None
    with pytest.raises(
        ToolConfigurationError, match=r"Event 99 .* telescope 2: .*DL1 images"
    ):
        make()(event)


def test_event_without_telescopes(make):
    event = make_event([])
    make()(event)
    assert valid(event.dl2.stereo) == [False] * 3
    assert np.isnan(values(event.dl2.stereo)).all()
    assert result(event.dl2.stereo, "GammaPhysNetEnergy").telescopes == []
    assert len(event.dl2.tel) == 0


@pytest.mark.parametrize(
    "kind", ["FLATFIELD", "SINGLE_PE", "SKY_PEDESTAL", "OTHER_CALIBRATION"]
)
def test_calibration_events_are_kept_but_not_reconstructed(make, kind):
    reconstructor = make(criteria=[("always", "True")])
    event = make_event([1, 2])
    event.trigger.event_type = EventType[kind]
    event.dl1.tel[2].image = None  # as it may be without charges
    reconstructor(event)
    for dl2 in (event.dl2.tel[1], event.dl2.tel[2], event.dl2.stereo):
        assert valid(dl2) == [False] * 3
        assert np.isnan(values(dl2)).all()
    assert reconstructor.quality_query.to_table()["counts"].tolist() == [0, 0]


@pytest.mark.parametrize("kind", ["MUON", "HARDWARE_STEREO", "LONG_EVENT", "UNKNOWN"])
def test_other_types_of_events_are_reconstructed(make, kind):
    event = make_event([1])
    event.trigger.event_type = EventType[kind]
    make()(event)
    assert valid(event.dl2.tel[1]) == [True] * 3


def test_event_without_pointing_has_no_direction(make, caplog):
    reconstructor = make()
    for _ in range(3):
        event = make_event([1, 2])
        event.monitoring.tel[2].pointing.altitude = np.nan * u.deg
        reconstructor(event)
    assert valid(event.dl2.tel[1]) == [True] * 3
    is_valid = dict(zip(SLOTS, valid(event.dl2.tel[2])))
    assert not is_valid.pop("GammaPhysNetGeometry")
    assert all(is_valid.values())
    (warning,) = [m for m in caplog.messages if "pointing" in m]
    assert "of telescope 2 are without pointing" in warning


def with_pixel_status(level, broken):
    status = np.where(broken, 0, np.uint8(PixelStatus.LOW_GAIN_STORED | 1))

    def prepare(event):
        event[level].tel[1].pixel_status = status.astype(np.uint8)

    return prepare


def with_outlier_mask(mask, gain=None, level="dl0"):
    def prepare(event):
        event.monitoring.tel[1].camera.coefficients.outlier_mask = mask
        if gain is not None:
            event[level].tel[1].selected_gain_channel = gain

    return prepare


BROKEN = np.isin(np.arange(1855), [40, 41, 900])
NEVER = np.zeros(1855, dtype=bool)
LOW_GAIN = BROKEN.astype(int)  # selected gain channel: 1 in these pixels


@pytest.mark.parametrize(
    "mark",
    [
        with_outlier_mask(BROKEN),
        with_outlier_mask(np.array([BROKEN, BROKEN])),
        # the pixels that were read in their broken channel
        with_outlier_mask(np.array([NEVER, ~NEVER]), LOW_GAIN),
        with_outlier_mask(np.array([NEVER, ~NEVER]), LOW_GAIN, "r1"),
        # no channel was selected: either counts
        with_outlier_mask(np.array([NEVER, BROKEN])),
        with_pixel_status("r1", BROKEN),
        with_pixel_status("dl0", BROKEN),
    ],
)
def test_broken_pixels_are_like_nan(make, mark):
    events = [make_event([1]) for _ in range(3)]
    nan, marked, wild = events
    nan.dl1.tel[1].image[BROKEN] = np.nan
    for event in (marked, wild):
        event.dl1.tel[1].image[BROKEN] = 3000
    mark(marked)
    reconstructor = make()
    for event in events:
        reconstructor(event)
    results = [values(event.dl2.tel[1]) for event in events]
    assert np.isfinite(results[0]).all()
    np.testing.assert_array_equal(results[0], results[1])
    assert not np.array_equal(results[1], results[2])


def test_pixel_without_light_is_not_broken(make):
    """That data volume reduction left it out is not that it was not read."""
    results = []
    for status in (0, PixelStatus.HIGH_GAIN_STORED):
        event = make_event([1])
        event.dl1.tel[1].image[BROKEN] = 0
        if status:
            event.dl0.tel[1].pixel_status = np.full(1855, status, dtype=np.uint8)
        make()(event)
        results.append(values(event.dl2.tel[1]))
    np.testing.assert_array_equal(*results)


def test_all_pixels_broken(make):
    event = make_event([1])
    with_pixel_status("r1", ~NEVER)(event)
    make()(event)
    assert valid(event.dl2.tel[1]) == [False] * 3
    assert np.isnan(values(event.dl2.tel[1])).all()


def test_infinite_charge_is_bright(make, model_path, subarray):
    reconstructor = make(criteria=[("> 50 p.e.", "parameters.hillas.intensity > 50")])
    events = [make_event([1]) for _ in range(2)]
    for event, charge in zip(events, (np.inf, Preprocessing().max_charge), strict=True):
        event.dl1.tel[1].image[:900] = 0
        event.dl1.tel[1].image[[700, 701, 702]] = 100
        event.dl1.tel[1].image[701] = charge
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of ctapipe: inf - inf
            ImageProcessor(subarray)(event)
        reconstructor(event)
    assert valid(events[0].dl2.tel[1]) == [True] * 3
    np.testing.assert_array_equal(*(values(event.dl2.tel[1]) for event in events))


def test_type_without_model_is_skipped_with_one_warning(make, caplog):
    with caplog.at_level(logging.WARNING):
        reconstructor = make()
        for seed in range(3):
            event = make_event([1, 7], seed)
            event.dl1.tel[7].image = None  # not even looked at
            # as another reconstructor leaves it
            event.dl2.tel[7].impact["Other"]  # noqa: B018
            reconstructor(event)
    (warning,) = caplog.messages
    assert "LST_LST_LSTCam: small: focal_length is 58." in warning
    assert valid(event.dl2.tel[1]) == [True] * 3
    assert all(prefix not in event.dl2.tel[7][slot] for prefix, slot in SLOTS.items())


def test_types_without_model_stay_without_rows_in_stereo_events(make):
    event = make_event([1, 2, 7])
    event.dl2.tel[7].impact["Other"]  # noqa: B018
    make()(event)
    assert result(event.dl2.stereo, "GammaPhysNetEnergy").telescopes == [1, 2]
    assert all(prefix not in event.dl2.tel[7][slot] for prefix, slot in SLOTS.items())


def test_no_telescope_has_a_model(make, subarray):
    with pytest.raises(
        ToolConfigurationError, match="No telescope .*small: focal_length"
    ) as e:
        make(subarray.select_subarray([7]))
    assert "\n" not in str(e.value)


def test_two_models_for_one_telescope(make, model_path, lst_telescope, tmp_path):
    second = make_model(tmp_path / "second.safetensors", lst_telescope, head_width=4)
    with pytest.raises(ToolConfigurationError, match="LSTCam: small and second"):
        make(models=[model_path, second])


def test_two_models_for_two_types(make, model_path, subarray, tmp_path):
    other = make_model(
        tmp_path / "other.safetensors", subarray.tel[7], tasks=("energy", "particle_type")
    )
    reconstructor = make(models=[model_path, other])
    event = make_event([1, 2, 7])
    reconstructor(event)
    assert result(event.dl2.stereo, "GammaPhysNetEnergy").telescopes == [1, 2, 7]
    assert result(event.dl2.stereo, "GammaPhysNetGeometry").telescopes == [1, 2]
    assert "GammaPhysNetGeometry" not in event.dl2.tel[7].geometry
    energy = result(event.dl2.tel[7], "GammaPhysNetEnergy")
    assert energy.is_valid
    assert energy.meta["GammaPhysNetEnergy_model"] == "small, other"
    identities = [read_model(path).identity for path in (model_path, other)]
    assert energy.meta["GammaPhysNetEnergy_model_sha256"] == ", ".join(identities)
    geometry = result(event.dl2.stereo, "GammaPhysNetGeometry")
    assert geometry.meta["GammaPhysNetGeometry_model"] == "small"


def test_a_model_that_fits_nothing_is_not_named(make, model_path, subarray, tmp_path):
    other = make_model(tmp_path / "other.safetensors", subarray.tel[7])
    event = make_event([1])
    make(subarray.select_subarray([1]), models=[other, model_path])(event)
    energy = result(event.dl2.tel[1], "GammaPhysNetEnergy")
    assert energy.meta["GammaPhysNetEnergy_model"] == "small"


def test_model_without_direction(make, lst_telescope, tmp_path):
    path = make_model(
        tmp_path / "two.safetensors", lst_telescope, tasks=("energy", "particle_type")
    )
    event = make_event([1, 2])
    make(models=[path])(event)
    for dl2 in (event.dl2.tel[1], event.dl2.stereo):
        assert result(dl2, "GammaPhysNetEnergy").is_valid
        assert result(dl2, "GammaPhysNetClassifier").is_valid
        assert len(dl2.geometry) == 0


def test_array_result_of_one_telescope_is_its_own(make):
    event = make_event([3])
    make()(event)
    np.testing.assert_array_equal(values(event.dl2.stereo), values(event.dl2.tel[3]))
    assert valid(event.dl2.stereo) == [True] * 3
    for prefix in SLOTS:
        assert result(event.dl2.stereo, prefix).telescopes == [3]


def test_uncertainties_of_telescopes_and_arrays(make, random_model):
    model = random_model("uncertain", uncertainty=True)
    one, two = make_event([3]), make_event([1, 3])
    for event in (one, two):
        make(models=[model])(event)

    def uncertainties(dl2):
        return [
            result(dl2, "GammaPhysNetEnergy").energy_uncert.to_value(u.TeV),
            result(dl2, "GammaPhysNetGeometry").ang_distance_uncert.to_value(u.deg),
        ]

    single = uncertainties(one.dl2.tel[3])
    assert np.isfinite(single).all()
    # the mean of one telescope is that telescope's
    assert uncertainties(one.dl2.stereo) == single
    np.testing.assert_allclose(uncertainties(two.dl2.tel[3]), single, rtol=1e-5)
    # that of several telescopes is their spread
    energies = [values(two.dl2.tel[tel_id])[0] for tel_id in (1, 3)]
    expected = np.std(energies, ddof=1)
    assert uncertainties(two.dl2.stereo)[0] == pytest.approx(expected)
    geometry = result(two.dl2.tel[3], "GammaPhysNetGeometry")
    assert np.isnan([geometry.alt_uncert.value, geometry.az_uncert.value]).all()


def set_hillas(event, tel_id, intensity, width=1.0):
    parameters = ImageParametersContainer()
    parameters.hillas.intensity = intensity
    parameters.hillas.length = 2 * u.deg
    parameters.hillas.width = width * u.deg
    event.dl1.tel[tel_id].parameters = parameters


@pytest.mark.parametrize(
    ("option", "intensities", "widths", "weights"),
    [
        (None, (300, 100), (1, 0.5), (1, 1)),
        ("none", (300, 100), (1, 0.5), (1, 1)),
        ("intensity", (300, 100), (1, 0.5), (3, 1)),
        ("aspect-weighted-intensity", (300, 100), (1, 0.5), (3, 2)),
        # weights that are not finite numbers
        ("intensity", (np.inf, 100), (np.nan, 0.5), (1, 1)),
        ("aspect-weighted-intensity", (300, 100), (1, 0), (1, 1)),
    ],
)
def test_array_result_is_the_weighted_mean(make, option, intensities, widths, weights):
    event = make_event([1, 2])
    for tel_id, intensity, width in zip((1, 2), intensities, widths, strict=True):
        set_hillas(event, tel_id, intensity, width)
    make(stereo_weights=option)(event)
    single = np.array([values(event.dl2.tel[t]) for t in (1, 2)])
    expected = np.average(single, axis=0, weights=weights)
    # the mean direction is that of vectors; the two are close together
    np.testing.assert_allclose(values(event.dl2.stereo), expected, rtol=1e-4)
    difference = abs(single[0] - single[1])[[0, 3]]
    assert (difference > 1e-3 * expected[[0, 3]]).all()
    assert valid(event.dl2.stereo) == [True] * 3
    for prefix in SLOTS:
        assert result(event.dl2.stereo, prefix).telescopes == [1, 2]


def test_weights_may_be_set_on_the_combiner(subarray, model_path):
    options = {
        "StereoMeanCombiner": {"weights": "intensity"},
        "GammaPhysNetQualityQuery": {"quality_criteria": []},
    }
    config = Config({"GammaPhysNetReconstructor": options})
    event = make_event([1, 2])
    set_hillas(event, 1, 1e9)
    set_hillas(event, 2, 1)
    GammaPhysNetReconstructor(subarray, config=config, models=[str(model_path)])(event)
    stereo = values(event.dl2.stereo)[[0, 3]]
    np.testing.assert_allclose(stereo, values(event.dl2.tel[1])[[0, 3]], rtol=1e-6)


def test_model_is_in_the_provenance(make, model_path):
    Provenance().start_activity("test")
    try:
        make()
        inputs = Provenance().current_activity.input
    finally:
        Provenance().finish_activity("test")
    assert [(i["url"], i["role"]) for i in inputs] == [
        (str(model_path), "GammaPhysNet model")
    ]


def test_n_jobs_is_the_number_of_threads(make):
    before = torch.get_num_threads()
    try:
        make(n_jobs=before + 1)
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"models": ["nowhere"]}, ToolConfigurationError, "no model 'nowhere'"),
        ({"models": []}, TraitError, "models"),
        ({"models": [__file__]}, ToolConfigurationError, "cannot be read as a model"),
        ({"device": "gpu"}, ToolConfigurationError, "device must be auto, cpu, cuda"),
        ({"precision": "float8"}, ToolConfigurationError, "precision must be one of"),
        ({"stereo_weights": "best"}, TraitError, "stereo_weights"),
    ],
)
def test_unusable_options(subarray, model_path, options, error, message):
    options = {"models": [str(model_path)], **options}
    with pytest.raises(error, match=message):
        GammaPhysNetReconstructor(subarray, **options)


def test_cuda_where_there_is_none(subarray, model_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ToolConfigurationError, match="0 CUDA devices"):
        GammaPhysNetReconstructor(subarray, models=[str(model_path)], device="cuda")


# ctapipe-process, as a user runs it


def process(input_path, output_path, model_path, *arguments, raises=True):
    """Run ctapipe-process with the example; returns the exit code."""
    Provenance().clear()
    argv = [
        f"--config={EXAMPLE}",
        f"--input={input_path}",
        f"--output={output_path}",
        f"--GammaPhysNetReconstructor.models={model_path}",
        *arguments,
    ]
    with warnings.catch_warnings():
        # those of ctapipe about the input are not for this package to judge
        warnings.simplefilter("ignore")
        return run_tool(ProcessorTool(), argv, cwd=output_path.parent, raises=raises)


@pytest.fixture(scope="module")
def processed(sample_path, model_path, tmp_path_factory):
    """DL2 file of 30 events of the sample."""
    output = tmp_path_factory.mktemp("process") / "sample.dl2.h5"
    assert process(sample_path, output, model_path, "--max-events=30") == 0
    return output


def test_example_fills_the_tables(processed, sample_path, model_path):
    with TableLoader(processed) as loader:
        tel = loader.read_telescope_events(dl1_parameters=True, dl2=True)
        array = loader.read_subarray_events(dl2=True)
    passed = tel["hillas_intensity"] > 50
    assert len(tel) == len(array) == 30
    assert 5 < passed.sum() < 30
    for prefix, column in (
        ("GammaPhysNetEnergy", "energy"),
        ("GammaPhysNetGeometry", "alt"),
        ("GammaPhysNetGeometry", "az"),
        ("GammaPhysNetClassifier", "prediction"),
    ):
        np.testing.assert_array_equal(tel[f"{prefix}_tel_is_valid"], passed)
        np.testing.assert_array_equal(array[f"{prefix}_is_valid"], passed)
        np.testing.assert_array_equal(np.isfinite(tel[f"{prefix}_tel_{column}"]), passed)
        np.testing.assert_array_equal(
            tel[f"{prefix}_tel_{column}"], array[f"{prefix}_{column}"]
        )
        np.testing.assert_array_equal(array[f"{prefix}_telescopes"][:, 0], passed)

    reconstructor = GammaPhysNetReconstructor(
        SubarrayDescription.from_hdf(processed), models=[str(model_path)]
    )
    with EventSource(sample_path, max_events=30) as source:
        for event, row in zip(source, tel, strict=True):
            reconstructor(event)
            energy = result(event.dl2.tel[1], "GammaPhysNetEnergy").energy
            np.testing.assert_equal(
                energy.to_value(u.TeV), row["GammaPhysNetEnergy_tel_energy"]
            )


def test_output_names_the_model(processed, model_path):
    identity = read_model(model_path).identity
    with TableLoader(processed) as loader:
        headers = [
            loader.read_telescope_events(dl2=True).meta,
            loader.read_subarray_events(dl2=True).meta,
        ]
    for header in headers:
        for prefix in SLOTS:
            assert header[f"{prefix}_model"] == "small"
            assert header[f"{prefix}_model_sha256"] == identity
    log = next(processed.parent.glob("*.provenance.log"))
    (activity,) = json.loads(log.read_text())
    entry = {"url": str(model_path), "role": "GammaPhysNet model"}
    assert any(entry.items() <= found.items() for found in activity["input"])


def test_output_counts_the_criteria(processed):
    with tables.open_file(processed) as file:
        node = file.root.dl2.service.tel_event_statistics.GammaPhysNetReconstructor
        counts = node[:]["counts"]
    with TableLoader(processed) as loader:
        tel = loader.read_telescope_events(dl2=True)
    assert counts.tolist() == [30, tel["GammaPhysNetEnergy_tel_is_valid"].sum()]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--GammaPhysNetReconstructor.modles=x", "`modles` not recognized"),
        ("--GammaPhysNetQualityQuery.criteria=x", "`criteria` not recognized"),
        ("--GammaPhysNetReconstructor.device=tpu", "device must be auto, cpu"),
        ("--GammaPhysNetReconstructor.models=nowhere", "no model 'nowhere'"),
    ],
)
def test_mistakes_end_in_one_line(
    sample_path, model_path, tmp_path, capfd, option, message
):
    arguments = (sample_path, tmp_path / "x.h5", model_path, option, "--max-events=1")
    assert process(*arguments, raises=False) == 2
    error = capfd.readouterr().err
    assert "Traceback" not in error
    assert message in next(line for line in error.splitlines() if "ERROR" in line)


def test_input_without_images(processed, model_path, tmp_path, capfd):
    assert process(processed, tmp_path / "x.h5", model_path, raises=False) == 2
    error = capfd.readouterr().err
    assert "no image of telescope 1" in error
    assert "Traceback" not in error


SIMTEL = {
    "gamma": "gamma_diffuse_run000010_za20deg_azm000deg_North_alpha_6.0.0_test_file",
    "proton": "proton_run000001_za20deg_azm180deg_North_alpha_6.0.2_test",
    "prod5": "history_meta_75",
}


@pytest.fixture(scope="module")
def simtel(shared_path, model_path, tmp_path_factory):
    """Function: DL2 file of one of CTAO's simulations."""
    pytest.importorskip("eventio", reason="the extra simtel is not installed")
    folder, done = tmp_path_factory.mktemp("simtel"), {}

    def run(name):
        if name not in done:
            done[name] = folder / f"{name}.dl2.h5"
            source = shared_path(f"simtel/{SIMTEL[name]}.simtel.zst")
            assert process(source, done[name], model_path) == 0
        return done[name]

    return run


@pytest.mark.parametrize("name", list(SIMTEL))
def test_real_simulations(simtel, name):
    with TableLoader(simtel(name)) as loader:
        by_type = loader.read_telescope_events_by_type(dl2=True)
        array = loader.read_subarray_events(dl2=True)
        subarray = loader.subarray
    n_valid = 0
    for telescope_type, table in by_type.items():
        is_lst = str(telescope_type).startswith("LST")
        assert ("GammaPhysNetEnergy_tel_energy" in table.colnames) == is_lst
        if is_lst:
            n_valid += table["GammaPhysNetEnergy_tel_is_valid"].sum()
    assert n_valid > 0
    used = array["GammaPhysNetEnergy_telescopes"]
    assert used.sum() == n_valid
    lst = subarray.tel_ids_to_mask(
        [t for t, tel in subarray.tel.items() if str(tel).startswith("LST")]
    )
    assert not used[:, ~lst].any()
    np.testing.assert_array_equal(
        array["GammaPhysNetGeometry_is_valid"], used.any(axis=1)
    )


def test_files_can_be_merged(simtel, tmp_path):
    inputs = [simtel("gamma"), simtel("proton")]
    output = tmp_path / "merged.dl2.h5"
    argv = [*map(str, inputs), f"--output={output}"]
    assert run_tool(MergeTool(), argv, cwd=tmp_path, raises=True) == 0
    parts = []
    for path in (*inputs, output):
        with TableLoader(path) as loader:
            array = loader.read_subarray_events(dl2=True)
            loader.read_telescope_events(dl2=True)
        parts.append(np.asarray(array["GammaPhysNetEnergy_energy"]))
    np.testing.assert_array_equal(np.concatenate(parts[:2]), parts[2])
    assert array.meta["GammaPhysNetEnergy_model"] == "small"
