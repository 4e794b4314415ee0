"""Model files of trainings that differ in their seed alone."""

from pathlib import Path

import numpy as np
from astropy.table import Table

from .checkpoint import card_identity, read_card
from .files import replaced_when_whole
from .training_card import card_configuration

__all__ = [
    "index_path",
    "seed_outputs",
    "training_folder",
    "unfinished_seeds",
    "write_index",
]


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


def training_folder(output):
    """Where checkpoints and logs of the training of a model file go."""
    return output.with_suffix(".training")


def index_path(output):
    """Where the table of the model files of several seeds goes."""
    return output.with_name(f"{output.stem}_seeds.ecsv")


def unfinished_seeds(outputs, plans, resume, overwrite):
    """Seeds that are still to be trained.

    Parameters
    ----------
    outputs : dict of int to pathlib.Path
        Model file of every seed. One that is there and is what it should be is complete,
        if there are several.
    plans : dict of int to dict
        `ctapipe_gphysnet.resuming.configuration` of every seed.
    resume : bool
        Go on from checkpoints.
    overwrite : bool
        Begin anew where that costs a model file or a checkpoint.

    Returns
    -------
    dict of int to bool
        Seeds to train, and whether they go on from a checkpoint.

    Raises
    ------
    ValueError
        If something would be lost unasked, or if there is nothing to resume.
    OSError
        If there is no checkpoint to go on from, or one of another training.
    """
    from .resuming import LAST, CheckpointError, read_checkpoint

    several, found = len(outputs) > 1, {}
    for seed, output in outputs.items():
        if several and output.exists() and (resume or not overwrite):
            if _is_complete(output, plans[seed], overwrite):
                continue
        last = training_folder(output) / LAST
        if last.exists() and not (resume or overwrite):
            raise ValueError(
                f"{last} is of a training that can go on: give --resume, or --overwrite"
                " to begin anew"
            )
        found[seed] = resume and (not several or last.exists())
        if found[seed]:
            try:
                read_checkpoint(last, plans[seed])
            except CheckpointError:  # of another training, or damaged
                if not (several and overwrite):
                    raise
                found[seed] = False
    if resume and not any(
        output.exists() or (training_folder(output) / LAST).exists()
        for output in outputs.values()
    ):
        raise ValueError(
            "neither a checkpoint nor a model file of"
            f" {', '.join(map(str, outputs.values()))}: nothing to resume"
        )
    return found


def _is_complete(output, plan, overwrite):
    """Whether a model file is that of a configuration."""
    from .resuming import first_difference

    difference = first_difference(card_configuration(read_card(output)), plan)
    if difference is not None and not overwrite:
        name, old, new = difference
        raise ValueError(
            f"{output} exists, but {name} is {new} and was {old} for it; choose another"
            " name or give --overwrite"
        )
    return difference is None


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
            if not isinstance(value, dict)  # of the fitted uncertainties
        }
        file = {"seed": seed, "file": Path(output).name, "identity": card_identity(card)}
        rows.append({**file, **metrics})
    with replaced_when_whole(path) as aside:
        Table(rows).write(aside, format="ascii.ecsv", overwrite=True)
