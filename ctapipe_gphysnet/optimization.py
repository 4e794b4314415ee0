"""Optimizer and schedule of the learning rate."""

import torch
from torch.optim import lr_scheduler

__all__ = ["OPTIMIZERS", "SCHEDULES", "make_optimizer", "make_schedule"]

#: Adam adds the weight decay to the gradient (an L2 penalty, as the papers have it),
#: AdamW takes it from the weights (Loshchilov & Hutter 2019,
#: https://arxiv.org/abs/1711.05101).
OPTIMIZERS = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}
SCHEDULES = ("one-cycle", "steps")


def make_optimizer(network, balance, options):
    """Optimizer of a network and of the balance of its tasks.

    Parameters
    ----------
    network, balance : torch.nn.Module
        The balance is a second group of parameters, if it has any.
    options : ctapipe_gphysnet.training.TrainingOptions

    Returns
    -------
    torch.optim.Optimizer
    """
    groups = [
        {
            "params": list(network.parameters()),
            "lr": options.learning_rate,
            "weight_decay": options.weight_decay,
        }
    ]
    if weights := list(balance.parameters()):
        groups.append(
            {
                "params": weights,
                "lr": options.balance_learning_rate,
                "weight_decay": options.balance_weight_decay,
            }
        )
    # in one pass over the weights; Lightning then clips no gradients of mixed precision
    fused = options.precision == "32-true"
    return OPTIMIZERS[options.optimizer](groups, fused=fused)


def make_schedule(optimizer, options, n_steps):
    """Schedule of the learning rates, in the terms of Lightning.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
        Of `make_optimizer`; its learning rates are the highest ones.
    options : ctapipe_gphysnet.training.TrainingOptions
    n_steps : int
        Of the whole training.

    Returns
    -------
    dict
        Lightning's ``lr_scheduler``.
    """
    rates = [group["lr"] for group in optimizer.param_groups]
    if options.schedule == "one-cycle":
        schedule = lr_scheduler.OneCycleLR(
            optimizer, max_lr=rates, total_steps=n_steps, pct_start=0.15
        )
        return {"scheduler": schedule, "interval": "step"}

    def network(epoch):
        return 0.1 ** (epoch // options.step_epochs)

    def balance(epoch):  # the papers leave it as it is
        return 1.0

    factors = [network, balance][: len(rates)]
    schedule = lr_scheduler.LambdaLR(optimizer, factors)
    return {"scheduler": schedule, "interval": "epoch"}
