"""Lines at the end of a terminal that are drawn again in place, and never mix with what is written otherwise.

They are erased before anything else is written to the terminal by way of the process's standard streams, so that it
lands where they were, and they are drawn again once it has ended its line. What is drawn is always lower than the
terminal, since lines that have left the screen at the top cannot be erased.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any, TextIO

_ERASE_BELOW = "\x1b[J"


class LiveRegion:
    """The drawn lines. ``out``: the terminal. Thread-safe: any thread may write to the standard streams."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._lock = threading.RLock()
        self._height = 0
        self._line_is_open = False  # somebody has written a line without its end: nothing is drawn behind it
        self._watched: list[tuple[Any, Callable[[str], Any]]] = []

    def draw(self, lines: Sequence[str]) -> None:
        """Replace what is drawn. ``lines`` must be narrower than the terminal and fewer than its rows."""
        with self._lock:
            if self._line_is_open:
                return
            self._watch()
            text = self._erasure() + "".join(f"{self._encodable(line)}\n" for line in lines)
            self._height = len(lines)
            self._write(text)

    def erase(self) -> None:
        """Take the lines away."""
        with self._lock:
            text = self._erasure()
            self._height = 0
            if text:
                self._write(text)

    def close(self) -> None:
        """Take the lines away for good, and leave the standard streams as they were."""
        with self._lock:
            self.erase()
            for stream, _ in self._watched:
                stream.__dict__.pop("write", None)
            self._watched = []

    def size(self) -> tuple[int, int]:
        """Return the terminal's columns and rows."""
        try:
            columns, rows = os.get_terminal_size(self._out.fileno())
        except (OSError, ValueError, AttributeError):
            return 80, 24
        return columns or 80, rows or 24  # 0 means that it does not say

    def _encodable(self, line: str) -> str:
        """Return the line with a question mark for each character that the terminal's encoding lacks."""
        encoding = getattr(self._out, "encoding", None) or "utf-8"
        return line if line.isascii() else line.encode(encoding, "replace").decode(encoding)

    def _erasure(self) -> str:
        if not self._height:
            return ""
        return f"\r\x1b[{self._height}A{_ERASE_BELOW}"

    def _write(self, text: str) -> None:
        write = next((write for stream, write in self._watched if stream is self._out), self._out.write)
        try:
            write(text)
            self._out.flush()
        except (OSError, ValueError):  # the terminal is gone
            self._height = 0

    # ---- what else is written --------------------------------------------------------------------------

    def _watch(self) -> None:
        """Erase the lines before any writing to the standard streams that are terminals."""
        if self._watched:
            return
        for stream in {id(s): s for s in (self._out, sys.stdout, sys.__stdout__, sys.__stderr__)}.values():
            if stream is self._out or _is_terminal(stream):
                self._watch_stream(stream)

    def _watch_stream(self, stream: Any) -> None:
        write = stream.write

        def write_above(text: str) -> Any:
            with self._lock:
                self.erase()
                if text:
                    self._line_is_open = not text.endswith("\n")
                return write(text)

        try:
            stream.write = write_above  # log sinks hold the stream itself, so replacing sys.stderr would not do
        except AttributeError:
            return
        self._watched.append((stream, write))


def _is_terminal(stream: Any) -> bool:
    try:
        return bool(stream.isatty())
    except (AttributeError, ValueError):
        return False
