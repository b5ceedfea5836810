"""Puts an HTML file together from a template and what goes into it. It needs no network and no server.

The page's content security policy allows its own style and scripts, by their hashes, and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path

_ASSETS = Path(__file__).parent / "assets"
_MARKER = re.compile(r"\{\{([\w-]+)\}\}")


def filled(template: str, title: str, style: str, scripts: Sequence[str], parts: Mapping[str, str]) -> str:
    """Return a page: the head that all pages have, and the text of the template.

    ``parts``: what stands in place of the template's markers, as markup. ``scripts``: those among them that may run.
    """
    sources = [f"script-src {' '.join(map(source_hash, scripts))}"] if scripts else []
    head = {
        "title": as_text(title),
        "style": style,
        "policy": "; ".join([*sources, f"style-src {source_hash(style)}"]),
    }
    values = {**head, **parts}
    # One pass: what is put in is not searched for markers.
    return _MARKER.sub(lambda found: values[found.group(1)], asset("head.html") + template)


def as_text(value: object) -> str:
    """Return text for use as markup. Halves of surrogate pairs, as in undecodable file names, have no UTF-8 form."""
    return html.escape(str(value).encode("utf-8", "replace").decode("utf-8"))


@cache
def asset(name: str) -> str:
    """Return the content of a file in ``assets``."""
    return (_ASSETS / name).read_text(encoding="utf-8")


@cache
def chart_library() -> tuple[str, str]:
    """Return the style and the script of uPlot, with its licence."""
    licence = "\n".join(f" * {line}".rstrip() for line in asset("uplot/LICENSE").splitlines())
    return asset("uplot/uPlot.min.css"), f"/*\n{licence}\n */\n{asset('uplot/uPlot.iife.min.js')}"


def one_script(sources: Iterable[str]) -> str:
    """Return scripts as one function, so that the page has no global names but the chart library's."""
    body = "\n".join(sources)
    return f'(() => {{\n"use strict";\n{body}}})();\n'


@cache
def source_hash(text: str) -> str:
    """Return what stands for a script or style in a content security policy."""
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
