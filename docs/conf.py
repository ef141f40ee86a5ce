# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""Sphinx configuration. Build the site with ``sphinx-build -W docs docs/_build``."""

from typing import Any

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator

import verl_durian

project = "verl-durian"
author = "The verl-durian authors"
project_copyright = f"2026, {author}"
version = release = verl_durian.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
default_role = "code"  # single backticks in docstrings
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_numpy_docstring = False

html_theme = "pydata_sphinx_theme"
html_title = "verl-durian"
html_show_sourcelink = False
html_theme_options = {
    "navbar_end": ["theme-switcher"],
    "show_prev_next": False,
    "secondary_sidebar_items": ["page-toc"],
}
html_math_renderer = "mathml"


def inline_math(self: HTML5Translator, node: nodes.math) -> None:
    """Writes an inline formula as MathML, which browsers render without scripts or fonts from the network."""
    self.body.append(tex2mathml(node.astext(), as_block=False))
    raise nodes.SkipNode


def block_math(self: HTML5Translator, node: nodes.math_block) -> None:
    """Writes a displayed formula as MathML."""
    self.body.append(tex2mathml(node.astext(), as_block=True))
    raise nodes.SkipNode


def keep_colons(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Keeps napoleon from reading the text before a colon in the first line of an attribute's docstring as its type."""
    if what in ("attribute", "data"):
        lines.insert(0, "\\")  # a first line that renders as nothing


def hide_validators(app: Sphinx, doctree: nodes.document) -> None:
    """Removes types and defaults that pydantic's validators make unreadable; the docstrings have both in words."""
    for annotation in list(doctree.findall(addnodes.desc_annotation)):
        if "FieldInfo(" in annotation.astext():
            annotation.parent.remove(annotation)


def setup(app: Sphinx) -> None:
    """Registers the math renderer and the two corrections."""
    app.add_html_math_renderer("mathml", (inline_math, None), (block_math, None))
    app.connect("autodoc-process-docstring", keep_colons, priority=400)  # napoleon has 500
    app.connect("doctree-read", hide_validators)
