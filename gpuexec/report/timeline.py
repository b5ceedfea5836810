"""How the work of a stage went over time: its workers' time by what it went to, tasks done, queue and workers."""

from __future__ import annotations

from gpuexec.series import MAX_BINS, AmountSeries, common_width

BIN_S = 0.125  # to begin with; the width doubles as the run goes on


class StageTimeline:
    """The series of one stage. ``start``: the run's, on the monotonic clock, as all times here."""

    def __init__(self, start: float, max_bins: int = MAX_BINS) -> None:
        self._start = start
        self._max_bins = max_bins
        self._parts: dict[str, AmountSeries] = {}
        self._gauged_at = start
        self._gauges = {name: self._new() for name in ("queued", "workers")}
        self._tasks = self._new()

    def account(self, began: float, ended: float, parts: tuple[tuple[str, float], ...]) -> None:
        """Add what a worker did in an interval."""
        for part, seconds in parts:
            series = self._parts.get(part)
            if series is None:
                series = self._parts[part] = self._new()
            series.spread(began, ended, seconds)

    def finish(self, began: float, ended: float, tasks: int) -> None:
        """Add tasks that were done in an interval."""
        self._tasks.spread(began, ended, tasks)

    def gauge(self, at: float, queued: int, workers: int) -> None:
        """Note how many tasks are queued, and how many workers there are, since the gauge before."""
        if at > self._gauged_at:
            for name, value in (("queued", queued), ("workers", workers)):
                self._gauges[name].spread(self._gauged_at, at, value * (at - self._gauged_at))
        self._gauged_at = at

    @property
    def bin_s(self) -> float:
        """The width that all its series can be brought to."""
        return common_width([self._tasks, *self._gauges.values(), *self._parts.values()])

    def to_dict(self, bin_s: float, bins: int, until: float) -> dict[str, list[float]]:
        """Return the series with bins of this width: seconds, tasks, and means of what was gauged.

        ``until``: seconds from the start to the end of the run so far, which its last bin may not fill.
        """
        amounts = {part: series.at_width(bin_s).amounts() for part, series in self._parts.items()}
        amounts["tasks"] = self._tasks.at_width(bin_s).amounts()
        for name, series in self._gauges.items():
            last = min(self._gauged_at - self._start, until)
            covered = [min(bin_s, max(last - number * bin_s, 0.0)) for number in range(bins)]
            values = series.at_width(bin_s).amounts()
            amounts[name] = [value / seconds if seconds > 0 else 0.0 for value, seconds in zip(values, covered)]  # noqa: B905
        return {name: [*values, *[0.0] * (bins - len(values))][:bins] for name, values in amounts.items()}

    def _new(self) -> AmountSeries:
        return AmountSeries(self._start, BIN_S, self._max_bins)
