"""Cuts a worker's output into what the user should see: lines, and the log records between them."""

from __future__ import annotations

import codecs
import os
import re

from gpuexec.channel.log_frames import MARK, decode_record
from gpuexec.channel.messages import LogLine, PrintsFor
from gpuexec.units import MIB

_MAX_LINE_BYTES = MIB  # a longer line is reported in parts
_MAX_RECORD_BYTES = 64 * MIB
_MAX_ROWS = 100  # that a cursor moves up

_CURSOR_UP = re.compile(rb"\x1b\[(\d*)A")
_CURSOR_CODES = re.compile(rb"\x1b\[[0-9;?]*[A-HJKSTfhlsu]")  # all that move the cursor or erase; colours stay

_FRAME = b'  File "'
_OWN_FOLDER = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120
_OWN_FRAMES = (os.fsencode(f'  File "{_OWN_FOLDER}/'), b'  File "<frozen runpy>"')

OutputItem = str | LogLine | PrintsFor


class OutputLines:
    """The output of one worker, fed chunk by chunk.

    A carriage return begins a line anew, as on a terminal, so of a progress bar only its last state is left. Nested
    bars also move the cursor up: then the lines from there on wait until the cursor has left them below.
    """

    def __init__(self) -> None:
        self._partial = bytearray()  # the line that has no end yet
        self._carried = b""  # the beginning of a line that records were written into
        self._rows: list[bytes] = []  # lines that the cursor may return to, once it has moved up
        self._row = 0  # where it is
        self._below_users_frame = False

    def feed(self, chunk: bytes) -> list[OutputItem]:
        """Return what is complete with this chunk."""
        *complete, rest = chunk.split(b"\n")
        if not complete:
            self._partial += rest
            return self._cut()
        complete[0] = bytes(self._partial + complete[0])
        self._partial[:] = rest
        items: list[OutputItem] = []
        for line in complete:
            if MARK in line:
                items += self._take_record(line)
            else:
                items += self._finish(line)
        return items + self._cut()

    def end(self) -> list[OutputItem]:
        """Return the last line, if it has no end."""
        rest = bytes(self._partial)
        self._partial.clear()
        items = self._finish(rest) if rest or self._carried else []
        return [*items, *self._leave_rows()]

    def _take_record(self, line: bytes) -> list[OutputItem]:
        before, _, data = line.partition(MARK)
        record = decode_record(data)
        if record is None:  # another process wrote into it, or somebody printed the mark
            return [*self._finish(line)]
        self._carried += before
        return [record]

    def _finish(self, line: bytes) -> list[str]:
        line, self._carried = self._carried + line, b""
        if not self._rows and not (b"\x1b" in line and _CURSOR_UP.search(line)):
            return [] if self._leads_to_users_code(line) else [_text(line)]
        first, *moves = _CURSOR_UP.split(line)  # text, count, text, count, text …
        self._write_in_row(first)
        for count, text in zip(moves[::2], moves[1::2], strict=True):
            self._move_up(int(count or 1))
            self._write_in_row(text)
        self._row += 1
        return self._leave_rows() if self._row == len(self._rows) else []

    def _leads_to_users_code(self, line: bytes) -> bool:
        """Whether a line is one of this package's frames in the stack of a crash or a hang, below one of the stage's.

        faulthandler writes the most recent call first, so such a frame says nothing but that a worker runs the stage.
        """
        if not (line.startswith(_FRAME) and b" in " in line and b", in " not in line):
            self._below_users_frame = False
            return False
        own = line.startswith(_OWN_FRAMES)
        self._below_users_frame = self._below_users_frame or not own
        return own and self._below_users_frame

    def _write_in_row(self, text: bytes) -> None:
        if not self._rows:
            self._rows = [b""]
        self._rows[self._row] = _shortened(self._rows[self._row] + text)

    def _move_up(self, count: int) -> None:
        above = min(count, _MAX_ROWS) - self._row
        self._rows[:0] = [b""] * above  # none if it is negative
        self._row = max(0, -above)

    def _leave_rows(self) -> list[str]:
        """Return the lines that the cursor has left; a bar that was erased leaves none."""
        rows, self._rows, self._row = self._rows, [], 0
        return [_text(row) for row in rows if row.strip()]

    def _cut(self) -> list[OutputItem]:
        """Return a part of a line that is too long to wait for its end, cut between two characters."""
        if len(self._partial) <= (_MAX_RECORD_BYTES if MARK in self._partial else _MAX_LINE_BYTES):
            return []
        kept = _shortened(bytes(self._partial))
        self._partial[:] = kept
        if len(kept) <= _MAX_LINE_BYTES:
            return []
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        text = self._carried.decode(errors="replace") + decoder.decode(kept)
        self._partial[:] = decoder.getstate()[0]
        self._carried = b""
        return [text]


def _text(line: bytes) -> str:
    line = _last_state(line)
    return (_CURSOR_CODES.sub(b"", line) if b"\x1b" in line else line).decode(errors="replace")


def _shortened(line: bytes) -> bytes:
    """Drop earlier states of a line that goes on. Behind a carriage return at its end it begins anew."""
    return _last_state(line) + (b"\r" if line.endswith(b"\r") else b"")


def _last_state(line: bytes) -> bytes:
    line = line.rstrip(b"\r")
    return line[line.rfind(b"\r") + 1 :]
