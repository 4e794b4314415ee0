"""What there is to do: the list of runs and the models, read and verified."""

import csv
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Model", "Plan", "PlanError", "Run", "read_plan"]

COLUMNS = ("run", "use", "sample", "source")
# regression runs teach energy, direction and impact only; observed ones are applied to
USES = ("train", "regression", "test", "observed")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
SIMULATION = re.compile(r"simulate:(?P<card>[^:]+):(?P<events>\d+):(?P<number>\d+)")
SETTINGS = {
    *("runs", "models", "process", "apply", "report", "gpus", "gpu_partition"),
    "lstchain",
}
FILE_OPTIONS = ("config", "initial-model")  # files, or names of what is shipped
KINDS = ("train", "file", "forests")
FORESTS = {"ctapipe": "HillasRF", "lstchain": "lstchain"}  # names of their results


class PlanError(ValueError):
    """Runs or settings cannot be used; the message says which and why."""


@dataclass(frozen=True)
class Run:
    """A row of the list of runs.

    Attributes
    ----------
    name : str
    use : str
        One of `USES`.
    sample : str
        What it is a part of: gamma, proton, Crab ...
    source : str
        Path of a DL1 file, or of one that ctapipe-process reads, or what to simulate:
        ``simulate:CARD:EVENTS:NUMBER``.
    """

    name: str
    use: str
    sample: str
    source: str

    @property
    def simulation(self):
        """Card, events and number of the run to simulate; None if it is a file."""
        found = SIMULATION.fullmatch(self.source)
        return found and found.groupdict()

    @property
    def dl1(self):
        """Path of the DL1 file, which is made if it is not the source."""
        if Path(self.source).suffix in (".h5", ".hdf5"):
            return self.source
        return f"dl1/{self.name}.dl1.h5"


@dataclass(frozen=True)
class Model:
    """What reconstructs events, under a name of its own.

    Attributes
    ----------
    name : str
        Of the results.
    kind : str
        "train": a network that is trained here; "file": a model file or the name of a
        shipped model; "ctapipe" or "lstchain": their random forests.
    options : dict
        Of gphysnet-train.
    file : str or None
    """

    name: str
    kind: str
    options: dict = field(default_factory=dict)
    file: str | None = None

    @property
    def arguments(self):
        """Options of gphysnet-train on its command line."""
        arguments = [f"--TrainTool.model_name={self.name}"]
        for name, value in self.options.items():
            if isinstance(value, bool) and "." not in name:
                arguments += [f"--{name}"] if value else []
            else:
                values = value if isinstance(value, list) else [value]
                arguments += [f"--{name}={one}" for one in values]
        return shlex.join(arguments)

    @property
    def files(self):
        """Files that the options name: a training by others is another one."""
        values = [self.options.get(name, []) for name in FILE_OPTIONS]
        return [file for found in values for file in found if Path(file).is_absolute()]

    @property
    def nodes(self):
        """Machines that train together."""
        return int(self.options.get("nodes", 1))

    @property
    def devices(self):
        """GPUs, or processes, of each machine."""
        return int(self.options.get("devices", 1))

    @property
    def launch(self):
        """Command that starts the processes on several machines; nothing for one."""
        if self.nodes == 1:
            return ""
        return f"srun --nodes={self.nodes} --ntasks-per-node={self.devices}"

    @property
    def processes(self):
        """All that train together."""
        return self.nodes * self.devices


@dataclass(frozen=True)
class Plan:
    """All runs and models.

    Attributes
    ----------
    runs : dict of str to Run
    models : dict of str to Model
    settings : dict
        The rest of the configuration.
    """

    runs: dict
    models: dict
    settings: dict

    def of_use(self, *uses):
        """Runs of some uses."""
        return [run for run in self.runs.values() if run.use in uses]

    def samples(self, *uses):
        """Names of the samples of some uses."""
        return list(dict.fromkeys(run.sample for run in self.of_use(*uses)))

    def dl1(self, use, sample=None):
        """DL1 files of a use, or of one sample of it."""
        return [r.dl1 for r in self.of_use(use) if sample is None or r.sample == sample]

    def results(self, model, sample):
        """DL2 files of the runs of a sample that is not trained with."""
        runs = self.of_use("test", "observed")
        return [f"results/{model}/{r.name}.dl2.h5" for r in runs if r.sample == sample]

    def merged(self, *uses):
        """Merged tables of all models."""
        return [
            f"merged/{model}/{sample}.dl2.h5"
            for model in self.models
            for sample in self.samples(*uses)
        ]


