"""How the functions of the simulation become machine code."""

from pathlib import Path

from numba import njit

__all__ = ["compiled"]


def _forget_outdated_code():
    """Remove machine code older than any source file of this folder.

    Numba compares a function with its own source file only, and not with those of the
    functions that it calls.
    """
    folder = Path(__file__).parent
    newest = max(path.stat().st_mtime for path in folder.glob("*.py"))
    for path in (folder / "__pycache__").glob("*.nb?"):
        try:
            if path.stat().st_mtime < newest:
                path.unlink()
        except OSError:  # gone already, or a folder that one may only read
            continue


_forget_outdated_code()

# Machine code is kept on disk. No function makes arrays, so none has to count the
# references to them, which would take long. There is no fast mathematics: it gains
# nothing here, and results would depend on which functions are compiled into one another.
compiled = njit(cache=True, _nrt=False)
