"""Why the network thinks so: relevance of the pixels, and attention maps.

Relevance is Grad-CAM (Selvaraju et al. 2017, https://arxiv.org/abs/1610.02391) on the
last convolutional layer, as in Jacquemont et al. 2021 (hal-03043058): the feature maps of
that layer, each weighted by the mean gradient of an output with respect to it, and
summed. What is positive raises the output, what is negative lowers it. Attention is the
spatial map of each dual attention module.

Both live on the coarse lattices that the network's strides make. `interpolation_matrix`
brings them back to the pixels.
"""

from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from scipy.sparse import csr_array
from scipy.spatial import cKDTree
from torch import nn
from torch.nn import functional

from .network.attention import DualAttention
from .relevance import shares

__all__ = [
    "OUTPUTS",
    "SIGNS",
    "Ensemble",
    "Explainer",
    "Explanation",
    "Output",
    "interpolation_matrix",
]


@dataclass(frozen=True)
class Output:
    """One number that comes out of the network.

    Attributes
    ----------
    name : str
    task : str
        The task it belongs to, a key of `ctapipe_gphysnet.tasks.TASKS`.
    weights : tuple of float
        It is the sum of the task's raw outputs times these.
    """

    name: str
    task: str
    weights: tuple

    def score(self, raw):
        """The number, of all raw outputs of N events; Tensor of shape (N,)."""
        outputs = raw[self.task]
        return outputs @ outputs.new_tensor(self.weights)


#: What can be explained. Gammaness is the logistic function of the difference of the two
#: logits, and Grad-CAM is of that difference, before the function saturates.
OUTPUTS = {
    output.name: output
    for output in (
        Output("gammaness", "particle_type", (-1, 1)),
        Output("energy", "energy", (1,)),
        Output("fov_lon", "direction", (1, 0)),
        Output("fov_lat", "direction", (0, 1)),
        Output("impact_x", "impact", (1, 0)),
        Output("impact_y", "impact", (0, 1)),
    )
}

#: What becomes of the sign of Grad-CAM: "positive" keeps what raises the output and sets
#: the rest to zero, as in its publication; "absolute" keeps what lowers it too.
SIGNS = {"positive": functional.relu, "absolute": torch.abs}


@dataclass
class Explanation:
    """What the network says of some events, and why.

    Attributes
    ----------
    raw : dict of str to ndarray, shape (N, n_outputs)
        For every task of the network its raw outputs.
    relevance : dict of str to ndarray, shape (N, P)
        For every output explained its Grad-CAM, not negative, pixels in the order of
        the network.
    attention : list of ndarray, shape (N, P)
        Spatial map of every stage with dual attention, in [1, 2]; empty without.
    """

    raw: dict
    relevance: dict
    attention: list


