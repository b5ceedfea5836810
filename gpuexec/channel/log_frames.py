"""Log records inside a worker's output.

A worker writes its records into the pipe that its prints go to. So both arrive in the order in which they were made,
and what was logged is still there when the worker is killed in the next instruction.

A record is a line that begins with a mark. It may follow text that has no line end yet: that text continues behind it.
"""

from __future__ import annotations

import json

from gpuexec.channel.messages import LogLine, PrintsFor

MARK = b"\x1egpuexec-log\x1e"

_to_json = json.JSONEncoder(separators=(",", ":"), default=str).encode  # escapes all that is not ASCII, line ends too


def encode_record(line: LogLine) -> bytes:
    """Return a record as a line of output."""
    return MARK + _to_json(line.to_tuple()[:-1]).encode() + b"\n"


def encode_prints_for(stage: int) -> bytes:
    """Return the line that says which stage of a group prints from here on."""
    return MARK + str(stage).encode() + b"\n"


def decode_record(data: bytes) -> LogLine | PrintsFor | None:
    """Restore what stands between the mark and the line end; ``None`` if it is not whole."""
    try:
        fields = json.loads(data)
        return PrintsFor(fields) if isinstance(fields, int) else LogLine.from_json(fields, ())
    except (ValueError, TypeError):
        return None
