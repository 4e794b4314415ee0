"""The one way from images to raw outputs, for every tool."""

import numpy as np
import torch

from .camera import CameraLayout
from .checkpoint import read_model
from .network.program import LatticeProgram

__all__ = ["Predictor", "select_device"]

PRECISIONS = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


def select_device(device="auto"):
    """The torch device of a name.

    Parameters
    ----------
    device : str
        "auto" (the first CUDA device if there is one, else the CPU), "cpu",
        "cuda" or "cuda:n".

    Raises
    ------
    ValueError
        If the name is unknown or there is no such device.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        selected = torch.device(device)
    except RuntimeError:
        selected = None
    if selected is None or selected.type not in ("cpu", "cuda"):
        raise ValueError(f"device must be auto, cpu, cuda or cuda:n, got {device!r}")
    if selected.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (selected.index or 0) >= count:
            raise ValueError(
                f"device {device!r} asked for, but {count} CUDA devices found"
            )
    return selected


class Predictor:
    """Runs a model on images, in the fastest way that is exact to its weights.

    On a CPU in float32 that is a `LatticeProgram`, where the network has one; else it is
    the network on the dense grid.

    Parameters
    ----------
    model : Model
        As `ctapipe_gphysnet.checkpoint.read_model` gives it.
    device : str
        See `select_device`.
    precision : {"float32", "float16", "bfloat16"}
        Of the arithmetic; the others are faster where the machine has them.
        "float16" is the more exact of them, "bfloat16" the one that cannot
        overflow.
    batch_size : int
        Images that go through the network at once.
    """

    def __init__(self, model, device="auto", precision="float32", batch_size=256):
        if precision not in PRECISIONS:
            raise ValueError(
                f"precision must be one of {sorted(PRECISIONS)}, got {precision!r}"
            )
        if batch_size < 1:
            raise ValueError(f"batch_size must be positive, got {batch_size}")
        self.model = model
        self.device = select_device(device)
        self.precision = precision
        self.batch_size = batch_size
        self._run = self._make_engine(model.network.eval())

    def _make_engine(self, network):
        """What turns a tensor of images into a dict of raw outputs."""
        exact = self.precision == "float32" and self.device.type == "cpu"
        if exact and LatticeProgram.supports(network):
            return LatticeProgram(network)
        return network.to(self.device)

    @classmethod
    def from_file(cls, path, **options):
        """Read a model file; ``options`` as for the class."""
        return cls(read_model(path), **options)

    def match(self, telescope):
        """How images of a telescope become images of the model's camera.

        Parameters
        ----------
        telescope : ctapipe.instrument.TelescopeDescription

        Returns
        -------
        CameraMatch

        Raises
        ------
        CameraMismatch
            If the model is not for this telescope.
        LatticeError
            If the telescope's pixels are on no regular grid.
        """
        return self.model.camera.match(CameraLayout.from_telescope(telescope))

    def prepare(self, charge, peak_time, match, broken=None):
        """Network input of calibrated images.

        Parameters
        ----------
        charge, peak_time : ndarray, shape (N, P)
            Photo-electrons and nanoseconds, pixels in the telescope's order.
        match : CameraMatch
            Of the telescope.
        broken : ndarray of bool, shape (N, P), optional
            Pixels not to be trusted.

        Returns
        -------
        images : ndarray of float32, shape (N, 2, P)
        """
        order = match.permutation
        if np.shape(charge)[-1] != len(order):
            raise ValueError(
                f"images have {np.shape(charge)[-1]} pixels, the camera {len(order)}"
            )
        if broken is not None:
            broken = broken[:, order]
        return self.model.preprocessing(
            charge[:, order], peak_time[:, order], self.model.camera.lattice, broken
        )

    @torch.inference_mode()
    def predict(self, images):
        """Raw outputs of prepared images.

        Parameters
        ----------
        images : ndarray of float32, shape (N, 2, P)
            As `prepare` gives them; N may be 0.

        Returns
        -------
        dict of str to ndarray of float32, shape (N, n_outputs)
            For every task of the model, and for the uncertainties if it has any; see
            `ctapipe_gphysnet.tasks`.
        """
        batches = [
            self._forward(torch.from_numpy(images[start : start + self.batch_size]))
            for start in range(0, max(len(images), 1), self.batch_size)
        ]
        return {
            task: np.concatenate([batch[task] for batch in batches])
            for task in batches[0]
        }

    def _forward(self, images):
        dtype = PRECISIONS[self.precision]
        reduced = dtype is not torch.float32
        with torch.autocast(self.device.type, dtype, enabled=reduced):
            raw = self._run(images.to(self.device))
        return {task: output.float().cpu().numpy() for task, output in raw.items()}
