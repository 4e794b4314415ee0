"""Memory and speed of reading images to train on, and of drawing batches of them.

    python benchmarks/image_store.py 1.0 gamma.dl1.h5 gamma.dl1.h5 proton.dl1.h5

The first argument is the limit for images in GB. A file may be given many times. The
memory is that of the process alone (RssAnon of Linux): pages of mapped files, which the
system takes away when it needs them, are not in it.
"""

import argparse
import re
import threading
import time
from pathlib import Path

from ctapipe_gphysnet.batches import Augmentation, Batches, ShuffledBatches
from ctapipe_gphysnet.events import EventSelection, read_events
from ctapipe_gphysnet.image_store import ImageStore
from ctapipe_gphysnet.preprocessing import Preprocessing
from ctapipe_gphysnet.tasks import TASKS

BATCH_SIZE = 64
SECONDS = 60  # of drawing batches


def memory():
    """Bytes of memory of this process that no file is behind."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(r"RssAnon:\s+(\d+) kB", status)[1])


class Watch:
    """The highest memory since it was last asked for, looked at every 10 ms."""

    def __init__(self):
        self._peak = 0
        threading.Thread(target=self._look, daemon=True).start()

    def _look(self):
        while True:
            self._peak = max(self._peak, memory())
            time.sleep(0.01)

    def peak(self):
        """In GB."""
        peak, self._peak = max(self._peak, memory()), 0
        return peak / 1e9


def main():
    """Read and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("limit", type=float, help="GB of images in memory")
    parser.add_argument("inputs", nargs="+", help="DL1 files")
    parser.add_argument("--folder", default=".", help="where images go beyond the limit")
    options = parser.parse_args()
    watch, began = Watch(), time.monotonic()
    print(f"start: {watch.peak():.2f} GB")
    with ImageStore(options.limit * 1e9, options.folder) as store:
        sample = read_events(
            options.inputs, EventSelection(), list(TASKS), store=store, progress=False
        )
        seconds = time.monotonic() - began
        print(
            f"{len(sample)} images, {store.n_bytes / 1e9:.2f} GB, in {store.place}:"
            f" {len(sample) / seconds:.0f} images/s, at most {watch.peak():.2f} GB"
        )
        print(f"after reading: {memory() / 1e9:.2f} GB")
        training, _ = sample.split(0.1, seed=0)
        print(f"splitting: at most {watch.peak():.2f} GB")
        batches = Batches(sample, training, Preprocessing(), Augmentation())
        n_images, began = 0, time.monotonic()
        for batch in ShuffledBatches(len(training), BATCH_SIZE, seed=0):
            batches[batch]
            n_images += BATCH_SIZE
            if time.monotonic() - began > SECONDS:
                break
        rate = n_images / (time.monotonic() - began)
        print(f"batches: {rate:.0f} images/s, at most {watch.peak():.2f} GB")


if __name__ == "__main__":
    main()
