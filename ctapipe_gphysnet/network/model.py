"""γ-PhysNet: one network from a camera image to all shower parameters."""

from dataclasses import asdict, dataclass, field

from torch import nn

from ..tasks import TASKS
from .attention import ATTENTIONS
from .backbone import ResidualBackbone
from .heads import MultiTaskHead
from .layout import LAYOUTS

__all__ = ["GammaPhysNet", "NetworkOptions"]


@dataclass(frozen=True)
class NetworkOptions:
    """What fixes the shape of a `GammaPhysNet` on a given camera.

    Attributes
    ----------
    tasks : tuple of str
        Names in `ctapipe_gphysnet.tasks.TASKS`; one name alone makes a
        single-task ResNet.
    attention : {"none", "squeeze-excitation", "self", "dual"}
        Module after every stage.
    reduction_ratio : int
        Of the attention's bottleneck.
    blocks : int
        Residual blocks a stage; 9 is ResNet-56.
    channels : tuple of int
        Width of every stage.
    head_width : int
        Width of the hidden layers of the multi-task block.
    uncertainty : bool
        Also say how large the errors of energy and direction are; see
        `ctapipe_gphysnet.uncertainty`.
    """

    tasks: tuple = tuple(TASKS)
    attention: str = "dual"
    reduction_ratio: int = 16
    blocks: int = 9
    channels: tuple = field(default=(16, 32, 64))
    head_width: int = 256
    uncertainty: bool = False

    def __post_init__(self):
        object.__setattr__(self, "tasks", tuple(self.tasks))
        object.__setattr__(self, "channels", tuple(self.channels))
        unknown = [task for task in self.tasks if task not in TASKS]
        if unknown or not self.tasks or len(set(self.tasks)) < len(self.tasks):
            raise ValueError(f"tasks must be some of {list(TASKS)}, got {self.tasks}")
        if self.attention not in ("none", *ATTENTIONS):
            raise ValueError(
                f"attention must be one of {['none', *ATTENTIONS]},"
                f" got {self.attention!r}"
            )
        sizes = (self.reduction_ratio, self.blocks, self.head_width, *self.channels)
        if not self.channels or not all(isinstance(n, int) and n > 0 for n in sizes):
            raise ValueError(
                "reduction_ratio, blocks, channels and head_width must be positive"
                f" integers, got {asdict(self)}"
            )
        if self.uncertainty and not self.uncertainties:
            raise ValueError(
                f"uncertainty needs the task energy or direction, got {self.tasks}"
            )

    @property
    def uncertainties(self):
        """Task by the name of the raw output that says how large its errors are."""
        if not self.uncertainty:
            return {}
        names = {TASKS[task].uncertainty: task for task in self.tasks}
        return {name: task for name, task in names.items() if name is not None}


class GammaPhysNet(nn.Module):
    """γ-PhysNet of Jacquemont et al. 2021 (hal-03043188).

    Parameters
    ----------
    lattice : CameraLattice
        The camera the network is made for.
    options : NetworkOptions, optional
        Shape of the network.
    backend : {"dense", "indexedconv", "pixels"}
        Implementation of the convolutions. All are exact and share one
        state dict.
    """

    IN_CHANNELS = 2  # charge and peak time

    def __init__(self, lattice, options=None, backend="dense"):
        super().__init__()
        if backend not in LAYOUTS:
            raise ValueError(f"backend must be one of {sorted(LAYOUTS)}, got {backend!r}")
        self.lattice = lattice
        self.options = options = options or NetworkOptions()
        self.backbone = ResidualBackbone(
            lattice,
            self.IN_CHANNELS,
            options.channels,
            options.blocks,
            options.attention,
            options.reduction_ratio,
            backend,
        )
        self.head = MultiTaskHead(
            self.backbone.output_layout,
            self.backbone.out_channels,
            {name: (TASKS[name].path, TASKS[name].n_outputs) for name in options.tasks},
            options.head_width,
            options.uncertainties,
        )

    def forward(self, images):
        """Raw outputs of every task, and of the uncertainties if there are any.

        Parameters
        ----------
        images : Tensor, shape (N, 2, P)
            Preprocessed charge and peak time, pixels in the lattice's order.

        Returns
        -------
        dict of str to Tensor of shape (N, n_outputs)
        """
        expected = (self.IN_CHANNELS, self.lattice.n_pixels)
        if tuple(images.shape[1:]) != expected:
            raise ValueError(
                f"images must have shape (N, {expected[0]}, {expected[1]}),"
                f" got {tuple(images.shape)}"
            )
        return self.head(self.backbone(images))