def read_plan(config, folder):
    """Read the list of runs and the models.

    Parameters
    ----------
    config : dict
        The configuration of the workflow.
    folder : path-like
        Relative paths in the configuration start here.

    Returns
    -------
    plan : Plan

    Raises
    ------
    PlanError
        If something is missing, unknown or there twice.
    """
    unknown = set(config) - SETTINGS
    if unknown:
        raise PlanError(
            f"configuration: unknown {', '.join(sorted(unknown))}; known are"
            f" {', '.join(sorted(SETTINGS))}"
        )
    for name in ("runs", "models"):
        if not config.get(name):
            raise PlanError(f"configuration: no {name}; give a configuration with it")
    path = Path(folder, config["runs"])
    runs = _read_runs(path)
    models = {}
    for name, entry in config["models"].items():
        for model in _models(name, entry, folder, config.get("gpus") or 0):
            models[model.name] = model
    _verify_parts(runs, models, path)
    if any(m.kind == "lstchain" for m in models.values()) and not config.get("lstchain"):
        raise PlanError("configuration: lstchain, the folder of its commands, is missing")
    settings = {n: v for n, v in config.items() if n not in ("runs", "models")}
    return Plan(runs, models, settings)


def _read_runs(path):
    try:
        with open(path, newline="") as file:
            lines = [line for line in file if not line.startswith("#")]
    except OSError as error:
        raise PlanError(f"list of runs: {error}") from None
    reader = csv.DictReader(lines, skipinitialspace=True)
    missing = set(COLUMNS) - set(reader.fieldnames or ())
    if missing:
        raise PlanError(
            f"{path}: no column {', '.join(sorted(missing))}; the columns are"
            f" {','.join(COLUMNS)}"
        )
    runs = {}
    for row in reader:
        run = _run(path, {name: (row[name] or "").strip() for name in COLUMNS})
        if run.name in runs:
            raise PlanError(f"{path}: run {run.name} is there twice")
        runs[run.name] = run
    return runs


def _run(path, row):
    for name in ("run", "sample"):
        if not NAME.fullmatch(row[name]):
            raise PlanError(f"{path}: {name} {row[name]!r} cannot be the name of a file")
    if row["use"] not in USES:
        raise PlanError(
            f"{path}: run {row['run']}: use {row['use']!r} is none of {', '.join(USES)}"
        )
    source = row["source"]
    if source.startswith("simulate:"):
        found = SIMULATION.fullmatch(source)
        if not found:
            raise PlanError(
                f"{path}: run {row['run']}: source {source} is not"
                " simulate:CARD:EVENTS:NUMBER"
            )
        card = _place(found["card"], path.parent)
        source = f"simulate:{card}:{found['events']}:{found['number']}"
    else:
        place = Path(path.parent, source).resolve()
        if not place.is_file():
            raise PlanError(f"{path}: run {row['run']}: there is no file {place}")
        source = str(place)
    return Run(row["run"], row["use"], row["sample"], source)


def _models(name, entry, folder, gpus):
    """Models of an entry; of several seeds, one each."""
    entry = entry or {}
    kinds = [kind for kind in KINDS if kind in entry]
    if len(kinds) != 1 or not set(entry) <= {*kinds, "seeds"}:
        raise PlanError(
            f"configuration: model {name} has {', '.join(entry) or 'nothing'}; it must"
            f" have one of {', '.join(KINDS)}, and may have seeds with train"
        )
    if not re.fullmatch(r"[A-Za-z]\w*", name):
        raise PlanError(f"configuration: model {name!r}: no name of a table")
    (kind,) = kinds
    if kind == "forests":
        if FORESTS.get(entry["forests"]) != name:
            wanted = " or ".join(f"{n}: forests: {k}" for k, n in FORESTS.items())
            raise PlanError(f"configuration: model {name}: forests are {wanted}")
        return [Model(name, entry["forests"])]
    if kind == "file":
        place = Path(folder, entry["file"])
        file = str(place.resolve()) if place.is_file() else str(entry["file"])
        return [Model(name, "file", file=file)]
    options = dict(entry["train"] or {})
    for option in set(FILE_OPTIONS) & set(options):
        files = options[option]
        files = files if isinstance(files, list) else [files]
        options[option] = [_place(file, folder) for file in files]
    if options.get("nodes", 1) > 1:
        options.setdefault("devices", gpus or 1)
    if "seeds" not in entry:
        return [Model(name, "train", options)]
    return [
        Model(f"{name}Seed{seed}", "train", {**options, "seed": seed})
        for seed in entry["seeds"]
    ]


def _place(file, folder):
    """Path of a file in a folder; a name without a suffix is of what is shipped."""
    path = Path(folder, file)
    return str(path.resolve()) if path.suffix else file


def _verify_parts(runs, models, path):
    """Raise if there is nothing to train with, or nothing to do."""
    uses = {run.use for run in runs.values()}
    if any(model.kind != "file" for model in models.values()) and "train" not in uses:
        raise PlanError(f"{path}: no run whose use is train, but a model to train")
    if not uses & {"test", "observed"}:
        raise PlanError(f"{path}: no run whose use is test or observed: nothing to do")
    used = {}
    for run in runs.values():
        if run.use in ("test", "observed"):
            if used.setdefault(run.sample, run.use) != run.use:
                raise PlanError(
                    f"{path}: sample {run.sample} has runs of test and observed; give"
                    " them names of their own"
                )
