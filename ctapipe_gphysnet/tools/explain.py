"""gphysnet-explain: show and measure what γ-PhysNet looks at."""

import keyword
from collections import Counter
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path

import astropy.units as u
import numpy as np
import tables
from astropy.table import Table
from ctapipe.coordinates import TelescopeFrame
from ctapipe.core import Provenance, ToolConfigurationError
from ctapipe.core.expression_engine import ExpressionError
from ctapipe.core.traits import Bool, CaselessStrEnum, Float, Int, List, Unicode, flag
from ctapipe.core.traits import Path as PathTrait
from ctapipe.io import TableLoader, write_table
from tqdm.auto import tqdm

from ..assignment import read_predictors
from ..camera import CameraMismatch
from ..events import EventError, shower_numbers
from ..explain_events import ImageFile
from ..explain_figures import draw_event, explained_event, particle_name
from ..files import close_verified, replaced_folder_when_whole
from ..lattice import LatticeError
from ..parameters import ParameterColumns
from ..quality import GammaPhysNetQualityQuery
from ..relevance import mean_and_spread, showers_of, statistic, summarize
from ..resources import DEFAULT_MODEL, find_model
from .command_line import CommandLineTool
from .outputs import failures_of_writing, verify_output_folder

__all__ = ["ExplainTool", "main"]

TABLES, SUMMARY = "explain.h5", "summary.ecsv"
INDEX = ("obs_id", "event_id", "tel_id")
UNKNOWN_PARTICLE = "unknown"


@dataclass(frozen=True)
class _Group:
    """Models that differ in nothing but their seeds.

    Attributes
    ----------
    name : str
    models : list of str
        Names of the files, without suffix.
    ensemble : ctapipe_gphysnet.explain.Ensemble
    """

    name: str
    models: list
    ensemble: object

    def table(self, what, tel_id):
        """Path of a table in the output."""
        return f"/explain/{self.name}/{what}/tel_{tel_id:03d}"


