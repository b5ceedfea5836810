"""How long a run would have taken with other workers: the arithmetic behind every suggestion. Pure.

The rule. A stage's work is the time that its workers were busy or moved data. Divided by its workers it is how long the
stage alone would have taken; a phase takes as long as its slowest stage, and no less than the CPU time of all its
stages divided by the usable CPUs. What the run did besides, such as starting up, stays as it was. So a prediction never
exceeds what the run's own figures allow; what they do not show, such as workers that slow each other down in memory or
on a disk, it does not know.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from gpuexec.planning.model import StageDemand
from gpuexec.report import bounds
from gpuexec.report.bounds import WORK, Data, StageLoad, number, ratio, row, rows
from gpuexec.report.room import Demands, Placed, Room, demands_of, room_of

CLEAR_SHARE = 0.5  # of its time: a stage that was itself the reason for less does not limit a run
_DRIVER = "driver"  # the name of the driver's own process among the sampled ones


@dataclass(frozen=True, slots=True)
class Outlook:
    """A run with other workers. ``work_s``: how long each stage alone would take, by index. ``phases``: of the plan."""

    work_s: Mapping[int, float]
    phases: Placed

    @property
    def slowest(self) -> int:
        """The index of the stage with the most work."""
        return max(self.work_s, key=lambda index: self.work_s[index])


@dataclass(frozen=True, slots=True)
class RecordedRun:
    """A run that has been recorded, ready to be asked what would have been.

    ``loads``: the stages with workers of their own, by index. ``demands``: what they asked for. ``planned``: the
    workers that the planner gives them, phase by phase; ``None`` if the report does not tell enough about the node.
    ``phases``: the workers of the run's own plan. ``wall_s``: how long it took. ``driver_cpu_s``: of the driver.
    """

    report: Data
    loads: Mapping[int, StageLoad]
    demands: Demands
    room: Room
    planned: Placed | None
    phases: Placed
    wall_s: float
    driver_cpu_s: float

    # ---- what was -----------------------------------------------------------------------------------------

    def stage(self, index: int) -> Data:
        """Return a stage of the report."""
        return rows(self.report.get("stages"))[index]

    def name(self, index: int) -> str:
        """Return the name of a stage."""
        return str(self.stage(index).get("name"))

    def members(self, index: int) -> list[Data]:
        """Return the stages that a stage's workers run: itself, and those fused with it."""
        stages = enumerate(rows(self.report.get("stages")))
        return [stage for position, stage in stages if stage.get("lead_index", position) == index]

    def is_group(self, index: int) -> bool:
        """Return whether other stages are fused with a stage."""
        return len(self.members(index)) > 1

    def uses_gpu(self, index: int) -> bool:
        """Return whether a stage asked for a GPU, or for a part of one."""
        return _uses_gpu(self.demands[index])

    def workers(self, index: int) -> int:
        """Return the workers that a stage had on average, at least one."""
        return max(1, round(self.loads[index].workers))

    def worker_s(self, index: int) -> float:
        """Return the work of a stage, in seconds of its workers."""
        load = self.loads[index]
        return load.lived_s * load.share(*WORK)

    def slowest(self, phase: Iterable[int]) -> StageLoad | None:
        """Return the stage of a phase that has the most work for each of its workers, and sets the pace.

        ``None`` if it waited for other stages or for the program's input for most of its time: then the phase would not
        be shorter if that stage were faster.
        """
        found = [self.loads[index] for index in phase if index in self.loads]
        slowest = max((load for load in found if load.work_s > 0), key=lambda load: load.work_s, default=None)
        if slowest is None or slowest.own_share < CLEAR_SHARE or slowest.cause == "no_input":
            return None
        return slowest

    @property
    def as_it_was(self) -> Outlook:
        """The run with the workers that it had."""
        return Outlook({index: load.work_s for index, load in self.loads.items()}, self.phases)

    # ---- what would have been -----------------------------------------------------------------------------

    def work_with(self, index: int, workers: float) -> float:
        """Return how long a stage alone would take with at least as many workers as it had.

        More workers than batches have nothing to do, and no stage is faster than its longest batch.
        """
        load = self.loads[index]
        at_once = min(workers, load.batches) if load.batches else workers
        longest = max(number(row(stage.get("service_time")).get("max_s")) for stage in self.members(index))
        return min(load.work_s, max(ratio(self.worker_s(index), max(1.0, at_once)), longest))

    def with_work(self, work_s: Mapping[int, float]) -> Outlook:
        """Return the run with other times of some stages."""
        return Outlook({**self.as_it_was.work_s, **work_s}, self.phases)

    def with_demands(self, changed: Mapping[int, StageDemand]) -> Outlook | None:
        """Return the run as it would be if stages had asked for something else; ``None`` if the plan cannot place that.

        Other stages on the GPUs get as many workers as the plan then has for them. A plan with more phases counts as
        impossible.
        """
        if self.planned is None:
            return None
        if not any(_uses_gpu(demand) or self.uses_gpu(index) for index, demand in changed.items()):
            counts = {index: demand.num_workers or self.workers(index) for index, demand in changed.items()}
            return self.with_work({index: self.work_with(index, count) for index, count in counts.items()})
        planned = self.room.placed({**self.demands, **changed})
        if planned is None or len(planned) > len(self.phases):
            return None
        before, after = _counts(self.planned), _counts(planned)
        work = dict(self.as_it_was.work_s)
        for index, load in self.loads.items():
            if index in changed:
                work[index] = self.work_with(index, after[index])
            elif self.uses_gpu(index):
                work[index] = load.work_s * before[index] / after[index]
        return Outlook(work, planned)

    def gain(self, outlook: Outlook) -> float:
        """Return by how much the run's throughput would be higher: 0.11 for +11 %, 0 if it would not."""
        return self.gain_of(self._bound_s(self.as_it_was) - self._bound_s(outlook))

    def gain_of(self, saved_s: float) -> float:
        """Return by how much the throughput is higher if the run takes so many seconds less."""
        left = self.wall_s - min(max(0.0, saved_s), self.wall_s)
        return max(0.0, ratio(self.wall_s, max(left, 1e-6 * self.wall_s)) - 1.0)

    def cpu_bound_s(self, indices: Collection[int]) -> float:
        """Return how long the CPUs need for these stages, and for their part of the driver's work, at least."""
        if not self.room.usable_cpus:
            return 0.0
        part, all_of_it = (sum(map(self._cpu_s, each)) for each in (set(indices).intersection(self.loads), self.loads))
        return (part + self.driver_cpu_s * ratio(part, all_of_it)) / self.room.usable_cpus

    def _cpu_s(self, index: int) -> float:
        """Return the CPU time of a stage's workers; where that is not known, the time they were busy."""
        known = self.stage(index).get("cpu_s")
        return number(known) if known is not None else self.loads[index].time.get("busy", 0.0)

    def _bound_s(self, outlook: Outlook) -> float:
        """Return how long the phases take at least, one after the other."""
        slowest = ((phase, max((outlook.work_s.get(i, 0.0) for i in phase), default=0.0)) for phase in outlook.phases)
        return sum(max(work, self.cpu_bound_s(phase)) for phase, work in slowest)


