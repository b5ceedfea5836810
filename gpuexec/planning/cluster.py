"""Where the stages of a pipeline would go on a cluster: how many workers, on which nodes, and what does not fit.

Pure, and exact: CPUs and GPUs are counted in thousandths. Ray decides at run time on which node it starts a worker, so
the nodes shown are one placement that fits, and the counts are those that `RayExecutor` asks Ray for.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from gpuexec.planning.request import WHOLE_GPU, Request
from gpuexec.records import Record
from gpuexec.units import GIB

THOUSAND = 1000  # of a CPU
_SCALES = (1000, 750, 500, 333, 250, 200, 150, 100, 75, 50, 33, 25, 10, 5, 1)  # thousandths of the CPUs asked for


class ClusterNode(Record):
    """A node: its CPUs and GPUs. ``gpu_memory_bytes``: of each GPU; ``None`` if it is not known."""

    name: str
    cpus: float
    gpus: int = 0
    gpu_memory_bytes: int | None = None


class StageSizing(Record):
    """What a stage asks for in a cluster. ``uses_actors``: its workers are set up once and process many batches.

    ``at_least``, ``at_most``, ``at_first``: limits of the number of workers, where the stage states them; a fixed
    number has all three alike.
    """

    request: Request
    uses_actors: bool
    at_least: int = 1
    at_most: int | None = None
    at_first: int | None = None

    @property
    def is_fixed(self) -> bool:
        """Whether the number of workers is the stage's own."""
        return self.at_most == self.at_least


class StageOnCluster(Record):
    """The workers of a stage. ``cpus`` and ``gpus``: of one worker, as Ray is asked for them.

    ``at_least``, ``at_first``, ``at_most``: how many workers; ``None``: as many as find room. ``nodes``: name and count
    of the first ones, empty for a stage that runs as plain tasks.
    """

    stage_index: int
    name: str
    uses_actors: bool
    cpus: float
    gpus: float
    at_least: int
    at_first: int
    at_most: int | None
    nodes: tuple[tuple[str, int], ...]
    reason: str


class ClusterPlan(Record):
    """All stages in their phases, which run one after the other; ``misfits`` say what cannot run, and why."""

    nodes: tuple[ClusterNode, ...]
    phases: tuple[tuple[StageOnCluster, ...], ...]
    misfits: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def stages(self) -> tuple[StageOnCluster, ...]:
        """All stages in their order."""
        return tuple(stage for phase in self.phases for stage in phase)


class _Need(Record):
    """What one worker takes, in thousandths. ``gpu_share``: of one GPU; ``gpu_count``: whole ones."""

    cpus: int
    gpu_share: int = 0
    gpu_count: int = 0


class _Room(Record):
    """What is free on a node, in thousandths of a CPU and of each GPU."""

    cpus: int
    gpus: tuple[int, ...]

    def after(self, need: _Need) -> _Room | None:
        """Return what is left when a worker has taken its part; ``None`` if it does not fit."""
        if need.cpus > self.cpus:
            return None
        gpus = list(self.gpus)
        if need.gpu_count:
            free = [i for i, left in enumerate(gpus) if left == WHOLE_GPU]
            if len(free) < need.gpu_count:
                return None
            for i in free[: need.gpu_count]:
                gpus[i] = 0
        elif need.gpu_share:
            fitting = [i for i, left in enumerate(gpus) if left >= need.gpu_share]
            if not fitting:
                return None
            gpus[min(fitting, key=lambda i: gpus[i])] -= need.gpu_share  # the fullest, so that whole ones stay free
        return _Room(self.cpus - need.cpus, tuple(gpus))


_Rooms = tuple[_Room, ...]


def plan_cluster(sizings: Sequence[StageSizing], nodes: Sequence[ClusterNode]) -> ClusterPlan:
    """Plan a pipeline on these nodes. Deterministic. Stages that can never run are in ``misfits`` and in no phase."""
    misfits, able = [], []
    for sizing in sizings:
        problem = _misfit(sizing, nodes)
        if problem is None:
            able.append(sizing)
        else:
            misfits.append(f"stage {sizing.request.demand.name!r} {problem}")
    cut = _cut_into_phases(able, nodes)
    phases = tuple(_plan_phase(phase, nodes) for phase in cut)
    return ClusterPlan(tuple(nodes), phases, tuple(misfits), tuple(_notes(cut, phases)))


# ---- one worker ------------------------------------------------------------------------------------------


