"""What is said of a run that goes on: totals, remaining time and bottleneck, and nothing where they are not known."""

from __future__ import annotations

import pytest

from gpuexec import events
from gpuexec.observe.run_view import RunWatcher, bottleneck_of, expected_totals, remaining_time, shares_between
from gpuexec.planning.model import Phase, Plan, StagePlan
from gpuexec.report.builder import ReportBuilder
from tests.unit.observe.views import stage_view


def gauges(done, queued=0, in_flight=0, *, made=None, finished=False) -> events.StageGauges:
    return events.StageGauges(done, queued, in_flight, 1, 0, finished, done if made is None else made)


def test_totals_of_a_list_through_stages_that_make_one_task_of_each():
    stages = [gauges(40, 10, 2), gauges(20, 15, 5), gauges(20)]
    assert expected_totals(stages, 48) == [(100, False)] * 3


def test_a_filter_gives_an_estimate_until_it_has_finished():
    assert expected_totals([gauges(50, 50, made=25), gauges(20, 5)], 0) == [(100, False), (50, True)]
    assert expected_totals([gauges(100, made=40, finished=True), gauges(20, 20)], 0) == [(100, False), (40, False)]


def test_no_total_while_the_input_has_no_end():
    assert expected_totals([gauges(40, 10), gauges(20, 20)], None) == [(None, False), (None, False)]


def test_no_total_behind_a_source_that_has_not_finished_its_first_task():
    assert expected_totals([gauges(0, 0, 1), gauges(5, 5), gauges(0)], 0) == [(1, False), (None, False), (None, False)]


def test_the_slowest_stage_says_how_long_the_run_goes_on():
    stages = [
        stage_view(0, "a", done=10, total=10, finished=True),
        stage_view(1, "b", done=5, total=10, seconds_left=5.0),
        stage_view(2, "c", done=0, total=10, seconds_left=20.0),
    ]
    assert remaining_time(stages) == 20
    assert remaining_time([*stages, stage_view(3, "d", total=10, seconds_left=None)]) is None


def test_the_planner_names_the_bottleneck_as_long_as_its_workers_are_busy():
    stages = [stage_view(0, "a", busy=0.7), stage_view(1, "b", busy=0.9), stage_view(2, "c", busy=0.1)]
    assert bottleneck_of(stages, 0) == 0
    assert bottleneck_of(stages, 2) == 1
    assert bottleneck_of(stages, None) == 1
    assert bottleneck_of(stages[2:], None) is None
    idle = [stage_view(0, "a", busy=0.2), stage_view(1, "b", busy=0.3)]
    assert bottleneck_of(idle, None) is None
    done = [stage_view(0, "a", busy=0.9, finished=True), stage_view(1, "b", busy=None)]
    assert bottleneck_of(done, 0) is None


def test_a_group_limits_the_run_until_all_of_its_stages_have_finished():
    lead = stage_view(0, "a", busy=0.9, finished=True)
    assert bottleneck_of([lead, stage_view(1, "b", lead_index=0)], 0) == 0


def test_shares_are_of_what_was_accounted_lately():
    then, now = {"busy": 10.0, "no_input": 1.0}, {"busy": 11.0, "no_input": 4.0, "transfer": 1.0}
    assert shares_between(then, now) == (pytest.approx(0.2), "no_input")
    assert shares_between(now, now) == (pytest.approx(11 / 16), "no_input")
    assert shares_between({}, {}) == (None, None)


def watched():
    builder = ReportBuilder()
    watcher = RunWatcher(builder.report)

    def take(event):
        builder.on_event(event)
        return watcher.on_event(event)

    return watcher, take


def test_a_run_of_two_stages():
    watcher, take = watched()
    plan = Plan((Phase((StagePlan(0, "read", (), False, ""), StagePlan(1, "embed", (), False, ""))),))
    take(events.RunStarted(100.0, plan, ("read", "embed")))
    take(events.WorkerStarted(100.0, 1, "embed-0", 11, "first"))
    assert take(events.Gauged(101.0, (gauges(0, 20), gauges(0)), 80))
    assert watcher.view.remaining_s is None
    for second in range(1, 10):
        at = 101.0 + second
        parts = (("busy", 0.9), ("no_input", 0.1))
        take(events.TimeAccounted(at, 1, "embed-0", at - 1, parts))
        take(events.Gauged(at, (gauges(5 * second, 20), gauges(4 * second, second)), 80 - 5 * second))
    view = watcher.view
    read, embed = view.stages
    assert (read.total, embed.total) == (100, 100)
    assert view.seconds == pytest.approx(10)
    assert read.rate == pytest.approx(5)
    assert view.remaining_s == pytest.approx((100 - 36) / 4)
    assert embed.busy == pytest.approx(0.9)
    assert embed.idle_reason == "no_input"
    assert view.bottleneck == 1


def test_the_time_of_a_fused_stage_is_that_of_its_lead():
    watcher, take = watched()
    plan = Plan((Phase((StagePlan(0, "read", (), False, "", fused=(1,)),)),))
    take(events.RunStarted(0.0, plan, ("read", "parse")))
    take(events.WorkerStarted(0.0, 0, "read-0", 11, "first"))
    take(events.TimeAccounted(1.0, 0, "read-0", 0.0, (("busy", 1.0),)))
    take(events.Gauged(1.0, (gauges(1), gauges(1)), 0))
    assert [stage.busy for stage in watcher.view.stages] == [1.0, 1.0]
