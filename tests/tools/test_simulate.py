import os
import resource
import signal
from multiprocessing import active_children

import astropy.units as u
import numpy as np
import pytest
import tables
import yaml
from ctapipe.core import Component, ToolConfigurationError
from ctapipe.io import EventSource, TableLoader, read_table
from ctapipe.tools.merge import MergeTool
from ctapipe.tools.process import ProcessorTool
from running import run

from ctapipe_gphysnet.simulation import processes
from ctapipe_gphysnet.simulation.runs import RunSimulator, last_run
from ctapipe_gphysnet.tools.simulate import SimulateTool

CARD = """
AirShowerSource: {n_showers: 4, seed: 5}
ParticleGenerator:
  energy_min: 100 GeV
  energy_max: 300 GeV
  spectral_index: -2.5
  viewcone_radius: 1 deg
  max_core_distance: 200 m
  uses: 3
"""
IMAGES = "/dl1/event/telescope/images/tel_001"
TRIGGER = "/dl1/event/subarray/trigger"
RUNS = "/configuration/simulation/run"
THROWN = "/simulation/service/shower_distribution"

# Of what ctapipe's writer leaves open after the disk was full
pytestmark = pytest.mark.filterwarnings("ignore::tables.UnclosedFileWarning")


@pytest.fixture(scope="module")
def card(tmp_path_factory):
    path = tmp_path_factory.mktemp("card") / "few.airshower.yaml"
    path.write_text(CARD)
    return path


@pytest.fixture
def simulate(card, tmp_path):
    """Function: exit code of gphysnet-simulate."""

    def run_simulate(*arguments, output=tmp_path / "out.dl1.h5", source=card):
        return run(
            SimulateTool(),
            source,
            f"--output={output}",
            "--no-progress",
            *arguments,
            cwd=tmp_path,
        )

    return run_simulate


@pytest.fixture(scope="module")
def two_runs(card, tmp_path_factory):
    """What the tool makes of two runs."""
    output = tmp_path_factory.mktemp("two") / "two.dl1.h5"
    arguments = (card, f"--output={output}", "--n-runs=2", "--no-progress")
    assert run(SimulateTool(), *arguments, cwd=output.parent) == 0
    return output


@pytest.fixture
def refused(simulate, capfd):
    """Function: the one line in which gphysnet-simulate says why it stops."""

    def run_simulate(*arguments, **options):
        assert simulate(*arguments, **options) == 2
        error = capfd.readouterr().err
        assert "Traceback" not in error
        return next(line for line in error.splitlines() if "ERROR" in line)

    return run_simulate


def tables_of(path):
    with tables.open_file(path) as file:
        return {t._v_pathname: t[:] for t in file.walk_nodes("/", "Table")}


def assert_same_tables(path, expected):
    path, expected = tables_of(path), tables_of(expected)
    assert set(path) == set(expected)
    for name, rows in path.items():
        assert rows.dtype == expected[name].dtype
        for column in rows.dtype.names:
            np.testing.assert_array_equal(
                rows[column], expected[name][column], err_msg=f"{name} {column}"
            )


def events_of_runs(path):
    obs_id = read_table(path, TRIGGER)["obs_id"]
    return dict(zip(*np.unique(obs_id, return_counts=True)))


@pytest.fixture
def stopped_in_run_2(monkeypatch):
    """Function: have something happen instead of the first event of run 2."""
    # where tests run in the background, SIGINT is ignored
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)

    def stop(happening):
        simulate_run = RunSimulator.__call__

        def stopped(self, number, path, advance):
            return simulate_run(self, number, path, happening if number == 2 else advance)

        monkeypatch.setattr(RunSimulator, "__call__", stopped)

    yield stop
    signal.signal(signal.SIGINT, handler)


# What is in the file


def test_a_run_is_what_ctapipe_makes_of_the_card(two_runs, card, tmp_path):
    output = tmp_path / "process.dl1.h5"
    options = ["--write-images", "--write-parameters"]
    options += ["--AirShowerSource.extract_images=True", "--AirShowerSource.run_number=2"]
    cleaning = {"picture_threshold_pe": 8, "boundary_threshold_pe": 4}
    cleaning["min_picture_neighbors"] = 2
    options += [f"--TailcutsImageCleaner.{k}={v}" for k, v in cleaning.items()]
    arguments = (f"--input={card}", f"--output={output}", *options)
    assert run(ProcessorTool(), *arguments, cwd=tmp_path) == 0
    found = [read_table(two_runs, name) for name in (TRIGGER, IMAGES)]
    expected = [read_table(output, name) for name in (TRIGGER, IMAGES)]
    found = [table[table["obs_id"] == 2] for table in found]
    assert len(found[0]) == len(expected[0]) > 0
    for name in ("event_id", "time", "tels_with_trigger"):
        np.testing.assert_array_equal(found[0][name], expected[0][name])
    # in tenths
    for name in ("image", "peak_time"):
        np.testing.assert_allclose(found[1][name], expected[1][name], atol=0.0501)
    assert set(tables_of(output)) == set(tables_of(two_runs))


