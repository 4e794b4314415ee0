"""Model files to test with."""

import torch

from ctapipe_gphysnet.camera import CameraLayout
from ctapipe_gphysnet.checkpoint import Model, write_model
from ctapipe_gphysnet.network.model import GammaPhysNet, NetworkOptions
from ctapipe_gphysnet.preprocessing import Preprocessing


def make_model(path, telescope, seed=5, **options):
    """Write a small network with random weights."""
    torch.manual_seed(seed)
    camera = CameraLayout.from_telescope(telescope)
    options = {
        "blocks": 1,
        "channels": (4, 8, 8),
        "head_width": 8,
        "attention": "none",
        **options,
    }
    network = GammaPhysNet(camera.lattice, NetworkOptions(**options))
    with torch.no_grad():
        # as initialised, all images have nearly the same energy
        network.head.hidden["global"][0].weight *= 30
        for parameter in network.head.uncertainties.parameters():
            parameter.normal_(0, 0.3)
    write_model(path, Model(network, camera, Preprocessing(), {"name": path.stem}))
    return path
