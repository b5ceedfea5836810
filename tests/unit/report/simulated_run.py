"""A small simulation of a pipeline, whose time lines and totals agree as those of a run do.

Tasks are a fluid: in each step a stage works off what waits before it, as far as its workers and the next queue allow.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

STEPS = 2048
MAX_BINS = 512


@dataclass(frozen=True)
class SimStage:
    """``service_s``: a worker's time for one input task. ``queue``: how many tasks may wait before the stage."""

    name: str
    service_s: float
    workers: int = 1
    gpus: float = 0.0
    setup_s: float = 0.2
    batch_size: int = 1
    fan_out: float = 1.0
    queue: float = 200.0
    bytes_per_task: float = 4e5
    lost_share: float = 0.0  # of its work, done for attempts that fail
    retry_delay_share: float = 0.0  # of its time
    transfer_share: float = 0.0  # of its work
    checkpoint_share: float = 0.0  # of its time


@dataclass(frozen=True)
class SimRun:
    """``input_per_s``: how fast the program passes tasks in. ``slow_task``: a stage, and the time of its last task.

    ``throttled``: from when to when, as parts of the run, and by how much GPUs are slower then. ``pressure_share``:
    for which part of the time no task is taken in. ``results_per_s``: how fast the caller takes results. ``gpus``: of
    the node, if it has more than the stages use.
    """

    stages: tuple[SimStage, ...]
    tasks: float
    input_per_s: float = float("inf")
    results_per_s: float = float("inf")
    slow_task: tuple[int, float] | None = None
    throttled: tuple[float, float, float] | None = None
    pressure_share: float = 0.0
    gpus: int = 0


@dataclass
class Line:
    """What one stage did: worker-seconds by state, tasks done and waiting, and live workers, per bin."""

    states: dict[str, list[float]] = field(default_factory=dict)
    tasks: list[float] = field(default_factory=list)
    queued: list[float] = field(default_factory=list)
    workers: list[float] = field(default_factory=list)
    began_s: float | None = None
    ended_s: float = 0.0


@dataclass
class Outcome:
    """``lines``: one a stage. ``throttled``: the share of each bin."""

    wall_s: float
    bin_s: float
    lines: list[Line]
    throttled: list[float]


