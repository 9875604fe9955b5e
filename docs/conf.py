"""Configuration of the documentation: ``pip install ".[docs]"``, then ``sphinx-build -W docs docs/_build``."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))

import fastnet  # noqa: E402

project = "fastnet"
author = "The fastnet developers"
project_copyright = author
version = release = fastnet.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.viewcode",
    "myst_nb",  # MyST, and notebooks
    "numpydoc",
    "generated",  # _ext/generated.py
]
exclude_patterns = ["_build", "**.ipynb_checkpoints"]
highlight_language = "none"
default_role = "py:obj"
smartquotes = False  # they would make a dash of the two hyphens of an option

myst_enable_extensions = ["attrs_inline", "deflist"]
myst_heading_anchors = 4
suppress_warnings = ["mystnb.unknown_mime_type"]
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_merge_streams = True
nb_output_stderr = "remove"  # the progress bar

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # docstrings name types and shapes
autosummary_generate = False
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False
numpydoc_xref_param_type = False

html_theme = "furo"
html_title = f"fastnet {version}"
html_static_path = ["_static"]
html_css_files = ["fastnet.css"]
html_show_sourcelink = False
html_copy_source = False
