"""gphysnet-evaluate: judge reconstructors on simulated DL2 files."""

import shlex
import sys

import astropy.units as u
from ctapipe.core import Provenance, ToolConfigurationError
from ctapipe.core.traits import (
    AstroQuantity,
    Bool,
    Dict,
    Float,
    Int,
    List,
    Unicode,
    UseEnum,
    flag,
)
from ctapipe.core.traits import Path as PathTrait
from ctapipe.instrument import FocalLengthKind
from tqdm.auto import tqdm

from ..evaluation.figures import make_figures, save
from ..evaluation.published import read_published
from ..evaluation.reconstructors import EvaluationError
from ..evaluation.report import render
from ..evaluation.response import (
    ResponseNotPossible,
    make_response_tables,
    read_simulations,
)
from ..evaluation.sample import read_sample
from ..evaluation.tables import Binning, make_tables, summarize
from ..files import replaced_folder_when_whole
from .command_line import CommandLineTool
from .outputs import failures_of_writing, verify_output_folder

__all__ = ["EvaluateTool", "main"]

LEAKAGE = ["leakage < 0.2", "leakage_intensity_width_2 < 0.2"]
# those of γ-PhysNet's papers
SELECTIONS = {
    "standard": [["intensity >= 300 p.e.", "hillas_intensity >= 300"], LEAKAGE],
    "low": [["intensity > 50 p.e.", "hillas_intensity > 50"], LEAKAGE],
    "high": [["intensity > 1000 p.e.", "hillas_intensity > 1000"], LEAKAGE],
}
REPORT = "report.html"