def test_images_and_parameters(two_runs):
    with TableLoader(two_runs) as loader:
        events = loader.read_telescope_events(
            dl1_images=True, true_images=True, true_parameters=True
        )
    assert np.isnan(events["true_hillas_intensity"]).all()
    assert len(events) == sum(events_of_runs(two_runs).values())
    assert (events["true_image"].sum(axis=1) == events["true_image_sum"]).all()
    known = np.isfinite(events["hillas_intensity"])
    assert known.mean() > 0.5
    masked = np.where(events["image_mask"], events["image"], 0).sum(axis=1)
    np.testing.assert_allclose(masked[known], events["hillas_intensity"][known], 0.02)


def test_parameters_of_true_images(simulate, tmp_path):
    assert simulate("--RunSimulator.true_parameters=True") == 0
    with TableLoader(tmp_path / "out.dl1.h5") as loader:
        events = loader.read_telescope_events(true_images=True, true_parameters=True)
    known = np.isfinite(events["true_hillas_intensity"])
    assert known.any()
    np.testing.assert_array_equal(
        events["true_hillas_intensity"][known], events["true_image_sum"][known]
    )


def test_every_shower_thrown_is_counted(two_runs):
    runs, thrown = read_table(two_runs, RUNS), read_table(two_runs, THROWN)
    assert runs["obs_id"].tolist() == thrown["obs_id"].tolist() == [1, 2]
    assert (runs["n_showers"] * runs["shower_reuse"]).tolist() == [12, 12]
    assert thrown["n_entries"].tolist() == [12, 12]
    assert (thrown["histogram"].sum(axis=(1, 2)) == 12).all()


def test_effective_area_of_ctapipe(two_runs):
    with TableLoader(two_runs) as loader:
        spectrum = _spectrum(loader)
    # 24 showers of E^-2.5 in 200 m around, in a cone of 1 degree, and in an hour
    edges = np.geomspace(0.1, 0.3, 5001) * u.TeV
    middles = np.sqrt(edges[1:] * edges[:-1])
    solid_angle = 2 * np.pi * (1 - np.cos(np.deg2rad(1))) * u.sr
    exposure = np.pi * (200 * u.m) ** 2 * u.hour * solid_angle
    thrown = (spectrum(middles) * np.diff(edges)).sum() * exposure
    assert thrown.to_value(u.one) == pytest.approx(24, rel=1e-3)
    assert spectrum.index == -2.5


def _spectrum(loader):
    """The simulated spectrum, as this ctapipe's tools for instrument response have it."""
    try:
        from ctapipe.irf.spectra import spectrum_from_simulation_config
    except ImportError:  # until 0.28
        from ctapipe.io import DL2EventLoader

        class Loader(Component):
            get_simulation_information = DL2EventLoader.get_simulation_information

        return Loader().get_simulation_information(loader, 1 * u.hour)[1]
    return spectrum_from_simulation_config(
        loader.read_simulation_configuration(),
        loader.read_shower_distribution(),
        1 * u.hour,
    )


def test_ctapipe_reads_the_file(two_runs):
    with EventSource(two_runs) as source:
        events = list(source)
        assert source.atmosphere_density_profile is not None
    assert len(events) == sum(events_of_runs(two_runs).values())
    assert all(event.dl1.tel[1].image.shape == (1855,) for event in events)


def test_header_has_the_card(two_runs):
    with tables.open_file(two_runs) as file:
        card = yaml.safe_load(file.root._v_attrs["CONTEXT SIMULATION CARD"])
        levels = file.root._v_attrs["CTA PRODUCT DATA LEVELS"]
    assert card["ParticleGenerator"]["energy_max"] == "300.0 GeV"
    assert card["CameraSimulator"]["trigger_threshold"] > 0
    assert levels == "DL1_IMAGES,DL1_PARAMETERS"


