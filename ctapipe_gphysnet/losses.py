"""Loss of every task, and their balance."""

import torch
from torch import nn
from torch.nn import functional

from .tasks import TASKS

__all__ = ["MultiTaskLoss", "gradient_penalty", "mean_of_processes", "task_losses"]

LEAST_NUMBER = 1e-6  # below one event in any number of processes


def task_losses(
    outputs,
    targets,
    is_signal,
    classified,
    class_weights=None,
    label_smoothing=0.0,
    shared=False,
):
    """Mean loss of every task over the events that count for it.

    The regressions count for the signal alone: background has no energy or
    direction worth learning (the papers' masked loss).

    Parameters
    ----------
    outputs : dict of str to Tensor of shape (N, n_outputs)
        Those that are no task, as uncertainties, have no loss.
    targets : dict of str to Tensor
        Shape (N, n_outputs) for regressions, (N,) for classes.
    is_signal : Tensor of bool, shape (N,)
        Events that count for the regressions.
    classified : Tensor of bool, shape (N,)
        Events that count for the particle type.
    class_weights : Tensor, shape (2,), optional
        Weight of every class.
    label_smoothing : float
        Share of a label that goes to both classes alike (Szegedy et al. 2016,
        https://arxiv.org/abs/1512.00567), as torch has it.
    shared : bool
        Each of the processes that train together has a part of the batch. Then the mean
        of their losses, and so of their gradients, is that of the whole batch.

    Returns
    -------
    dict of str to scalar Tensor
        Zero where no event counts.
    """
    losses = {}
    for name, output in outputs.items():
        if name not in TASKS:
            continue
        output, target = output.float(), targets[name]
        if TASKS[name].loss == "cross_entropy":
            per_event = functional.cross_entropy(
                output,
                target,
                weight=class_weights,
                reduction="none",
                label_smoothing=label_smoothing,
            )
            counts = classified
        else:
            per_event = (output - target).abs().mean(dim=1)
            counts = is_signal
        counts = counts.to(per_event.dtype)
        number = mean_of_processes(counts.sum()) if shared else counts.sum()
        losses[name] = (per_event * counts).sum() / number.clamp(min=LEAST_NUMBER)
    return losses


def mean_of_processes(tensor):
    """Mean of a tensor over the processes that train together, itself for one alone.

    Parameters
    ----------
    tensor : Tensor
        Of the same shape in all processes, without a gradient. Overwritten.

    Returns
    -------
    Tensor
        The same tensor.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(tensor)
        tensor /= torch.distributed.get_world_size()
    return tensor


def gradient_penalty(loss, images):
    """How strongly the loss answers to a change of the images.

    The squared norm of the gradient in an image, mean over the batch (Drucker & LeCun
    1992, https://doi.org/10.1109/72.165600). The loss is a mean over N events; N times
    its gradient is taken, so that the penalty does not depend on the batch size.

    Parameters
    ----------
    loss : scalar Tensor
        Of all tasks.
    images : Tensor, shape (N, 2, P)
        What the loss was computed from; with ``requires_grad``.

    Returns
    -------
    scalar Tensor
        Its own gradient needs second derivatives of all layers.
    """
    (gradient,) = torch.autograd.grad(len(images) * loss, images, create_graph=True)
    return gradient.square().sum(dim=(1, 2)).mean()


class MultiTaskLoss(nn.Module):
    """Balance of the tasks by their learnt uncertainty.

    sum over tasks of c exp(-s) L + s, with the log-variance s of every task
    learnt from 1 on; c is 2 for a regression and 0.5 for a class (Kendall et
    al. 2018, https://arxiv.org/abs/1705.07115, as GammaLearn has it).

    Parameters
    ----------
    tasks : iterable of str
        Names in `ctapipe_gphysnet.tasks.TASKS`.
    """

    FACTORS = {"l1": 2.0, "cross_entropy": 0.5}

    def __init__(self, tasks):
        super().__init__()
        self.log_variance = nn.ParameterDict(
            {task: nn.Parameter(torch.ones(())) for task in tasks}
        )

    def forward(self, losses):
        """Balanced sum of a dict of task to loss."""
        return sum(
            self.FACTORS[TASKS[task].loss] * torch.exp(-log_variance) * losses[task]
            + log_variance
            for task, log_variance in self.log_variance.items()
        )
