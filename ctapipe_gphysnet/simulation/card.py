"""Run cards: everything that a simulation needs to be told, in one YAML file."""

import copy
import os
from pathlib import Path

import yaml
from ctapipe.core import ToolConfigurationError
from traitlets import HasTraits, TraitError
from traitlets.config import Config

from ..resources import RESOURCES

__all__ = ["CARD_SUFFIX", "find_card", "plain_options", "preset_names", "read_card"]

#: By the end of its name ctapipe finds out that a file is a run card.
CARD_SUFFIX = ".airshower.yaml"

INPUT = "input_url"  # an option of sources that makes no sense in their input


def preset_names():
    """Names of the run cards that come with the package.

    Returns
    -------
    names : list of str
    """
    paths = RESOURCES.glob(f"*{CARD_SUFFIX}")
    return sorted(path.name.removesuffix(CARD_SUFFIX) for path in paths)


def find_card(name_or_path):
    """Run card of a name or a path.

    Parameters
    ----------
    name_or_path : str or path-like
        Name of a card that comes with the package, or path of one; environment
        variables and ``~`` are expanded. A name goes before a file of the same name.

    Returns
    -------
    path : pathlib.Path
        An existing file.

    Raises
    ------
    ctapipe.core.ToolConfigurationError
        If it is neither, or does not have the name of a run card.
    """
    name = os.fspath(name_or_path)
    if name in preset_names():
        return RESOURCES / f"{name}{CARD_SUFFIX}"
    path = Path(os.path.expandvars(name)).expanduser()
    if not path.is_file():
        raise ToolConfigurationError(
            f"no run card {name!r}: it is not a file, nor one of those that come with"
            f" ctapipe_gphysnet ({', '.join(preset_names())})"
        )
    if not path.name.endswith(CARD_SUFFIX):
        raise ToolConfigurationError(
            f"{path}: the name of a run card has to end in {CARD_SUFFIX}"
        )
    return path


def read_card(path, components):
    """Read a run card.

    Parameters
    ----------
    path : path-like
        YAML: a section for each component, by the name of its class, with its options.
    components : list of type
        Classes of components that there may be sections for.

    Returns
    -------
    config : traitlets.config.Config

    Raises
    ------
    ctapipe.core.ToolConfigurationError
        If something in it is not known or has a wrong value; names the file, the
        section, the option and what is permitted.
    """
    try:
        with open(path, encoding="utf-8") as file:
            sections = yaml.safe_load(file) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ToolConfigurationError(f"{path} cannot be read: {reason}") from error
    classes = {component.__name__: component for component in components}
    if not isinstance(sections, dict):
        raise ToolConfigurationError(
            f"{path} is not a run card: it has to consist of sections"
            f" ({', '.join(classes)})"
        )
    for name, options in sections.items():
        if name not in classes:
            raise ToolConfigurationError(
                f"{path}: no section {name!r}, only {', '.join(classes)}"
            )
        try:
            sections[name] = _verified(classes[name], options or {})
        except TraitError as error:
            raise ToolConfigurationError(f"{path}: {error}") from error
    return Config(sections)


def _verified(component, options):
    """The options of a section; raises TraitError."""
    name = component.__name__
    known = component.class_traits(config=True)
    known.pop(INPUT, None)
    if not isinstance(options, dict):
        raise TraitError(f"section {name} has to consist of options, not of {options!r}")
    for option, value in options.items():
        if option not in known:
            raise TraitError(
                f"{name} has no option {option!r}, only {', '.join(sorted(known))}"
            )
        _verify(name, option, known[option], value)
    return options


def _verify(name, option, trait, value):
    """Raise TraitError unless a trait may have a value."""
    holder = type(name, (HasTraits,), {option: copy.copy(trait)})
    try:
        setattr(holder(), option, value)
    except (TraitError, TypeError, ValueError) as error:
        default = trait.default_value
        raise TraitError(
            f"{name}.{option} cannot be {value!r}: {error} Its default is"
            f" '{default}'. What it is: {trait.help}"
        ) from error


def plain_options(component):
    """Options of a component as a run card has them.

    Parameters
    ----------
    component : ctapipe.core.Component

    Returns
    -------
    options : dict of str
        Of numbers, text, lists and dicts only.
    """
    values = component.trait_values(config=True)
    return {name: _plain(values[name]) for name in sorted(set(values) - {INPUT})}


def _plain(value):
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, dict):
        return {key: _plain(value[key]) for key in sorted(value)}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return [_plain(item) for item in sorted(value)]
    return str(value)  # quantities, paths
