"""ctapipe's tools for instrument response, configured as in examples/irf."""

import importlib.util
import runpy
import subprocess
import sys
from pathlib import Path

import astropy.units as u
import numpy as np
import pytest
from astropy.io import fits
from astropy.table import QTable
from ctapipe.io import (
    DL2EventPreprocessor,
    TableLoader,
    read_table,
)
from ctapipe.irf import OptimizationResult
from ctapipe.tools.compute_irf import IrfTool
from ctapipe.tools.optimize_event_selection import EventSelectionOptimizer
from pyirf.utils import calculate_theta
from running import run

from ctapipe_gphysnet.evaluation.sensitivity import Cuts, effective_area, read_simulation
from ctapipe_gphysnet.inference import Predictor
from ctapipe_gphysnet.tools.apply import ApplyTool

EXAMPLES = Path(__file__).parents[1] / "examples"
CONFIG = EXAMPLES / "irf" / "gammaphysnet.yaml"
COUNT_SHOWERS = EXAMPLES / "irf" / "count_showers.py"
HILLAS_RF = EXAMPLES / "irf" / "hillas_rf.yaml"
KINDS = ("point-like", "full-enclosure")

# of ctapipe and pyirf about few events, which are not for this package to judge
pytestmark = pytest.mark.filterwarnings("ignore")

# found, not imported, for the import takes seconds and the scripts do it
needs_gammapy = pytest.mark.skipif(
    importlib.util.find_spec("gammapy") is None,
    reason="gammapy, of the extra irf, is not installed",
)

#: For so few events: fewer bins, at energies where all of them have events, and fewer
#: cuts to try.
FEW_EVENTS = """
PointSourceSensitivityOptimizer:
  gh_cut_efficiency_step: 0.4
PointSourceSensitivityOptimizerBase:
  theta_cut_efficiency_step: 0.4
DefaultRecoEnergyBins:
  reco_energy_min: 0.05 TeV
  reco_energy_max: 0.5 TeV
  reco_energy_n_bins_per_decade: 2
DefaultTrueEnergyBins:
  true_energy_min: 0.05 TeV
  true_energy_max: 5 TeV
  true_energy_n_bins_per_decade: 2
"""


def guess(predictor, images):
    """Raw outputs of a network that has seen no image, but knows the source."""
    rng = np.random.default_rng(len(images))
    return {
        "energy": rng.normal(-0.8, 0.3, (len(images), 1)),
        "direction": rng.normal([0.4, 0], 0.1, (len(images), 2)),
        "particle_type": rng.normal(0, 1, (len(images), 2)),
    }


def apply(dl1, path, *arguments):
    run(
        ApplyTool(),
        f"--input={dl1}",
        f"--output={path}",
        "--no-dl1-images",
        "--device=cpu",
        "--no-progress",
        *arguments,
        cwd=path.parent,
        raises=True,
    )
    # as irf.sh does
    runpy.run_path(str(COUNT_SHOWERS))["count_showers"](path)
    return path


@pytest.fixture(scope="module")
def few_events(tmp_path_factory):
    path = tmp_path_factory.mktemp("few") / "few.yaml"
    path.write_text(FEW_EVENTS)
    return path


@pytest.fixture(scope="module")
def results(shared_path, random_model, few_events, tmp_path_factory):
    """Folder with DL2 files and all that the tools make of them."""
    folder = tmp_path_factory.mktemp("irf")
    model = f"--model={random_model('small')}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Predictor, "predict", guess)
        _run_tools(folder, shared_path, model, few_events)
    return folder


def _run_tools(folder, shared_path, model, few_events):
    for particle, name in (("gamma", "gamma_point"), ("proton", "proton_test")):
        apply(shared_path(f"dl1/{name}.dl1.h5"), folder / f"{particle}.dl2.h5", model)

    inputs = [f"--config={CONFIG}", f"--config={few_events}"]
    inputs += [f"--{p}-file={folder}/{p}.dl2.h5" for p in ("gamma", "proton")]
    cuts = f"--output={folder}/cuts.fits"
    run(EventSelectionOptimizer(), *inputs, cuts, cwd=folder, raises=True)
    for kind, flag in zip(KINDS, ("--", "--no-")):
        run(
            IrfTool(),
            *inputs,
            f"--cuts={folder}/cuts.fits",
            f"--output={folder}/{kind}.fits",
            f"--benchmark-output={folder}/{kind}-benchmark.fits",
            f"{flag}spatial-selection-applied",
            cwd=folder,
            raises=True,
        )


def expected_area(folder, kind, bins):
    """Effective area as this package computes it, for the same cuts."""
    path = folder / "gamma.dl2.h5"
    with TableLoader(path) as loader:
        rows = QTable(loader.read_telescope_events(dl1_parameters=False))
    events = QTable(
        {
            "true_energy": rows["true_energy"],
            "reco_energy": rows["GammaPhysNetEnergy_tel_energy"],
            "gh_score": rows["GammaPhysNetClassifier_tel_prediction"],
            "reco_alt": rows["GammaPhysNetGeometry_tel_alt"],
            "reco_az": rows["GammaPhysNetGeometry_tel_az"],
        }
    )
    events["theta"] = calculate_theta(events, rows["true_az"], rows["true_alt"])
    result = OptimizationResult.read(folder / "cuts.fits")
    cuts = Cuts(result.gh_cuts, result.spatial_selection_table)
    passed = cuts.passed if kind == "point-like" else cuts.passed_gammaness
    return effective_area(events, read_simulation([path]), bins, passed(events))


