"""Files that come with the package: trained models, recipes, a sample of events."""

import os
from pathlib import Path

__all__ = [
    "DEFAULT_MODEL",
    "RESOURCES",
    "find_model",
    "find_recipe",
    "model_names",
    "recipe_names",
]

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


def recipe_names():
    """Names of the configurations of training that come with the package.

    Returns
    -------
    names : list of str
    """
    return sorted(path.stem for path in RESOURCES.glob("recipes/*.yaml"))


def find_recipe(name_or_path):
    """Configuration of training of a name or a path.

    Parameters
    ----------
    name_or_path : str or path-like
        One of `recipe_names`, which goes before a file of the same name in the working
        directory, or anything else.

    Returns
    -------
    path : pathlib.Path, or what was given
        The file of a name; anything else as it is.
    """
    if name_or_path in recipe_names():
        return RESOURCES / "recipes" / f"{name_or_path}.yaml"
    return name_or_path
