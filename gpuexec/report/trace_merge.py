"""Puts traces of one node together: that of a run, and those of profilers that ran in its workers."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gpuexec.errors import RunNotFound


def merged_traces(files: Sequence[Path]) -> bytes:
    """Return one trace, compressed, with the events of all ``files``, by the clock of the first.

    Each is an object or a list of the trace event format, compressed or not. A trace that says what its clock counts
    from (``baseTimeNanoseconds``) is brought to the first one's clock; others are taken as they are. Raises
    ``RunNotFound`` for a file that is no such trace.
    """
    first, *others = [_read(file) for file in files]
    base = first.get("baseTimeNanoseconds")
    for other in others:
        other_base = other.get("baseTimeNanoseconds")
        if isinstance(base, int) and isinstance(other_base, int) and base != other_base:
            _shift(other["traceEvents"], (other_base - base) / 1000)
        first["traceEvents"] += other["traceEvents"]
    return gzip.compress(json.dumps(first, ensure_ascii=False).encode("utf-8", "backslashreplace"), mtime=0)


def _read(file: Path) -> dict[str, Any]:
    try:
        content = file.read_bytes()
        document = json.loads(gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise RunNotFound(f"{file} is no trace that can be read: {error}") from error
    if isinstance(document, list):
        document = {"traceEvents": document}
    if not isinstance(document, dict) or not isinstance(document.get("traceEvents"), list):
        raise RunNotFound(f"{file} is no trace: it has no list of events (traceEvents)")
    return document


def _shift(trace_events: list[Any], microseconds: float) -> None:
    for event in trace_events:
        if isinstance(event, dict) and isinstance(event.get("ts"), int | float):
            event["ts"] += microseconds