class EvaluateTool(CommandLineTool):
    """Judge reconstructors on simulated DL2 files.

    Compares all reconstructors that the files have, on the same events: resolutions,
    gamma/hadron separation, effective area and sensitivity. Writes tables (ECSV),
    figures (PNG and PDF) and one HTML report.

    Several trainings of one reconstructor stand in the files under names that end in
    Seed1, Seed2 ... before Energy, Geometry or Classifier; gphysnet-apply --prefix
    writes them.
    """

    name = "gphysnet-evaluate"
    description = __doc__
    examples = """
    gphysnet-evaluate gamma.dl2.h5 proton.dl2.h5 -o report/
    gphysnet-evaluate gamma.dl2.h5 proton.dl2.h5 electron.dl2.h5 -o report/ \\
        --reconstructor GammaPhysNet --reconstructor HillasRF --overlay
    """

    inputs = List(
        PathTrait(exists=True, directory_ok=False),
        help="DL2 files of simulated gammas, protons, electrons; also without --input",
    ).tag(config=True)
    output = PathTrait(
        default_value=None,
        allow_none=True,
        help="Folder to write; it appears when it is whole",
    ).tag(config=True)
    overwrite = Bool(False, help="Replace the report that is there").tag(config=True)
    reconstructors = List(
        Unicode(), help="Names of the reconstructors to compare. Not set: all"
    ).tag(config=True)
    array_wise = Bool(
        False, help="Judge the results for array events, not for telescopes"
    ).tag(config=True)
    selections = Dict(
        default_value=SELECTIONS,
        help=(
            "Selections of events by name: lists of quality criteria, each a name and an"
            " expression of columns of TableLoader"
        ),
    ).tag(config=True)
    cuts = List(Unicode(), help="Names of the selections to evaluate. Not set: all").tag(
        config=True
    )
    energy_min = AstroQuantity(
        u.physical.energy, default_value=20 * u.GeV, help="Lowest energy"
    ).tag(config=True)
    energy_max = AstroQuantity(
        u.physical.energy, default_value=20 * u.TeV, help="Highest energy"
    ).tag(config=True)
    bins_per_decade = Int(5, min=1, help="Bins in a decade of energy").tag(config=True)
    energy_edges = List(
        Float(),
        help=(
            "Edges of the bins in energy [TeV]. Not set: bins_per_decade from energy_min"
            " to energy_max"
        ),
    ).tag(config=True)
    intensity_bins = List(
        Float(),
        [50, 80, 200, 800, 3200, float("inf")],
        help="Edges of the bins in intensity, p.e.",
    ).tag(config=True)
    threshold = Float(
        0.5, min=0, max=1, help="Gammaness of a gamma, for precision, recall and F1"
    ).tag(config=True)
    obs_time = AstroQuantity(
        u.physical.time,
        default_value=50 * u.hour,
        help="Time of observation, for the sensitivity",
    ).tag(config=True)
    response = Bool(True, help="Compute effective area and sensitivity").tag(config=True)
    scatter_radius = Dict(
        default_value={},
        help=(
            "By particle, the radius in metres within which cores were thrown, for"
            " simulations where it depends on the energy: an expression of energy in TeV,"
            " such as {'gamma': '180 + 110 * log10(energy / 0.01)'}. Else the stored"
            " one is taken, and effective areas would be wrong"
        ),
    ).tag(config=True)
    overlay = Bool(False, help="Draw published results of LST-1 too").tag(config=True)
    seed = Int(0, min=0, help="Of the bootstrap samples").tag(config=True)
    progress_bar = Bool(True, help="Show progress bars").tag(config=True)
    title = Unicode("Reconstruction of simulated events", help="Of the report").tag(
        config=True
    )
    focal_length_choice = UseEnum(
        FocalLengthKind,
        default_value=FocalLengthKind.EFFECTIVE,
        help="See the option of the same name of ctapipe's HDF5EventSource",
    ).tag(config=True)

    takes_arguments = True  # more inputs
    aliases = {
        ("i", "input"): "EvaluateTool.inputs",
        ("o", "output"): "EvaluateTool.output",
        ("r", "reconstructor"): "EvaluateTool.reconstructors",
        "cuts": "EvaluateTool.cuts",
        "title": "EvaluateTool.title",
        "seed": "EvaluateTool.seed",
    }
    flags = {
        "overwrite": (
            {"EvaluateTool": {"overwrite": True}},
            "Replace the report that is there",
        ),
        "array-wise": (
            {"EvaluateTool": {"array_wise": True}},
            "Judge the results for array events, not for telescopes",
        ),
        "overlay": (
            {"EvaluateTool": {"overlay": True}},
            "Draw published results of LST-1 too, marked as another sample",
        ),
        **flag(
            "response",
            "EvaluateTool.response",
            "Compute effective area and sensitivity",
            "Do not compute effective area and sensitivity",
        ),
        **flag(
            "progress",
            "EvaluateTool.progress_bar",
            "Show progress bars",
            "Do not show progress bars",
        ),
    }

    def setup(self):
        self.inputs = [*self.inputs, *self.extra_args]
        if not self.inputs:
            raise ToolConfigurationError("no input: give simulated DL2 files")
        if self.output is None:
            raise ToolConfigurationError("no output: give a folder with --output")
        verify_output_folder(self.output, self.overwrite, made_of=REPORT)
        self.chosen = self._chosen_selections()
        try:
            self.binning = Binning.make(
                self.energy_min,
                self.energy_max,
                self.bins_per_decade,
                self.intensity_bins,
                self.threshold,
            )
            if self.energy_edges:
                self.binning = self.binning.with_energy(self.energy_edges)
        except (ValueError, u.UnitsError) as error:
            raise ToolConfigurationError(f"bins of energy: {error}") from error
        for path in self.inputs:
            Provenance().add_input_file(path, role="DL2/Event", add_meta=False)

    def _chosen_selections(self):
        default = {"all": []} if self.array_wise and self.selections == SELECTIONS else {}
        selections = default or self.selections
        unknown = set(self.cuts) - set(selections)
        if unknown or not selections:
            raise ToolConfigurationError(
                f"no selection {', '.join(sorted(unknown))}; there are"
                f" {', '.join(selections)}"
            )
        return {name: selections[name] for name in self.cuts or selections}

    def start(self):
        try:
            sample = read_sample(
                self.inputs,
                self.chosen,
                self.reconstructors,
                self.array_wise,
                self.focal_length_choice,
                self.progress_bar,
            )
            self._verify_selections(sample)
        except EvaluationError as error:
            raise ToolConfigurationError(str(error)) from error
        simulations, missing = self._simulations(sample)
        with (
            failures_of_writing(self.output),
            replaced_folder_when_whole(self.output) as aside,
        ):
            self._write(sample, simulations, missing, aside)

    def _verify_selections(self, sample):
        if not sample.is_particle("gamma").any():
            raise EvaluationError("the files have no gammas")
        for name, selected in sample.selected.items():
            if not (selected & sample.is_particle("gamma")).any():
                raise EvaluationError(f"no gamma passes the criteria of selection {name}")

    def _simulations(self, sample):
        """How the particles were simulated, or why that is not known."""
        if not self.response:
            return {}, []
        try:
            return read_simulations(sample.files, self.scatter_radius), []
        except ResponseNotPossible as error:
            self.log.warning("No effective area and sensitivity: %s", error)
            return {}, [f"effective area and sensitivity: {error}"]

    def _write(self, sample, simulations, missing, folder):
        published = read_published() if self.overlay else None
        parts = {}
        for name in tqdm(self.chosen, unit="selection", disable=not self.progress_bar):
            tables = make_tables(sample, name, self.binning, self.seed)
            summaries = summarize(tables)
            notes = list(missing)
            notes += [f"{t}: no values" for t, found in tables.items() if not len(found)]
            if simulations:
                tables, note = self._with_response(sample, name, simulations, tables)
                notes += note
            place = folder / name
            _write_tables(tables, summaries, place)
            figures = {
                figure: (caption, save(drawn, place, figure))
                for figure, (caption, drawn) in make_figures(
                    tables, summaries, published
                ).items()
            }
            parts[name] = {
                "tables": tables,
                "summaries": summaries,
                "figures": figures,
                "missing": notes,
            }
        settings = {
            "title": self.title,
            "command": shlex.join([self.name, *(self.argv or sys.argv[1:])]),
            "threshold": self.threshold,
            "simulations": simulations,
            "obs_time": self.obs_time,
            "published": published,
        }
        (folder / REPORT).write_text(render(sample, parts, settings), encoding="utf-8")

    def _with_response(self, sample, name, simulations, tables):
        try:
            found = make_response_tables(
                sample,
                name,
                simulations,
                self.binning.energy,
                self.obs_time,
                self.seed,
            )
        except ResponseNotPossible as error:
            self.log.warning("No effective area and sensitivity: %s", error)
            return tables, [f"effective area and sensitivity: {error}"]
        return {**tables, **found}, []

    def finish(self):
        Provenance().add_output_file(
            self.output / REPORT, role="evaluation report", add_meta=False
        )
        self.log.info("Wrote %s", self.output / REPORT)


def _write_tables(tables, summaries, folder):
    """Tables of all trainings, and in a folder of their own those of each one."""
    by_seed = folder / "by_seed"
    by_seed.mkdir(parents=True)
    for name, table in tables.items():
        if not len(table):
            continue
        if name in summaries:
            summaries[name].write(folder / f"{name}.ecsv")
            table.write(by_seed / f"{name}.ecsv")
        else:
            table.write(folder / f"{name}.ecsv")


def main():
    """Run the tool from the command line."""
    EvaluateTool().run()


if __name__ == "__main__":
    main()
