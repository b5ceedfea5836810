"""Turns links that leave ``docs/`` into links inside the site, since the pages are also read in the repository.

``../CHANGELOG.md`` becomes the site's copy of it. A link to a file that the site has no page of is an error of the
build: link to a page, or write the path as code.
"""

from __future__ import annotations

import posixpath
import re
from typing import Any

from sphinx.application import Sphinx

COPIES = {
    "../CHANGELOG.md": "project/changes.md",
    "../CONTRIBUTING.md": "project/contributing.md",
    "../README.md": "index.md",
    "adr": "project/decisions.md",
}
LINK = re.compile(r"(?<=\]\()(?P<path>[\w./-]+)(?=[)#])")


def redirect(_app: Sphinx, page: str, source: list[str]) -> None:
    folder = posixpath.dirname(page)

    def redirected(found: re.Match[str]) -> str:
        copy = COPIES.get(posixpath.normpath(posixpath.join(folder, found["path"])))
        return posixpath.relpath(copy, folder or ".") if copy else found["path"]

    source[0] = LINK.sub(redirected, source[0])


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("source-read", redirect)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