class Explainer:
    """Explains the outputs of a network.

    Parameters
    ----------
    network : GammaPhysNet
        In evaluation mode. Both backends and all kinds of attention will do.
    outputs : iterable of str, optional
        Names in `OUTPUTS`; by default all that the network has.
    sign : str
        Key of `SIGNS`.

    Raises
    ------
    ValueError
        If the network does not have an output, or there is no such.
    """

    def __init__(self, network, outputs=None, sign="positive"):
        from captum.attr import LayerGradCam  # takes a second, and is an extra

        tasks = network.options.tasks
        available = [name for name, output in OUTPUTS.items() if output.task in tasks]
        self.outputs = tuple(available if outputs is None else outputs)
        unknown = [name for name in self.outputs if name not in available]
        if unknown:
            raise ValueError(
                f"no output {unknown[0]!r}: the network has the tasks {', '.join(tasks)}"
                f" and with them the outputs {', '.join(available)}"
            )
        self._network, self._rectify = network, SIGNS[sign]
        self._tail = _Tail(network, [OUTPUTS[name] for name in self.outputs])
        self._grad_cam = LayerGradCam(self._tail, self._tail.pixels)
        lattices, matrices = [network.lattice], []
        while len(lattices) < len(network.options.channels):
            lattices.append(lattices[-1].subsample()[0])
        for stage, lattice in enumerate(lattices):
            matrices.append(interpolation_matrix(lattices[0], lattice, 2**stage))
        self._matrices = matrices

    @property
    def n_attention(self):
        """Number of stages with a spatial attention map."""
        attentions = self._network.backbone.attentions
        return sum(isinstance(attention, DualAttention) for attention in attentions)

    def __call__(self, images):
        """Explain some events.

        Parameters
        ----------
        images : ndarray, shape (N, 2, P)
            As `ctapipe_gphysnet.inference.Predictor.prepare` gives them.

        Returns
        -------
        Explanation
        """
        images = torch.from_numpy(images).to(next(self._network.parameters()).device)
        raw, tail_input, attention = self._forward(images)
        relevance = {
            # captum runs the tail once for each output, not the whole network
            name: self._rectify(self._grad_cam.attribute(tail_input, target=i))
            for i, name in enumerate(self.outputs)
        }
        return Explanation(
            raw={task: output.cpu().numpy() for task, output in raw.items()},
            relevance={
                name: self._to_camera(maps, -1) for name, maps in relevance.items()
            },
            attention=[self._to_camera(maps, stage) for stage, maps in attention.items()],
        )

    @torch.no_grad()
    def _forward(self, images):
        """Raw outputs, what goes into the last block, and attention by stage."""
        backbone, seen, attention = self._network.backbone, [], {}

        def keep_attention(stage, layer, inputs, output):
            maps = layer.spatial_map(inputs[0])
            attention[stage] = layer.channel.layout.to_pixels(maps)

        with ExitStack() as hooks:
            for stage, layer in enumerate(backbone.attentions):
                if isinstance(layer, DualAttention):
                    hook = partial(keep_attention, stage)
                    hooks.enter_context(layer.register_forward_hook(hook))
            hooks.enter_context(
                self._tail.block.register_forward_pre_hook(
                    lambda block, inputs: seen.append(inputs[0])
                )
            )
            raw = self._network(images)
        return raw, seen[0], attention

    def _to_camera(self, maps, stage):
        """Maps (N, 1, P of the stage) at the camera's pixels, ndarray (N, P)."""
        maps = maps.detach()[:, 0].cpu().numpy()
        return (self._matrices[stage].astype(maps.dtype) @ maps.T).T


class _Tail(nn.Module):
    """The network from its last residual block on.

    ``pixels`` is where the feature maps of the last convolution pass by without the cells
    of the dense grid that hold no pixel: they must not count in mean gradients.
    """

    def __init__(self, network, outputs):
        super().__init__()
        backbone = network.backbone
        self.layout = backbone.output_layout
        self.block = backbone.stages[-1][-1]
        self.attention = backbone.attentions[-1]
        self.head = network.head
        self.pixels = nn.Identity()
        self._outputs = outputs

    def forward(self, maps):
        """Outputs to explain, Tensor of shape (N, n)."""
        with self.block.conv2.register_forward_hook(self._pass_by):
            maps = functional.relu(self.attention(self.block(maps)))
        raw = self.head(maps)
        return torch.stack([output.score(raw) for output in self._outputs], dim=1)

    def _pass_by(self, layer, inputs, maps):
        return self.layout.from_pixels(self.pixels(self.layout.to_pixels(maps)))


