"""Cuts a worker's output into what the user should see: lines, and the log records between them."""

from __future__ import annotations

import codecs

from gpuexec.channel.log_frames import MARK, decode_record
from gpuexec.channel.messages import LogLine
from gpuexec.units import MIB

_MAX_LINE_BYTES = MIB  # a longer line is reported in parts
_MAX_RECORD_BYTES = 64 * MIB

OutputItem = str | LogLine


class OutputLines:
    """The output of one worker, fed chunk by chunk.

    A carriage return begins a line anew, as on a terminal, so of a progress bar only its last state is left.
    """

    def __init__(self) -> None:
        self._partial = bytearray()  # the line that has no end yet
        self._carried = b""  # the beginning of a line that records were written into

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
                items.append(self._finish(line))
        return items + self._cut()

    def end(self) -> list[OutputItem]:
        """Return the last line, if it has no end."""
        rest = bytes(self._partial)
        self._partial.clear()
        return [self._finish(rest)] if rest or self._carried else []

    def _take_record(self, line: bytes) -> list[OutputItem]:
        before, _, data = line.partition(MARK)
        record = decode_record(data)
        if record is None:  # another process wrote into it, or somebody printed the mark
            return [self._finish(line)]
        self._carried += before
        return [record]

    def _finish(self, line: bytes) -> str:
        line, self._carried = self._carried + line, b""
        return _last_state(line).decode(errors="replace")

    def _cut(self) -> list[OutputItem]:
        """Return a part of a line that is too long to wait for its end, cut between two characters."""
        if len(self._partial) <= (_MAX_RECORD_BYTES if MARK in self._partial else _MAX_LINE_BYTES):
            return []
        kept = _last_state(bytes(self._partial))
        self._partial[:] = kept
        if len(kept) <= _MAX_LINE_BYTES:
            return []
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        text = self._carried.decode(errors="replace") + decoder.decode(kept)
        self._partial[:] = decoder.getstate()[0]
        self._carried = b""
        return [text]


def _last_state(line: bytes) -> bytes:
    line = line.rstrip(b"\r")
    return line[line.rfind(b"\r") + 1 :]
