"""gphysnet-info: show the card of a model file."""

import argparse
import json
import sys

from ..resources import find_model, model_names

__all__ = ["describe", "main"]

# The card's fields in the order in which they are shown; others follow.
FIRST = (
    "description",
    "created",
    "camera",
    "network",
    "tasks",
    "preprocessing",
    "training",
    "validation",
)
# Shown in the heading, or of no use to a person.
HIDDEN = ("name", "format", "format_version", "weights_sha256")


def describe(model, path):
    """The card of a model as text.

    Parameters
    ----------
    model : Model
        As `ctapipe_gphysnet.checkpoint.read_model` gives it.
    path : path-like
        The file it was read from.

    Returns
    -------
    text : str
    """
    card = {key: value for key, value in model.information.items() if key not in HIDDEN}
    n_parameters = sum(p.numel() for p in model.network.parameters())
    positions = "pixel_positions_m"
    card["camera"] = {k: v for k, v in card["camera"].items() if k != positions}
    card["network"] = {"n_parameters": n_parameters, **card["network"]}
    shown = {"file": str(path), "identity": model.identity}
    shown.update({key: card.pop(key) for key in FIRST if key in card})
    return "\n".join([model.name, "=" * len(model.name), *_lines({**shown, **card})])


def _lines(values, indent=""):
    """Lines of a nested dict, names in one column on each level."""
    width = max((len(name) for name in values), default=0)
    for name, value in values.items():
        label = f"{indent}{name:<{width}}"
        if isinstance(value, dict) and value:
            yield f"{indent}{name}"
            yield from _lines(value, indent + "    ")
        elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
            yield f"{indent}{name}"
            yield from (f"{indent}    {_inline(item)}" for item in value)
        else:
            yield f"{label}  {_inline(value)}"


def _inline(value):
    """A value on one line."""
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_inline(item)}" for name, item in value.items())
    if isinstance(value, list):
        return ", ".join(_inline(item) for item in value) or "-"
    if isinstance(value, float):
        return f"{value:.6g}"
    return "-" if value in (None, "", {}) else str(value)


def _parser():
    shipped = ", ".join(model_names()) or "none"
    parser = argparse.ArgumentParser(
        prog="gphysnet-info",
        description=(
            "Show the card of a γ-PhysNet model file: what the network is, which camera"
            " it is for, what it was trained on and how well it did. The file itself is"
            " verified."
        ),
        epilog=f"models that come with the package: {shipped}",
    )
    parser.add_argument(
        "model", metavar="FILE_OR_NAME", help="model file, or name of a shipped model"
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="print the card as it is in the file, pixel positions included",
    )
    return parser


def main(argv=None):
    """Run the tool from the command line; returns the exit code."""
    arguments = _parser().parse_args(argv)
    from ..checkpoint import read_model  # torch takes seconds: not for --help

    try:
        path = find_model(arguments.model)
        model = read_model(path)
    except (OSError, ValueError) as error:
        print(f"gphysnet-info: {error}", file=sys.stderr)
        return 1
    if arguments.json:
        print(json.dumps(model.information, indent=2, sort_keys=True))
    else:
        print(describe(model, path))
    return 0


if __name__ == "__main__":
    sys.exit(main())
