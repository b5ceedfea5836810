"""Why two groups of runs cannot be judged against each other: what they ran on, and beside whom, differs. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gpuexec.report.bounds import Data, known, number, row, rows, series, throttled_share
from gpuexec.report.configuration import is_other_node, is_repeat
from gpuexec.report.wording import named, on_one_line, percent

_THROTTLED = 0.01  # share of the samples
_SAME_CLOCK = 1.05  # times
_UNDER_LOAD = 50.0  # percent of SM utilisation
_MOST_TEXT = 200
_FIXED_CLOCKS = ("application clocks", "display clocks", "sync boost")


def doubts(first: Sequence[Data], second: Sequence[Data]) -> list[str]:
    """Return why no verdict on two sides is possible, a sentence for each reason; an empty list if one is."""
    runs = [*first, *second]
    found = [
        *(text for run in runs for text in _unfinished(run)),
        *_different(first, second),
        *(text for run in runs for text in _disturbed(run)),
        *_clocks(runs),
    ]
    return list(dict.fromkeys(found))


def name_of(run: Data) -> str:
    """Return how a run is called: by its id."""
    return on_one_line(run.get("run_id"))


def _unfinished(run: Data) -> Iterator[str]:
    if not run.get("ended"):
        yield f"run {name_of(run)} has not ended, or was killed"
    elif run.get("interrupted"):
        yield f"run {name_of(run)} was interrupted"
    elif not run.get("ok"):
        error = (str(run.get("error") or "").splitlines() or [""])[0]
        yield f"run {name_of(run)} failed" + (f": {on_one_line(error, _MOST_TEXT)}" if error else "")


def _different(first: Sequence[Data], second: Sequence[Data]) -> Iterator[str]:
    runs = [*first, *second]
    pipelines = list(dict.fromkeys(str(run.get("pipeline")) for run in runs))
    if len(pipelines) > 1:
        yield f"the runs are of different pipelines: {', '.join(map(named, pipelines))}"
    others = [run for run in runs[1:] if is_other_node(runs[0], run)]
    if others:
        hosts = [on_one_line(row(run.get("node")).get("hostname")) for run in (runs[0], others[0])]
        yield f"the runs were on different nodes: {name_of(runs[0])} on {hosts[0]}, {name_of(others[0])} on {hosts[1]}"
    for side in (first, second):
        odd = [run for run in side[1:] if not is_repeat(side[0], run)]
        if odd:
            yield f"runs {name_of(side[0])} and {name_of(odd[0])} are of one side, and not of one configuration"


def _disturbed(run: Data) -> Iterator[str]:
    """Yield what the run itself noticed, and throttling that its samples show."""
    found = run.get("doubts")
    texts = [on_one_line(text, _MOST_TEXT) for text in found if text] if isinstance(found, list) else []
    yield from (f"run {name_of(run)}: {text}" for text in texts)
    if any("throttled" in text for text in texts):
        return
    for gpu in rows(run.get("gpus")):
        share = throttled_share(gpu)
        if share is not None and share > _THROTTLED:
            yield f"run {name_of(run)}: GPU {_index(gpu)} was throttled {percent(share)} of the time"


def _clocks(runs: Sequence[Data]) -> Iterator[str]:
    """Yield limits of power and clocks that differ between runs, and clocks under load that do."""
    limits: dict[tuple[float, ...], str] = {}  # and the first run that has them
    fixed: dict[tuple[str, ...], str] = {}
    clocks: dict[float, str] = {}
    for run in runs:
        states = rows(row(run.get("gpus_before")).get("gpus"))
        if states:
            limits.setdefault(tuple(sorted({number(gpu.get("power_limit_mw")) / 1000 for gpu in states})), name_of(run))
            reasons = {str(reason) for gpu in states for reason in gpu.get("clock_reasons") or ()}
            fixed.setdefault(tuple(sorted(reasons.intersection(_FIXED_CLOCKS))), name_of(run))
        loaded = loaded_clock(run)
        if loaded is not None:
            clocks[loaded] = name_of(run)
    if len(limits) > 1:
        yield "the power limits of the GPUs differ: " + _listed(
            {", ".join(f"{watts:g} W" if watts else "unknown" for watts in key): run for key, run in limits.items()}
        )
    if len(fixed) > 1:
        yield "the clocks of the GPUs were set differently: " + _listed(
            {", ".join(key) or "not set": run for key, run in fixed.items()}
        )
    if clocks and max(clocks) > min(clocks) * _SAME_CLOCK:
        ends = {f"{clock:,.0f} MHz": clocks[clock] for clock in (min(clocks), max(clocks))}
        yield "the GPUs ran at different clocks under load: " + _listed(ends)


def _listed(runs_by_value: dict[str, str]) -> str:
    return "; ".join(f"{value} in run {run}" for value, run in runs_by_value.items())


def loaded_clock(run: Data) -> float | None:
    """Return the mean SM clock of a run's GPUs while they were busy, in MHz; ``None`` if it was not sampled."""
    loaded: list[float] = []
    for gpu in rows(run.get("gpus")):
        clock, load = (series(gpu, name) for name in ("sm_clock", "sm_util"))
        if not known(clock) or clock.get("bin_s") != load.get("bin_s"):
            continue
        pairs = zip(clock.get("mean") or (), load.get("mean") or (), strict=False)
        loaded += [number(mhz) for mhz, used in pairs if mhz is not None and number(used) >= _UNDER_LOAD]
    return sum(loaded) / len(loaded) if loaded else None


def _index(gpu: Data) -> str:
    return on_one_line(gpu.get("index"))
