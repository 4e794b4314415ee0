"""Speed of the network, of gphysnet-apply and of training, against named peers.

    python benchmarks/speed.py [--output build/benchmark.ecsv] [--events 3000 30000]
    python benchmarks/speed.py --only files --format lstchain --events 50000
    python benchmarks/speed.py --only training

All variants of a section run in turns, several rounds of each, so that a change of the
machine's mood meets them all. Printed and stored (ECSV): the median of the rounds with
the lowest and the highest, and the ratio of the medians to the first row of the section.
Weights and, where nothing else is said, images are random; neither changes the speed.
"""

import argparse
import platform
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from astropy.table import Table
from ctapipe.core import run_tool
from ctapipe.instrument import SubarrayDescription
from peers import InterpolatedNetwork
from processes import training_in_processes
from repeat import repeat_events

from ctapipe_gphysnet.camera import CameraLayout
from ctapipe_gphysnet.checkpoint import Model, write_model
from ctapipe_gphysnet.inference import Predictor
from ctapipe_gphysnet.losses import MultiTaskLoss, task_losses
from ctapipe_gphysnet.network.model import GammaPhysNet, NetworkOptions
from ctapipe_gphysnet.network.pixels import threads_for_images
from ctapipe_gphysnet.optimization import make_optimizer
from ctapipe_gphysnet.preprocessing import Preprocessing
from ctapipe_gphysnet.resources import DEFAULT_MODEL, RESOURCES, find_model
from ctapipe_gphysnet.tools.apply import ApplyTool
from ctapipe_gphysnet.training import TrainingOptions

SAMPLE = RESOURCES / "lst1_sample.dl1.h5"
ROUNDS = 5
SECONDS = 1.0  # of a round, at least
BATCH = 64  # images, in training
EXAMPLES = Path(__file__).parents[1] / "examples" / "lstchain"


def rounds(variants):
    """Images per second of functions, measured in turns.

    Parameters
    ----------
    variants : dict of str to (int, callable)
        Images that one call works on, and the call.

    Returns
    -------
    dict of str to list of float
    """
    for _, call in variants.values():
        call()  # compile, and fill the caches
    rates = {name: [] for name in variants}
    for _ in range(ROUNDS):
        for name, (number, call) in variants.items():
            call()  # caches and memory are the variant's own again, as in a long run
            calls, start = 0, time.perf_counter()
            while time.perf_counter() - start < SECONDS:
                call()
                calls += 1
            rates[name].append(number * calls / (time.perf_counter() - start))
    return rates


class Report:
    """Rows of the table; shown as they come."""

    def __init__(self):
        self.rows = []

    def add(self, section, rates, unit, scale=lambda rate: rate):
        """Rows of a section; ratios are those of the first variant over the others."""
        print(f"\n{section} [{unit}]")
        first = np.median(next(iter(rates.values())))
        for name, values in rates.items():
            shown = [scale(value) for value in values]
            ratio = first / np.median(values)
            row = (section, name, np.median(shown), min(shown), max(shown), unit, ratio)
            self.rows.append(row)
            print(
                f"  {name:<48} {row[2]:10.4g}  ({row[3]:.4g} - {row[4]:.4g})"
                f"   first / this: {ratio:.2f}"
            )

    def write(self, path):
        """Store the table with what the machine is."""
        names = ("section", "variant", "median", "lowest", "highest", "unit", "ratio")
        table = Table(rows=self.rows, names=names, meta=machine())
        path.parent.mkdir(parents=True, exist_ok=True)
        table.write(path, overwrite=True)


