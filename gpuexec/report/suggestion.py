"""A change of settings that is worth trying, and how it is written down. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Any

from gpuexec.records import Record
from gpuexec.report.snippet import snippet_lines
from gpuexec.report.wording import gained, seconds

OPTION = "option"


class Suggestion(Record):
    """A change, and what the run's own figures say that it would give.

    ``settings``: by name, ``STAGE.key`` for what a stage's ``with_()`` takes and ``option.NAME`` for an executor
    option, as ``gpuexec bench`` has them. ``gain_share``: of the throughput, 0.11 for +11 %. ``at_most``: the figures
    show only a bound; otherwise the work divided by the workers is what to expect. ``is_needed``: without it the run
    did not go through. ``text`` says what to change and why, ``arithmetic`` how the gain follows from the report.
    """

    kind: str
    settings: Mapping[str, Any] = field(hash=False)
    gain_share: float
    at_most: bool
    text: str
    arithmetic: str
    is_needed: bool = False

    @property
    def expected_share(self) -> float:
        """The gain to rank by: of a bound, half, as it is reached only where all goes well."""
        return self.gain_share / 2 if self.at_most else self.gain_share

    def snippet(self) -> str:
        """Return the change as lines of Python."""
        stages: dict[str, dict[str, Any]] = {}
        options: dict[str, Any] = {}
        for name, value in self.settings.items():
            owner, _, key = name.rpartition(".")
            (options if owner == OPTION else stages.setdefault(owner, {}))[key] = value
        return "\n".join(snippet_lines(stages, options))

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {
            "kind": self.kind,
            "text": self.text,
            "settings": dict(self.settings),
            "snippet": self.snippet(),
            "gain_share": self.gain_share,
            "at_most": self.at_most,
            "arithmetic": self.arithmetic,
            "is_needed": self.is_needed,
        }


def effect(wall_s: float, gain_share: float) -> str:
    """Return what a gain means for a run that took so long, as the end of a sentence."""
    return f"the run of {seconds(wall_s)} gets {gained(gain_share)}"