def _need(request: Request, nodes: Sequence[ClusterNode], scale: int = THOUSAND) -> _Need:
    cpus = round(request.demand.cpus * scale)
    if request.memory:
        sizes = [node.gpu_memory_bytes for node in nodes if node.gpus and node.gpu_memory_bytes]
        # Ray knows parts of a GPU only, and may choose any: the part is that of the smallest one.
        return _Need(cpus, gpu_share=max(1, math.ceil(request.memory * WHOLE_GPU / min(sizes))))
    return _Need(cpus, request.share, request.count)


def _place(need: _Need, rooms: _Rooms, *, spreads: bool = False) -> tuple[int, _Rooms] | None:
    """Return the node for one worker and what is left: the fullest that fits, or with ``spreads`` the emptiest."""
    options = [(i, left) for i, room in enumerate(rooms) if (left := room.after(need)) is not None]
    if not options:
        return None
    sign = -1 if spreads else 1
    chosen, left = min(options, key=lambda option: (sign * sum(rooms[option[0]].gpus), sign * rooms[option[0]].cpus))
    return chosen, (*rooms[:chosen], left, *rooms[chosen + 1 :])


def _rooms(nodes: Sequence[ClusterNode]) -> _Rooms:
    return tuple(_Room(math.floor(node.cpus * THOUSAND), (WHOLE_GPU,) * node.gpus) for node in nodes)


def _misfit(sizing: StageSizing, nodes: Sequence[ClusterNode]) -> str | None:
    """Return why a stage can never run on these nodes, in words that follow its name."""
    request = sizing.request
    if not nodes:
        return "has nowhere to run: the cluster has no nodes"
    if request.uses_gpu:
        problem = _gpu_misfit(sizing, nodes)
        return None if problem is None else f"asks for {problem}"
    largest = max(node.cpus for node in nodes)
    if request.demand.cpus <= largest:
        return None
    return f"asks for {request.demand.cpus:g} CPUs, but the largest node has {largest:g}"


def _gpu_misfit(sizing: StageSizing, nodes: Sequence[ClusterNode]) -> str | None:
    request, gpus = sizing.request, max(node.gpus for node in nodes)
    asked = request.describe()
    problem = _memory_misfit(request, nodes) if request.memory and gpus else None
    if problem is not None or not gpus:
        return f"{asked}, {problem or 'but no node has a GPU'}"
    workers, rooms, need = 0, _rooms(nodes), _need(request, nodes)
    while workers < sizing.at_least and (placed := _place(need, rooms)) is not None:
        workers, rooms = workers + 1, placed[1]
    if workers == sizing.at_least:
        return None
    if workers:
        return f"{sizing.at_least} workers of {asked}, but only {workers} fit on the cluster"
    if request.count > gpus:
        return f"{asked}, but the largest node has {gpus}: a worker's GPUs must be on one node"
    return f"{asked} and {request.demand.cpus:g} CPUs, but no node has both"


def _memory_misfit(request: Request, nodes: Sequence[ClusterNode]) -> str | None:
    unknown = [node.name for node in nodes if node.gpus and not node.gpu_memory_bytes]
    if unknown:
        return f"but the size of the GPUs of {unknown[0]!r} is not known: ask for gpus=, a part of one, instead"
    smallest = min(node.gpu_memory_bytes or 0 for node in nodes if node.gpus)
    if request.memory > smallest:
        return f"but the smallest GPU has {smallest / GIB:g} GiB, and Ray may choose it: ask for gpus=1 instead"
    return None


# ---- all workers of a phase ------------------------------------------------------------------------------


def _minimum(
    phase: Sequence[StageSizing], nodes: Sequence[ClusterNode], scale: int
) -> tuple[dict[int, list[int]], _Rooms] | None:
    """Place the fewest workers of each stage; ``None`` if they do not fit at once. One CPU stays free for tasks."""
    rooms = _rooms(nodes)
    placed: dict[int, list[int]] = {}
    needs = {sizing.request.stage_index: _need(sizing.request, nodes, scale) for sizing in phase}
    actors = [sizing for sizing in phase if sizing.uses_actors]
    tasks = [needs[sizing.request.stage_index] for sizing in phase if not sizing.uses_actors]
    if tasks:  # room for one task of the largest kind, or nothing would ever come to the actors
        first = _place(_Need(max(need.cpus for need in tasks)), rooms)
        if first is None:
            return None
        rooms = first[1]
    for sizing in sorted(actors, key=lambda s: _hardness(needs[s.request.stage_index]), reverse=True):
        index = sizing.request.stage_index
        placed[index] = []
        for _ in range(sizing.at_least):
            found = _place(needs[index], rooms)
            if found is None:
                return None
            placed[index].append(found[0])
            rooms = found[1]
    return placed, rooms


