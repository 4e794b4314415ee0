"""Files that come with the package: trained models and a sample of events."""

import os
from pathlib import Path

__all__ = ["DEFAULT_MODEL", "RESOURCES", "find_model", "model_names"]

#: Folder of the files.
RESOURCES = Path(__file__).parent
#: Name of the model that is used where none is asked for.
DEFAULT_MODEL = "lst1-mono-zenith20"

MODEL_SUFFIX = ".safetensors"


def model_names():
    """Names of the models that come with the package.

    Returns
    -------
    names : list of str
    """
    return sorted(path.stem for path in RESOURCES.glob(f"*{MODEL_SUFFIX}"))


def find_model(name_or_path):
    """Model file of a name or a path.

    Parameters
    ----------
    name_or_path : str or path-like
        Name of a model that comes with the package, or path of a model file;
        environment variables and ``~`` are expanded. A name goes before a
        file of the same name in the working directory.

    Returns
    -------
    path : pathlib.Path
        An existing file.

    Raises
    ------
    FileNotFoundError
        If it is neither; names the models that there are.
    """
    name = os.fspath(name_or_path)
    if name in model_names():
        return RESOURCES / f"{name}{MODEL_SUFFIX}"
    path = Path(os.path.expandvars(name)).expanduser()
    if path.is_file():
        return path
    shipped = ", ".join(model_names()) or "none"
    raise FileNotFoundError(
        f"no model {name!r}: it is not a file, nor one of the models that come with"
        f" ctapipe_gphysnet ({shipped})"
    )
