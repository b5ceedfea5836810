"""The suggestions of one run, tried by a sweep: what was predicted, and what was then measured. Pure.

A suggestion predicts the duration of the whole run, so that is what is compared: runs a second of the trials of its
point, over those of today's configuration. A prediction holds if it lies inside the interval at 95 % of what was
measured, and no gain at all does not; one that is only a bound holds if the interval begins at or below it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Any

from gpuexec.bench.labels import end_text
from gpuexec.bench.model import TODAY, Sweep, TrialStatus
from gpuexec.errors import SweepImpossible
from gpuexec.records import Record
from gpuexec.report.columns import Column, lay_out, printable
from gpuexec.report.statistics import Interval, difference_interval, mean
from gpuexec.report.suggest import suggestions, suggestions_as_dict
from gpuexec.report.suggestion import Suggestion
from gpuexec.report.wording import percent

SCHEMA, VERSION = "gpuexec-predictions", 1


class Outcome(StrEnum):
    """What became of a prediction."""

    HELD = "held"
    MORE = "gave more"
    LESS = "gave less"
    UNCLEAR = "unclear"  # the interval holds the prediction, and no gain at all
    ONE_REPEAT = "one repeat"  # there is no interval
    NOT_MEASURED = "not measured"


class Prediction(Record):
    """A suggestion, and what came of it.

    ``point_id``: the point that tries it; ``None`` if the settings are today's already. ``measured``: the gain of
    throughput over today's configuration, 0.1 for 10 %; ``None`` if it was not measured. ``low``, ``high``: its
    interval at 95 %, ``None`` of one repeat. ``reason``: why it was not measured.
    """

    suggestion: Suggestion
    point_id: str | None
    measured: float | None
    low: float | None
    high: float | None
    outcome: Outcome
    reason: str | None = None


def suggested(report: Mapping[str, Any]) -> list[Suggestion]:
    """Return the suggestions of a run. Raises ``SweepImpossible``, which says why, if there is none."""
    found = suggestions(report)
    if not found:
        why = suggestions_as_dict(report)["why_none"]
        raise SweepImpossible(f"run {report.get('run_id')} suggests nothing that could be tried: {why}")
    return found


def predictions(sweep: Sweep, tried: Sequence[Suggestion]) -> list[Prediction]:
    """Return what became of each suggestion."""
    by_settings = {_identity(point.settings): point.id for point in sweep.points}
    return [_prediction(sweep, each, by_settings.get(_identity(each.settings))) for each in tried]


def predictions_as_dict(found: Sequence[Prediction]) -> dict[str, Any]:
    """Return predictions as plain values: ``predictions.json`` in the folder of the sweep."""
    names = ("point_id", "measured", "low", "high", "outcome", "reason")
    listed = [{**each.suggestion.to_dict(), **{name: getattr(each, name) for name in names}} for each in found]
    return {"schema": SCHEMA, "version": VERSION, "predictions": listed}


def prediction_lines(found: Sequence[Prediction], width: int) -> Iterator[str]:
    """Yield a table of what was predicted beside what was measured. The points' settings are in the sweep's table."""
    columns = [Column("predicted", 0), Column("measured", 1), Column("95 %", 3), Column("", 2)]
    cells = [[_predicted(each.suggestion), *_measured(each)] for each in found]
    settings = [", ".join(f"{name}={value}" for name, value in each.suggestion.settings.items()) for each in found]
    names = [each.point_id or text for each, text in zip(found, settings, strict=True)]
    heading, *rows = lay_out("whole runs a second", names, columns, cells, width)
    yield printable(heading)
    yield "─" * min(width, max(map(len, (heading, *rows))))
    yield from map(printable, rows)


def _prediction(sweep: Sweep, suggestion: Suggestion, point_id: str | None) -> Prediction:
    if point_id is None:
        reason = "these settings are today's already"
        return Prediction(suggestion, None, None, None, None, Outcome.NOT_MEASURED, reason)
    before, after = _runs_per_s(sweep, TODAY), _runs_per_s(sweep, point_id)
    if not before or not after:
        reason = _why_not(sweep, TODAY if not before else point_id)
        return Prediction(suggestion, point_id, None, None, None, Outcome.NOT_MEASURED, reason)
    base = mean(before)
    gain, interval = mean(after) / base - 1, difference_interval(before, after)
    if interval is None:
        return Prediction(suggestion, point_id, gain, None, None, Outcome.ONE_REPEAT)
    low, high = interval.low / base, interval.high / base
    return Prediction(suggestion, point_id, gain, low, high, _outcome(suggestion, Interval(gain, low, high)))


def _outcome(suggestion: Suggestion, measured: Interval) -> Outcome:
    if measured.low > suggestion.gain_share:
        return Outcome.MORE
    if measured.high < suggestion.gain_share and not suggestion.at_most:
        return Outcome.LESS
    if measured.low <= 0 and not suggestion.at_most:
        return Outcome.UNCLEAR
    return Outcome.HELD


def _runs_per_s(sweep: Sweep, point_id: str) -> list[float]:
    """Return the runs a second of the trials of a point that count and ran to their end."""
    return [
        1 / result.seconds
        for result in sweep.counted
        if result.trial.point_id == point_id
        and result.status is TrialStatus.OK
        and result.trial.budget_s is None
        and result.seconds
    ]


def _why_not(sweep: Sweep, point_id: str) -> str:
    ended = [result for result in sweep.results if result.trial.point_id == point_id]
    which = "today's configuration" if point_id == TODAY else "it"
    last = ended[-1] if ended else None
    return f"{which}: {end_text(last.status if last else None)}" + (f", {last.reason}" if last and last.reason else "")


def _identity(settings: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((name, str(value)) for name, value in settings.items()))


def _predicted(suggestion: Suggestion) -> str:
    gain = _signed(suggestion.gain_share)
    return f"up to {gain}" if suggestion.at_most else gain


def _measured(found: Prediction) -> list[str]:
    if found.measured is None:
        return ["–", "", f"{found.outcome}: {found.reason}"]
    interval = "" if found.low is None or found.high is None else f"{_signed(found.low)} … {_signed(found.high)}"
    return [_signed(found.measured), interval, str(found.outcome)]


def _signed(gain: float) -> str:
    if gain >= 1:
        return f"× {gain + 1:.3g}"
    return f"+{percent(gain)}" if gain >= 0 else f"−{percent(-gain)}"
