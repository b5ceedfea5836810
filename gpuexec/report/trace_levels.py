"""The text of a trace, in several levels of detail that are made at the same time.

Level 0 has every event. Level n + 1 has one slice, or one reading of a counter, for up to 16 of level n that follow
each other on a track. A trace is cut into pieces; `trace_file` takes the piece of a coarser level in place of older
ones of a finer level, so a trace of any length stays bounded, and its newest part is always whole.

Times are microseconds of the trace's clock. Names are JSON texts already.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

LEVELS = 4
FACTOR = 16  # of merged events, and of pieces: one of level n + 1 takes the place of so many of level n ≥ 1
PIECE_EVENTS = 16_384  # of level 0
_GREATEST_GAP = 1e6  # a pause longer than this, and than the slice before it, stays visible
_GAP = 0.02  # microseconds between slices

Track = tuple[int, int]  # process and thread of the trace


class PieceText(NamedTuple):
    """The text of a piece of a coarser level, and how many events it has. ``left_out``: for which there was no room."""

    level: int
    text: bytes
    events: int
    left_out: int


class _Merged:
    """What follows each other on a track, as one."""

    __slots__ = ("amounts", "began", "count", "ended", "name")

    def __init__(self, name: str, began: float, ended: float, amounts: Mapping[str, float]) -> None:
        self.name = name
        self.began = began
        self.ended = ended
        self.count = 1
        self.amounts = dict(amounts)

    def takes(self, name: str, began: float) -> bool:
        """Whether another slice can be added."""
        gap = began - self.ended
        close = gap <= _GREATEST_GAP or gap <= self.ended - self.began
        return self.count < FACTOR and self.name == name and close

    def add(self, ended: float, amounts: Mapping[str, float]) -> None:
        self.ended = ended
        self.count += 1
        add_amounts(self.amounts, amounts)


class _Coarse:
    """One level above 0. What it merges goes into its own text and on to the next level."""

    def __init__(self, most_lines: int, following: _Coarse | None) -> None:
        self._most_lines = most_lines  # memory must stay bounded whatever a run does
        self._following = following
        self._lines: list[str] = []
        self._left_out = 0
        self._slices: dict[Track, _Merged] = {}
        self._counters: dict[tuple[int, str], _Merged] = {}

    def keep(self, line: str) -> None:
        if len(self._lines) < self._most_lines:
            self._lines.append(line)
        else:
            self._left_out += 1

    def slice(self, track: Track, name: str, began: float, ended: float, amounts: Mapping[str, float]) -> None:
        merged = self._slices.get(track)
        if merged is not None and merged.takes(name, began):
            merged.add(ended, amounts)
            return
        if merged is not None:
            self._write_slice(track, merged)
        self._slices[track] = _Merged(name, began, ended, amounts)

    def counter(self, process: int, name: str, at: float, values: Mapping[str, float]) -> None:
        key = (process, name)
        merged = self._counters.get(key)
        if merged is not None and merged.takes(name, at):
            merged.add(at, values)
            return
        if merged is not None:
            self._write_counter(process, merged)
        self._counters[key] = _Merged(name, at, at, values)

    def take(self, level: int) -> PieceText:
        """Return what has come together, and begin anew."""
        for track, merged in self._slices.items():
            self._write_slice(track, merged)
        for (process, _), merged in self._counters.items():
            self._write_counter(process, merged)
        text = PieceText(level, _text(self._lines), len(self._lines), self._left_out)
        self._lines, self._left_out = [], 0
        self._slices.clear()
        self._counters.clear()
        return text

    def _write_slice(self, track: Track, merged: _Merged) -> None:
        self.keep(slice_line(track, merged.name, merged.began, merged.ended, merged.amounts))
        if self._following is not None:
            self._following.slice(track, merged.name, merged.began, merged.ended, merged.amounts)

    def _write_counter(self, process: int, merged: _Merged) -> None:
        mean = {key: value / merged.count for key, value in merged.amounts.items()}
        self.keep(counter_line(process, merged.name, merged.began, mean))
        if self._following is not None:
            self._following.counter(process, merged.name, merged.began, mean)


class TraceLevels:
    """Takes what happens and makes the text of all levels.

    ``write`` gets new text of level 0 and how many events it has. ``end_piece`` gets the coarser pieces that end with a
    piece of level 0: always one of level 1, every 16th time one of level 2, and so on. ``standing`` returns lines that
    each piece of the coarsest level begins with, since all before it may be left out. ``piece_events``: the length of a
    piece of level 0.
    """

    def __init__(
        self,
        write: Callable[[bytes, int], None],
        end_piece: Callable[[list[PieceText]], None],
        standing: Callable[[], list[str]],
        piece_events: int = PIECE_EVENTS,
    ) -> None:
        self._piece_events = piece_events
        self._write = write
        self._end_piece = end_piece
        self._standing = standing
        self._lines: list[str] = []
        self._events = 0  # of this piece, written already
        self._pieces = 0
        coarse: list[_Coarse] = []
        for level in range(LEVELS - 1, 0, -1):
            most_lines = piece_events if level == 1 else piece_events // 2
            coarse.append(_Coarse(most_lines, coarse[-1] if coarse else None))
        self._coarse = coarse[::-1]  # level 1 first
        self._first = self._coarse[0]

    @property
    def waiting(self) -> int:
        """Return how many events have not been passed to ``write``."""
        return len(self._lines)

    def fine(self, line: str) -> None:
        """Add an event that coarser levels do without."""
        self._lines.append(line)

    def keep(self, line: str) -> None:
        """Add an event to all levels."""
        self._lines.append(line)
        for coarse in self._coarse:
            coarse.keep(line)

    def slice(
        self,
        track: Track,
        name: str,
        began: float,
        ended: float,
        amounts: Mapping[str, float],
        merged_name: str | None = None,
    ) -> None:
        """Add a slice. ``amounts`` add up when slices are merged. ``merged_name``: of such slices, if another."""
        self._lines.append(slice_line(track, name, began, ended, amounts))
        self._first.slice(track, merged_name or name, began, ended, amounts)

    def counter(self, process: int, name: str, at: float, values: Mapping[str, float]) -> None:
        """Add a reading. Of several readings a coarser level has the mean, at the time of the first."""
        self._lines.append(counter_line(process, name, at, values))
        self._first.counter(process, name, at, values)

    def flush(self) -> None:
        """Pass on what has come together, and end the piece if it is long enough."""
        count = len(self._lines)
        if not count:
            return
        self._write(_text(self._lines), count)
        self._lines.clear()
        self._events += count
        if self._events >= self._piece_events:
            self._end()

    def _end(self) -> None:
        self._events = 0
        self._pieces += 1
        ended, span = [], 1
        for level, coarse in enumerate(self._coarse, start=1):
            if self._pieces % span:
                break
            ended.append(coarse.take(level))
            span *= FACTOR
        else:
            for line in self._standing():
                self._coarse[-1].keep(line)
        self._end_piece(ended)


def add_amounts(total: dict[str, float], more: Mapping[str, float]) -> None:
    """Add figures to those of the same names."""
    for key, amount in more.items():
        total[key] = total.get(key, 0) + amount


def slice_line(track: Track, name: str, began: float, ended: float, amounts: Mapping[str, float]) -> str:
    """Return a slice with its figures, as JSON."""
    values = ",".join([f'"{key}":{_number(value)}' for key, value in amounts.items()])
    return (
        f'{{"ph":"X","name":{name},"pid":{track[0]},"tid":{track[1]},{_interval(began, ended, _GAP)}'
        f',"args":{{{values}}}}}'
    )


def part_line(track: Track, name: str, began: float, ended: float) -> str:
    """Return a slice without figures, as JSON: a part of another one."""
    return f'{{"ph":"X","name":{name},"pid":{track[0]},"tid":{track[1]},{_interval(began, ended, 2 * _GAP)}}}'


def counter_line(process: int, name: str, at: float, values: Mapping[str, float]) -> str:
    """Return a reading of a counter, as JSON."""
    parts = ",".join([f'"{key}":{_number(value)}' for key, value in values.items()])
    return f'{{"ph":"C","name":{name},"pid":{process},{stamp(at)},"args":{{{parts}}}}}'


def stamp(at: float) -> str:
    """Return a moment, as part of an event: readers take it as a double, which has room for tenths."""
    tenths = int(at * 10)
    return f'"ts":{tenths // 10}.{tenths % 10}'


def _interval(began: float, ended: float, gap: float) -> str:
    """Return begin and duration. It ends a little early: readers round, and slices must not overlap."""
    length = int(ended * 10) - int(began * 10)
    return f'{stamp(began)},"dur":{max(0.0, length / 10 - gap):.2f}'


def _number(value: float) -> str:
    if type(value) is not float:
        return str(value)
    return f"{value:.6g}" if math.isfinite(value) else "null"  # a sum may be too large


def _text(lines: Iterable[str]) -> bytes:
    """Return lines of JSON, each behind a comma: the file begins with one event."""
    return "".join([f",\n{line}" for line in lines]).encode()
