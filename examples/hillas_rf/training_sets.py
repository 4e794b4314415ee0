"""Part simulated gamma rays by shower into what the random forests are trained on.

    training_sets.py --gamma gamma_diffuse.dl1.h5 --regression regression.dl1.h5 \\
        --classification classification.dl1.h5

The classifier is trained on what the regressors make of its events, which must be as
good, or bad, as for any other event. So it gets showers that the regressors have not
seen. The outputs have all tables of the inputs but the images.
"""

import argparse

import numpy as np
import tables
from astropy.table import vstack
from ctapipe.containers import CoordinateFrameType
from ctapipe.io import HDF5Merger, read_table

from ctapipe_gphysnet.events import set_aside
from ctapipe_gphysnet.files import replaced_when_whole

SHOWERS = "/simulation/event/subarray/shower"
OBSERVATIONS = "/configuration/observation/observation_block"
POINTINGS = "/configuration/telescope/pointing"
EVENT = ["obs_id", "event_id"]


def copy(inputs, path, append=False):
    """Copy files into one, as ctapipe-merge does, but for the images."""
    with HDF5Merger(
        path,
        overwrite=not append,
        append=append,
        dl1_images=False,
        true_images=False,
        true_parameters=False,
        r0_waveforms=False,
        r1_waveforms=False,
    ) as merger:
        for other in inputs:
            merger(other)


def keep(path, aside):
    """Remove events from all tables of a file.

    Parameters
    ----------
    path : path-like
    aside : callable
        Takes the table of simulated showers; which of its events to keep, as bool.
    """
    showers = read_table(path, SHOWERS)
    kept = _identity(showers[aside(showers)])
    with tables.open_file(path, "r+") as file:
        for table in file.walk_nodes("/", "Table"):
            if set(EVENT) <= set(table.colnames):
                rows = table.read()
                table.truncate(0)
                table.append(rows[np.isin(_identity(rows), kept)])


def _identity(rows):
    """One value for each row that tells the event."""
    return np.rec.fromarrays([np.asarray(rows[name], np.int64) for name in EVENT])


def fill_in_pointing(path):
    """Give observations without a pointing that of their telescopes.

    The training tool of ctapipe 0.28 needs the pointing of the subarray, which some
    simulations leave empty, as the telescopes have theirs.
    """
    with tables.open_file(path, "r+") as file:
        observations = file.root[OBSERVATIONS]
        units = read_table(file, OBSERVATIONS)
        pointings = vstack(
            [read_table(file, table._v_pathname) for table in file.root[POINTINGS]]
        )
        for row in observations:
            if row["subarray_pointing_frame"] != CoordinateFrameType.UNKNOWN.value:
                continue
            for name, source in (("lat", "altitude"), ("lon", "azimuth")):
                column = f"subarray_pointing_{name}"
                angle = pointings[f"telescope_pointing_{source}"].quantity
                angle = np.unique(angle[pointings["obs_id"] == row["obs_id"]])
                if len(angle) != 1:
                    raise SystemExit(
                        f"{path}: the telescopes of obs {row['obs_id']} have"
                        f" {len(angle)} values of telescope_pointing_{source}, and the"
                        " subarray has none; only parallel pointing is supported"
                    )
                row[column] = angle[0].to_value(units[column].unit)
            row["subarray_pointing_frame"] = CoordinateFrameType.ALTAZ.value
            row.update()
        observations.flush()


def main(arguments=None):
    """Write both files."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--gamma",
        nargs="+",
        required=True,
        help="DL1 files of simulated gamma rays, for all forests",
    )
    parser.add_argument(
        "--regression-gamma",
        nargs="*",
        default=[],
        help="more of them, of another spectrum for instance, for the regressors alone",
    )
    parser.add_argument("--regression", required=True, help="output for the regressors")
    parser.add_argument(
        "--classification", required=True, help="output for the classifier"
    )
    parser.add_argument(
        "--fraction",
        type=float,
        default=0.2,
        help="share of the showers for the classifier (default: %(default)s)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of the draw (default: %(default)s)"
    )
    options = parser.parse_args(arguments)

    def aside(showers):
        return set_aside(showers, options.fraction, options.seed)

    with replaced_when_whole(options.classification) as path:
        copy(options.gamma, path)
        keep(path, aside)
        fill_in_pointing(path)
    with replaced_when_whole(options.regression) as path:
        copy(options.gamma, path)
        keep(path, lambda showers: ~aside(showers))
        if options.regression_gamma:
            copy(options.regression_gamma, path, append=True)
        fill_in_pointing(path)


if __name__ == "__main__":
    main()
