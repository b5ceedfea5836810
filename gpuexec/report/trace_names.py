"""The processes and threads of a trace, and their names."""

from __future__ import annotations

import json
from typing import Any

from gpuexec.naming import shortened
from gpuexec.report.trace_levels import Track, stamp

# Ids that no process has: Linux counts to 4,194,304 (PID_MAX_LIMIT).
STAGES = 4_200_000
FIRST_GPU = 4_200_001
_FIRST_SUBSTITUTE = 4_300_000

_MOST_NAME_CHARS = 120


class ProcessIds:
    """Gives each worker a process id of its own. It is the real one, unless that occurs in the trace already."""

    def __init__(self) -> None:
        self._taken: set[int] = set()
        self._substitute = _FIRST_SUBSTITUTE

    def take(self, pid: int) -> int:
        """Return an id for a process that has this one."""
        if pid in self._taken:
            pid = self._substitute
            self._substitute += 1
        self._taken.add(pid)
        return pid


def quoted(text: str) -> str:
    """Return a name as JSON: one line, not too long, and without what is no text, such as half of a surrogate pair."""
    line = " ".join(text.encode("utf-8", "replace").decode().split())
    return json.dumps(shortened(line, _MOST_NAME_CHARS), ensure_ascii=False)


def process_lines(pid: int, name: str, sort_index: int, labels: str = "") -> list[str]:
    """Return the events that name a process and place it among the others."""
    lines = [
        _meta("process_name", pid, 0, {"name": name}),
        _meta("process_sort_index", pid, 0, {"sort_index": sort_index}),
    ]
    return [*lines, _meta("process_labels", pid, 0, {"labels": labels})] if labels else lines


def thread_lines(track: Track, name: str) -> list[str]:
    """Return the events that name a thread."""
    return [
        _meta("thread_name", *track, {"name": name}),
        _meta("thread_sort_index", *track, {"sort_index": track[1]}),
    ]


def instant_line(track: Track, name: str, at: float, args: dict[str, Any]) -> str:
    """Return an event without duration, as JSON."""
    return (
        f'{{"ph":"i","s":"t","name":{quoted(name)},"pid":{track[0]},"tid":{track[1]},{stamp(at)},'
        f'"args":{json.dumps(args, default=str)}}}'
    )


def _meta(kind: str, pid: int, tid: int, args: dict[str, Any]) -> str:
    if "name" in args:
        args = {"name": json.loads(quoted(args["name"]))}
    return json.dumps({"ph": "M", "name": kind, "pid": pid, "tid": tid, "ts": 0, "args": args}, ensure_ascii=False)
