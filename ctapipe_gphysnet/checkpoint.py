"""The model file: tensors and a card, in one safetensors file.

The card is JSON in the file's header. It says what the network is, what its
outputs mean, how images are prepared, which camera it is made for and how
it was trained. Reading the file runs no code from it.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from .camera import CameraLayout
from .files import replaced_when_whole
from .network.model import GammaPhysNet, NetworkOptions
from .preprocessing import Preprocessing
from .tasks import TASKS

__all__ = [
    "Model",
    "ModelFileError",
    "card_identity",
    "read_card",
    "read_model",
    "write_model",
]

FORMAT = "ctapipe_gphysnet model"
FORMAT_VERSION = 1
HEADER_KEY = "gphysnet_card"


class ModelFileError(ValueError):
    """A file is no model file, is damaged, or is of a newer format."""


@dataclass
class Model:
    """A network with all that is needed to use it.

    Attributes
    ----------
    network : GammaPhysNet
    camera : CameraLayout
        The camera it is made for, pixels in the network's order.
    preprocessing : Preprocessing
    information : dict
        The card's free part, JSON values only: name, description, training,
        validation, software.
    identity : str
        SHA-256 of the card, which holds the hash of the weights; empty for
        a model that was not read from a file.
    """

    network: GammaPhysNet
    camera: CameraLayout
    preprocessing: Preprocessing
    information: dict = field(default_factory=dict)
    identity: str = ""

    @property
    def name(self):
        """The name on the card."""
        return self.information.get("name", "unnamed")


def write_model(path, model):
    """Write a model file; a failure leaves no file and keeps an old one.

    Parameters
    ----------
    path : path-like
        Usually ending in ``.safetensors``.
    model : Model
    """
    tensors = {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in model.network.state_dict().items()
    }
    card = {
        **model.information,
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "network": asdict(model.network.options),
        "tasks": _task_entries(model.network.options.tasks),
        "preprocessing": model.preprocessing.to_dict(),
        "camera": model.camera.to_dict(),
        "weights_sha256": _weights_digest(tensors),
    }
    header = {HEADER_KEY: json.dumps(card, sort_keys=True, allow_nan=False)}
    with replaced_when_whole(path) as aside:
        # save_file would make a file that nobody else can read
        aside.write_bytes(save(tensors, metadata=header))


def read_card(path):
    """The card of a model file, as a dict; the weights are not looked at.

    Raises
    ------
    ModelFileError
        If the file is no model file of a format this version reads.
    """
    with _open(path) as file:
        return _card_of(file, path)


def read_model(path, backend="dense"):
    """Read and verify a model file.

    Parameters
    ----------
    path : path-like
    backend : {"dense", "indexedconv", "pixels"}
        Implementation of the convolutions.

    Returns
    -------
    Model
        The network in evaluation mode, on the CPU.

    Raises
    ------
    ModelFileError
        If the file is missing, truncated, foreign, of a newer format, or if
        its tensors are not those its card describes.
    """
    with _open(path) as file:
        card = _card_of(file, path)
        try:
            camera = CameraLayout.from_dict(card["camera"])
            options = NetworkOptions(**card["network"])
            preprocessing = Preprocessing(**card["preprocessing"])
            network = GammaPhysNet(camera.lattice, options, backend)
        except (KeyError, TypeError, ValueError) as error:
            raise ModelFileError(f"{path}: the card is unusable: {error!r}") from error
        if card.get("tasks") != _task_entries(options.tasks):
            raise ModelFileError(
                f"{path}: its tasks are not those of this version: {card.get('tasks')}"
            )
        state = network.state_dict()
        _verify_shapes(path, file, state)
        tensors = {name: file.get_tensor(name) for name in state}
    if _weights_digest(tensors) != card.get("weights_sha256"):
        raise ModelFileError(f"{path}: the weights differ from the hash on the card")
    network.load_state_dict(tensors)
    return Model(
        network=network.eval(),
        camera=camera,
        preprocessing=preprocessing,
        information=card,
        identity=card_identity(card),
    )


def _open(path):
    try:
        return safe_open(Path(path), framework="pt")
    except (SafetensorError, OSError) as error:
        raise ModelFileError(
            f"{path}: cannot be read as a model file: {error}"
        ) from error


def _card_of(file, path):
    header = file.metadata() or {}
    try:
        card = json.loads(header[HEADER_KEY])
        version = card["format_version"]
    except (KeyError, TypeError, ValueError):
        raise ModelFileError(
            f"{path}: a safetensors file, but not one of ctapipe_gphysnet"
        ) from None
    if card.get("format") != FORMAT or not isinstance(version, int):
        raise ModelFileError(f"{path}: unknown format {card.get('format')!r} {version!r}")
    if version > FORMAT_VERSION:
        raise ModelFileError(
            f"{path}: format version {version} is newer than {FORMAT_VERSION}, the newest"
            " this version of ctapipe_gphysnet reads; please update the package"
        )
    return card


def _verify_shapes(path, file, state):
    found = set(file.keys())
    for name in sorted(found.symmetric_difference(state)):
        where = "not expected" if name in found else "missing"
        raise ModelFileError(f"{path}: tensor {name} is {where}")
    for name, tensor in state.items():
        view = file.get_slice(name)
        shape = tuple(view.get_shape())
        if shape != tuple(tensor.shape):
            raise ModelFileError(
                f"{path}: tensor {name} has shape {shape}, expected {tuple(tensor.shape)}"
            )


def _task_entries(names):
    """What the card says about the tasks, in full so that a person can read it."""
    return {
        name: {
            "description": TASKS[name].__doc__.strip().splitlines()[0],
            "n_outputs": TASKS[name].n_outputs,
            "loss": TASKS[name].loss,
        }
        for name in names
    }


def _weights_digest(tensors):
    digest = hashlib.sha256()
    for name in sorted(tensors):
        values = tensors[name].numpy()
        digest.update(f"{name} {values.dtype} {values.shape}\n".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()


def card_identity(card):
    """What tells one model from another: the SHA-256 of its card."""
    return hashlib.sha256(json.dumps(card, sort_keys=True).encode()).hexdigest()
