"""Configuration of Sphinx; build with ``make docs``."""

from importlib.metadata import version as installed_version

project = "ctapipe_gphysnet"
author = "ctapipe_gphysnet developers"
copyright = f"2026, {author}"  # the name that Sphinx reads
release = installed_version("ctapipe_gphysnet")
version = release

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "numpydoc",
]

templates_path = ["_templates"]
exclude_patterns = ["_build"]

autosummary_generate = True
autodoc_member_order = "bysource"
# Lightning's and ctapipe's own docstrings are for their own documentation
autodoc_inherit_docstrings = False
# the class members are documented where the class is, without a table of links to pages
numpydoc_show_class_members = False

html_theme = "pydata_sphinx_theme"
html_title = "ctapipe_gphysnet"
html_show_sourcelink = False