def _hardness(need: _Need) -> tuple[int, int, int]:
    return need.gpu_count, need.gpu_share, need.cpus


def _cut_into_phases(sizings: Sequence[StageSizing], nodes: Sequence[ClusterNode]) -> list[list[StageSizing]]:
    """Cut a pipeline where its GPU needs do not fit at once; CPUs can be shared in time, so they do not matter."""
    phases: list[list[StageSizing]] = []
    for sizing in sizings:
        if phases and _minimum([*phases[-1], sizing], nodes, 0) is not None:
            phases[-1].append(sizing)
        else:
            phases.append([sizing])
    return phases


def _plan_phase(phase: Sequence[StageSizing], nodes: Sequence[ClusterNode]) -> tuple[StageOnCluster, ...]:
    for scale in (*_SCALES, 0):
        found = _minimum(phase, nodes, scale)
        if found is not None:
            break
    assert found is not None, "phases are made of stages that fit without regard to CPUs"
    placed, rooms = found
    growing = [s for s in phase if s.uses_actors and s.request.uses_gpu and not s.is_fixed]
    while growing:
        sizing = min(growing, key=lambda s: (len(placed[s.request.stage_index]), s.request.stage_index))
        index = sizing.request.stage_index
        more = None
        if sizing.at_most is None or len(placed[index]) < sizing.at_most:
            more = _place(_need(sizing.request, nodes, scale), rooms, spreads=True)
        if more is None:
            growing.remove(sizing)
        else:
            placed[index].append(more[0])
            rooms = more[1]
    total = sum(node.cpus for node in nodes)
    return tuple(_on_cluster(s, placed.get(s.request.stage_index, ()), nodes, scale, total) for s in phase)


def _on_cluster(
    sizing: StageSizing, placed: Sequence[int], nodes: Sequence[ClusterNode], scale: int, total_cpus: float
) -> StageOnCluster:
    request = sizing.request
    need = _need(request, nodes, scale)
    stage = StageOnCluster(
        stage_index=request.stage_index,
        name=request.demand.name,
        uses_actors=sizing.uses_actors,
        cpus=need.cpus / THOUSAND,
        gpus=need.gpu_count or need.gpu_share / WHOLE_GPU,
        at_least=sizing.at_least,
        at_first=max(len(placed), sizing.at_first or 0),
        at_most=sizing.at_most,
        nodes=tuple((node.name, count) for i, node in enumerate(nodes) if (count := list(placed).count(i))),
        reason="",
    )
    if sizing.is_fixed:
        return replace(stage, at_first=sizing.at_least, reason=f"exactly {sizing.at_least}: the stage's own number")
    if request.uses_gpu:
        return replace(
            stage, at_most=len(placed), reason=f"{request.describe()}: no more than {len(placed)} fit beside the others"
        )
    most = sizing.at_most or max(stage.at_first, math.floor(total_cpus / max(stage.cpus, 0.001)) if stage.cpus else 1)
    if sizing.uses_actors:
        return replace(stage, at_most=most, reason="it has a set-up; Ray Data adds workers while it has work waiting")
    return replace(stage, at_first=0, at_least=0, reason="no set-up: plain tasks, as many as find free CPUs")


def _notes(phases: Sequence[Sequence[StageSizing]], planned: Sequence[Sequence[StageOnCluster]]) -> Iterator[str]:
    if len(phases) > 1:
        parts = " | ".join(", ".join(s.request.demand.name for s in phase) for phase in phases)
        yield (
            f"the stages' GPU needs do not fit at once: {len(phases)} phases, one after the other ({parts}); what "
            "passes from one to the next waits in Ray's object store, which spills to disk"
        )
    for phase, stages in zip(phases, planned, strict=True):
        asked = sum(s.request.demand.cpus * max(1, s.at_least) for s in phase)
        given = sum(stage.cpus * max(1, stage.at_least) for stage in stages)
        if given < asked - 1 / THOUSAND:
            names = ", ".join(stage.name for stage in stages)
            yield (
                f"one worker of each stage takes more CPUs than the cluster has ({names}): Ray is asked for "
                f"{given / asked:.0%} of the CPUs of each, and the workers share them"
            )
