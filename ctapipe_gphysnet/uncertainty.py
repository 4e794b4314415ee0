"""Uncertainty of every energy and direction, fitted to a network that is trained.

One linear layer reads the logarithm of the error's scale from the hidden layers of the
multi-task block. It is fitted after the training to the errors of validation events:
those of the events that a network has learnt from are too small. So the network itself
is the same with and without it, and a network that was trained long ago can get it too.
"""

import numpy as np
import torch
from sklearn.linear_model import GammaRegressor
from sklearn.model_selection import GroupKFold, cross_val_predict

from .tasks import TASKS

__all__ = ["MIN_EVENTS", "fit_uncertainties", "verify_number"]

MIN_EVENTS = 100  # gamma rays; of fewer, no 68 % interval is known to 10 %
N_FOLDS = 5
# Weight of the penalty on the square of the layer's weights, which does not grow with
# the number of events. Best within a factor of 10 for 500 to 10 000 events.
PENALTY = 30


def fit_uncertainties(predictor, batches, showers):
    """Fit and calibrate the layers for the uncertainties of a model.

    The scale s of the error e maximizes the likelihood of exp(-abs(e) / s) / s, of an
    exponential distribution: energies and directions have tails, which a normal one
    would heed too much. It is a linear model of log s with a quadratic penalty.

    Then all scales are multiplied by the width of the pulls, the errors divided by
    their scales. So that the width is that of events the layer has not seen, the pulls
    are those of cross-validation, each of a layer fitted to other showers.

    Parameters
    ----------
    predictor : ctapipe_gphysnet.inference.Predictor
        Of a model with the option ``uncertainty``. The layers are changed in place.
    batches : iterable of dict
        Events that the network was not trained on, as
        `ctapipe_gphysnet.batches.Batches` gives them. Gamma rays count alone.
    showers : array-like of int
        The shower of every event, in the order of the batches.

    Returns
    -------
    calibration : dict of str to dict
        For the card, by task: ``n_images``, and ``pull_width``, the factor.

    Raises
    ------
    ValueError
        If there are fewer than `MIN_EVENTS` gamma rays.
    """
    layers = predictor.model.network.head.uncertainties
    names = predictor.model.network.options.uncertainties
    features, errors, is_signal = _collect(predictor, batches, names)
    n_events = np.count_nonzero(is_signal)
    verify_number(n_events)
    showers = np.asarray(showers)[is_signal]
    calibration = {}
    for name, task in names.items():
        weight, bias, width = _fit(features, errors[task], showers, TASKS[task].width)
        with torch.no_grad():
            layers[name].weight.copy_(torch.from_numpy(weight)[None])
            layers[name].bias.fill_(bias)
        calibration[task] = {"n_images": int(n_events), "pull_width": float(width)}
    return calibration


def verify_number(n_events):
    """Make sure that there are gamma rays enough to fit to.

    Raises
    ------
    ValueError
        If there are fewer than `MIN_EVENTS`.
    """
    if n_events < MIN_EVENTS:
        raise ValueError(
            f"{n_events} gamma rays to fit uncertainties to; at least {MIN_EVENTS} are"
            " needed: keep more events aside with validation_fraction"
        )


def _collect(predictor, batches, names):
    """What the layers read, the errors by task, and which events are gamma rays.

    The first two are of gamma rays alone.
    """
    layer = predictor.model.network.head.uncertainties[next(iter(names))]
    seen, errors, is_signal = [], {task: [] for task in names.values()}, []

    def keep(layer, inputs):
        seen.append(inputs[0].float().cpu().numpy())

    with layer.register_forward_pre_hook(keep):
        for batch in batches:
            signal = batch["is_signal"].numpy()
            is_signal.append(signal)
            raw = predictor.predict(batch["images"].numpy()[signal])
            for task, found in errors.items():
                target = batch[task].numpy()[signal]
                found.append(TASKS[task].error(raw[task], target))
    errors = {task: np.concatenate(found) for task, found in errors.items()}
    return np.concatenate(seen), errors, np.concatenate(is_signal)


def _fit(features, errors, showers, width_of):
    """Weights (F,) and bias of a calibrated layer, and the width that was corrected."""
    center = features.mean(axis=0, dtype=np.float64)
    # one for all, so that a feature that is rarely there has no great weight
    spread = np.sqrt(features.var(axis=0, dtype=np.float64).mean()) or 1.0
    scaled = (features - center) / spread
    sizes = np.maximum(np.abs(errors), np.finfo(np.float32).tiny)
    # of the linear model of the logarithm, for errors of any distribution
    model = GammaRegressor(
        alpha=PENALTY / len(errors), solver="newton-cholesky", max_iter=200
    )
    folds = GroupKFold(min(N_FOLDS, len(np.unique(showers))))
    scales = cross_val_predict(model, scaled, sizes, groups=showers, cv=folds)
    width = width_of(errors / scales)
    model.fit(scaled, sizes)
    weight = model.coef_ / spread
    return weight, model.intercept_ - weight @ center + np.log(width), width
