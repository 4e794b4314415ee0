"""Tools as tests run them."""

import warnings

from ctapipe.core import Provenance, run_tool


def run(tool, *arguments, cwd, raises=False):
    """Exit code of a tool."""
    Provenance().clear()
    with warnings.catch_warnings():
        # those of ctapipe about the input are not for this package to judge
        warnings.simplefilter("ignore")
        return run_tool(tool, [str(a) for a in arguments], cwd=cwd, raises=raises)
