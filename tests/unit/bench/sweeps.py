"""Sweeps made up for tests and for pictures in the documentation."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Mapping
from typing import Any

from hypothesis import strategies as st

from gpuexec.bench.model import (
    TODAY,
    Goal,
    Point,
    SearchKind,
    StageFigures,
    Sweep,
    Trial,
    TrialResult,
    TrialStatus,
)

HOSTILE = 'embed</script><script>window.hacked=1</script><img src=x onerror="window.hacked=1">🦜' + "long" * 70
STARTED = 1_790_000_000.0
GIB = 2**30


def result(
    trial: Trial, throughput: float | None = None, status: TrialStatus = TrialStatus.OK, **others: Any
) -> TrialResult:
    """Return the result of a trial; what is not given is not known."""
    fields: dict[str, Any] = {
        "reason": None,
        "marks": (),
        "seconds": None,
        "items": None,
        "first_result_s": None,
        "latency_p50_s": None,
        "latency_p99_s": None,
        "joules": None,
        "joules_per_item": None,
        "energy_is_short": False,
        "stages": (),
        "run_folder": None,
        "started_at": STARTED + 60.0 * trial.number,
    }
    return TrialResult(trial=trial, status=status, throughput=throughput, **{**fields, **others})


def sweep_of(
    results: Iterable[TrialResult],
    varied: Mapping[str, tuple[Any, ...]] | None = None,
    today: Mapping[str, Any] | None = None,
    **others: Any,
) -> Sweep:
    """Return a sweep over a grid, with today's configuration first."""
    varied = {"embed.batch_size": (1, 8, 32)} if varied is None else varied
    today = dict.fromkeys(varied) if today is None else today
    fields: dict[str, Any] = {
        "target": "pipe.py:pipeline",
        "fixed": {},
        "goal": Goal.THROUGHPUT,
        "search": SearchKind.GRID,
        "repeat": 3,
        "warmup": 1,
        "seed": 7,
        "points": grid(varied, today),
        "node": {"hostname": "node-17", "cpus": 64, "memory_bytes": 512 * GIB, "gpus": ["NVIDIA H100", "NVIDIA H100"]},
        "versions": {"gpuexec": "0.1.0", "python": "3.12.4"},
        "started_at": STARTED,
        "complete": True,
    }
    return Sweep(varied=varied, today=today, results=tuple(results), **{**fields, **others})


def grid(varied: Mapping[str, tuple[Any, ...]], today: Mapping[str, Any]) -> tuple[Point, ...]:
    """Return today's point and those of a grid, but for the one that is today's."""
    combinations = [dict(zip(varied, values, strict=True)) for values in itertools.product(*varied.values())]
    others = [settings for settings in combinations if settings != today]
    return (Point(TODAY, {}), *(Point(f"p{number:02}", each) for number, each in enumerate(others, start=1)))


def measured(points: Mapping[str, Iterable[float]]) -> list[TrialResult]:
    """Return results with these throughputs, by point, interleaved as a sweep does it."""
    columns = [(name, repeat, value) for name, values in points.items() for repeat, value in enumerate(values, 1)]
    columns.sort(key=lambda entry: entry[1])
    return [result(Trial(number, name, repeat, 0, None), value) for number, (name, repeat, value) in enumerate(columns)]


# ---- samples -------------------------------------------------------------------------------------------


def embedding_on_gpus(repeat: int = 5) -> Sweep:
    """24 points of batch size, GPU share and decoders: with failures, another tenant, and a front."""
    varied = {"embed.batch_size": (1, 8, 32, 128), "embed.gpus": (0.25, 0.5, 1.0), "decode.num_workers": (2, 4)}
    today = {"embed.batch_size": 8, "embed.gpus": 1.0, "decode.num_workers": 2}
    chance = random.Random(3)
    points = grid(varied, today)
    numbers = itertools.count()
    results = []
    for point in points:
        settings = {**today, **point.settings}
        trials = [Trial(next(numbers), point.id, each, 0, None) for each in range(repeat + 1)]
        if settings["embed.batch_size"] == 128 and settings["embed.gpus"] == 0.25:
            results.append(_out_of_memory(trials[0]))
            continue
        if (
            settings["embed.batch_size"] == 128
            and settings["embed.gpus"] == 0.5
            and settings["decode.num_workers"] == 4
        ):
            reason = "no result after 1,200 s; the whole process group was killed"
            results.append(result(trials[0], None, TrialStatus.TIMED_OUT, reason=reason, seconds=1200.0))
            continue
        results += [_embedding_run(trial, settings, chance) for trial in trials]
    return sweep_of(results, varied, today, target="examples/embed.py:pipeline", points=points, repeat=repeat)


