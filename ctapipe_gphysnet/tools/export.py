"""gphysnet-export: make a model usable by the stock ctapipe-apply-models."""

import argparse
import shlex
import sys

from ..resources import model_names

__all__ = ["apply_models_command", "main"]

# Array events that ctapipe-apply-models holds at once. With images, its default of
# 100 000 takes gigabytes for every telescope, and larger chunks are hardly faster.
CHUNK_SIZE = 1000


def apply_models_command(paths):
    """The command that applies exported pickles.

    Parameters
    ----------
    paths : iterable of pathlib.Path
        As `ctapipe_gphysnet.pickled.export` gives them.

    Returns
    -------
    command : str
        For a shell, on several lines.
    """
    lines = ["ctapipe-apply-models -i INPUT.dl1.h5 -o OUTPUT.dl2.h5"]
    lines += [f"--reconstructor {shlex.quote(str(path))}" for path in paths]
    lines.append(f"--TableLoader.dl1_images=True --chunk-size={CHUNK_SIZE}")
    return " \\\n    ".join(lines)


def _parser():
    shipped = ", ".join(model_names()) or "none"
    parser = argparse.ArgumentParser(
        prog="gphysnet-export",
        description=(
            "Write small pickled reconstructors, one for each property, with which"
            " ctapipe-apply-models applies a γ-PhysNet model. They refer to the model"
            " file, which has to stay where it is."
        ),
        epilog=f"models that come with the package: {shipped}",
    )
    parser.add_argument(
        "model", metavar="FILE_OR_NAME", help="model file, or name of a shipped model"
    )
    parser.add_argument("-o", "--output", metavar="FOLDER", required=True)
    parser.add_argument(
        "--overwrite", action="store_true", help="replace those of an earlier export"
    )
    return parser


def main(argv=None):
    """Run the tool from the command line; returns the exit code."""
    arguments = _parser().parse_args(argv)
    from ..pickled import export  # torch takes seconds: not for --help

    try:
        paths = export(arguments.model, arguments.output, arguments.overwrite)
    except (OSError, ValueError) as error:
        print(f"gphysnet-export: {error}", file=sys.stderr)
        return 1
    print(f"wrote {', '.join(map(str, paths))}; apply them with\n")
    print(apply_models_command(paths))
    return 0


if __name__ == "__main__":
    sys.exit(main())
