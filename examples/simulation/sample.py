"""Make the sample of events that comes with the package.

Simulates gamma rays of a point source 0.4 degrees off axis, more of them above 300 GeV,
and protons, and draws events of each, whatever their brightness: as many gamma rays from
low energies as from high ones. Run it with ctapipe 0.28, whose files later ones can read.

    python examples/simulation/sample.py lst1_sample.dl1.h5
"""

import argparse
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import tables

from ctapipe_gphysnet.files import replaced_when_whole
from ctapipe_gphysnet.tasks import GAMMA_ID

SEED = 770_000  # of the draw
GAMMA_EDGES = [0.02, 0.05, 0.1, 0.3, 1, np.inf]  # TeV
GAMMAS_PER_BIN, N_PROTONS = 80, 200
FILTERS = tables.Filters(complevel=9, complib="zlib", shuffle=True, fletcher32=True)
CHUNK_ROWS = 128
# of all that was thrown, and not of what is drawn
LEFT_OUT = "/simulation/service"
TRUE_PARAMETERS = "--RunSimulator.true_parameters=True"
SIMULATIONS = [
    ["gamma_point", "--run-number=70001", "--n-showers=1000"],
    [
        *["gamma_point", "--run-number=70002", "--n-showers=100"],
        "--ParticleGenerator.energy_min=300 GeV",
    ],
    ["proton", "--run-number=70003", "--n-showers=600"],
]


def main():
    """Simulate, merge, draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("output", type=Path, help="DL1 file to write")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.output.resolve().parent) as folder:
        merged = simulate(Path(folder))
        with (
            replaced_when_whole(options.output) as aside,
            tables.open_file(merged) as source,
            tables.open_file(aside, "w", title=source.title) as sample,
        ):
            copy(source, sample, draw(source))


def simulate(folder):
    """Simulate the events to draw from; returns the file with all of them."""
    parts = []
    for number, simulation in enumerate(SIMULATIONS):
        parts.append(folder / f"{number}.dl1.h5")
        run("gphysnet-simulate", *simulation, TRUE_PARAMETERS, "-o", parts[-1])
    merged = folder / "merged.dl1.h5"
    run("ctapipe-merge", *parts, "-o", merged)
    return merged


def run(tool, *arguments):
    """Run a tool; its log of provenance goes beside its output."""
    command = [tool, *map(str, arguments), "--provenance-log", f"{arguments[-1]}.log"]
    subprocess.run(command, check=True)


def draw(file):
    """Numbers (obs_id, event_id) of the events to keep."""
    showers = file.root.simulation.event.subarray.shower[:]
    is_gamma = showers["true_shower_primary_id"] == GAMMA_ID
    energy_bin = np.digitize(showers["true_energy"], GAMMA_EDGES)
    rng = np.random.default_rng(SEED)
    kept = [
        rng.choice(np.flatnonzero(is_gamma & (energy_bin == i)), GAMMAS_PER_BIN, False)
        for i in range(1, len(GAMMA_EDGES))
    ]
    kept.append(rng.choice(np.flatnonzero(~is_gamma), N_PROTONS, False))
    return {tuple(key) for key in showers[["obs_id", "event_id"]][np.concatenate(kept)]}


def copy(source, sample, events):
    """Copy a file with these events alone, compressed again."""
    source.root._v_attrs._f_copy(sample.root)
    sample.root._v_attrs["CTA CONTACT NAME"] = "ctapipe_gphysnet developers"
    for group in source.walk_groups():
        if group._v_pathname != "/" and not group._v_pathname.startswith(LEFT_OUT):
            parent = group._v_parent._v_pathname
            copied = sample.create_group(parent, group._v_name, group._v_title)
            group._v_attrs._f_copy(copied)
    for table in source.walk_nodes(classname="Table"):
        if table._v_pathname.startswith(LEFT_OUT):
            continue
        rows = table[:]
        if "event_id" in table.colnames:
            keys = rows[["obs_id", "event_id"]]
            rows = rows[[tuple(key) in events for key in keys]]
        copied = sample.create_table(
            *(table._v_parent._v_pathname, table._v_name, table.description, table.title),
            filters=FILTERS,
            chunkshape=max(1, min(len(rows), CHUNK_ROWS)),
        )
        table.attrs._f_copy(copied)
        copied.append(rows)


if __name__ == "__main__":
    main()
