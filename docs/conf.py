"""Sphinx: one configuration for the English pages (docs/) and the Chinese ones (docs/zh/, with -D language=zh_CN).

`make docs` builds both; warnings are errors, and nothing is fetched.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE / "_ext")]
os.environ.setdefault("OMP_NUM_THREADS", "1")

project = "ppcls_ext"
author = "the authors of ppcls_ext"
release = re.search(r'__version__ = "(.+)"', (HERE.parent / "ppcls_ext" / "__init__.py").read_text(encoding="utf-8"))[1]
version = release

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "from_code",
    "mathml",
    "two_languages",
]
exclude_patterns = ["_ext", "_templates", "zh/**", "notebooks"]
templates_path = ["_templates"]
suppress_warnings = ["epub.unknown_project_files"]
nitpicky = True
default_role = "code"  # docstrings name things in single backticks

myst_enable_extensions = ["amsmath", "attrs_inline", "colon_fence", "deflist", "dollarmath"]
myst_dmath_double_inline = True
myst_heading_anchors = 4
copybutton_prompt_text = "$ "

autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
autodoc_use_type_comments = False
napoleon_numpy_docstring = False
napoleon_use_rtype = False
#: Types of other packages, and names in annotations that are not documented here.
nitpick_ignore_regex = [(r"py:.*", r"(?!ppcls_ext\.).*"), (r"py:class", r"ppcls_ext\.report\..*")]
smartquotes = False  # they would turn the two dashes of --data into one

html_theme = "furo"
html_title = f"ppcls_ext {release}"
html_show_sourcelink = False
html_show_copyright = False
html_static_path = [str(HERE / "_static")]
html_css_files = ["ppcls_ext.css"]
html_theme_options = {"light_css_variables": {"color-brand-primary": "#1b5e9b", "color-brand-content": "#1b5e9b"}}
html_sidebars = {
    "**": [
        "sidebar/brand.html",
        "language.html",
        "sidebar/search.html",
        "sidebar/scroll-start.html",
        "sidebar/navigation.html",
        "sidebar/scroll-end.html",
    ]
}
