"""Which model is for which telescope."""

from dataclasses import dataclass

from ctapipe.core import Provenance, ToolConfigurationError

from .camera import CameraMatch, CameraMismatch
from .lattice import LatticeError
from .resources import find_model

__all__ = ["Assignment", "assign_models", "read_predictors", "table_meta"]


@dataclass(frozen=True)
class Assignment:
    """A telescope's model and how its images become the model's.

    Attributes
    ----------
    predictor : ctapipe_gphysnet.inference.Predictor
    match : CameraMatch
    products : tuple of Product
        What the model knows.
    """

    predictor: object
    match: CameraMatch
    products: tuple


def read_predictors(models, log, **options):
    """A `Predictor` for every model file; the files go into the provenance.

    Parameters
    ----------
    models : iterable of str
        Model files, or names of shipped models.
    log : logging.Logger
    **options
        Of `ctapipe_gphysnet.inference.Predictor`.

    Returns
    -------
    predictors : list of Predictor

    Raises
    ------
    ToolConfigurationError
        If a model cannot be read or an option is not possible.
    """
    from .checkpoint import read_model  # torch takes a second, so only where needed
    from .inference import Predictor

    predictors = []
    for model in models:
        try:
            path = find_model(model)
            predictor = Predictor(read_model(path), **options)
        except (OSError, ValueError) as error:
            raise ToolConfigurationError(str(error)) from error
        Provenance().add_input_file(path, role="GammaPhysNet model", add_meta=False)
        card = predictor.model
        log.info("Read model %s (%s) from %s", card.name, card.identity, path)
        predictors.append(predictor)
    return predictors


def assign_models(predictors, products, subarray, log):
    """The model of every telescope that has one.

    Parameters
    ----------
    predictors : list of Predictor
    products : tuple of Product
        Those that are wanted.
    subarray : ctapipe.instrument.SubarrayDescription
    log : logging.Logger
        Told of every type of telescope without model.

    Returns
    -------
    assignments : dict of int to Assignment
        By telescope id.

    Raises
    ------
    ToolConfigurationError
        If two models fit the same telescope, or none fits any.
    """
    by_type, reasons = {}, {}
    for telescope in subarray.telescope_types:
        try:
            by_type[telescope] = _assignment(predictors, products, telescope)
        except (CameraMismatch, LatticeError) as error:
            reasons[f"{telescope}: {error}"] = None  # a set that keeps the order
    if not by_type:
        raise ToolConfigurationError(
            f"No telescope of subarray {subarray.name} has a model: " + "; ".join(reasons)
        )
    for reason in reasons:
        log.warning("No model, telescopes of this type are skipped: %s", reason)
    return {
        tel_id: by_type[telescope]
        for tel_id, telescope in subarray.tel.items()
        if telescope in by_type
    }


def _assignment(predictors, products, telescope):
    """The one model that fits a telescope; raises if none or several do."""
    found, reasons = [], []
    for predictor in predictors:
        try:
            found.append((predictor, predictor.match(telescope)))
        except (CameraMismatch, LatticeError) as error:
            reasons.append(f"{predictor.model.name}: {error}")
    if len(found) > 1:
        names = " and ".join(predictor.model.name for predictor, _ in found)
        raise ToolConfigurationError(
            f"More than one model fits telescopes of type {telescope}: {names}"
        )
    if not found:
        raise CameraMismatch(", ".join(reasons))
    predictor, match = found[0]
    tasks = predictor.model.network.options.tasks
    known = tuple(product for product in products if product.task in tasks)
    return Assignment(predictor, match, known)


def table_meta(product, predictors, assignments):
    """What the header of a DL2 table says about the models.

    The keys have the prefix in them and the values are the same for all
    telescopes, so that tables can be joined without conflicts.

    Parameters
    ----------
    product : Product
    predictors : list of Predictor
        In the order in which they are named.
    assignments : dict of int to Assignment

    Returns
    -------
    meta : dict of str to str
        Names and identities of the models in use.
    """
    used = [a.predictor for a in assignments.values() if product in a.products]
    models = [p.model for p in predictors if p in used]
    return {
        f"{product.prefix}_model": ", ".join(model.name for model in models),
        f"{product.prefix}_model_sha256": ", ".join(m.identity for m in models),
    }
