"""Sphinx configuration of these pages (`make docs`). `from_code.py` generates the parts that come from the code."""

import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import from_code

import jepa_ray

project = "jepa-ray"
release = jepa_ray.__version__
html_title = "jepa-ray"
language = "en"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["attrs_inline", "deflist"]
myst_heading_anchors = 3
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["docs.css"]
html_copy_source = False
html_show_copyright = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0b5cad", "color-brand-content": "#0b5cad"},
    "dark_css_variables": {"color-brand-primary": "#7db8f0", "color-brand-content": "#7db8f0"},
}
pygments_style = "friendly"
pygments_dark_style = "github-dark"
autodoc_typehints = "signature"
autodoc_member_order = "bysource"


def fill_in(app: Any, docname: str, source: list[str]) -> None:
    """Replace each `<!-- from code: NAME -->` by the text that `from_code` generates, and remove the tests' marks."""
    source[0] = from_code.filled(source[0])
    source[0] = re.sub(r"^<!-- (run|not run|file).*-->\n", "", source[0], flags=re.MULTILINE)


def as_rst(app: Any, what: str, name: str, obj: object, options: Any, lines: list[str]) -> None:
    """Convert docstrings from Markdown (`code` in single backticks, indented blocks of code) to reStructuredText."""
    for i, line in enumerate(lines):
        lines[i] = re.sub(r"(?<!`)`([^`]+)`(?!`)", r"``\1``", line)
        is_code = line.startswith("    ") and i > 1 and not lines[i - 1].strip() and not lines[i - 2].startswith(" ")
        if is_code:
            lines[i - 1] = "\n::\n"
    if what == "property":
        lines.insert(0, "")  # otherwise napoleon takes the words before a colon for the property's type
    lines[:] = "\n".join(lines).split("\n")


def setup(app: Any) -> None:
    """Entry point of Sphinx: connects the two functions above."""
    app.connect("source-read", fill_in)
    app.connect("autodoc-process-docstring", as_rst, priority=400)  # before napoleon
