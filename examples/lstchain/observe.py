"""Make a DL1 file as of an observed run of LST-1 from simulated ones, all of lstchain.

For trying the steps of an analysis of observations without any: the events come in random
order and at random times, without their truth. Those without a pixel after cleaning
become pedestal events.

    python examples/lstchain/observe.py dl1_gamma.h5 dl1_proton.h5 dl1_LST-1.Run00001.h5
"""

import argparse
from pathlib import Path

import numpy as np
import tables
from astropy.time import Time
from to_lstchain_dl1 import append, structured

from ctapipe_gphysnet.files import close_verified, replaced_when_whole
from ctapipe_gphysnet.lstchain import DL1_PARAMETERS, FILTERS, IMAGES

TRUTH = ("mc_", "log_mc_", "disp_", "src_", "trigger_time")
START = Time("2022-01-15T22:00:00", scale="utc")
SKY_PEDESTAL = 2  # event_type
CONFIGURATION = "/configuration"


def main():
    """Write the file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("inputs", type=Path, nargs="+", help="simulated DL1 files")
    parser.add_argument("output", type=Path, help="DL1 file to write")
    parser.add_argument("--run", type=int, default=1, help="number of the run")
    parser.add_argument("--rate", type=float, default=100, help="events per second")
    options = parser.parse_args()
    with replaced_when_whole(options.output) as aside:
        observe(options.inputs, aside, options.run, options.rate)


def observe(inputs, output, run, rate):
    """Write a DL1 file as of an observed run.

    Parameters
    ----------
    inputs : list of path-like
    output : path-like
    run : int
        Its number, and seed of the random order and times.
    rate : float
        Events per second.
    """
    images, parameters = (
        np.concatenate([read(path, name) for path in inputs])
        for name in (IMAGES, DL1_PARAMETERS)
    )
    rng = np.random.default_rng(run)
    order = rng.permutation(len(images))
    images, parameters = images[order], parameters[order]
    names = [n for n in parameters.dtype.names if not n.startswith(TRUTH)]
    columns = {name: parameters[name] for name in names}
    columns["dragon_time"] = START.unix + rng.exponential(1 / rate, len(images)).cumsum()
    columns["event_type"][~np.isfinite(columns["intensity"])] = SKY_PEDESTAL
    for table in (images, columns):
        table["obs_id"][:] = run
        table["event_id"][:] = np.arange(1, len(images) + 1)
    with tables.open_file(inputs[0]) as first, tables.open_file(output, "w") as made:
        made.root._v_attrs["LSTCHAIN_VERSION"] = first.root._v_attrs["LSTCHAIN_VERSION"]
        first.copy_node(CONFIGURATION, made.root, recursive=True, filters=FILTERS)
        append(made, IMAGES, images)
        append(made, DL1_PARAMETERS, structured(columns))
        close_verified(made)


def read(path, name):
    """All rows of a table."""
    with tables.open_file(path) as file:
        return file.get_node(name).read()


if __name__ == "__main__":
    main()