class ExplainTool(CommandLineTool):
    """Show and measure which pixels γ-PhysNet goes by.

    Writes, for DL1 or DL2 files with images, tables of relevance (Grad-CAM) and
    attention maps, a summary of how much of them lies in the shower, and pictures.
    """

    name = "gphysnet-explain"
    description = __doc__
    examples = """
    gphysnet-explain -i events.dl1.h5 -o explain
    gphysnet-explain -i events.dl1.h5 -m seed1.safetensors -m seed2.safetensors \\
        -o explain --events 6
    gphysnet-explain -i events.dl1.h5 -m attention=dual.safetensors \\
        -m plain=none.safetensors -o explain --no-maps
    """

    inputs = List(
        PathTrait(exists=True, directory_ok=False),
        help="DL1 or DL2 files with images",
    ).tag(config=True)
    models = List(
        Unicode(),
        default_value=[DEFAULT_MODEL],
        minlen=1,
        help=(
            "Model files, or names of models that come with ctapipe_gphysnet, all for the"
            " same camera. Those of the same kind of attention are one group, whose mean"
            " and standard deviation are taken; GROUP=FILE puts a model in a group of"
            " that name."
        ),
    ).tag(config=True)
    output = PathTrait(
        default_value=None,
        allow_none=True,
        file_ok=False,
        help="Folder to write; it appears when it is whole",
    ).tag(config=True)
    outputs = List(
        Unicode(),
        help=(
            "What to explain, some of gammaness, energy, fov_lon, fov_lat, impact_x,"
            " impact_y. Not set: all that the models have."
        ),
    ).tag(config=True)
    sign = CaselessStrEnum(
        ["positive", "absolute"],
        "positive",
        help=(
            "Relevance is what raises the output, as Grad-CAM has it (positive), or what"
            " raises or lowers it (absolute)"
        ),
    ).tag(config=True)
    n_pictures = Int(
        4,
        min=0,
        help=(
            "Number of events to make pictures of. They are spread evenly over the"
            " brightness of the events that pass the quality criteria."
        ),
    ).tag(config=True)
    event_ids = List(
        Int(), help="Events to make pictures of, by event_id, in place of a number"
    ).tag(config=True)
    true_charge_above = Float(
        0.0,
        min=0.0,
        help=(
            "Photo-electrons of the simulated shower above which a pixel is a true pixel"
            " of the shower"
        ),
    ).tag(config=True)
    write_maps = Bool(True, help="Write the maps of every event").tag(config=True)
    device = Unicode(
        "auto", help="Where the network runs: cpu, cuda, cuda:n or auto"
    ).tag(config=True)
    batch_size = Int(64, min=1, help="Images that go through a network at once").tag(
        config=True
    )
    overwrite = Bool(False, help="Replace an earlier output folder").tag(config=True)
    progress_bar = Bool(True, help="Show a progress bar").tag(config=True)

    classes = [GammaPhysNetQualityQuery, TableLoader]
    file_lists = ("inputs", "models")
    aliases = {
        ("i", "input"): "ExplainTool.inputs",
        ("o", "output"): "ExplainTool.output",
        ("m", "model"): "ExplainTool.models",
        "explain": "ExplainTool.outputs",
        "sign": "ExplainTool.sign",
        "events": "ExplainTool.n_pictures",
        "event-id": "ExplainTool.event_ids",
        "true-charge-above": "ExplainTool.true_charge_above",
        "device": "ExplainTool.device",
        "batch-size": "ExplainTool.batch_size",
    }
    flags = {
        "overwrite": (
            {"ExplainTool": {"overwrite": True}},
            "Replace an earlier output folder",
        ),
        **flag(
            "maps",
            "ExplainTool.write_maps",
            "Write the maps of every event",
            "Write the statistic alone, without the maps of every event",
        ),
        **flag(
            "progress",
            "ExplainTool.progress_bar",
            "Show a progress bar",
            "Do not show a progress bar",
        ),
    }

    def setup(self):
        self._verify_paths()
        self.query = GammaPhysNetQualityQuery(parent=self)
        self.groups = self._make_groups()
        try:
            # ctapipe's Tool closes them at the end
            self.sources = [
                self.enter_context(ImageFile(path, parent=self)) for path in self.inputs
            ]
            self._verify_inputs()
            self.showers = self._common_showers()
            self.matches = self._match_telescopes()
            self.pictured = self._choose(*self._survey())
        except (EventError, ExpressionError) as error:
            raise ToolConfigurationError(str(error)) from error

    def _verify_paths(self):
        if not self.inputs:
            raise ToolConfigurationError("no input: give DL1 files with --input")
        if self.output is None:
            raise ToolConfigurationError("no output: give a folder with --output")
        verify_output_folder(self.output, self.overwrite, made_of=TABLES)

    def _make_groups(self):
        """Read the models, and put those together that differ in their seeds alone."""
        from ..explain import Ensemble  # torch takes a second

        names, files = zip(*map(_split_name, self.models))
        predictors = read_predictors(files, self.log, device=self.device)
        members = {}
        for name, file, predictor in zip(names, files, predictors):
            network = predictor.model.network.to(predictor.device)
            name = name or network.options.attention.replace("-", "_")
            members.setdefault(name, []).append((file, predictor))
        groups = []
        for name, found in members.items():
            _verify_alike(name, found)
            files, predictors = zip(*found)
            try:
                ensemble = Ensemble(predictors, self.outputs or None, self.sign)
            except ValueError as error:
                raise ToolConfigurationError(f"model {files[0]}: {error}") from error
            except ImportError as error:
                raise ToolConfigurationError(
                    f"{error}; install the extra: pip install 'ctapipe_gphysnet[explain]'"
                ) from error
            groups.append(_Group(name, _distinct_names(files), ensemble))
            self.log.info("Group %s: %s", name, ", ".join(files))
        return groups

    def _verify_inputs(self):
        """Raise if the files do not have what is needed, or do not go together."""
        first = self.sources[0]
        for source in self.sources:
            if self.query.quality_criteria and not source.has_parameters:
                raise EventError(
                    f"{source.path}: no image parameters, but the quality criteria need"
                    " them; make DL1 files with ctapipe-process --write-parameters, or"
                    " use no criteria"
                )
            if source.subarray != first.subarray:
                raise EventError(
                    f"{source.path}: its subarray is not that of {first.path}; explain"
                    " each file on its own"
                )
            if source.is_simulated != first.is_simulated:
                raise EventError(
                    f"{first.path} and {source.path}: one is simulated and the other is"
                    " not; explain each file on its own"
                )
        self.subarray, self.is_simulated = first.subarray, first.is_simulated

    def _common_showers(self):
        """What tells in all files where the shower is."""
        for source in self.sources:
            if "true" not in source.showers:
                self.log.warning(
                    "%s has no true images: the pixels of the shower are those that the"
                    " image cleaning left, and those alone",
                    source.path,
                )
        showers = set.intersection(*(source.showers for source in self.sources))
        if not showers:
            raise EventError(
                "where the shower is, some of the input files tell by true images alone,"
                " others by cleaned pixels alone; explain each file on its own"
            )
        return sorted(showers)

    def _match_telescopes(self):
        """For every telescope with the models' camera, how its images become theirs.

        Returns
        -------
        matches : dict of int to dict of Predictor to CameraMatch
            By telescope id.
        """
        predictors = [p for group in self.groups for p in group.ensemble.predictors]
        by_type, partial, reasons = {}, [], []
        for telescope in self.subarray.telescope_types:
            found, missing = {}, []
            for predictor in predictors:
                try:
                    found[predictor] = predictor.match(telescope)
                except (CameraMismatch, LatticeError) as error:
                    missing.append(f"{predictor.model.name}: {error}")
            if not missing:
                by_type[telescope] = found
            elif found:
                partial += missing
            reasons += missing
        if partial:
            raise EventError(
                "the models are for different cameras, explain each on its own: "
                + "; ".join(partial)
            )
        if not by_type:
            raise EventError(
                f"no telescope of {self.inputs[0]} has the camera of the models: "
                + "; ".join(reasons)
            )
        return {
            tel_id: by_type[telescope]
            for tel_id, telescope in self.subarray.tel.items()
            if telescope in by_type
        }

    def _survey(self):
        """Read the image parameters of all events.

        Returns
        -------
        index : ndarray of int, shape (N, 3)
            What `INDEX` names, of the events that pass the quality criteria.
        brightness : ndarray, shape (N,)
            Their intensity.
        unknown : list of int
            Of the events asked for, those that are in no file.
        """
        index, brightness, unknown = [], [], set(self.event_ids)
        for source in self.sources:
            for _, events in source.chunks(list(self.matches), images=False):
                for table in events.values():
                    unknown.difference_update(np.asarray(table["event_id"]).tolist())
                    table = table[self.query.passed(table)]
                    index.append(_index(table))
                    intensity = ParameterColumns(table)["parameters"].hillas.intensity
                    brightness.append(np.asarray(intensity, dtype=float))
        self.log.info("\n%s", self.query.to_table())
        if not sum(map(len, index)):
            raise EventError(
                "no event passes the quality criteria "
                f"{[expression for _, expression in self.query.quality_criteria]} in"
                f" {', '.join(map(str, self.inputs))}"
            )
        return np.concatenate(index), np.concatenate(brightness), sorted(unknown)

    def _choose(self, index, brightness, unknown):
        """Which events to make pictures of, a set of tuples."""
        if unknown:
            raise EventError(
                f"no event {unknown[0]} of a telescope with the models' camera in"
                f" {', '.join(map(str, self.inputs))}"
            )
        failed = sorted(set(self.event_ids) - set(index[:, 1].tolist()))
        if failed:
            raise EventError(f"event {failed[0]} fails the quality criteria")
        if self.event_ids:
            chosen = index[np.isin(index[:, 1], self.event_ids)]
        else:
            n_pictures = min(self.n_pictures, len(index))
            places = (np.arange(n_pictures) + 0.5) / max(n_pictures, 1) * len(index)
            chosen = index[np.argsort(brightness, kind="stable")[places.astype(int)]]
        return set(map(tuple, chosen.tolist()))

    def start(self):
        self.pictures = []
        try:
            with (
                failures_of_writing(self.output),
                replaced_folder_when_whole(self.output) as folder,
            ):
                with tables.open_file(folder / TABLES, "w") as file:
                    self._explain(file)
                    self._verify_explained(file)
                    summary = self._summarize(file)
                    close_verified(file)
                summary.write(folder / SUMMARY, format="ascii.ecsv")
                self._draw(folder)
        except (EventError, ExpressionError) as error:
            raise ToolConfigurationError(str(error)) from error

    def _explain(self, file):
        """Fill the tables of a file."""
        n_events = sum(map(len, self.sources))
        with tqdm(total=n_events, unit="event", disable=not self.progress_bar) as bar:
            for source in self.sources:
                for n_read, events in source.chunks(list(self.matches)):
                    for tel_id, table in events.items():
                        table = table[self.query.passed(table)]
                        for start in range(0, len(table), self.batch_size):
                            batch = table[start : start + self.batch_size]
                            self._explain_batch(file, source, tel_id, batch)
                    bar.update(n_read)

    def _explain_batch(self, file, source, tel_id, batch):
        """Explain some events of a telescope."""
        geometry = self.subarray.tel[tel_id].camera.geometry
        found = showers_of(batch, self.true_charge_above)
        missing = [name for name in self.showers if name not in found]
        if missing:
            raise EventError(
                f"{source.path}: telescope {tel_id} has no {missing[0]} pixels of the"
                " shower, though others have"
            )
        showers = {name: found[name] for name in self.showers}
        for group in self.groups:
            matches = [self.matches[tel_id][p] for p in group.ensemble.predictors]
            maps, raw = group.ensemble(
                np.asarray(batch["image"]), np.asarray(batch["peak_time"]), matches
            )
            self._write(file, group, tel_id, batch, maps, showers, geometry)
            for i, key in enumerate(map(tuple, _index(batch).tolist())):
                if key in self.pictured:
                    event = explained_event(
                        batch, i, group.name, geometry, maps, raw, matches, showers
                    )
                    self.pictures.append((group, key, event))

    def _write(self, file, group, tel_id, batch, maps, showers, geometry):
        """Append the rows of a batch to the tables of a group."""
        index = {name: np.asarray(batch[name]) for name in INDEX}
        if self.write_maps:
            table = Table(index)
            for name, values in maps.items():
                mean, spread = mean_and_spread(values, axis=1)
                table[f"{name}_mean"] = mean.astype(np.float32)
                if len(group.models) > 1:
                    table[f"{name}_std"] = spread.astype(np.float32)
            self._append(file, group, group.table("maps", tel_id), table)
        table = Table(index)
        if self.is_simulated:
            name = "true_shower_primary_id"
            table[name] = np.asarray(batch[name])
        relevance = {
            # attention is never below 1: what counts is what goes beyond
            name: values - 1 if name in group.ensemble.attention_maps else values
            for name, values in maps.items()
        }
        camera = geometry.transform_to(TelescopeFrame())
        positions = u.Quantity([camera.pix_x, camera.pix_y]).to_value(u.deg).T
        for name, values in statistic(relevance, showers, positions).items():
            table[name] = values
        self._append(file, group, group.table("statistic", tel_id), table)

    def _append(self, file, group, path, table):
        table.meta.update(
            models=", ".join(group.models),
            model_sha256=", ".join(
                predictor.model.identity for predictor in group.ensemble.predictors
            ),
            sign=self.sign,
        )
        write_table(table, file, path, append=True)

    def _verify_explained(self, file):
        """Raise if events that pass the criteria turned out to have no image."""
        if "/explain" not in file.root:
            raise EventError(
                "no event that passes the quality criteria has an image in"
                f" {', '.join(map(str, self.inputs))}"
            )
        drawn = {key for _, key, _ in self.pictures}
        if self.event_ids and self.pictured - drawn:
            obs_id, event_id, tel_id = min(self.pictured - drawn)
            raise EventError(
                f"event {event_id} of observation {obs_id} has no image of telescope"
                f" {tel_id}"
            )

    def _summarize(self, file):
        """The table of means over all events."""
        rows = []
        for group in self.groups:
            paths = [group.table("statistic", tel_id) for tel_id in self.matches]
            nodes = [file.get_node(path) for path in paths if path in file.root]

            def column(name, nodes=nodes):
                found = np.concatenate([node.col(name) for node in nodes])
                return found.astype(np.float64) if found.dtype.kind == "f" else found

            particle, shower_number = self._particles_and_showers(column)
            found = summarize(
                column,
                group.ensemble.maps,
                self.showers,
                group.models,
                particle,
                shower_number,
            )
            rows += [{"group": group.name, **row} for row in found]
        summary = Table(rows)
        for name in summary.colnames:
            if name.startswith("distance"):
                summary[name].unit = u.deg
        summary.meta.update(
            inputs=[path.name for path in self.inputs],
            models={group.name: self._identities(group) for group in self.groups},
            quality_criteria=[
                expression for _, expression in self.query.quality_criteria
            ],
            sign=self.sign,
            true_charge_above=self.true_charge_above,
        )
        return summary

    @staticmethod
    def _identities(group):
        return {
            name: predictor.model.identity
            for name, predictor in zip(group.models, group.ensemble.predictors)
        }

    def _particles_and_showers(self, column):
        """Kind of particle and number of the shower of every event."""
        n_events = len(column("event_id"))
        if not self.is_simulated:
            return np.full(n_events, UNKNOWN_PARTICLE), np.arange(n_events)
        names = ("obs_id", "event_id", "true_shower_primary_id")
        index = Table({name: column(name) for name in names})
        ids = index["true_shower_primary_id"].tolist()
        return np.array([particle_name(i) for i in ids]), shower_numbers(index)

    def _draw(self, folder):
        """Draw the pictures."""
        for group, (obs_id, event_id, tel_id), event in tqdm(
            self.pictures, unit="event", desc="pictures", disable=not self.progress_bar
        ):
            attention = group.ensemble.attention_maps
            relevance = [name for name in event.maps if name not in attention]
            for what, names in (("relevance", relevance), ("attention", attention)):
                if names:
                    name = f"{what}_{group.name}_{obs_id}_{event_id}_tel_{tel_id:03d}.png"
                    draw_event(event, names).savefig(folder / name, dpi=90)

    def finish(self):
        for path in sorted(self.output.iterdir()):
            Provenance().add_output_file(path, role="Explanation", add_meta=False)


