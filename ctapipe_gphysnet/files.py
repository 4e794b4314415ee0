"""Output files that are whole or not there at all."""

import glob
import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path

import tables

__all__ = [
    "close_verified",
    "reason",
    "remove_leftovers",
    "replaced_folder_when_whole",
    "replaced_when_whole",
]

BLOCK_SIZE = 16 * 2**20  # bytes


@contextmanager
def replaced_when_whole(path):
    """A file to write that takes the place of another when it is whole.

    Parameters
    ----------
    path : path-like
        Of the file that is to be. A file that is there stays until the end,
        and for good if the body raises an exception.

    Yields
    ------
    aside : pathlib.Path
        An empty file in the same folder, with a hidden name. The body has to
        close it.
    """
    path = Path(path).resolve()  # through a link, as if the file were opened
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    aside = Path(name)
    try:
        os.close(handle)
        aside.chmod(0o666 & ~_umask())  # mkstemp makes it private
        yield aside
        with aside.open("rb") as file:
            os.fsync(file.fileno())  # some file systems report a full disk only here
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def remove_leftovers(path):
    """Remove what a killed process left of a file in `replaced_when_whole`.

    Parameters
    ----------
    path : path-like
        Of the file that was to be. No other process may be writing it.
    """
    path = Path(path).resolve()
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*"):
        leftover.unlink(missing_ok=True)


@contextmanager
def replaced_folder_when_whole(path):
    """A folder to fill that takes the place of another when it is whole.

    Parameters
    ----------
    path : path-like
        Of the folder that is to be. A folder that is there stays until the end, and
        for good if the body raises an exception.

    Yields
    ------
    aside : pathlib.Path
        An empty folder beside it, with a hidden name.
    """
    path = Path(path).resolve()
    aside = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    old = aside.with_name(aside.name + ".old")
    try:
        aside.chmod(0o777 & ~_umask())
        yield aside
        if path.exists():
            path.replace(old)
        aside.replace(path)
    except BaseException:
        if old.exists() and not path.exists():
            old.replace(path)
        shutil.rmtree(aside, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def close_verified(file):
    """Close an HDF5 file that was written to, and see whether all went to disk.

    HDF5 keeps the latest part of a table in memory, and PyTables does not look
    whether writing it succeeds when a file is closed.

    Parameters
    ----------
    file : tables.File

    Raises
    ------
    OSError
        If what was written cannot be read.
    """
    path, written = file.filename, _n_rows(file)
    file.close()
    try:
        with tables.open_file(path) as file:
            found = _n_rows(file)
            for table in file.walk_nodes("/", "Table"):
                table.read(max(0, table.nrows - BLOCK_SIZE // table.rowsize))
    except (tables.HDF5ExtError, tables.NodeError) as error:
        raise OSError(f"{path} was not written to the end: {reason(error)}") from error
    if found != written:
        raise OSError(f"{path} was not written to the end")


def _n_rows(file):
    return {t._v_pathname: t.nrows for t in file.walk_nodes("/", "Table")}


def reason(error):
    """What an exception says, in one line.

    Those of HDF5 begin with a stack of calls, the innermost of which knows why.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    stack = getattr(error, "h5backtrace", None)
    cause = f" ({' '.join(stack[-1][3].split())})" if stack else ""
    return (lines[-1] if lines else type(error).__name__) + cause
