"""What the card of a model says about its training."""

import hashlib
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
from ctapipe.instrument import FocalLengthKind
from ctapipe.io.metadata import read_reference_metadata

from .lstchain import is_lstchain

__all__ = [
    "card_configuration",
    "git_revision",
    "other_validation",
    "sources_of_training",
    "training_information",
]

# of `sources_of_training`, what decides which events there are; the card has it, too
SOURCES = ("inputs", "regression_inputs", "quality_criteria", "allowed_tels")
EFFECTIVE = FocalLengthKind.EFFECTIVE.name  # also of cards that do not tell
SOFTWARE = ("ctapipe_gphysnet", "ctapipe", "torch", "lightning", "numpy")


def sources_of_training(
    inputs,
    regression_inputs,
    quality_criteria,
    initial_model,
    allowed_tels=None,
    focal_length_choice=EFFECTIVE,
):
    """What a training has to have in common with one that it goes on with.

    Parameters
    ----------
    inputs, regression_inputs : sequence of path-like
        DL1 files.
    quality_criteria : sequence of (str, str)
    initial_model : path-like or None
        Model file to start from.
    allowed_tels : sequence of int or str, optional
        Telescopes to train on.
    focal_length_choice : str
        Name of a `ctapipe.instrument.FocalLengthKind`.

    Returns
    -------
    dict
        JSON values.

    Raises
    ------
    ModelFileError
        If the initial model cannot be read.
    """
    from .checkpoint import card_identity, read_card

    initial = None if initial_model is None else card_identity(read_card(initial_model))
    return {
        "inputs": [_identity(path) for path in inputs],
        "regression_inputs": [_identity(path) for path in regression_inputs],
        "quality_criteria": [list(pair) for pair in quality_criteria],
        "allowed_tels": sorted(allowed_tels, key=str) if allowed_tels else None,
        "focal_length_choice": focal_length_choice,
        "initial_model": initial,
    }


def _identity(path):
    """What tells one DL1 file from another: its name and product identifier.

    Files of lstchain have no identifier, so their digest stands for it.
    """
    identity = {}
    try:
        if is_lstchain(path):
            with open(path, "rb") as file:
                identity["sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
        else:
            identity["product_id"] = str(read_reference_metadata(path).product.id_)
    except Exception:  # each library raises its own; reading will say what is wrong
        pass
    return {"file": Path(path).name, **identity}


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
    return {
        **training.get("options", {}),
        "network": card["network"],
        "preprocessing": card["preprocessing"],
        **{name: training.get(name) for name in SOURCES},
        "focal_length_choice": training.get("focal_length_choice", EFFECTIVE),
        "initial_model": (training.get("initial_model") or {}).get("identity"),
    }


def other_validation(card, sources, options):
    """Why a model may have been trained on what is kept for validation.

    Which showers are kept follows from all events that pass the selection, the seed and
    the share. Files that the model has not seen may be shared out in any way.

    Parameters
    ----------
    card : dict
        Of the model.
    sources : dict
        As `sources_of_training` gives them, of the training to come.
    options : ctapipe_gphysnet.training.TrainingOptions
        Of the training to come.

    Returns
    -------
    None or (str, object, object)
        What was different in the training of the model, its value then and now.
    """
    from .resuming import first_difference

    training = card.get("training", {})
    files = [*(training.get("inputs") or []), *(training.get("regression_inputs") or [])]
    if not any(
        file in files for file in sources["inputs"] + sources["regression_inputs"]
    ):
        return None
    shares = ("seed", "validation_fraction")
    before = {name: training.get(name) for name in SOURCES}
    before |= {name: training["options"].get(name) for name in shares}
    now = {name: sources[name] for name in SOURCES}
    now |= {name: options.recipe[name] for name in shares}
    return first_difference(before, now)


def training_information(sample, selection, sources, options, result, initial):
    """Parts of the card on training, validation and software.

    Parameters
    ----------
    sample : ctapipe_gphysnet.events.EventSample
    selection : ctapipe_gphysnet.events.EventSelection
        With the counts of all events.
    sources : dict
        As `sources_of_training` gives them.
    options : ctapipe_gphysnet.training.TrainingOptions
    result : dict
        As `ctapipe_gphysnet.training.train` gives it.
    initial : dict or None
        What the card says of the initial model.

    Returns
    -------
    dict
        JSON values.
    """
    energy = np.asarray(sample.truth["true_energy"][sample.is_signal])
    primaries, counts = np.unique(
        sample.truth["true_shower_primary_id"], return_counts=True
    )
    pointing = {
        name: np.rad2deg(np.asarray(sample.truth[f"pointing_{name}"], dtype=float))
        for name in ("alt", "az")
    }
    steps = result["n_training"] // options.batch_size
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "training": {
            **{name: sources[name] for name in SOURCES},
            "focal_length_choice": sources["focal_length_choice"],
            "selection": _selection_counts(selection),
            "n_images": result["n_training"],
            "images_by_primary_id": {
                str(primary): int(count) for primary, count in zip(primaries, counts)
            },
            "signal_energy_TeV": [float(energy.min()), float(energy.max())],
            "pointing_deg": {
                name: [float(value.min()), float(value.max())]
                for name, value in pointing.items()
            },
            "epochs": result["epochs"],
            "image_presentations": result["epochs"] * steps * options.batch_size,
            "n_processes": result["n_processes"],
            "wall_time_s": result["wall_time_s"],
            "options": options.recipe,
            "initial_model": initial,
        },
        "validation": {"n_images": result["n_validation"], **result["metrics"]},
        "software": {package: version(package) for package in SOFTWARE},
    }


def _selection_counts(selection):
    """What each criterion left of the events."""
    table = selection.to_table()
    return [
        {
            "criterion": str(row["criteria"]),
            "passed": int(row["counts"]),
            "passed_so_far": int(row["cumulative_counts"]),
            "passed_so_far_by_primary_id": {
                name.removeprefix("primary_"): int(row[name])
                for name in table.colnames
                if name.startswith("primary_")
            },
        }
        for row in table
    ]


def git_revision():
    """Revision of the checkout the package runs from, None outside of one."""
    here = Path(__file__).resolve().parents[1]
    if not (here / ".git").exists():
        return None
    command = ["git", "-C", str(here), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(
            command, capture_output=True, check=True, text=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