class Simulation:
    """Runs a pipeline in steps of equal length."""

    def __init__(self, run: SimRun) -> None:
        self.run = run
        flow, self._inputs = run.tasks, []
        for stage in run.stages:
            self._inputs.append(flow)
            flow *= stage.fan_out
        work = [n * s.service_s / s.workers for n, s in zip(self._inputs, run.stages, strict=True)]
        self.guess_s = max(*work, run.tasks / run.input_per_s, flow / run.results_per_s, 0.01)
        self.guess_s += max(stage.setup_s for stage in run.stages) + (run.slow_task[1] if run.slow_task else 0.0)
        self.step_s = self.guess_s / STEPS
        self._waiting = [0.0] * len(run.stages)
        self._left = list(self._inputs)
        self._results = 0.0
        self._slow_left = run.slow_task[1] if run.slow_task else 0.0
        self._lines = [defaultdict[str, list[float]](list) for _ in run.stages]
        self._throttled: list[float] = []

    def outcome(self) -> Outcome:
        """Run to the end, and return what was recorded in at most 512 bins."""
        steps = 0
        while any(left > 1e-6 for left in self._left) or self._slow_left > 0:
            assert steps < 40 * STEPS, "the simulation does not end"
            self._step(steps * self.step_s)
            steps += 1
        factor = -(-steps // MAX_BINS)
        lines = [_binned(recorded, steps, factor, self.step_s) for recorded in self._lines]
        throttled = [sum(self._throttled[i : i + factor]) / factor for i in range(0, steps, factor)]
        return Outcome(steps * self.step_s, factor * self.step_s, lines, throttled)

    def _step(self, now: float) -> None:
        run, dt = self.run, self.step_s
        begin, end, factor = run.throttled or (1.0, 0.0, 1.0)
        slow_now = begin * self.guess_s <= now < end * self.guess_s
        self._throttled.append(1.0 if slow_now else 0.0)
        held = (now / dt) % 100 < 100 * run.pressure_share
        if run.tasks / run.input_per_s > 0:
            arrived = min(run.tasks, now * run.input_per_s)
            self._waiting[0] = max(0.0, arrived - (self._inputs[0] - self._left[0]))
        else:
            self._waiting[0] = self._left[0]
        self._results = max(0.0, self._results - run.results_per_s * dt)
        for index in reversed(range(len(run.stages))):
            speed = factor if slow_now and run.stages[index].gpus else 1.0
            self._work(index, now, speed, held=held and index == 0)

    def _work(self, index: int, now: float, speed: float, *, held: bool) -> None:
        stage, record, dt = self.run.stages[index], self._lines[index], self.step_s
        alone = self._slow_left > 0 and self.run.slow_task is not None and self.run.slow_task[0] == index
        record["queued"].append(self._waiting[index])
        if self._left[index] <= 1e-6 and not alone:
            return
        record["workers"].append(float(stage.workers))
        # Workers set up one after the other for the last fifth of the time, as they do where they share a disk.
        ready = sum(now >= stage.setup_s * (1 - 0.2 * n / stage.workers) for n in range(stage.workers))
        times = {"setting_up": (stage.workers - ready) * dt}
        if self._left[index] <= 1e-6:
            self._slow_left -= dt
            times |= {"busy": dt, "no_input": (ready - 1) * dt}
            done = 0.0
        else:
            done, more = self._flow(index, ready, speed, held=held)
            times |= more
        record["tasks"].append(done)
        for state, seconds in times.items():
            record[state] += [0.0] * (len(record["queued"]) - 1 - len(record[state])) + [seconds]

    def _flow(self, index: int, ready: int, speed: float, *, held: bool) -> tuple[float, dict[str, float]]:
        stage, dt = self.run.stages[index], self.step_s
        idle = stage.retry_delay_share + stage.checkpoint_share
        usable = ready * dt * (1 - idle)
        could = usable * speed * (1 - stage.lost_share) / stage.service_s
        last = index == len(self.run.stages) - 1
        if last:
            room = max(0.0, self.run.results_per_s - self._results)
        else:
            room = max(0.0, self.run.stages[index + 1].queue - self._waiting[index + 1])
        available = 0.0 if held else min(self._waiting[index], self._left[index])
        done = min(could, available, room / stage.fan_out)
        self._left[index] -= done
        self._waiting[index] -= done
        if last:
            self._results += done * stage.fan_out
        else:
            self._waiting[index + 1] += done * stage.fan_out
        worked = usable * (done / could if could else 0.0)
        blocked = "caller_not_reading" if last else "output_full"
        why = "memory_pressure" if held else blocked if room / stage.fan_out < available else "no_input"
        return done, {
            "lost": worked * stage.lost_share,
            "transfer": worked * (1 - stage.lost_share) * stage.transfer_share,
            "busy": worked * (1 - stage.lost_share) * (1 - stage.transfer_share),
            why: usable - worked,
            "retry_delay": ready * dt * stage.retry_delay_share,
            "checkpoint_write": ready * dt * stage.checkpoint_share,
        }


def _binned(recorded: dict[str, list[float]], steps: int, factor: int, step_s: float) -> Line:
    def sums(values: list[float]) -> list[float]:
        padded = values + [0.0] * (steps - len(values))
        return [sum(padded[i : i + factor]) for i in range(0, steps, factor)]

    others = ("tasks", "queued", "workers")
    line = Line({state: sums(values) for state, values in recorded.items() if state not in others and any(values)})
    line.tasks = sums(recorded["tasks"])
    line.queued = [value / factor for value in sums(recorded["queued"])]
    line.workers = [value / factor for value in sums(recorded["workers"])]
    working = [position for position, done in enumerate(recorded["tasks"]) if done > 0]
    line.began_s = working[0] * step_s if working else None
    line.ended_s = len(recorded["workers"]) * step_s
    return line
