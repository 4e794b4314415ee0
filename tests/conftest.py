import functools
import os
import shutil
import signal
import sys
import warnings
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:  # the others have the other cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import tables
import torch
from array_source import write_array_dl1, write_simulated_array_dl1
from astropy.table import Table
from ctapipe.core import provenance
from ctapipe.instrument import CameraGeometry, SubarrayDescription
from models import make_model
from running import run

from ctapipe_gphysnet.camera import CameraLayout
from ctapipe_gphysnet.checkpoint import Model
from ctapipe_gphysnet.lattice import CameraLattice
from ctapipe_gphysnet.network.model import GammaPhysNet, NetworkOptions
from ctapipe_gphysnet.preprocessing import Preprocessing
from ctapipe_gphysnet.resources import RESOURCES
from ctapipe_gphysnet.tools.apply import ApplyTool

# for modules outside of the package that tests import
for folder in ("examples/lstchain", "workflow"):
    sys.path.insert(0, str(Path(__file__).parents[1] / folder))

#: Simulated events and camera tables that stay out of the repository.
SHARED = Path(
    os.environ.get("GPHYSNET_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data")
)


@pytest.fixture(scope="session", autouse=True)
def _list_packages_once():
    """Keep ctapipe's list of installed packages, which takes a good part of each run."""
    with pytest.MonkeyPatch.context() as patch:
        once = functools.cache(provenance._get_python_packages)
        patch.setattr(provenance, "_get_python_packages", once)
        yield


@pytest.fixture(scope="session")
def shared_path():
    """Function: path of a file beside the checkout; skips the test without it."""

    def find(name):
        if not (SHARED / name).exists():
            pytest.skip(
                f"needs {name} of the data that stay out of the repository; the variable"
                f" GPHYSNET_SHARED_DATA names their folder, now {SHARED}"
            )
        return SHARED / name

    return find


@pytest.fixture(scope="session")
def sample_path():
    """The DL1 sample that comes with the package."""
    return RESOURCES / "lst1_sample.dl1.h5"


@pytest.fixture(scope="session")
def lstchain_path(sample_path, tmp_path_factory):
    """The sample as a DL1 file of lstchain."""
    import to_lstchain_dl1

    path = tmp_path_factory.mktemp("lstchain") / "dl1_sample.h5"
    to_lstchain_dl1.convert(sample_path, path)
    return path


@pytest.fixture(scope="session")
def array_path(sample_path, tmp_path_factory):
    """Observed DL1 events of an array of telescopes of two types."""
    return write_array(write_array_dl1, sample_path, tmp_path_factory)


@pytest.fixture(scope="session")
def simulated_array_path(sample_path, tmp_path_factory):
    """Simulated DL1 events of two telescopes like LST-1, and of one with other optics."""
    return write_array(write_simulated_array_dl1, sample_path, tmp_path_factory)


def write_array(write, sample_path, tmp_path_factory):
    """Path of what a function makes of 20 events of the sample."""
    path = tmp_path_factory.mktemp("array") / "array.dl1.h5"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of PyTables about ctapipe's names
        write(sample_path, path, n_events=20)
    return path


@pytest.fixture
def with_focal_length(sample_path, tmp_path):
    """Function: the sample, of a telescope with another effective focal length [m]."""

    def copy(metres):
        path = shutil.copy(sample_path, tmp_path / f"focal_length_{metres}.dl1.h5")
        with tables.open_file(path, "a") as file:
            optics = file.root.configuration.instrument.telescope.optics
            rows = optics.read()
            rows["effective_focal_length"] = metres
            optics.modify_rows(0, len(rows), rows=rows)
        return path

    return copy


@pytest.fixture(scope="session")
def lst_telescope(sample_path):
    """Description of LST-1."""
    return SubarrayDescription.from_hdf(sample_path).tel[1]


@pytest.fixture(scope="session")
def lst_geometry(lst_telescope):
    """The 1855 pixels of LSTCam."""
    return lst_telescope.camera.geometry


@pytest.fixture(scope="session")
def lst_lattice(lst_geometry):
    return CameraLattice.from_geometry(lst_geometry)


@pytest.fixture
def small_model(lst_telescope):
    """Untrained model for LST-1 with all tasks, as small as can be."""
    camera = CameraLayout.from_telescope(lst_telescope)
    options = NetworkOptions(
        blocks=1, channels=(4, 4, 8), head_width=8, reduction_ratio=2
    )
    torch.manual_seed(0)
    network = GammaPhysNet(camera.lattice, options).eval()
    return Model(network, camera, Preprocessing(), {"name": "small"})


