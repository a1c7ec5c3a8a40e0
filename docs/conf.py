"""How the documentation is built: `make docs`.

A reader of the built pages fetches nothing from elsewhere.
"""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent / "_extensions"))

import lowerbound

project = "lowerbound"
author = "The lowerbound authors"
project_copyright = f"2026, {author}"
version = release = lowerbound.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx_copybutton",
    "generated",
    "names",
    "notebooks",
    "sitecheck",
]
exclude_patterns = ["_extensions", "tutorial/figures", "**/.ipynb_checkpoints"]
nitpicky = True

# Pages: Markdown, and notebooks with the outputs that are committed in them.
myst_enable_extensions = ["amsmath", "deflist", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"
nb_ipywidgets_js = {}  # would be fetched from elsewhere

# The reference.
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 90
autosummary_generate = False
napoleon_numpy_docstring = False
napoleon_use_rtype = False
toc_object_entries_show_parents = "hide"
nitpick_ignore_regex = [
    # Names of other libraries: their references are not available without a network.
    (
        r"py:.*",
        r"(torch|numpy|np|zuko|typer|collections|pathlib|pydantic|os|typing|dataclasses|abc|sklearn)"
        r"\..*",
    ),
    (
        r"py:(class|obj|data)",
        r"(nn\.Module|constraints\.\w+|Tensor|Size|Distribution|Transform|Optimizer|Generator|NDArray.*)",
    ),
    (
        r"py:(class|obj|data|exc)",
        r"(Any|Callable|Iterable|Iterator|Literal.*|Mapping|Path|Sequence|ABC|Protocol|Enum)",
    ),
    (
        r"py:(class|obj|data|exc)",
        r"(int|float|str|bool|dict|list|tuple|type|object|Exception|ValueError|TypeError|OSError)",
    ),
    (r"py:(class|obj|data|exc)", r"(ArithmeticError|None|optional)"),
]

# How it looks.
html_theme = "furo"
highlight_language = "text"
pygments_dark_style = "github-dark"
html_title = f"lowerbound {version}"
html_static_path = [
    "_static",
    *(
        f"{folder}/static"
        for folder in find_spec("sphinx-mathjax-offline").submodule_search_locations
    ),
]
mathjax_path = "mathjax/tex-chtml.js"  # a copy in the site itself, not the usual one from elsewhere
html_css_files = ["lowerbound.css"]
html_theme_options = {"navigation_with_keys": True}
html_copy_source = False
html_show_sourcelink = False
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
