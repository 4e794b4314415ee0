"""Write into a simulated file how many showers were thrown, where it does not say.

    count_showers.py INPUT OUTPUT

Files made from simtel have a table of the thrown showers. Others tell the number of
showers and how often each was used, and ctapipe 0.28 passes over the latter: its
effective areas are then too large by that factor. OUTPUT is a copy with the table, or a
link to INPUT if nothing is missing.
"""

import argparse
import shutil
import warnings
from pathlib import Path

import numpy as np
import tables
from astropy.table import Table
from ctapipe.io import read_table, write_table
from ctapipe.io.hdf5dataformat import (
    SHOWER_DISTRIBUTION_TABLE,
    SIMULATION_RUN_TABLE,
)


def is_counted(path):
    """Whether a file has the table of the thrown showers."""
    with tables.open_file(path) as file:
        return SHOWER_DISTRIBUTION_TABLE in file.root


def count_showers(path):
    """Add the table to a file.

    Parameters
    ----------
    path : path-like
    """
    runs = read_table(path, SIMULATION_RUN_TABLE)
    thrown = np.asarray(runs["n_showers"], np.int64) * np.asarray(runs["shower_reuse"])
    counted = Table({"obs_id": runs["obs_id"], "n_entries": thrown})
    with warnings.catch_warnings():
        # on the names that ctapipe gives to attributes
        warnings.simplefilter("ignore", tables.NaturalNameWarning)
        write_table(counted, path, SHOWER_DISTRIBUTION_TABLE)


def main():
    """Write the output."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("input", type=Path)
    parser.add_argument("output", type=Path)
    options = parser.parse_args()
    try:
        if is_counted(options.input):
            options.output.symlink_to(options.input.resolve())
            return
        shutil.copyfile(options.input, options.output)
        count_showers(options.output)
    except (OSError, tables.HDF5ExtError, tables.NoSuchNodeError) as error:
        raise SystemExit(
            f"{options.input}: cannot be read as a simulated ctapipe file: {error}"
        ) from error


if __name__ == "__main__":
    main()