def _out_of_memory(trial: Trial) -> TrialResult:
    reason = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 9.00 GiB (stage 'embed')"
    folder = f"runs/embed-{trial.number:06x}"
    return result(trial, None, TrialStatus.OUT_OF_MEMORY, reason=reason, seconds=4.2, run_folder=folder)


def _embedding_run(trial: Trial, settings: Mapping[str, Any], chance: random.Random) -> TrialResult:
    size, share, decoders = (settings[name] for name in ("embed.batch_size", "embed.gpus", "decode.num_workers"))
    embedders = 2 / share
    speed = min(90.0 * decoders, embedders**0.7 * 60 * size / (size + 6)) * chance.gauss(1, 0.02)
    joules = (300 + 3 * size + 220 * (size > 8) * (share < 0.5)) / speed * (1.1 - 0.4 * share) * chance.gauss(1, 0.01)
    marks: tuple[str, ...] = ()
    if trial.point_id == "p05" and trial.repeat == 2:
        marks, speed = ("another tenant: python (pid 812) held 3.1 GiB of GPU 0",), speed * 0.7
    seconds = 4000 / speed
    stages = (
        StageFigures(
            "decode", speed, 0.021, 0.03, 0.05, None, None,
            {"output_full": decoders * seconds * (1 - min(1.0, speed / 90 / decoders)), "setting_up": decoders * 0.4},
            decoders, None,
        ),
        StageFigures(
            "embed", speed, 0.1 * size / 8, 0.12 * size / 8, 0.19 * size / 8, int((2 + 0.1 * size) * GIB), joules * 0.9,
            {"no_input": embedders * seconds * 0.3, "setting_up": embedders * 4.0},
            embedders, None,
        ),
    )  # fmt: skip
    return result(
        trial,
        speed,
        marks=marks,
        seconds=seconds + 9,
        items=4000,
        first_result_s=5.5 + 0.02 * size,
        latency_p50_s=0.3 + size / 200,
        latency_p99_s=(0.5 + size / 100) * chance.gauss(1, 0.05),
        joules=joules * 4000,
        joules_per_item=joules,
        energy_is_short=seconds < 10,
        stages=stages,
        run_folder=f"runs/embed-{trial.number:06x}",
    )


def one_parameter() -> Sweep:
    """Batch sizes alone; no GPU, so no energy."""
    sizes = (1, 4, 16, 64, 256)
    chance = random.Random(5)
    speeds = {"p00": 210.0, "p01": 96.0, "p02": 320.0, "p03": 330.0, "p04": 240.0}
    varied, today = {"embed.batch_size": sizes}, {"embed.batch_size": 4}
    results = measured({name: [speed * chance.gauss(1, 0.03) for _ in range(5)] for name, speed in speeds.items()})
    return sweep_of(results, varied, today, repeat=5)


def one_point() -> Sweep:
    """Nothing but today's configuration, once."""
    return sweep_of(measured({TODAY: [132.0]}), {}, {}, repeat=1)


def all_failed() -> Sweep:
    """No point went through."""
    ends = [status for status in TrialStatus if status is not TrialStatus.OK]
    points = grid({"embed.batch_size": tuple(range(1, 7))}, {"embed.batch_size": 99})
    results = [
        result(Trial(number, point.id, 1, 0, None), None, ends[number % len(ends)], reason=f"reason {number}")
        for number, point in enumerate(points)
    ]
    return sweep_of(results, {"embed.batch_size": tuple(range(1, 7))}, {"embed.batch_size": 99}, points=points)


def many_points() -> Sweep:
    """200 points of two parameters."""
    varied = {"embed.batch_size": tuple(2**n for n in range(20)), "decode.num_workers": tuple(range(1, 11))}
    chance = random.Random(11)
    points = grid(varied, dict.fromkeys(varied, 1))
    speeds = {point.id: [chance.uniform(50, 200) * chance.gauss(1, 0.02) for _ in range(2)] for point in points}
    return sweep_of(measured(speeds), varied, dict.fromkeys(varied, 1), repeat=2)


