"""A sweep as plain values, which JSON can carry, and back. docs/bench-json.md describes them.

Reading is strict about what a sweep consists of, and ignores what it does not know. What the analysis found is written
for other programs and not read back: it follows from the results.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from gpuexec._version import __version__
from gpuexec.bench.analysis import Analysis
from gpuexec.bench.answer import Answer
from gpuexec.bench.model import Goal, Point, SearchKind, StageFigures, Sweep, Trial, TrialResult, TrialStatus
from gpuexec.bench.spread import Spread
from gpuexec.bench.summary import PointSummary
from gpuexec.errors import SweepImpossible
from gpuexec.records import Record
from gpuexec.report.statistics import CONFIDENCE

SCHEMA, VERSION = "gpuexec-bench", 1

_SPREADS = ("throughput", "joules_per_item", "first_result_s", "latency_p99_s")
_R = TypeVar("_R", bound=Record)


def sweep_as_dict(sweep: Sweep, analysis: Analysis) -> dict[str, Any]:
    """Return a sweep and what it shows."""
    rank = {summary.point.id: place for place, summary in enumerate(analysis.points, start=1)}
    by_id = {summary.point.id: summary for summary in analysis.points}
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "gpuexec": __version__,
        "confidence": CONFIDENCE,
        **{
            name: plain(getattr(sweep, name))
            for name in Sweep.__dataclass_fields__
            if name not in ("points", "results")
        },
        "answer": None if analysis.answer is None else _answer(analysis.answer),
        "points": [_point(by_id[point.id], rank[point.id]) for point in sweep.points],
        "results": [_result(each) for each in sweep.results],
    }


def plain(value: Any) -> Any:
    """Return a value as JSON has it: enums and what JSON has no type for are text, also infinity and NaN."""
    if isinstance(value, Record):
        return _fields(value)
    if isinstance(value, Mapping):
        return {str(name): plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if value is None or isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return str(value)


def read_sweep(data: Any, where: str = "the sweep") -> Sweep:
    """Return the sweep that `sweep_as_dict` made these values of.

    Raises ``SweepImpossible`` if they are none, damaged, or of a newer version; ``where`` names their file in it.
    """
    if not isinstance(data, Mapping) or data.get("schema") != SCHEMA:
        found = data.get("schema") if isinstance(data, Mapping) else None
        raise SweepImpossible(f"{where} is no sweep of gpuexec bench: its schema is {found!r}, not {SCHEMA!r}")
    version = data.get("version")
    if not isinstance(version, int):
        raise SweepImpossible(f"{where} is damaged: its version is {version!r}")
    if version > VERSION:
        raise SweepImpossible(
            f"{where} has version {version} of {SCHEMA}, and this gpuexec reads up to {VERSION}: "
            f"gpuexec {data.get('gpuexec', '?')} or newer is needed to read it"
        )
    reader = _Reader(where)
    points = reader.each(Point, data, "points", {})
    results = tuple(reader.result(entry, n) for n, entry in enumerate(reader.rows(data, "results")))
    unknown = {result.trial.point_id for result in results} - {point.id for point in points}
    if unknown:
        raise SweepImpossible(f"{where} is damaged: it has results of {min(unknown)!r}, which is none of its points")
    own = {
        "points": points,
        "results": results,
        "goal": reader.enum(Goal, data, "goal"),
        "search": reader.enum(SearchKind, data, "search"),
        "varied": {
            name: tuple(reader.rows(reader.mapping(data, "varied"), name)) for name in reader.mapping(data, "varied")
        },
    }
    return reader.record(Sweep, data, own, "it")


def load_sweep(path: str | os.PathLike[str]) -> Sweep:
    """Return the sweep in a file. Raises ``SweepImpossible``."""
    try:
        data = json.loads(Path(path).read_bytes())
    except OSError as error:
        raise SweepImpossible(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # no JSON, or no UTF-8
        raise SweepImpossible(f"{path} is damaged: it is not JSON ({error})") from error
    return read_sweep(data, str(path))


def _fields(record: Record) -> dict[str, Any]:
    return {name: plain(getattr(record, name)) for name in record.__dataclass_fields__}


def _result(result: TrialResult) -> dict[str, Any]:
    """Return a result with the fields of its trial beside its own."""
    own = _fields(result)
    trial: dict[str, Any] = own.pop("trial")
    return {**trial, **own}


def _point(summary: PointSummary, rank: int) -> dict[str, Any]:
    hidden = ("point", "results", *_SPREADS)
    found = {name: entry for name, entry in _fields(summary).items() if name not in hidden}
    spreads = {name: _spread(summary.spread(name)) for name in _SPREADS}
    return {**_fields(summary.point), "rank": rank, **found, **spreads}


def _spread(spread: Spread | None) -> dict[str, Any] | None:
    return None if spread is None else {**_fields(spread), "word": plain(spread.word)}


def _answer(answer: Answer) -> dict[str, Any]:
    return {**_fields(answer), "words": answer.words}


# ---- reading -------------------------------------------------------------------------------------------


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


_KINDS: dict[str, Callable[[Any], bool]] = {
    "str": lambda value: isinstance(value, str),
    "bool": lambda value: isinstance(value, bool),
    "int": _is_int,
    "float": lambda value: _is_int(value) or isinstance(value, float),
    "None": lambda value: value is None,
    "Mapping": lambda value: isinstance(value, Mapping),
    "tuple": lambda value: isinstance(value, list),
}


class _Reader:
    """Makes records of plain values; ``where`` names the file in errors."""

    def __init__(self, where: str) -> None:
        self._where = where

    def record(self, kind: type[_R], data: Mapping[str, Any], own: Mapping[str, Any], what: str) -> _R:
        """Return a record with the fields ``own`` and, for the others, what ``data`` has. ``what`` names it."""
        found = dict(own)
        for name, field in kind.__dataclass_fields__.items():
            if name in found or (name not in data and name in kind._defaults):
                continue
            if name not in data:
                raise self.damaged(f"{what} has no {name!r}")
            kinds = [part.partition("[")[0] for part in str(field.type).split(" | ")]
            if not any(_KINDS[each](data[name]) for each in kinds):
                raise self.damaged(f"{what} has {name}={data[name]!r}, which is no {' or '.join(kinds)}")
            found[name] = tuple(data[name]) if kinds == ["tuple"] else data[name]
        return kind(**found)

    def each(self, kind: type[_R], data: Mapping[str, Any], name: str, own: Mapping[str, Any]) -> tuple[_R, ...]:
        """Return the records of a list."""
        rows = self.rows(data, name)
        return tuple(self.record(kind, self.entry(row, name, n), own, f"{name}[{n}]") for n, row in enumerate(rows))

    def result(self, row: Any, n: int) -> TrialResult:
        """Return a result; the fields of its trial stand beside its own."""
        data = self.entry(row, "results", n)
        own = {
            "trial": self.record(Trial, data, {}, f"results[{n}]"),
            "status": self.enum(TrialStatus, data, "status"),
            "stages": self.each(StageFigures, data, "stages", {}),
        }
        return self.record(TrialResult, data, own, f"results[{n}]")

    def rows(self, data: Mapping[str, Any], name: str) -> Sequence[Any]:
        found = data.get(name)
        if not isinstance(found, list):
            raise self.damaged(f"{name!r} is no list")
        return found

    def mapping(self, data: Mapping[str, Any], name: str) -> Mapping[str, Any]:
        found = data.get(name)
        if not isinstance(found, Mapping):
            raise self.damaged(f"{name!r} is no object")
        return found

    def entry(self, row: Any, name: str, n: int) -> Mapping[str, Any]:
        if not isinstance(row, Mapping):
            raise self.damaged(f"{name}[{n}] is no object")
        return row

    def enum(self, kind: type[Any], data: Mapping[str, Any], name: str) -> Any:
        try:
            return kind(data.get(name))
        except ValueError:
            known = ", ".join(each.value for each in kind)
            raise self.damaged(f"{name!r} is {data.get(name)!r}, which is none of {known}") from None

    def damaged(self, what: str) -> SweepImpossible:
        return SweepImpossible(f"{self._where} is damaged: {what}")
