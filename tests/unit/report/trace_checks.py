"""Reads traces and checks that they follow the trace event format."""

from __future__ import annotations

import gzip
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

Event = dict[str, Any]

_NEEDED = {
    "X": {"name", "ts", "dur", "pid", "tid"},
    "B": {"name", "ts", "pid", "tid"},
    "E": {"ts", "pid", "tid"},
    "i": {"name", "ts", "pid", "tid", "s"},
    "C": {"name", "ts", "pid", "args"},
    "M": {"name", "pid", "args"},
    "b": {"name", "ts", "pid", "tid", "id", "cat"},
    "e": {"name", "ts", "pid", "tid", "id", "cat"},
    "s": {"name", "ts", "pid", "tid", "id", "cat"},
    "f": {"name", "ts", "pid", "tid", "id", "cat", "bp"},
}


def read_trace(path: Path) -> dict[str, Any]:
    """Return a trace. Raises if the file, its checksum or its JSON is damaged."""
    document: dict[str, Any] = json.loads(gzip.decompress(path.read_bytes()))
    return document


def check_trace(document: dict[str, Any]) -> list[Event]:
    """Assert that a trace follows the format, and that slices of a thread nest; return its events."""
    assert document["displayTimeUnit"] == "ms"
    trace_events: list[Event] = document["traceEvents"]
    slices: dict[tuple[int, int], list[tuple[float, float]]] = defaultdict(list)
    arrows: dict[int, list[Event]] = defaultdict(list)
    for event in trace_events:
        assert _NEEDED[event["ph"]] <= event.keys(), event
        if event["ph"] == "X":
            assert event["dur"] >= 0
            slices[event["pid"], event["tid"]].append((event["ts"], event["ts"] + event["dur"]))
        elif event["ph"] == "C":
            assert all(isinstance(value, int | float) for value in event["args"].values())
        elif event["ph"] in "sf":
            arrows[event["id"]].append(event)
    for of_thread in slices.values():
        _check_nesting(of_thread)
    for start, end in arrows.values():
        assert (start["ph"], end["ph"]) == ("s", "f")
        assert start["ts"] <= end["ts"]
        for event in (start, end):
            assert any(b <= event["ts"] <= e for b, e in slices[event["pid"], event["tid"]]), "an arrow at no slice"
    return trace_events


def _check_nesting(slices: list[tuple[float, float]]) -> None:
    """Assert that two slices of a thread are apart, or one lies in the other."""
    open_until: list[float] = []
    for began, ended in sorted(slices, key=lambda s: (s[0], -s[1])):
        while open_until and open_until[-1] <= began:
            open_until.pop()
        assert not open_until or ended <= open_until[-1], "slices overlap"
        open_until.append(ended)
