"""The series of a stage over time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuexec.report.timeline import StageTimeline


def test_what_was_gauged_is_a_mean_of_each_bin():
    timeline = StageTimeline(start=1000.0)
    timeline.gauge(1000.0, 5, 1)
    timeline.gauge(1000.25, 10, 2)
    timeline.gauge(1000.5, 20, 4)
    series = timeline.to_dict(0.125, 5, until=0.6)
    assert series["queued"] == [10.0, 10.0, 20.0, 20.0, 0.0]
    assert series["workers"] == [2.0, 2.0, 4.0, 4.0, 0.0]


@given(st.lists(st.tuples(st.floats(0.0, 50.0), st.floats(0.0, 5.0), st.integers(0, 100)), max_size=30))
def test_nothing_is_lost_however_long_the_run(spans):
    timeline, ends = StageTimeline(start=10.0, max_bins=16), [0.0]
    for began, seconds, tasks in spans:
        timeline.account(10.0 + began, 10.0 + began + seconds, (("busy", seconds / 2), ("no_input", seconds / 2)))
        timeline.finish(10.0 + began, 10.0 + began + seconds, tasks)
        ends.append(began + seconds)
    bins = int(max(ends) / timeline.bin_s) + 1
    series = timeline.to_dict(timeline.bin_s, bins, until=max(ends))
    assert sum(series["tasks"]) == pytest.approx(sum(tasks for *_, tasks in spans), abs=1e-6)
    assert sum(series.get("busy", [])) == pytest.approx(sum(seconds for _, seconds, _ in spans) / 2, abs=1e-6)
    assert {len(values) for values in series.values()} == {bins}