def _split_name(model):
    """Group and file of a model that is named on the command line."""
    name, sign, file = model.partition("=")
    try:
        find_model(model)
    except FileNotFoundError:
        if sign:
            if not name.isidentifier() or keyword.iskeyword(name):
                raise ToolConfigurationError(
                    f"{model}: the name of a group is letters, digits and _, and no word"
                    f" of Python, not {name!r}"
                ) from None
            return name, file
    return None, model


def _verify_alike(name, members):
    """Raise if models of a group are the same, or differ in more than their seeds."""
    for (first_file, first), (file, other) in combinations(members, 2):
        if first.model.identity == other.model.identity:
            raise ToolConfigurationError(
                f"models {first_file} and {file} of group {name} are the same"
            )
        for what, one, two in (
            ("network", first.model.network.options, other.model.network.options),
            ("preprocessing", first.model.preprocessing, other.model.preprocessing),
        ):
            one, two = asdict(one), asdict(two)
            differing = [key for key in one if one[key] != two[key]]
            if differing:
                key = differing[0]
                raise ToolConfigurationError(
                    f"models {first_file} and {file} would both be in group {name}, but"
                    f" they differ in more than their seeds: {key} of the {what} is"
                    f" {one[key]!r} and {two[key]!r}; put them in groups of their own"
                    " with --model GROUP=FILE"
                )


def _distinct_names(files):
    """Names of model files without folder and suffix, numbered where they repeat."""
    stems = [Path(file).name.removesuffix(".safetensors") for file in files]
    count, names = Counter(), []
    for stem in stems:
        count[stem] += 1
        names.append(stem if stems.count(stem) == 1 else f"{stem}-{count[stem]}")
    return names


def _index(table):
    """What identifies telescope events, ndarray of int and shape (N, 3)."""
    return np.column_stack([np.asarray(table[name], np.int64) for name in INDEX])


def main():
    """Run the tool from the command line."""
    ExplainTool().run()


if __name__ == "__main__":
    main()
