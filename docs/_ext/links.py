"""Turns links that leave ``docs/`` into links inside the site, since the pages are also read in the repository.

A page that consists of one link to a file of the repository's root becomes a copy of that file. ``../CHANGELOG.md``
then leads to the copy. A link to a file that the site has no page of is an error of the build: link to a page, or write
the path as code.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

COPIES = {
    "../CHANGELOG.md": "project/changes.md",
    "../CONTRIBUTING.md": "project/contributing.md",
    "../SECURITY.md": "project/security.md",
    "../README.md": "index.md",
    "adr": "project/decisions.md",
}
LINK = re.compile(r"(?<=\]\()(?P<path>[\w./-]+)(?=[)#])")
STANDS_FOR = re.compile(r"\s*\[[\w.]+\]\((?:\.\./)+(?P<file>[\w.]+)\)\s*")


def redirect(app: Sphinx, page: str, source: list[str]) -> None:
    folder = posixpath.dirname(page)
    written_in = folder
    stands_for = STANDS_FOR.fullmatch(source[0])
    if stands_for:
        original = Path(app.srcdir).parent / stands_for["file"]
        app.env.note_dependency(str(original), docname=page)
        source[0] = original.read_text(encoding="utf-8")
        written_in = ".."

    def redirected(found: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(written_in, found["path"]))
        target = target.removeprefix("../docs/")
        return posixpath.relpath(COPIES.get(target, target), folder or ".")

    source[0] = LINK.sub(redirected, source[0])


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("source-read", redirect)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
