"""Puts an HTML file together that needs no network: its scripts and its style are in it, and nothing else may run.

Texts are escaped, and the content security policy of the page allows its own scripts and style by their hashes. So what
a program named its stages is never markup and never code.
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

ASSETS = Path(__file__).parent / "assets"
_MARKER = re.compile(r"\{\{([\w-]+)\}\}")


def escaped(value: object) -> str:
    """Return text for use as markup. Halves of surrogate pairs, as in undecodable file names, have no UTF-8 form."""
    return html.escape(str(value).encode("utf-8", "replace").decode("utf-8"))


def filled(template: Path, parts: Mapping[str, str]) -> str:
    """Return a template with its markers replaced. In one pass: what is put in is not searched for markers."""
    return _MARKER.sub(lambda found: parts[found.group(1)], read(template))


@cache
def source_hash(text: str) -> str:
    """Return what stands for a script or style in a content security policy."""
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


@cache
def chart_library() -> tuple[str, str]:
    """Return the style and the script of uPlot, with its licence."""
    folder = ASSETS / "uplot"
    licence = "\n".join(f" * {line}".rstrip() for line in read(folder / "LICENSE").splitlines())
    return read(folder / "uPlot.min.css"), f"/*\n{licence}\n */\n{read(folder / 'uPlot.iife.min.js')}"


def one_script(files: Iterable[Path]) -> str:
    """Return the scripts as one function, so that the page has no global names but the chart library's."""
    body = "\n".join(map(read, files))
    return f'(() => {{\n"use strict";\n{body}}})();\n'


def read(path: Path) -> str:
    """Return the text of an asset."""
    return path.read_text(encoding="utf-8")