def machine():
    """What the numbers depend on."""
    packages = ("ctapipe_gphysnet", "ctapipe", "torch", "numba", "indexedconv", "numpy")
    cpu = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next(line.split(": ")[1] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return {
        "cpu": cpu,
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
        "rounds": ROUNDS,
    }


def camera():
    """LST-1's."""
    return CameraLayout.from_telescope(SubarrayDescription.from_hdf(SAMPLE).tel[1])


def predictor(layout, options, precision="float32"):
    """A predictor with an untrained network."""
    network = GammaPhysNet(layout.lattice, options).eval()
    return Predictor(Model(network, layout, Preprocessing()), "cpu", precision)


def variants(layout, options, batch, everything=False):
    """Networks of the same options to run on a batch."""
    images = torch.randn(batch, 2, layout.lattice.n_pixels)
    squares = InterpolatedNetwork.images(batch)
    indexed = GammaPhysNet(layout.lattice, options, backend="indexedconv").eval()
    interpolated = InterpolatedNetwork(options).eval()
    fast = predictor(layout, options)
    found = {
        "ctapipe_gphysnet, float32": lambda: fast.predict(images.numpy()),
        "IndexedConv, float32": lambda: indexed(images),
        "GammaLearn's form: 55 x 55 squares, float32": lambda: interpolated(squares),
    }
    if everything:
        dense = GammaPhysNet(layout.lattice, options).eval()
        compiled = torch.compile(dense)
        reduced = predictor(layout, options, "bfloat16")
        found["dense grid, torch eager, float32"] = lambda: dense(images)
        found["dense grid, torch.compile, float32"] = lambda: compiled(images)
        found["dense grid, torch eager, bfloat16"] = lambda: reduced.predict(
            images.numpy()
        )
        found.update(openvino_variant(interpolated, squares))
    return {name: (batch, torch.no_grad()(call)) for name, call in found.items()}


def openvino_variant(network, images):
    """A network as OpenVINO compiles it, where that is installed."""
    try:
        import openvino
    except ImportError:
        return {}
    model = openvino.convert_model(network, example_input=images)
    threads = torch.get_num_threads()
    options = {
        "PERFORMANCE_HINT": "THROUGHPUT",
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": threads,
    }
    compiled = openvino.Core().compile_model(model, "CPU", options)
    queue = openvino.AsyncInferQueue(compiled)
    parts = torch.chunk(images, threads)

    def call():
        for part in parts:
            queue.start_async({0: part.numpy()})
        queue.wait_all()

    return {"GammaLearn's form, OpenVINO, float32": call}


def training_step(layout, options, backend, batch, wrap=lambda network: network):
    """One step of the optimizer on a batch, of a network that is compiled, say."""
    network = GammaPhysNet(layout.lattice, options, backend).train()
    balance = MultiTaskLoss(options.tasks)
    forward = wrap(network)
    optimizer = make_optimizer(network, balance, TrainingOptions())
    images = torch.randn(batch, 2, layout.lattice.n_pixels)
    truth = {
        "energy": torch.randn(batch, 1),
        "direction": torch.randn(batch, 2),
        "impact": torch.randn(batch, 2),
        "particle_type": torch.arange(batch) % 2,
    }
    signal = truth["particle_type"] == 1
    everything = torch.ones(batch, dtype=bool)

    def call():
        losses = task_losses(forward(images), truth, signal, everything, torch.ones(2))
        optimizer.zero_grad()
        balance(losses).backward()
        optimizer.step()

    def call_as_training_does():
        with threads_for_images(batch):
            call()

    return batch, call_as_training_does if backend == "pixels" else call


def networks(report, layout):
    """The network in inference."""
    full, shipped = NetworkOptions(), NetworkOptions(blocks=1)
    for batch in (1, 8, 64, 256):
        rates = rounds(variants(layout, full, batch, everything=batch == 64))
        name = f"full network, nine blocks a stage, batch of {batch}"
        report.add(name, rates, "images/s")
        if batch == 1:
            report.add("the same, time of an image", rates, "ms", lambda rate: 1e3 / rate)
    rates = rounds(variants(layout, shipped, 64))
    report.add("network of one block a stage, batch of 64", rates, "images/s")


def share_of_a_step(blocks, backend, batch, wrap):
    """A share of a step, made in its process: the camera need not be sent there."""
    return training_step(camera(), NetworkOptions(blocks=blocks), backend, batch, wrap)


def training(report, layout):
    """Forward, backward and step of the optimizer."""
    number = torch.get_num_threads()
    for name, blocks in (("full network", 9), ("network of one block a stage", 1)):
        options = NetworkOptions(blocks=blocks)
        steps = {
            variant: training_step(layout, options, backend, BATCH, *wrap)
            for variant, backend, *wrap in (
                ("ctapipe_gphysnet", "pixels"),
                ("dense grid, torch.compile", "dense", torch.compile),
                ("dense grid, torch eager", "dense"),
                ("IndexedConv", "indexedconv"),
            )
        }
        with ExitStack() as stack:
            for variant, backend in (
                ("ctapipe_gphysnet", "pixels"),
                ("IndexedConv", "indexedconv"),
            ):
                share = BATCH // number
                make = partial(share_of_a_step, blocks, backend, share)
                call = stack.enter_context(training_in_processes(make, number))
                steps[f"{variant}, {number} processes"] = share * number, call
            rates = rounds(steps)
        report.add(
            f"training of the {name}, float32, batch of {BATCH}", rates, "images/s"
        )


def bulk(report, layout, kind, sizes):
    """gphysnet-apply on files of several sizes, and the network alone."""
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        sample = sample_file(kind, folder)
        network = GammaPhysNet(layout.lattice, NetworkOptions()).eval()
        full = folder / "full.safetensors"
        write_model(full, Model(network, layout, Preprocessing(), {"name": "full"}))
        for number in sizes:
            source = folder / f"dl1_{number}.h5"
            size = repeat_events(sample, source, number)
            what = f"{number} events of {kind}, {size / 1e9:.2f} GB"
            models = {"the full network": full, "the shipped model": DEFAULT_MODEL}
            for name, model in models.items():
                bulk_of_model(
                    report, f"{name}, {what}", find_model(model), source, number
                )
            source.unlink()


def sample_file(kind, folder):
    """The sample as a file of ctapipe or of lstchain."""
    if kind == "ctapipe":
        return SAMPLE
    path = folder / "sample.h5"
    command = [sys.executable, EXAMPLES / "to_lstchain_dl1.py", SAMPLE, path]
    subprocess.run(command, check=True, capture_output=True)
    return path


def bulk_of_model(report, name, model, source, number):
    """Rates of gphysnet-apply with a model and of its network, and peak memory."""
    fast = Predictor.from_file(model, device="cpu")
    images = np.random.default_rng(0).normal(size=(256, 2, 1855)).astype(np.float32)
    alone, apply, memory = [], [], []
    for _ in range(3):
        alone += rounds({"": (256, lambda: fast.predict(images))})[""]
        seconds, peak = measure_apply(source, model)
        apply.append(number / seconds)
        memory.append(peak)
    alone += rounds({"": (256, lambda: fast.predict(images))})[""]
    report.add(name, {"the network alone": alone, "gphysnet-apply": apply}, "events/s")
    report.add(f"{name}, peak memory", {"gphysnet-apply": memory}, "GB")


def measure_apply(source, model):
    """Run gphysnet-apply in a process of its own; its seconds, and GB."""
    command = [sys.executable, __file__, "--apply", source, model]
    output = subprocess.run(command, check=True, capture_output=True, text=True)
    return map(float, output.stdout.split()[-2:])


def apply_and_tell(source, model):
    """Run gphysnet-apply; print its seconds and the peak memory in GB."""
    target = Path(source).with_suffix(".dl2.h5")
    command = ["-i", source, "-o", str(target), "-m", model, "--overwrite"]
    # every event through the network
    command += ["--GammaPhysNetQualityQuery.quality_criteria=[]", "--no-progress"]
    start = time.perf_counter()
    run_tool(ApplyTool(), command, raises=True)
    seconds = time.perf_counter() - start
    target.unlink()
    print(seconds, peak_memory())


def peak_memory():
    """Peak memory of this process in GB, from Linux; `resource` has the parent's too."""
    lines = Path("/proc/self/status").read_text().splitlines()
    peak = next(line for line in lines if line.startswith("VmHWM"))
    return int(peak.split()[1]) * 1024 / 1e9


def main():
    """Measure, print and store."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("build/benchmark.ecsv"))
    parser.add_argument(
        "--events",
        type=int,
        nargs="*",
        default=[3000, 30000],
        help="sizes of the files for gphysnet-apply; none: leave this part out",
    )
    parser.add_argument(
        "--format",
        choices=["ctapipe", "lstchain"],
        nargs="+",
        default=["ctapipe"],
        help="whose files these are",
    )
    parser.add_argument(
        "--only",
        choices=["networks", "training", "files"],
        nargs="+",
        default=["networks", "training", "files"],
        help="parts to measure",
    )
    parser.add_argument("--apply", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.apply:
        apply_and_tell(*options.apply)
        return

    layout, report = camera(), Report()
    if "networks" in options.only:
        networks(report, layout)
    if "training" in options.only:
        training(report, layout)
    for kind in options.format if "files" in options.only else ():
        bulk(report, layout, kind, options.events)
    report.write(options.output)
    print(f"\nstored in {options.output}")


if __name__ == "__main__":
    main()
