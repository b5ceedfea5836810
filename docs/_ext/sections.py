"""Lets a ``toctree`` with ``:glob:`` name pages that do not exist yet: patterns without a page are left out.

A page that no pattern takes is still an error of the build, as Sphinx warns of it.
"""

from __future__ import annotations

import fnmatch
import re
from typing import Any

from sphinx.application import Sphinx

TOCTREE = re.compile(r"^```\{toctree\}\n.*?^```", re.DOTALL | re.MULTILINE)


def drop_empty_patterns(app: Sphinx, _page: str, source: list[str]) -> None:
    pages = app.env.found_docs

    def keeps(line: str) -> bool:
        return "*" not in line or line.startswith("../") or bool(fnmatch.filter(pages, line))

    def shortened(found: re.Match[str]) -> str:
        return "\n".join(line for line in found.group().split("\n") if keeps(line))

    source[0] = TOCTREE.sub(shortened, source[0])


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("source-read", drop_empty_patterns)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