@pytest.fixture(scope="session")
def random_model(lst_telescope, tmp_path_factory):
    """Function: file of a small model with random weights, for LST-1 by default."""
    folder = tmp_path_factory.mktemp("models")

    def write(name, telescope=lst_telescope, **options):
        return make_model(folder / f"{name}.safetensors", telescope, **options)

    return write


@pytest.fixture
def apply(tmp_path, random_model):
    """Function: exit code of gphysnet-apply, with a small model for LST-1 by default."""
    model = random_model("small")

    def run_apply(inputs, output, *arguments, models=(model,)):
        return run(
            ApplyTool(),
            *[f"--input={path}" for path in inputs],
            *[f"--model={path}" for path in models],
            f"--output={output}",
            "--no-progress",
            *arguments,
            cwd=tmp_path,
        )

    return run_apply


@pytest.fixture(scope="session")
def dl2_path(sample_path, random_model, tmp_path_factory):
    """The sample with the results of three networks of random weights, without images.

    Those of ``Other`` are two trainings. The other one knows its uncertainties.
    """
    folder = tmp_path_factory.mktemp("dl2")
    path, last = sample_path, "GammaPhysNet"
    for i, prefix in enumerate(("OtherSeed1", "OtherSeed2", last)):
        output = folder / f"{prefix}.dl2.h5"
        arguments = [f"--input={path}", f"--output={output}", f"--prefix={prefix}"]
        model = random_model(prefix, seed=i, uncertainty=prefix == last)
        arguments.append(f"--model={model}")
        if prefix == last:
            arguments.append("--no-dl1-images")
        run(ApplyTool(), *arguments, "--no-progress", cwd=folder, raises=True)
        path = output
    return path


@pytest.fixture(scope="session")
def shared_camera(shared_path):
    """Function: geometry of a camera by name, from a table beside the checkout."""

    def read(name):
        path = shared_path(f"cameras/{name}.camgeom.fits.gz")
        return CameraGeometry.from_table(Table.read(path))

    return read


@pytest.fixture(scope="session", autouse=True)
def heed_ctrl_c():
    """As in a terminal, also where the tests are a background job, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def hex_positions():
    """A regular hexagon of 61 pixels, 5 cm apart, on axes of no special angle."""
    row, column = np.indices((9, 9)).reshape(2, -1) - 4
    inside = abs(row - column) <= 4
    angle = np.deg2rad([10.9 + 120, 10.9])
    basis = 0.05 * np.column_stack([np.cos(angle), np.sin(angle)])
    return np.column_stack([row, column])[inside] @ basis


@pytest.fixture(scope="session")
def square_positions():
    """Two by three modules of 3 x 3 pixels, a third of a pixel between them."""
    row, column = np.indices((6, 9)).reshape(2, -1)
    x, y = column + (column // 3) / 3, row + (row // 3) / 3
    return 0.007 * np.column_stack([x, y])


@pytest.fixture(scope="session")
def ragged_lattice(hex_positions):
    """Hexagonal lattice in arbitrary pixel order with dents, a hole and a tip.

    The tip is the one pixel of the last row and lies in an odd column: the
    lattice of stride 2 has a row less than the dense grid of stride 2.
    """
    lattice = CameraLattice.from_positions(hex_positions)
    rows = lattice.cells[:, 0]
    tip = (rows == 8) & (lattice.cells[:, 1] == 5)
    kept = np.flatnonzero((rows < 8) | tip)
    kept = np.setdiff1d(kept, [2, 11, 30])
    kept = np.random.default_rng(0).permutation(kept)
    return CameraLattice.from_positions(hex_positions[kept])


@pytest.fixture(scope="session")
def square_lattice(square_positions):
    """Square lattice without its corners."""
    return CameraLattice.from_positions(square_positions[1:-1], "square")


@pytest.fixture(params=["ragged", "square"])
def lattice(request):
    """Small cameras of both kinds of lattice."""
    return request.getfixturevalue(f"{request.param}_lattice")


@pytest.fixture
def randomize():
    """Function: give a module random parameters and running statistics.

    As they are initialised, many of them are 0 or 1 and hide a wrong formula.
    """

    def draw(module, seed=0):
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, tensor in module.state_dict().items():
                if name.endswith("running_var"):
                    tensor.uniform_(0.5, 1.5, generator=generator)
                elif tensor.is_floating_point():
                    scale = max(tensor[0].numel(), 4) ** -0.5 if tensor.ndim > 1 else 0.5
                    tensor.normal_(0, scale, generator=generator)
        return module

    return draw


@pytest.fixture
def set_n_threads():
    """A function that sets the number of torch's threads for a test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
