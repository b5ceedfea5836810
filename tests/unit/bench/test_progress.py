"""The lines that tell how a sweep goes on, and the remaining time in them."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest

from gpuexec.bench.model import SearchKind, Trial, TrialStatus
from gpuexec.bench.progress import SweepProgress, announcement, remaining_s
from tests.unit.bench.sweeps import result, sweep_of

FIRST = Trial(0, "p00", 0, 0, None)


def trial(number: int, point: str, repeat: int = 1, budget_s: float | None = None) -> Trial:
    return Trial(number, point, repeat, 0, budget_s)


def test_a_point_takes_as_long_as_it_has_taken():
    done = [(trial(0, "p00"), 10.0), (trial(1, "p01"), 2.0), (trial(2, "p00"), 12.0)]
    assert remaining_s([], done) == 0
    assert remaining_s([trial(3, "p00"), trial(4, "p01")], done) == pytest.approx(11.0 + 2.0)
    assert remaining_s([trial(3, "p02")], done, pause_s=5.0) == pytest.approx(8.0 + 5.0)
    assert remaining_s([trial(3, "p02")], []) is None


def test_a_longer_budget_takes_longer_unless_the_run_ends_before_it():
    assert remaining_s([trial(1, "p00", budget_s=24.0)], [(trial(0, "p00", budget_s=12.0), 15.0)]) == pytest.approx(27)
    assert remaining_s([trial(1, "p00", budget_s=24.0)], [(trial(0, "p00", budget_s=12.0), 7.0)]) == pytest.approx(7)


def told(stream: io.StringIO) -> list[str]:
    return stream.getvalue().splitlines()


def test_the_lines_of_a_sweep():
    stream = io.StringIO()
    progress = SweepProgress(stream=stream)
    sweep = sweep_of([], today={"embed.batch_size": 8}, repeat=2, warmup=1, seed=77)
    left = [trial(n, f"p{n % 2:02}") for n in range(4)]
    progress.begins(sweep, left)
    progress.trial_begins(left[0], left[1:])
    progress.trial_ended(result(FIRST, 120.0), 10.0)
    progress.trial_begins(left[1], left[2:])
    why = "stage 'embed': torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 GiB and much more text"
    progress.trial_ended(result(trial(1, "p01"), None, TrialStatus.OUT_OF_MEMORY, reason=why), 4.0)
    marked = result(replace(trial(2, "p00"), again=True), 100.0, marks=("throttled: x", "throttled: y"))
    progress.trial_begins(marked.trial, left[3:])
    progress.trial_ended(marked, 100.0)
    first, second, *lines = told(stream)
    assert "4 trials (1 warm-up and 2 repeats of each)" in first
    assert "--seed 77" in second
    assert lines[0].startswith("[1/4] p00 today's settings, warm-up: 120 items/s, took 10 s, about 30 s left")
    assert "out of GPU memory (stage 'embed': torch.OutOf" in lines[1]
    assert "repeat 1 again: 100 items/s, doubtful: throttled, took 1 min 40 s" in lines[2]
    assert "\x1b" not in stream.getvalue()


def test_halving_and_a_sweep_that_goes_on_are_announced():
    sweep = sweep_of([result(FIRST, 1.0)], search=SearchKind.HALVING, repeat=1, warmup=0)
    first, _ = announcement(sweep, [trial(1, "p00")])
    assert first.endswith("2 trials, 1 of them done (successive halving, 1 repeat of the last ones)")


def test_a_stream_that_is_gone_does_not_matter():
    stream = io.StringIO()
    stream.close()
    progress = SweepProgress(stream=stream)
    sweep = sweep_of([])
    progress.begins(sweep, [FIRST])
    progress.trial_begins(FIRST, [])
    progress.trial_ended(result(FIRST, 1.0), 1.0)
