"""The messages from a run to those who watch it: a JSON object a line, in UTF-8.

The first one is ``{"hello": {…}}``: version of the protocol, and what the run is. Then come, in any order,

* ``{"snapshot": {…}}``: how far it is; an older one that has not been sent is left out
* ``{"log": [{…}, …], "missing": n}``: what was logged, and how many lines before it were left out
* ``{"refused": "why"}`` or ``{"end": {…}}``, and nothing after it

A client must ignore what it does not know. What it sends is not read.
"""

from __future__ import annotations

import json
from typing import Any

from gpuexec.errors import CannotAttach

NAME, VERSION = "gpuexec-live", 1
PROTOCOL = f"{NAME}/{VERSION}"
MOST_LINE_BYTES = 4_000_000  # of a message: a run of a thousand stages and workers has 0.4 MB

Message = dict[str, Any]


def encode(message: Message) -> bytes:
    """Return a message as a line."""
    return json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace") + b"\n"


class Reader:
    """Cuts what arrives into messages."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, received: bytes) -> list[Message]:
        """Return the messages that are complete. Raises ``ValueError`` for what is none."""
        *lines, self._rest = (self._rest + received).split(b"\n")
        if len(self._rest) > MOST_LINE_BYTES:
            raise ValueError(f"a message of more than {MOST_LINE_BYTES:,} bytes")
        messages = [json.loads(line) for line in lines]
        if not all(isinstance(message, dict) for message in messages):
            raise ValueError("a message that is no JSON object")
        return messages


def check_hello(hello: Any) -> Message:
    """Return what the run says of itself. Raises ``CannotAttach`` if it speaks another version of the protocol."""
    spoken = hello.get("protocol") if isinstance(hello, dict) else None
    name, _, version = str(spoken).partition("/")
    if name != NAME or version != str(VERSION):
        maker = hello.get("gpuexec", "?") if isinstance(hello, dict) else "?"
        raise CannotAttach(
            f"this run is of gpuexec {maker} and speaks {spoken!r}, and this command only {PROTOCOL!r}: use the "
            f"`gpuexec top` of that version"
        )
    found: Message = hello
    return found
