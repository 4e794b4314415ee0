"""Averages of the weights over the steps of a training."""

from lightning.pytorch.callbacks import WeightAveraging
from torch.optim.swa_utils import get_ema_multi_avg_fn

__all__ = ["AveragedWeights", "moving_average"]


class AveragedWeights(WeightAveraging):
    """Exponential moving average of weights and running statistics.

    Validation and checkpoints have the average; a checkpoint has the latest weights, too,
    from which the training goes on. The running statistics of the batch normalizations
    are averaged like the weights they belong to.

    Parameters
    ----------
    decay : float
        See `moving_average`.
    """

    def __init__(self, decay):
        super().__init__(use_buffers=True, multi_avg_fn=moving_average(decay))


def moving_average(decay):
    """Function that moves averages on by a step.

    It is the multi_avg_fn of a `torch.optim.swa_utils.AveragedModel`.

    The average of n + 1 values is d times that of n values, plus 1 - d times the latest,
    with d = min(decay, (1 + n) / (10 + n)), so that a short training is not left with the
    weights it began with, as in
    https://www.tensorflow.org/api_docs/python/tf/train/ExponentialMovingAverage.

    Parameters
    ----------
    decay : float
        In (0, 1). The average reaches back over about 1 / (1 - decay) steps.

    Returns
    -------
    function of (list of Tensor, list of Tensor, scalar Tensor)
        Averages, changed in place; latest values; n.
    """

    def move(averages, values, n_averaged):
        if not averages[0].is_floating_point():  # the number of batches seen
            for average, value in zip(averages, values):
                average.copy_(value)
            return
        n = float(n_averaged)
        get_ema_multi_avg_fn(min(decay, (1 + n) / (10 + n)))(averages, values, n_averaged)

    return move
