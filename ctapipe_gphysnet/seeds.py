"""Model files of trainings that differ in their seed alone."""

from pathlib import Path

import numpy as np
from astropy.table import Table

from .checkpoint import card_identity, read_card
from .files import replaced_when_whole

__all__ = ["card_configuration", "index_path", "seed_outputs", "write_index"]


def seed_outputs(output, seeds):
    """Model files of several seeds.

    Parameters
    ----------
    output : pathlib.Path
        Model file as for one seed.
    seeds : sequence of int

    Returns
    -------
    dict of int to pathlib.Path
        ``model.safetensors`` itself for one seed, ``model_seed3.safetensors`` and so on
        for several.
    """
    if len(seeds) == 1:
        return {seeds[0]: output}
    return {
        seed: output.with_name(f"{output.stem}_seed{seed}{output.suffix}")
        for seed in seeds
    }


def index_path(output):
    """Where the table of the model files of several seeds goes."""
    return output.with_name(f"{output.stem}_seeds.ecsv")


def card_configuration(card):
    """What `ctapipe_gphysnet.resuming.configuration` was for the model of a card.

    Parameters
    ----------
    card : dict

    Returns
    -------
    dict
    """
    training = card.get("training", {})
    names = ("inputs", "regression_inputs", "quality_criteria")
    return {
        **training.get("options", {}),
        "network": card["network"],
        "preprocessing": card["preprocessing"],
        **{name: training.get(name) for name in names},
        "initial_model": (training.get("initial_model") or {}).get("identity"),
    }


def write_index(path, outputs):
    """Write the table of the model files of several seeds.

    Parameters
    ----------
    path : path-like
        To write, ECSV: seed, file, identity of the model, and its validation metrics.
    outputs : dict of int to pathlib.Path
        Model file of every seed.
    """
    rows = []
    for seed, output in outputs.items():
        card = read_card(output)
        metrics = {
            name: np.nan if value is None else value
            for name, value in card["validation"].items()
        }
        file = {"seed": seed, "file": Path(output).name, "identity": card_identity(card)}
        rows.append({**file, **metrics})
    with replaced_when_whole(path) as aside:
        Table(rows).write(aside, format="ascii.ecsv", overwrite=True)
