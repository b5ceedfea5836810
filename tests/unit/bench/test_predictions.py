"""What a run's figures predicted, beside what a sweep measured."""

from __future__ import annotations

import json

import pytest

from gpuexec.bench.model import TODAY, Point, Trial, TrialStatus
from gpuexec.bench.predictions import Outcome, prediction_lines, predictions, predictions_as_dict, suggested
from gpuexec.errors import SweepImpossible
from gpuexec.report.suggestion import Suggestion
from tests.unit.bench.sweeps import result, sweep_of
from tests.unit.report.report_of import report_of
from tests.unit.report.simulated_run import SimRun, SimStage


def suggestion(gain: float, *, at_most: bool = False) -> Suggestion:
    return Suggestion("more_workers", {"parse.num_workers": 4}, gain, at_most, "Give it more.", "1 / 4.")


def outcome_of(seconds: list[float | None], predicted: Suggestion, today: tuple[float, ...] = (10.0, 10.1, 9.9)):
    points = (Point(TODAY, {}), Point("p01", {"parse.num_workers": 4}))
    results = [
        result(
            Trial(number, point, repeat, 0, None),
            seconds=took,
            status=TrialStatus.OK if took else TrialStatus.CRASHED,
            reason=None if took else "a worker died",
        )
        for number, (point, repeat, took) in enumerate(
            [(TODAY, n, s) for n, s in enumerate(today, start=1)]
            + [("p01", n, s) for n, s in enumerate(seconds, start=1)]
        )
    ]
    (found,) = predictions(sweep_of(results, points=points), [predicted])
    return found


@pytest.mark.parametrize(
    ("predicted", "outcome"),
    [
        (suggestion(1.0), Outcome.HELD),
        (suggestion(0.5), Outcome.MORE),
        (suggestion(2.0), Outcome.LESS),
        (suggestion(2.0, at_most=True), Outcome.HELD),  # a bound that was not reached
        (suggestion(0.5, at_most=True), Outcome.MORE),  # a bound that was exceeded was none
    ],
)
def test_a_run_that_takes_half_as_long_gained_as_much_again(predicted: Suggestion, outcome: Outcome):
    found = outcome_of([5.0, 5.05, 4.95], predicted)
    assert found.measured == pytest.approx(1.0, rel=0.01)
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.measured < found.high
    assert found.outcome is outcome


@pytest.mark.parametrize(
    ("predicted", "outcome"),
    [
        (suggestion(0.3), Outcome.UNCLEAR),
        (suggestion(0.3, at_most=True), Outcome.HELD),
        (suggestion(100.0), Outcome.LESS),
    ],
)
def test_repeats_that_do_not_even_show_a_gain_prove_no_prediction(predicted: Suggestion, outcome: Outcome):
    found = outcome_of([5.0, 15.0], predicted, today=(8.0, 12.0))
    assert found.low is not None
    assert found.low < 0
    assert found.outcome is outcome


def test_one_repeat_proves_nothing():
    found = outcome_of([5.0], suggestion(1.0), today=(10.0,))
    assert (found.outcome, found.low) == (Outcome.ONE_REPEAT, None)
    assert found.measured == pytest.approx(1.0)


def test_what_crashed_says_so():
    found = outcome_of([None], suggestion(1.0))
    assert (found.outcome, found.reason) == (Outcome.NOT_MEASURED, "it: crashed, a worker died")


def test_settings_that_are_todays_have_no_point():
    (found,) = predictions(sweep_of([], points=(Point(TODAY, {}),)), [suggestion(1.0)])
    assert found.reason == "these settings are today's already"


def test_they_are_stored_and_shown():
    found = [outcome_of([5.0, 5.1], suggestion(1.0)), outcome_of([None], suggestion(0.2, at_most=True))]
    stored = json.loads(json.dumps(predictions_as_dict(found), allow_nan=False))
    assert (stored["schema"], stored["version"]) == ("gpuexec-predictions", 1)
    assert [each["outcome"] for each in stored["predictions"]] == ["held", "not measured"]
    lines = [*prediction_lines(found, 110)]
    assert lines[2].split()[:5] == ["p01", "×", "2", "+98", "%"]
    assert "up to +20 %" in lines[3]


def test_a_run_that_suggests_nothing_cannot_be_tried():
    with pytest.raises(SweepImpossible, match=r"too short to suggest anything"):
        suggested(report_of(SimRun((SimStage("read", 0.0001),), 20)))