def interpolation_matrix(fine, coarse, stride):
    """Weights that bring maps on a coarse lattice to the pixels of the camera.

    A cell of the coarse lattice has the very place of one pixel of the fine one, where
    the map keeps its value. In between it is linear in the triangle of coarse cells
    around the pixel (bilinear in their square on a square lattice). At the edge of the
    camera, where some of these cells are missing, the others share their weight; where
    all are missing, the nearest cell stands in.

    Parameters
    ----------
    fine, coarse : CameraLattice
        ``coarse`` is ``fine`` after some times `CameraLattice.subsample`.
    stride : int
        Fine cells in a step of the coarse lattice.

    Returns
    -------
    matrix : scipy.sparse.csr_array, shape (P, P_coarse)
        Rows with a sum of 1.
    """
    base, fraction = np.divmod(fine.cells, stride)
    grid = np.full(base.max(axis=0) + 2, -1)
    grid[tuple(coarse.cells.T)] = np.arange(coarse.n_pixels)
    rows, columns, weights = [], [], []
    for corner, weight in _corner_weights(fraction / stride, fine.kind):
        cell = grid[tuple((base + corner).T)]
        pixel = np.flatnonzero((cell >= 0) & (weight > 0))
        rows.append(pixel)
        columns.append(cell[pixel])
        weights.append(weight[pixel])
    alone = np.setdiff1d(np.arange(fine.n_pixels), np.concatenate(rows))
    centres = cKDTree(stride * coarse.cells @ fine.basis)
    rows.append(alone)
    columns.append(centres.query(fine.cells[alone] @ fine.basis)[1])
    weights.append(np.ones(len(alone)))
    rows, columns, weights = map(np.concatenate, (rows, columns, weights))
    weights /= np.bincount(rows, weights)[rows]
    return csr_array((weights, (rows, columns)), shape=(fine.n_pixels, coarse.n_pixels))


def _corner_weights(fraction, kind):
    """Corners of a cell of the lattice, and their weights at places (n, 2) in it.

    On axial coordinates (0, 0), (1, 1) and one of (1, 0) and (0, 1) are a triangle.
    """
    row, column = fraction.T
    if kind == "square":
        return [
            ((0, 0), (1 - row) * (1 - column)),
            ((0, 1), (1 - row) * column),
            ((1, 0), row * (1 - column)),
            ((1, 1), row * column),
        ]
    return [
        ((0, 0), 1 - np.maximum(row, column)),
        ((0, 1), np.maximum(column - row, 0)),
        ((1, 0), np.maximum(row - column, 0)),
        ((1, 1), np.minimum(row, column)),
    ]


class Ensemble:
    """Networks that differ in nothing but their seeds, explained on the same images.

    Parameters
    ----------
    predictors : list of ctapipe_gphysnet.inference.Predictor
        Their networks have the same options.
    outputs, sign
        See `Explainer`.
    """

    def __init__(self, predictors, outputs=None, sign="positive"):
        self.predictors = list(predictors)
        self._explainers = [
            Explainer(predictor.model.network, outputs, sign)
            for predictor in self.predictors
        ]

    @property
    def attention_maps(self):
        """Names of the attention maps, the product of all stages last."""
        n_stages = self._explainers[0].n_attention
        names = [f"attention_{stage + 1}" for stage in range(n_stages)]
        return (*names, "attention_product") if names else ()

    @property
    def maps(self):
        """Names of all maps."""
        return (*self._explainers[0].outputs, *self.attention_maps)

    def __call__(self, charge, peak_time, matches):
        """Explain some images of a telescope.

        Parameters
        ----------
        charge, peak_time : ndarray, shape (N, P)
            Photo-electrons and nanoseconds, pixels in the telescope's order.
        matches : list of CameraMatch
            Of the telescope, for each of the S networks.

        Returns
        -------
        maps : dict of str to ndarray, shape (N, S, P)
            By the names in `maps`, pixels in the telescope's order. Relevance is in
            shares of its sum over the camera, NaN where it is zero all over; attention
            is as it is, the product between 1 and 2 to the number of stages.
        raw : list of dict
            For every network its raw outputs.
        """
        explanations, maps = [], {name: [] for name in self.maps}
        for predictor, explainer, match in zip(
            self.predictors, self._explainers, matches
        ):
            explanation = explainer(predictor.prepare(charge, peak_time, match))
            explanations.append(explanation)
            for name, values in _named_maps(explanation, self.attention_maps).items():
                in_telescope = np.empty_like(values)
                in_telescope[:, match.permutation] = values
                maps[name].append(in_telescope)
        maps = {name: np.stack(values, axis=1) for name, values in maps.items()}
        return maps, [explanation.raw for explanation in explanations]


def _named_maps(explanation, attention_names):
    """Relevance in shares, the attention of every stage, and its product."""
    attention = explanation.attention
    if attention:
        attention = [*attention, np.prod(attention, axis=0)]
    return {
        **{name: shares(maps) for name, maps in explanation.relevance.items()},
        **dict(zip(attention_names, attention)),
    }
