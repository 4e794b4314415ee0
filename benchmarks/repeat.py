"""Make a large DL1 or DL2 file of a small one, by repeating its events.

    python benchmarks/repeat.py small.dl1.h5 large.dl1.h5 1000000

Every repetition has event identifiers of its own.
"""

import argparse
import shutil
from pathlib import Path

import numpy as np
import tables

CHUNK = 2000  # rows written at once


def repeat_events(source, target, number):
    """Write a file of as many array events as asked for.

    Parameters
    ----------
    source, target : path-like
        ctapipe DL1 or DL2 files.
    number : int
        Array events of the target; not less than the source has.

    Returns
    -------
    size : int
        Bytes of the file.
    """
    shutil.copyfile(source, target)
    with tables.open_file(source) as small, tables.open_file(target, "a") as large:
        trigger = small.root.dl1.event.subarray.trigger
        identifiers = trigger.col("event_id")
        step = int(identifiers.max()) + 1
        for table in small.walk_nodes("/", "Table"):
            if "event_id" in table.colnames and len(table):
                _repeat(
                    table, large.get_node(table._v_pathname), step, identifiers, number
                )
    return Path(target).stat().st_size


def _repeat(table, target, step, identifiers, number):
    """Append rows of the events that are still missing."""
    repetition, missing = 1, number - len(identifiers)
    rows, waiting = table.read(), []
    while missing > 0:
        new = rows
        if missing < len(identifiers):
            new = rows[np.isin(rows["event_id"], identifiers[:missing])]
        new = new.copy()
        new["event_id"] += repetition * step
        waiting.append(new)
        if sum(map(len, waiting)) >= CHUNK:
            target.append(np.concatenate(waiting))
            waiting.clear()
        repetition, missing = repetition + 1, missing - len(identifiers)
    if waiting:
        target.append(np.concatenate(waiting))


def main():
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source")
    parser.add_argument("target")
    parser.add_argument("number", type=int, help="array events to write")
    options = parser.parse_args()
    size = repeat_events(options.source, options.target, options.number)
    print(f"{options.target}: {size / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
