"""``trace.json.gz`` on disk: bounded, and readable at any moment.

The file is an object of the trace event format whose array of events is written piece by piece. When a level has more
events than its share, its oldest pieces are replaced by the coarser piece of the same time, which was made along with
them; of the coarsest level, the oldest are dropped. The file then says so in its metadata. Replacing copies bytes and
compresses nothing but the beginning.
"""

from __future__ import annotations

import contextlib
import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from gpuexec.report import gzip_pieces
from gpuexec.report.gzip_pieces import Compressor, Piece, Sum
from gpuexec.report.trace_levels import FACTOR, LEVELS, PieceText

MOST_EVENTS = 1_000_000
# Of each level. 16 pieces of a level, which must be complete before a coarser one can take their place, have room.
_SHARES = (0.48, 0.27, 0.14, 0.09)
_ROOM = 0.1  # of its share that is freed at once, so that the file is seldom written anew
_END = b"\n]}\n"


class _Written(NamedTuple):
    """A piece that is in the file. ``number``: of the first piece of level 0 in its place."""

    level: int
    number: int
    offset: int
    length: int
    checksum: int
    size: int
    events: int


class TraceFile:
    """Writes the file; for one thread. All methods raise ``OSError``.

    ``about``: the metadata. ``first_event``: JSON of the event that the array begins with. ``most_events``: the limit.
    """

    def __init__(self, path: Path, about: Mapping[str, Any], first_event: str, most_events: int = MOST_EVENTS) -> None:
        self._path = path
        self._about = dict(about)
        self._first_event = first_event
        self._most = [int(share * most_events) for share in _SHARES]
        self._pieces: list[_Written] = []  # coarser ones first
        self._coarser: dict[tuple[int, int], tuple[Piece, int]] = {}  # by level and number; with the count of events
        self._events = [0] * LEVELS
        self._number = 0  # of the piece of level 0 that is written
        self._dropped = 0
        self._left_out = 0
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            self._begin_file(self._fd)
        except BaseException:
            os.close(self._fd)
            raise
        self._begin_piece()

    def add(self, text: bytes, events: int) -> None:
        """Append events of level 0, each behind a comma."""
        total = Sum(zlib.crc32(text, self._sum.checksum), self._sum.size + len(text))
        self._append(self._compressor.add(text), total)
        self._open_events += events
        self._events[0] += events

    def end_piece(self, coarser: list[PieceText]) -> None:
        """End the piece of level 0. ``coarser``: those of coarser levels that end with it."""
        self._append(self._compressor.add(b"", last=True), self._sum)
        length = self._end - self._open_offset
        piece = self._compressor.sum
        self._pieces.append(
            _Written(0, self._number, self._open_offset, length, piece.checksum, piece.size, self._open_events)
        )
        for one in coarser:
            first = self._number + 1 - FACTOR ** (one.level - 1)
            self._coarser[one.level, first] = gzip_pieces.compressed(one.text), one.events
            self._left_out += one.left_out
        self._number += 1
        self._begin_piece()
        if self._events[0] > self._most[0]:
            self._make_room()

    def close(self) -> None:
        """Close the file, which is complete already."""
        os.close(self._fd)

    # ---- inside --------------------------------------------------------------------------------------------

    def _begin_piece(self) -> None:
        self._compressor = Compressor()
        self._open_offset = self._end
        self._open_events = 0

    def _begin_file(self, fd: int) -> None:
        """Write the beginning; set the end of the pieces and the sum of their texts."""
        beginning = {"displayTimeUnit": "ms", **self._about, "traceEvents": []}
        text = json.dumps(beginning).removesuffix("]}")
        piece = gzip_pieces.compressed("\n".join([text, *self._first_events()]).encode())
        data = gzip_pieces.header() + piece.data
        self._sum = Sum(piece.checksum, piece.size)
        _write(fd, data + gzip_pieces.tail(self._sum, _END), 0)
        self._end = len(data)

    def _first_events(self) -> list[str]:
        merged = self._about.get("gpuexecMerged")
        if merged is None:
            return [self._first_event]
        process = json.loads(self._first_event)
        note = {"ph": "i", "s": "p", "name": merged["reason"], "args": merged["events"]}
        placed = {**note, "pid": process["pid"], "tid": process["tid"], "ts": process["ts"]}
        return [self._first_event, "," + json.dumps(placed)]

    def _append(self, data: bytes, total: Sum) -> None:
        try:
            _write(self._fd, data + gzip_pieces.tail(total, _END), self._end)
        except OSError:  # a full disk: the file ends as it did before
            with contextlib.suppress(OSError):
                before = gzip_pieces.tail(self._sum, _END)
                _write(self._fd, before, self._end)
                os.ftruncate(self._fd, self._end + len(before))
            raise
        self._sum = total
        self._end += len(data)

    def _make_room(self) -> None:
        """Replace the oldest pieces of each level that has too many events."""
        replaced: dict[tuple[int, int], Piece] = {}  # by level and number: what is not in the file yet
        for level in range(LEVELS):
            goal = self._most[level] * (1 - _ROOM)
            while self._events[level] > self._most[level] or (level == 0 and self._events[0] > goal):
                if not self._replace_oldest(level, replaced):
                    break
        self._write_anew(replaced)

    def _replace_oldest(self, level: int, replaced: dict[tuple[int, int], Piece]) -> bool:
        oldest = next((at for at, piece in enumerate(self._pieces) if piece.level == level), None)
        if oldest is None:
            return False
        first = self._pieces[oldest]
        if level == LEVELS - 1:
            group, following = [first], None
            self._dropped += first.events
        else:
            following = self._coarser.pop((level + 1, first.number), None)
            if following is None:  # it is not complete yet
                return False
            end = first.number + FACTOR**level
            group = [p for p in self._pieces[oldest:] if p.level == level and p.number < end]
        self._events[level] -= sum(piece.events for piece in group)
        new: list[_Written] = []
        if following is not None:
            piece, events = following
            replaced[level + 1, first.number] = piece
            new = [_Written(level + 1, first.number, -1, len(piece.data), piece.checksum, piece.size, events)]
            self._events[level + 1] += events
        for old in group:
            replaced.pop((old.level, old.number), None)
        self._pieces[oldest : oldest + len(group)] = new
        return True

    def _write_anew(self, replaced: Mapping[tuple[int, int], Piece]) -> None:
        """Write the file with its present pieces, and put it in the place of the old one."""
        self._say_what_is_merged()
        temporary = self._path.with_name(f".{self._path.name}.new")
        fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        old_fd = self._fd
        try:
            self._begin_file(fd)
            pieces = []
            for piece in self._pieces:
                new = replaced.get((piece.level, piece.number)) if piece.offset < 0 else None
                data = os.pread(old_fd, piece.length, piece.offset) if new is None else new.data
                _write(fd, data, self._end)
                pieces.append(piece._replace(offset=self._end))
                self._end += len(data)
                self._sum = self._sum.followed_by(piece.checksum, piece.size)
            _write(fd, gzip_pieces.tail(self._sum, _END), self._end)
            temporary.rename(self._path)
        except BaseException:
            os.close(fd)
            temporary.unlink(missing_ok=True)
            raise
        os.close(old_fd)
        self._fd, self._pieces = fd, pieces
        self._begin_piece()

    def _say_what_is_merged(self) -> None:
        merged = {
            f"up to {FACTOR**level} as one": self._events[level] for level in range(1, LEVELS) if self._events[level]
        }
        self._about["gpuexecMerged"] = {
            "reason": f"the trace is limited to {sum(self._most):,} events; older slices and readings are merged",
            "events": {"each by itself": self._events[0], **merged},
            "dropped": self._dropped,
            "leftOut": self._left_out,
        }


def _write(fd: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written