def test_files_can_be_merged(two_runs, simulate, tmp_path):
    assert simulate("--run-number=3", output=tmp_path / "third.h5") == 0
    merged = tmp_path / "merged.h5"
    arguments = (two_runs, tmp_path / "third.h5", f"--output={merged}")
    assert run(MergeTool(), *arguments, cwd=tmp_path) == 0
    assert list(events_of_runs(merged)) == [1, 2, 3]


# Which runs


def test_compression(simulate, two_runs, tmp_path, monkeypatch):
    """Runs are not compressed, their merged file is as DataWriter says."""
    levels = []

    def note_and_merge(self, numbers):
        with tables.open_file(self.parts.run_path(1)) as file:
            levels.append(file.root[IMAGES].filters.complevel)
        merge(self, numbers)

    merge = SimulateTool._merge
    monkeypatch.setattr(SimulateTool, "_merge", note_and_merge)
    output = tmp_path / "out.dl1.h5"
    assert simulate("--n-runs=2", "--DataWriter.compression_level=5") == 0
    for path in (two_runs, output):
        with tables.open_file(path) as file:
            for name in (IMAGES, TRIGGER, RUNS):
                assert file.root[name].filters.complib == "blosc:zstd"
                assert file.root[name].filters.fletcher32
            levels.append(file.root[IMAGES].filters.complevel)
    assert levels == [0, 1, 5]


@pytest.mark.parametrize(
    ("n_events", "options", "last"),
    [
        ({}, {"wanted_runs": 1}, None),
        ({3: 0, 4: 5}, {"wanted_runs": 2}, 4),
        ({3: 0, 5: 5}, {"wanted_runs": 2}, None),
        ({3: 0, 4: 5, 5: 5}, {"wanted_runs": 2}, 4),
        ({3: 4, 4: 5, 5: 6}, {"wanted_events": 9}, 4),
        ({3: 4, 5: 600}, {"wanted_events": 9}, None),
        ({3: 4, 4: 5, 5: 6}, {"wanted_events": 16}, None),
        ({1: 100, 3: 4}, {"wanted_events": 5}, None),
    ],
)
def test_last_run(n_events, options, last):
    assert last_run(3, n_events, **options) == last


def test_wanted_events_are_reached_with_whole_runs(simulate, two_runs, tmp_path):
    wanted = events_of_runs(two_runs)[1] + 1
    assert simulate(f"--n-events={wanted}") == 0
    assert_same_tables(tmp_path / "out.dl1.h5", two_runs)


def test_several_processes_make_the_same(simulate, two_runs, tmp_path):
    assert simulate("--n-runs=2", "--processes=2") == 0
    assert_same_tables(tmp_path / "out.dl1.h5", two_runs)
    assert not active_children()


def test_runs_without_an_event(simulate, tmp_path):
    assert simulate("--n-runs=2", "--MirrorOptics.efficiency=1e-6") == 0
    assert len(read_table(tmp_path / "out.dl1.h5", RUNS)) == 2
    n_events = dict.fromkeys(range(1, 11), 0)
    with pytest.raises(ToolConfigurationError, match="10 runs had no event"):
        last_run(1, n_events, wanted_events=1)


def test_runs_with_and_without_events(simulate, two_runs, tmp_path):
    options = ("--n-runs=4", "--n-showers=1", "--ParticleGenerator.uses=1")
    options += ("--ParticleGenerator.max_core_distance=400 m",)
    assert simulate(*options) == 0
    output = tmp_path / "out.dl1.h5"
    assert read_table(output, THROWN)["n_entries"].tolist() == [1] * 4
    assert 0 < len(events_of_runs(output)) < 4


# Interruptions


@pytest.mark.parametrize(
    "number", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGTERM]
)
def test_goes_on_after_an_interruption(
    simulate, two_runs, stopped_in_run_2, tmp_path, capfd, monkeypatch, number
):
    output = tmp_path / "out.dl1.h5"
    parts = tmp_path / "out.dl1.h5.parts"
    stopped_in_run_2(lambda: signal.raise_signal(number))
    assert simulate("--n-runs=2") == 128 + number
    monkeypatch.undo()
    assert not output.exists()
    assert "the same command goes on from there" in capfd.readouterr().err
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    (first,) = parts.glob("run*")
    assert sorted(p.name for p in parts.iterdir()) == [
        *("card.airshower.yaml", "processing.yaml", first.name)
    ]

    simulated = []
    simulate_run = RunSimulator.__call__

    def remembered(self, number, *args):
        simulated.append(number)
        return simulate_run(self, number, *args)

    monkeypatch.setattr(RunSimulator, "__call__", remembered)
    assert simulate("--n-runs=2") == 0
    assert simulated == [2]
    assert_same_tables(output, two_runs)
    assert not parts.exists()