@pytest.mark.parametrize("kind", KINDS)
def test_irf(results, kind):
    with fits.open(results / f"{kind}.fits") as hdus:
        area = QTable.read(hdus["EFFECTIVE AREA"])[0]
        names = {hdu.name for hdu in hdus}
    assert names >= {"ENERGY DISPERSION", "PSF", "BACKGROUND", "EFFECTIVE AREA PROTONS"}
    assert ("RAD_MAX" in names) == (kind == "point-like")
    bins = np.append(area["ENERG_LO"], area["ENERG_HI"][-1])
    expected = expected_area(results, kind, bins)
    assert (expected["n_selected"][:3] > 0).all()
    np.testing.assert_allclose(
        area["EFFAREA"][0].to_value(u.m**2),
        expected["effective_area"].to_value(u.m**2),
        rtol=1e-5,
    )
    with fits.open(results / f"{kind}-benchmark.fits") as hdus:
        sensitivity = QTable.read(hdus["SENSITIVITY"])[0]
        assert "ANGULAR RESOLUTION" in hdus
    assert np.isfinite(sensitivity["FLUX_SENSITIVITY"]).any()


@needs_gammapy
def test_gammapy_reads_the_irf(results):
    path = results / "full-enclosure.fits"
    result = subprocess.run(
        [sys.executable, EXAMPLES / "irf" / "look.py", path],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    title, _, _, _, *rows = result.stdout.splitlines()
    assert title == f"{path}: aeff, bkg, edisp, psf"
    area = {float(energy): float(area) for energy, area, _ in map(str.split, rows)}
    assert 1e4 < area[1] < 1e6


def test_random_forests_differ_in_names_only():
    preprocessors = []
    for paths in ([CONFIG], [CONFIG, HILLAS_RF]):
        tool = EventSelectionOptimizer()
        for path in paths:
            tool.load_config_file(path)
        preprocessor = DL2EventPreprocessor(parent=tool)
        preprocessors.append(
            [
                preprocessor.energy_reconstructor,
                preprocessor.geometry_reconstructor,
                preprocessor.gammaness_classifier,
                preprocessor.columns_to_rename,
                preprocessor.quality_query.quality_criteria,
                preprocessor.allow_unsupported_pointing_frames,
            ]
        )
    ours, theirs = map(str, preprocessors)
    assert ours != theirs
    assert theirs == ours.replace("GammaPhysNet", "HillasRF")


def test_usage_of_the_script(tmp_path):
    script = EXAMPLES / "irf.sh"
    result = subprocess.run(["bash", script], capture_output=True, text=True)
    assert result.returncode == 2
    assert "irf.sh GAMMA PROTON FOLDER" in result.stdout


def count_showers(*arguments):
    command = [sys.executable, COUNT_SHOWERS, *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def test_showers_are_counted_where_no_table_does(sample_path, tmp_path):
    counted, again = tmp_path / "counted.h5", tmp_path / "again.h5"
    assert count_showers(sample_path, counted).returncode == 0
    runs = read_table(sample_path, "/configuration/simulation/run")
    with TableLoader(counted) as loader:
        table = loader.read_shower_distribution()
    np.testing.assert_array_equal(table["obs_id"], runs["obs_id"])
    np.testing.assert_array_equal(
        table["n_entries"], runs["n_showers"] * runs["shower_reuse"]
    )
    assert count_showers(counted, again).returncode == 0
    assert again.is_symlink()
    assert again.resolve() == counted.resolve()


def test_showers_of_a_file_that_is_none(tmp_path):
    path = tmp_path / "text.h5"
    path.write_text("no HDF5")
    result = count_showers(path, tmp_path / "counted.h5")
    assert result.returncode == 1
    assert f"{path}: cannot be read as a simulated ctapipe file" in result.stderr


@needs_gammapy
@pytest.mark.slow
def test_script_with_the_shipped_model(shared_path, few_events, tmp_path):
    files = [
        apply(shared_path(f"dl1/{name}.dl1.h5"), tmp_path / f"{name}.dl2.h5")
        for name in ("gamma_point", "proton")
    ]
    folder = tmp_path / "out" / "put"
    command = ["bash", EXAMPLES / "irf.sh", *files, folder, "--config", few_events]
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    result = subprocess.run(command, capture_output=True, text=True, env={"PATH": path})
    assert result.returncode == 0, result.stderr
    assert {path.name for path in folder.iterdir()} == {
        "cuts.fits",
        "point-like.fits.gz",
        "point-like-benchmark.fits.gz",
        "full-enclosure.fits.gz",
        "full-enclosure-benchmark.fits.gz",
    }
    assert result.stdout.count("effective_area") == 2