def hostile_names() -> Sweep:
    """Names, values, reasons and marks that try to be markup."""
    varied = {f"{HOSTILE}.batch_size": (1, 2), "option.spill_dir": ("a</script>", "🦜" * 100)}
    today = {f"{HOSTILE}.batch_size": 1, "option.spill_dir": None}
    points = (Point(TODAY, {}), Point("p01", {name: values[1] for name, values in varied.items()}))
    folder = "runs/a b#?%</script>"
    results = [
        result(Trial(0, TODAY, 1, 0, None), 12.0, marks=(f"another tenant: {HOSTILE}",), run_folder=folder),
        result(Trial(1, "p01", 1, 0, None), None, TrialStatus.FAILED, reason=f"ValueError: {HOSTILE}\n\x1b[31m"),
    ]
    return sweep_of(results, varied, today, target=f"{HOSTILE}.py:pipeline", points=points, repeat=1)


def halving() -> Sweep:
    """Eight points, of which four and then two are run for longer."""
    varied, today = {"embed.batch_size": (1, 2, 4, 8, 16, 32, 64)}, {"embed.batch_size": 3}
    points = grid(varied, today)
    numbers, chance = itertools.count(), random.Random(2)
    results = []
    for rung, kept in enumerate((points, points[3:7], points[5:7])):
        for repeat in (1, 2, 3):
            for point in kept:
                size = point.settings.get("embed.batch_size", 3)
                trial = Trial(next(numbers), point.id, repeat, rung, 10.0 * 2**rung)
                results.append(result(trial, 100 * size / (size + 8) * chance.gauss(1, 0.02)))
    return sweep_of(results, varied, today, points=points, search=SearchKind.HALVING)


SAMPLES = {
    make.__name__: make
    for make in (embedding_on_gpus, one_parameter, one_point, all_failed, many_points, hostile_names, halving)
}


# ---- any sweep -----------------------------------------------------------------------------------------

figures = st.floats(1e-6, 1e9)
maybe = st.none() | figures
texts = st.sampled_from(["embed", "</script>", "a`b", "x" * 300, "🦜\n", "\ud800", "a.b", ""]) | st.text(max_size=5)
values = st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.floats(-1e9, 1e9) | texts
# Stages are drawn by their first figure alone: to draw each would take most of a test's time.
stage_figures = st.builds(
    lambda name, figure, peak: StageFigures(
        name,
        figure,
        figure,
        figure,
        figure,
        peak,
        figure,
        {"no_input": 1.5, "a_state_of_later_versions": 2.0},
        2.0,
        figure,
    ),
    texts,
    maybe,
    st.none() | st.integers(0, 2**40),
)


@st.composite
def _results(draw: st.DrawFn, number: int, point_id: str, rungs: int) -> TrialResult:
    again = draw(st.booleans())
    trial = Trial(
        number, point_id, draw(st.integers(0, 3)), draw(st.integers(0, rungs - 1)), 2.5 if again else None, again
    )
    figure, joules = draw(maybe), draw(maybe)
    return result(
        trial,
        draw(maybe),
        draw(st.just(TrialStatus.OK) | st.sampled_from(TrialStatus)),
        reason=draw(st.none() | texts),
        marks=tuple(draw(st.lists(texts, max_size=1))),
        items=number or None,
        energy_is_short=draw(st.booleans()),
        stages=tuple(draw(st.lists(stage_figures, max_size=1))),
        run_folder=draw(st.none() | st.sampled_from(["runs/a", "/runs/</script>", "runs/\udc80🦜"])),
        seconds=figure,
        first_result_s=figure,
        latency_p99_s=draw(maybe),
        joules=joules,
        joules_per_item=joules,
    )


@st.composite
def sweeps(draw: st.DrawFn) -> Sweep:
    """Return sweeps as the model allows them, however odd."""
    keys = st.sampled_from(["batch_size", "gpus", "num_workers"])
    names = draw(st.lists(st.builds("{}.{}".format, texts.filter(bool), keys), max_size=3, unique=True))
    varied = {name: tuple(draw(st.lists(values, min_size=1, max_size=3))) for name in names}
    today = {name: draw(values) for name in names}
    points = grid(varied, today)[: draw(st.integers(1, 5))]
    search = draw(st.sampled_from(SearchKind))
    rungs = 1 if search is SearchKind.GRID else 3
    ids = draw(st.lists(st.sampled_from([point.id for point in points]), max_size=8))
    return sweep_of(
        [draw(_results(number, point_id, rungs)) for number, point_id in enumerate(ids)],
        varied,
        today,
        points=points,
        search=search,
        goal=draw(st.sampled_from(Goal)),
        target=draw(texts),
        fixed=draw(st.dictionaries(texts, texts, max_size=2)),
        node=draw(st.dictionaries(texts, values, max_size=2)),
        versions=draw(st.dictionaries(texts, texts, max_size=2)),
        complete=draw(st.booleans()),
    )