def test_does_not_go_on_with_another_simulation(simulate, refused, stopped_in_run_2):
    stopped_in_run_2(lambda: signal.raise_signal(signal.SIGINT))
    assert simulate("--n-runs=2") == 130
    for option, difference in [
        ("--seed=6", "AirShowerSource.seed was 5, now it is 6"),
        ("--MirrorOptics.efficiency=0.5", "MirrorOptics.efficiency was 0.75, now it is"),
        (
            "--TailcutsImageCleaner.picture_threshold_pe=6",
            "TailcutsImageCleaner.picture_threshold_pe was 8.0, now it is",
        ),
    ]:
        line = refused("--n-runs=2", option)
        assert "out.dl1.h5.parts has runs of another simulation" in line
        assert difference in line


def test_folder_of_something_else(refused, tmp_path):
    folder = tmp_path / "out.dl1.h5.parts"
    folder.mkdir()
    (folder / "thesis.tex").write_text("")
    assert "is not a folder of simulated runs" in refused()
    assert os.listdir(folder) == ["thesis.tex"]


@pytest.mark.slow
def test_killed_process(refused, monkeypatch):
    killed = []

    def kill(pool):
        if not killed:
            killed.append(active_children()[0])
            killed[0].kill()
        return 0

    monkeypatch.setattr(RunSimulator, "warm_up", lambda self: None)
    monkeypatch.setattr(processes._Pool, "n_new_events", kill)
    assert "a process that simulates has died" in refused("--n-runs=2", "--processes=2")
    assert killed
    assert not active_children()


@pytest.mark.slow
def test_interrupted_processes(simulate, tmp_path, monkeypatch):
    def interrupt(pool):
        raise KeyboardInterrupt

    monkeypatch.setattr(RunSimulator, "warm_up", lambda self: None)
    monkeypatch.setattr(processes._Pool, "n_new_events", interrupt)
    options = ("--n-runs=2", "--processes=2", "--n-showers=100000")
    assert simulate(*options) == 130
    assert not active_children()
    left = os.listdir(tmp_path / "out.dl1.h5.parts")
    assert sorted(left) == ["card.airshower.yaml", "processing.yaml"]


@pytest.mark.parametrize("missing", [1, pytest.param(20_000, marks=pytest.mark.slow)])
def test_disk_is_full(refused, simulate, two_runs, tmp_path, missing):
    size = two_runs.stat().st_size - missing
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        line = refused("--n-runs=2")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "out.dl1.h5 cannot be written" in line
    assert "GB are free there" in line
    assert not (tmp_path / "out.dl1.h5").exists()
    assert simulate("--n-runs=2") == 0
    assert_same_tables(tmp_path / "out.dl1.h5", two_runs)


# Mistakes


def test_output_exists(refused, simulate, tmp_path):
    output = tmp_path / "out.dl1.h5"
    output.write_text("old")
    assert "--overwrite" in refused()
    assert output.read_text() == "old"
    assert simulate("--overwrite", "--n-showers=1") == 0
    assert len(read_table(output, THROWN)) == 1


def test_no_card(refused, tmp_path):
    assert "no run card 'neutrino'" in refused(source="neutrino")
    assert "gamma_diffuse" in refused(source="neutrino")
    assert "give one run card" in refused(source="--overwrite")
    assert run(SimulateTool(), "--output=x.h5", cwd=tmp_path) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--n-runs=1", "--n-events=1"], "give --n-runs or --n-events, not both"),
        (["--AirShowerSource.max_events=3"], "effective areas would be wrong"),
        (["--ParticleGenerator.energy_max=1 GeV"], "few.airshower.yaml: ParticleGenerat"),
        (["--ParticleGenerator.enrgy_max=1 TeV"], "enrgy_max"),
    ],
)
def test_mistaken_options(refused, tmp_path, options, message):
    assert message in refused(*options)
    assert not list(tmp_path.glob("out*"))


def test_nested_configuration(card, tmp_path, monkeypatch):
    config = tmp_path / "config.yaml"
    config.write_text("SimulateTool: {AirShowerSource: {seed: 77}}")
    monkeypatch.setattr(SimulateTool, "start", lambda self: None)
    monkeypatch.setattr(SimulateTool, "finish", lambda self: None)
    tool = SimulateTool()
    assert run(tool, card, f"--config={config}", "--output=x.h5", cwd=tmp_path) == 0
    assert tool.simulator.source.seed == 77
