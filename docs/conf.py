"""Settings of the site that ``scripts/docs`` builds from these pages."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent)]

import gpuexec  # noqa: E402 - of this checkout, which the line above has put first

project = "gpuexec"
author = "The gpuexec developers"
project_copyright = "The gpuexec developers, Apache-2.0"
version = release = gpuexec.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
    "diagrams",
    "docstrings",
    "links",
    "sections",
]
exclude_patterns = ["_build", "_ext"]

# The pages are read on GitHub too: plain Markdown, whose headings have the anchors that GitHub gives them.
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]
myst_fence_as_directive = ["mermaid"]
suppress_warnings = [
    "myst.header",  # a page that scripts make may begin a table's part with a smaller heading
    "misc.highlighting_failure",  # excerpts of JSON with … in them
]

# Every name in a signature is either on a page or listed here.
nitpicky = True
nitpick_ignore_regex = [
    # What the standard library defines: its inventory is on the network, which a build does not need.
    ("py:.*", r"(abc|argparse|asyncio|collections|concurrent|contextlib|datetime|enum|os|pathlib|types|typing)\..*"),
    ("py:.*", r"typing_extensions\..*|optional|Ellipsis|dict\[str|sqlite3\..*"),
    # Type variables of the contract, and values inside of it that no user names.
    ("py:.*", r"(gpuexec\.contract\.\w+\.)?[A-Z]_?[A-Z]?"),
]
default_role = "code"
add_module_names = False
python_use_unqualified_type_names = True
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_class_signature = "mixed"
autodoc_default_options = {"members": True, "undoc-members": False, "show-inheritance": False}
viewcode_line_numbers = True

html_theme = "furo"
html_title = f"gpuexec {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
copybutton_exclude = ".linenos, .gp, .go"
copybutton_selector = "div:not(.highlight-text) > div.highlight > pre"  # what a program printed is not to be copied

linkcheck_timeout = 20
linkcheck_retries = 2
linkcheck_anchors_ignore_for_url = [r"https://github\.com/.*"]  # anchors there are made by a script

# Pages are read again when these files have changed, since the extensions are part of what they are made by.
made_by = hashlib.sha256(b"".join(path.read_bytes() for path in sorted((HERE / "_ext").glob("*.py")))).hexdigest()


def setup(app: Any) -> None:
    app.add_config_value("made_by", "", "env")
