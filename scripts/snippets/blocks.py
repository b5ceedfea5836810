"""Reads the fenced blocks of a Markdown page, and the comments before them that say how they are run.

Readers do not see the comments. ``<!-- NAME: VALUE -->`` stands on a line of its own directly before the fence:

``<!-- file: NAME -->`` saves the block; ``<!-- add to NAME: before "TEXT" -->`` and ``<!-- replace in NAME: TEXT -->``
change a file that an earlier block has saved. ``<!-- exit: 1 -->`` is the exit status that a shell block must have
(``any``: it may have any). ``<!-- runs: no, REASON -->`` says why a block is not run, and ``<!-- runs: curator -->``
that it needs NeMo Curator. ``<!-- given: NAME -->`` names a file of tests/examples/given that a Python block goes on
from. ``<!-- picture: NAME -->`` and ``<!-- page: NAME -->`` name pictures that are made from a block.
A ``text`` block after a shell block has lines that its output must contain.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

BLOCK = re.compile(
    r"(?P<marks>(?:^[ ]*<!-- [^\n]*? -->\n)*)"
    r"^(?P<indent>[ ]*)```(?P<language>[\w{}-]*)[^\n]*\n(?P<text>.*?)^(?P=indent)```$",
    re.DOTALL | re.MULTILINE,
)
MARK = re.compile(r"<!-- (?P<name>[a-z ]+?)(?: (?P<file>[\w./-]+\.\w+))?: (?P<value>.*?) -->")


@dataclass(frozen=True)
class Block:
    """One fenced block."""

    page: Path
    line: int  # of its opening fence, from 1
    language: str
    text: str
    marks: dict[str, str] = field(default_factory=dict)  # by name; of "add to" and "replace in", the text
    edits: str = ""  # the file that "add to" or "replace in" changes

    @property
    def where(self) -> str:
        return f"{self.page.name}:{self.line}"


def read_blocks(page: Path) -> list[Block]:
    """Return the page's fenced blocks in order. Raises ``ValueError`` for an unknown comment."""
    text = page.read_text(encoding="utf-8")
    return [_block(page, text, found) for found in BLOCK.finditer(text)]


def _block(page: Path, text: str, found: re.Match[str]) -> Block:
    line = text.count("\n", 0, found.end("marks")) + 1
    marks, edits = {}, ""
    for comment in found["marks"].splitlines():
        mark = MARK.search(comment)
        if mark is None:
            raise ValueError(f"{page}:{line}: {comment.strip()} before a block is none of the known comments")
        marks[mark["name"]] = mark["value"]
        edits = mark["file"] or edits
    indent = len(found["indent"])
    body = "".join(line[indent:] for line in found["text"].splitlines(keepends=True))
    return Block(page, line, found["language"], body, marks, edits)
