"""Speed of gphysnet-simulate in one process, and where the time goes.

    python benchmarks/simulation.py [--cards gamma_diffuse proton] [--showers 500]

Printed for each card: events per second, and the time per event of the parts, with its
ratio to what ctapipe takes to parametrize and write the event (``ImageProcessor`` and
``DataWriter``), which no simulation that ends in a DL1 file can do without.
"""

import argparse
import tempfile
import time
from functools import wraps
from pathlib import Path

from ctapipe.core import Provenance
from ctapipe.image import ImageProcessor
from traitlets.config import Config

from ctapipe_gphysnet.simulation.camera import CameraSimulator
from ctapipe_gphysnet.simulation.card import find_card
from ctapipe_gphysnet.simulation.extraction import WaveformExtractor
from ctapipe_gphysnet.simulation.runs import RunSimulator, VerifyingWriter
from ctapipe_gphysnet.simulation.shower import ShowerSimulator

PARTS = {
    "shower and light": (ShowerSimulator, "simulate"),
    "camera and trigger": (CameraSimulator, "simulate"),
    "image extraction": (WaveformExtractor, "__call__"),
    "ctapipe parameters": (ImageProcessor, "__call__"),
    "ctapipe writing": (VerifyingWriter, "__call__"),
    "ctapipe closing the file": (VerifyingWriter, "finish"),
}
CTAPIPE = [name for name in PARTS if name.startswith("ctapipe")]


def watch(seconds):
    """Add up the time spent in the parts."""
    for name, (cls, method) in PARTS.items():
        setattr(cls, method, _timed(getattr(cls, method), name, seconds))


def _timed(function, name, seconds):
    @wraps(function)
    def timed(*args, **kwargs):
        start = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            seconds[name] += time.perf_counter() - start

    return timed


def measure(card, n_showers, seconds):
    """Events of a run, and the time that it took [s]."""
    config = Config({"AirShowerSource": {"n_showers": n_showers}})
    simulator = RunSimulator(find_card(card), config=config)
    simulator.warm_up()
    seconds.update(dict.fromkeys(PARTS, 0.0))
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        n_events = simulator(1, Path(folder) / "run.dl1.h5", advance=lambda: None)
        return n_events, time.perf_counter() - start


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cards", nargs="+", default=["gamma_diffuse", "proton"])
    parser.add_argument("--showers", type=int, default=500)
    options = parser.parse_args()
    Provenance().start_activity("benchmark")
    seconds = dict.fromkeys(PARTS, 0.0)
    watch(seconds)
    for card in options.cards:
        n_events, total = measure(card, options.showers, seconds)
        unavoidable = sum(seconds[name] for name in CTAPIPE)
        rest = total - sum(seconds.values())
        print(f"{card}: {n_events} events, {n_events / total:.1f} events/s")
        for name, spent in {**seconds, "the rest": rest, "together": total}.items():
            per_event = 1e3 * spent / n_events
            print(f"  {name:25} {per_event:6.2f} ms  {spent / unavoidable:5.2f}")


if __name__ == "__main__":
    main()
