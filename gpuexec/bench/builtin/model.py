"""What was measured of a machine. Values only, and their form as JSON.

A figure that could not be measured has no values, and a reason. It is never 0 and never a guess.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Any

from gpuexec.bench.spread import Spread, spread_of
from gpuexec.errors import ConfigurationError
from gpuexec.records import Record
from gpuexec.report.figures import HIGHER, LOWER

SCHEMA, VERSION = "gpuexec-builtin", 1


class Figure(Record):
    """One figure.

    ``key``: its name for programs, such as "transport.small". ``name``: in words. ``better``: "higher" or "lower".
    ``values``: of the repeats. ``reason``: why it was not measured, ``None`` if it was. ``conditions``: what it depends
    on; figures under different conditions are not judged against each other. ``doubts``: what disturbed it.
    """

    key: str
    name: str
    unit: str
    better: str
    values: tuple[float, ...] = ()
    reason: str | None = None
    conditions: Mapping[str, Any] = field(default_factory=dict, hash=False)
    doubts: tuple[str, ...] = ()

    @property
    def group(self) -> str:
        """What it belongs to: the part of the key before the first dot."""
        return self.key.partition(".")[0]

    @property
    def spread(self) -> Spread | None:
        """The spread of the repeats; ``None`` if it was not measured."""
        return spread_of(self.values)


class MachineResult(Record):
    """The figures of a machine. ``machine``: facts about it. ``started_at``: POSIX time. ``seconds``: they took."""

    started_at: float
    seconds: float
    is_full: bool
    gpuexec: str
    machine: Mapping[str, Any] = field(hash=False)
    figures: tuple[Figure, ...]

    def figure(self, key: str) -> Figure | None:
        """Return a figure by its key."""
        return next((figure for figure in self.figures if figure.key == key), None)


def result_as_dict(result: MachineResult) -> dict[str, Any]:
    """Return a result as plain values, which JSON can carry; `read_machine_result` reads them back."""
    return {
        "schema": SCHEMA,
        "version": VERSION,
        **{name: getattr(result, name) for name in ("started_at", "seconds", "is_full", "gpuexec")},
        "machine": dict(result.machine),
        "figures": [
            {
                **{name: getattr(figure, name) for name in ("key", "name", "unit", "better", "reason")},
                "values": list(figure.values),
                "conditions": dict(figure.conditions),
                "doubts": list(figure.doubts),
            }
            for figure in result.figures
        ],
    }


def read_machine_result(data: Any, where: str) -> MachineResult:
    """Return the result that `result_as_dict` made these values of. ``where``: the file, for messages.

    Raises ``ConfigurationError`` for what is no such result, and for one of a newer version.
    """
    if not isinstance(data, Mapping) or data.get("schema") != SCHEMA:
        raise ConfigurationError(f"{where} holds no figures of gpuexec bench --builtin: its schema is not {SCHEMA!r}")
    version = data.get("version")
    if not isinstance(version, int) or version > VERSION:
        raise ConfigurationError(
            f"{where} has version {version!r} of {SCHEMA}, and this gpuexec reads up to {VERSION}: gpuexec "
            f"{data.get('gpuexec', '?')} or newer is needed to read it"
        )
    try:
        return MachineResult(
            started_at=float(data["started_at"]),
            seconds=float(data["seconds"]),
            is_full=bool(data["is_full"]),
            gpuexec=str(data["gpuexec"]),
            machine=dict(data["machine"]),
            figures=tuple(_figure(each) for each in data["figures"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigurationError(f"{where} is damaged: {type(error).__name__} {error}") from error


def _figure(data: Mapping[str, Any]) -> Figure:
    if data["better"] not in (HIGHER, LOWER):
        raise ValueError(f"better is {data['better']!r}")
    return Figure(
        key=str(data["key"]),
        name=str(data["name"]),
        unit=str(data["unit"]),
        better=data["better"],
        values=tuple(float(value) for value in data["values"]),
        reason=data["reason"],
        conditions=dict(data["conditions"]),
        doubts=tuple(map(str, data["doubts"])),
    )