def recorded_run(report: Data) -> RecordedRun:
    """Return the run whose report this is."""
    demands = demands_of(rows(report.get("stages")))
    loads = {load.index: load for load in bounds.stage_loads(report) if load.index in demands}
    room = room_of(report)
    return RecordedRun(
        report=report,
        loads=loads,
        demands=demands,
        room=room,
        planned=room.placed(demands),
        phases=_phases(report, loads),
        wall_s=bounds.wall_s(report),
        driver_cpu_s=_driver_cpu_s(report),
    )


def _uses_gpu(demand: StageDemand) -> bool:
    return bool(demand.gpus or demand.gpu_memory_gb)


def _counts(placed: Placed) -> dict[int, int]:
    return {index: count for phase in placed for index, count in phase.items()}


def _phases(report: Data, loads: Mapping[int, StageLoad]) -> Placed:
    """Return the workers of the plan, phase by phase; one phase with all stages where a report has no plan."""
    phases = [
        {
            int(number(stage.get("stage_index"))): int(number(stage.get("workers")))
            for stage in rows(phase.get("stages"))
        }
        for phase in rows(row(report.get("plan")).get("phases"))
    ]
    if loads and loads.keys() <= _counts(phases).keys():
        return phases
    return [{index: max(1, round(load.workers)) for index, load in loads.items()}]


def _driver_cpu_s(report: Data) -> float:
    process = next((one for one in rows(report.get("processes")) if one.get("worker") == _DRIVER), {})
    series: Any = next((one for one in rows(process.get("series")) if one.get("name") == "cpu"), {})
    return (bounds.mean(bounds.known(series)) or 0.0) * bounds.wall_s(report)
