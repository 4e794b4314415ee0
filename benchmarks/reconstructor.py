"""Time of the reconstructor in ctapipe's event loop, on the sample events.

    python benchmarks/reconstructor.py

Median over the events that pass the quality criteria, shipped model, one thread.
"""

import time

import numpy as np
from ctapipe.io import EventSource

from ctapipe_gphysnet.reconstructor import GammaPhysNetReconstructor
from ctapipe_gphysnet.resources import RESOURCES


def main():
    """Print the median time of a reconstructed event."""
    seconds = []
    with EventSource(RESOURCES / "lst1_sample.dl1.h5") as source:
        reconstructor = GammaPhysNetReconstructor(source.subarray, device="cpu", n_jobs=1)
        for event in source:
            start = time.perf_counter()
            reconstructor(event)
            elapsed = time.perf_counter() - start
            if event.dl2.stereo.energy["GammaPhysNetEnergy"].is_valid:
                seconds.append(elapsed)
    print(f"{len(seconds)} events, median {1e3 * np.median(seconds):.1f} ms an event")


if __name__ == "__main__":
    main()
