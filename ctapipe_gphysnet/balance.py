"""Balance of the tasks: one loss of the losses of all tasks."""

from dataclasses import dataclass, field

import torch
from torch import nn

from .losses import MultiTaskLoss, mean_of_processes

__all__ = ["BALANCES", "Balance", "FixedBalance", "GradNormBalance"]

BALANCES = ("uncertainty", "gradnorm", "fixed", "equal")
LEAST_WEIGHT = 1e-3  # of GradNorm: below 0 a task would be learnt backwards


@dataclass(frozen=True)
class Balance:
    """How the tasks are weighted against each other.

    Attributes
    ----------
    name : {"uncertainty", "gradnorm", "fixed", "equal"}
        By learnt uncertainty (`ctapipe_gphysnet.losses.MultiTaskLoss`), by gradient norms
        (`GradNormBalance`), with weights of one's own, or with the weight 1 for all.
    task_weights : dict of str to float
        Weight of every task; for "fixed" alone.
    alpha : float
        Of "gradnorm": the larger it is, the more the tasks that learn slowly are
        furthered. 1.5 and 0.12 are those of its paper.
    """

    name: str = "uncertainty"
    task_weights: dict = field(default_factory=dict)
    alpha: float = 1.5

    def __post_init__(self):
        if self.name not in BALANCES:
            raise ValueError(f"balance must be one of {BALANCES}, got {self.name!r}")
        if (self.name == "fixed") != bool(self.task_weights):
            raise ValueError(
                "task_weights belong to the balance 'fixed', which needs them; got"
                f" {self.task_weights or 'none'} for the balance {self.name!r}"
            )
        if any(not weight > 0 for weight in self.task_weights.values()):
            raise ValueError(f"task_weights must be positive, got {self.task_weights}")
        if not self.alpha >= 0:
            raise ValueError(f"gradnorm_alpha must not be negative, got {self.alpha}")

    def verify(self, tasks):
        """Make sure that the balance is one of these tasks.

        Raises
        ------
        ValueError
            If ``task_weights`` are of other tasks.
        """
        if self.name == "fixed" and set(self.task_weights) != set(tasks):
            raise ValueError(
                f"task_weights are of {sorted(self.task_weights)}, but the tasks are"
                f" {sorted(tasks)}"
            )

    def make(self, tasks, shared):
        """The balance as a module that makes one loss of a dict of task to loss.

        Parameters
        ----------
        tasks : sequence of str
            Names in `ctapipe_gphysnet.tasks.TASKS`.
        shared : Parameter
            Weight of the last layer that all tasks share.

        Returns
        -------
        torch.nn.Module

        Raises
        ------
        ValueError
            If ``task_weights`` are of other tasks.
        """
        self.verify(tasks)
        if self.name == "uncertainty":
            return MultiTaskLoss(tasks)
        if self.name == "gradnorm":
            return GradNormBalance(tasks, shared, self.alpha)
        return FixedBalance(self.task_weights or dict.fromkeys(tasks, 1.0))


class FixedBalance(nn.Module):
    """Sum of the losses with weights that do not change.

    Parameters
    ----------
    weights : dict of str to float
        Of every task.
    """

    def __init__(self, weights):
        super().__init__()
        self.weights = dict(weights)

    def forward(self, losses):
        """Weighted sum of a dict of task to loss."""
        return sum(weight * losses[task] for task, weight in self.weights.items())


class GradNormBalance(nn.Module):
    """Sum of the losses with weights that even out how fast the tasks learn.

    GradNorm (Chen et al. 2018, https://arxiv.org/abs/1711.02257). Let G be the norm of
    the gradient of a task's weighted loss w L in the last shared layer, and r the loss
    over its first value, relative to the mean of this over the tasks. The weights go
    down the gradient of the sum over tasks of abs(G - mean(G) r^alpha), where the second
    term counts as a constant, and are then scaled to a sum of as many as there are tasks.
    G is w times the norm of the gradient of L, so that no gradient of a gradient is
    needed.

    Processes that train together take the mean of their losses and gradients, as they
    do for the network, and so have the same weights.

    Parameters
    ----------
    tasks : sequence of str
        Their names.
    shared : Parameter
        Weight of the last shared layer. It stays a parameter of the network alone.
    alpha : float
        Strength with which slow tasks are furthered.
    """

    def __init__(self, tasks, shared, alpha):
        super().__init__()
        self.tasks = list(tasks)
        self.alpha = alpha
        self.weights = nn.Parameter(torch.ones(len(self.tasks)))
        # 0 until a batch had events of the task
        self.register_buffer("first_losses", torch.zeros(len(self.tasks)))
        self._shared = [shared]  # a list keeps it out of the module's registry

    def forward(self, losses):
        """Balanced sum of a dict of task to loss.

        Its gradient in the weights is that of GradNorm's own loss, and its gradient in
        everything else that of the weighted sum.
        """
        values = torch.stack([losses[task] for task in self.tasks])
        self._normalize()
        total = (self.weights.detach() * values).sum()
        gradients = [
            torch.autograd.grad(value, self._shared, retain_graph=True)[0].flatten()
            for value in values
        ]
        norms = mean_of_processes(torch.stack(gradients)).norm(dim=1)
        rates = self._relative_rates(mean_of_processes(values.detach().clone()))
        weighted = self.weights * norms
        target = (weighted.mean() * rates**self.alpha).detach()
        distance = (weighted - target).abs().sum()
        # of no value, only a gradient: what is shown is the loss
        return total + (distance - distance.detach())

    @torch.no_grad()
    def _normalize(self):
        """Scale the weights, which the optimizer has moved."""
        self.weights.clamp_(min=LEAST_WEIGHT)
        self.weights.mul_(len(self.tasks) / self.weights.sum())

    def _relative_rates(self, losses):
        """Loss over first loss, relative to the mean of the tasks; 1 without a first."""
        new = (self.first_losses == 0) & (losses > 0)
        self.first_losses[new] = losses[new].to(self.first_losses)
        known = self.first_losses > 0
        ratios = torch.ones_like(losses)
        ratios[known] = losses[known] / self.first_losses[known]
        return ratios / ratios.mean()
