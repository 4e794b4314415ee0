"""What the tools say of files that cannot be, or be written."""

import os
import shutil
from contextlib import contextmanager

import tables
from ctapipe.core import ToolConfigurationError
from ctapipe.io.hdf5merger import CannotMerge

from ..files import reason
from ..lstchain import is_lstchain

__all__ = [
    "common_format",
    "failures_of_writing",
    "verify_inputs_and_output",
    "verify_output",
    "verify_output_folder",
]


def verify_inputs_and_output(inputs, output, overwrite):
    """Raise unless one file can be made of several.

    Parameters
    ----------
    inputs : list of pathlib.Path
    output : pathlib.Path or None
    overwrite : bool
        Whether the output may be there already.

    Raises
    ------
    ctapipe.core.ToolConfigurationError
    """
    if not inputs:
        raise ToolConfigurationError("no input: give files with --input")
    if output is None:
        raise ToolConfigurationError("no output: give a file with --output")
    for i, path in enumerate(inputs):
        if any(path.samefile(other) for other in inputs[:i]):
            raise ToolConfigurationError(f"{path} is given twice as input")
    if output.exists() and any(map(output.samefile, inputs)):
        raise ToolConfigurationError(
            f"{output} is an input file; choose another name for the output"
        )
    verify_output(output, overwrite)


def common_format(inputs, wanted=None):
    """Whose files the inputs are: "ctapipe" or "lstchain".

    Parameters
    ----------
    inputs : list of pathlib.Path
    wanted : str, optional
        Format that they must have.

    Raises
    ------
    ctapipe.core.ToolConfigurationError
        If they are not of one format, or not of that which is wanted.
    """
    formats = ["lstchain" if is_lstchain(path) else "ctapipe" for path in inputs]
    wanted = wanted or formats[0]
    for path, name in zip(inputs, formats):
        if name != wanted:
            raise ToolConfigurationError(
                f"{path} is a file of {name}, the output is to be one of {wanted};"
                " only files of one kind can be together, and they keep it (to"
                " convert DL2 files of lstchain there is its lstchain_dl2_converter)"
            )
    return wanted


def verify_output(path, overwrite):
    """Raise unless a new file or folder can be made.

    Parameters
    ----------
    path : pathlib.Path
    overwrite : bool
        Whether it may be there already.

    Raises
    ------
    ctapipe.core.ToolConfigurationError
    """
    if path.exists() and not overwrite:
        raise ToolConfigurationError(
            f"{path} exists; choose another name or give --overwrite"
        )
    folder = path.resolve().parent
    if not folder.is_dir():
        raise ToolConfigurationError(f"{path}: {folder} is not a directory")
    if not os.access(folder, os.W_OK):
        raise ToolConfigurationError(f"{path}: no permission to write there")


def verify_output_folder(path, overwrite, made_of):
    """Raise unless a new folder can be made, or one of the same tool be replaced.

    Parameters
    ----------
    path : pathlib.Path
    overwrite : bool
        Whether it may be there already.
    made_of : str
        File that all folders of the tool have, so that a slip does not cost a folder
        of other things.

    Raises
    ------
    ctapipe.core.ToolConfigurationError
    """
    verify_output(path, overwrite)
    if path.exists() and not (path / made_of).is_file():
        raise ToolConfigurationError(
            f"{path} has no {made_of}, so it is not an output of this tool and is not"
            " replaced; choose another name"
        )


@contextmanager
def failures_of_writing(output):
    """Turn errors of the file system into one that names the output.

    Parameters
    ----------
    output : pathlib.Path

    Raises
    ------
    ctapipe.core.ToolConfigurationError
    """
    try:
        yield
    except CannotMerge:  # an OSError, but of the input
        raise
    except (tables.HDF5ExtError, OSError) as error:
        free = shutil.disk_usage(output.resolve().parent).free
        raise ToolConfigurationError(
            f"{output} cannot be written: {reason(error)};"
            f" {free / 1e9:.1f} GB are free there"
        ) from error
