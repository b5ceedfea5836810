"""What a check is, and what came of it. Values only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from gpuexec.records import Record

if TYPE_CHECKING:
    from gpu_checks.machine import Machine

SCHEMA, VERSION = "gpuexec-gpu-check", 1


class Outcome(StrEnum):
    """What came of a check."""

    PASS = "PASS"
    FAIL = "FAIL"
    SKIPPED = "SKIPPED"


class CannotCheck(Exception):
    """Something that the check needs is not here. The text says what."""


class Seen(Record):
    """What a check has seen. ``summary``: in one line. ``problems``: what is not as promised; none: it passes.

    ``data``: the figures, as values that JSON can hold.
    """

    summary: str
    problems: tuple[str, ...] = ()
    data: Mapping[str, Any] = field(default_factory=dict, hash=False)


class Check(Record):
    """One check. ``name``: its group, a dot and a word. ``proves``: what holds if it passes.

    ``limit_s``: seconds after which it counts as hanging, and its processes are killed.
    """

    name: str
    proves: str
    look: Callable[[Machine], Seen]
    limit_s: float = 120.0


class Result(Record):
    """What came of one check. ``reason``: why it failed or was skipped. ``log``: last lines that it printed."""

    name: str
    proves: str
    outcome: Outcome
    summary: str = ""
    reasons: tuple[str, ...] = ()
    seconds: float = 0.0
    seen: Mapping[str, Any] = field(default_factory=dict, hash=False)
    log: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as values that JSON can hold."""
        plain = {name: getattr(self, name) for name in ("name", "proves", "summary")}
        return {
            **plain,
            "outcome": self.outcome.value,
            "reasons": list(self.reasons),
            "seconds": round(self.seconds, 3),
            "seen": dict(self.seen),
            "log": list(self.log),
        }


def counts(results: Sequence[Result]) -> dict[str, int]:
    """Return how many checks passed, failed and were skipped."""
    number = Counter(result.outcome for result in results)
    return {outcome.value: number[outcome] for outcome in Outcome}


def exit_status(results: Sequence[Result]) -> int:
    """Return 1 if a check failed, 3 if none could be made, else 0."""
    number = counts(results)
    if number["FAIL"]:
        return 1
    return 0 if number["PASS"] else 3


def document(results: Sequence[Result], **facts: Any) -> dict[str, Any]:
    """Return all that is written to the JSON file."""
    return {
        "schema": SCHEMA,
        "version": VERSION,
        **facts,
        "counts": counts(results),
        "checks": [result.to_dict() for result in results],
    }
