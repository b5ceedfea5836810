"""One run on a Ray cluster: the driver's part."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

import ray

from gpuexec.channel import codec
from gpuexec.channel.announcement import task_class_definitions
from gpuexec.channel.definitions import Announces
from gpuexec.channel.own_modules import send_own_modules_by_value
from gpuexec.config import ExecutorConfig
from gpuexec.curator import stage_facts
from gpuexec.driver.cancellation import Cancellation
from gpuexec.errors import InternalError, ResourcesError
from gpuexec.events import Observer
from gpuexec.executors.pickled_stage import encoded_stage
from gpuexec.executors.progress import progress_for
from gpuexec.executors.ray.attempts import BatchRules
from gpuexec.executors.ray.ledger import Ledger
from gpuexec.executors.ray.nodes import RayNode, on_node, read_nodes
from gpuexec.executors.ray.pipeline import StageOnRay, apply_stages, dataset_between, dataset_of, quiet_context
from gpuexec.executors.ray.ray_events import RayEvents
from gpuexec.executors.ray.rows import Key, rows_of, task_of
from gpuexec.executors.ray.sizing import fans_out, remote_args, sizings_of
from gpuexec.executors.ray.stage_worker import StageWork, set_up_node
from gpuexec.executors.ray.watch import Consumer, Watch
from gpuexec.executors.run_facts import facts_of
from gpuexec.executors.run_folder import folder_for
from gpuexec.executors.stage_options import own_options, policy_of
from gpuexec.planning.allocator import unique_names
from gpuexec.planning.cluster import ClusterPlan, StageOnCluster, plan_cluster
from gpuexec.report.builder import ReportBuilder
from gpuexec.report.model import RunReport
from gpuexec.stage.environment import requested_variables

_POLL_S = 0.25


class RayRun:
    """One run of stages with these options. ``records_calls``: report each call of a stage."""

    def __init__(
        self,
        options: ExecutorConfig,
        observers: Sequence[Observer],
        *,
        tasks_per_block: int | None,
        ignore_head_node: bool,
        records_calls: bool,
        on_report: Callable[[RunReport], None],
    ) -> None:
        self._options = options
        self._observers = observers
        self._tasks_per_block = tasks_per_block
        self._ignore_head_node = ignore_head_node
        self._records_calls = records_calls
        self._on_report = on_report

    def stream(
        self, stages: Sequence[Any], tasks: Sequence[Any], cancellation: Cancellation
    ) -> Generator[tuple[Key, Any], None, None]:
        """Run, and yield each finished task with its key, as they come. Raises what `RayExecutor.execute` promises."""
        nodes = read_nodes(ignore_head_node=self._ignore_head_node)
        plan = plan_cluster(sizings_of(stages, len(nodes)), [each.node for each in nodes])
        if plan.misfits:
            raise ResourcesError("\n".join(plan.misfits))
        demands = [stage_facts.demand_of(stage) for stage in stages]
        names = unique_names(demands)
        send_own_modules_by_value((*stages, *tasks[:1]))
        works = self._works(stages, names, plan)
        rows = _rows(tasks, works[0].tokens)
        cpus = sum(node.node.cpus for node in nodes)
        builder = ReportBuilder()
        self._on_report(builder.report)
        progress, gauge_every_s = progress_for(self._options, builder.report)
        observers = [builder, *folder_for(self._options.run_dir, builder.report), *progress, *self._observers]
        room: dict[str, Any] = {"usable_cpus": cpus, "devices": []}
        facts = facts_of("ray", stages, demands, self._options, room, cpus=os.cpu_count() or 0)
        policies = [work.rules.policy for work in works]
        actor: Any = ray.remote(num_cpus=0, max_restarts=0)(Ledger)
        here = ray.get_runtime_context().get_node_id()
        ledger = actor.options(scheduling_strategy=on_node(here)).remote(names, policies)
        events = RayEvents(plan, names, facts, observers)
        watch = Watch(ledger, events, names, cancellation, gauge_every_s, len(tasks))
        try:
            works = self._prepare_nodes(stages, works, nodes, ledger, watch)
            yield from self._run_phases(stages, works, plan, rows, cpus, ledger, watch)
            watch.wait_for_teardown(
                max(self._options.for_stage(own_options(s, self._options)).stop_timeout_s for s in stages)
            )
        except BaseException as error:
            watch.end_workers()
            events.end(error if not isinstance(error, GeneratorExit) else None)
            raise
        events.end(None)

    def _works(self, stages: Sequence[Any], names: Sequence[str], plan: ClusterPlan) -> list[StageWork]:
        classes, definitions = task_class_definitions()
        announcement = codec.encode(Announces(definitions)).join() if classes else b""
        run_id = os.urandom(4).hex()
        works = []
        for index, (stage, name) in enumerate(zip(stages, names, strict=True)):
            options = self._options.for_stage(own_options(stage, self._options))
            planned = next(each for each in plan.stages if each.stage_index == index)
            payload = encoded_stage(stage, name)[0].join()
            rules = BatchRules(
                policy_of(options),
                stage_facts.batch_size_of(stage),
                options.batch_timeout_s,
                options.split_on_oom,
                self._records_calls,
            )
            works.append(
                StageWork(
                    run_id=run_id,
                    index=index,
                    name=name,
                    payload=payload,
                    announcement=announcement,
                    tokens=frozenset(definitions),
                    env_vars=requested_variables(stage, self._options),
                    cpus=float(stage.resources.cpus),
                    gpus=planned.gpus,
                    rules=rules,
                    gpu_pinning=options.gpu_pinning,
                    share_enforcement=options.share_enforcement,
                    sees_gpus=options.cpu_stages_see_gpus,
                    task_seed=options.task_seed,
                    setup_timeout_s=options.setup_timeout_s,
                )
            )
        return works

    def _prepare_nodes(
        self,
        stages: Sequence[Any],
        works: Sequence[StageWork],
        nodes: Sequence[RayNode],
        ledger: Any,
        watch: Watch,
    ) -> list[StageWork]:
        """Run ``setup_on_node`` of every stage on every node where it may run, each in a process of its own."""
        prepared, refs = [], []
        once: Any = ray.remote(max_calls=1, max_retries=0)(set_up_node)
        for stage, work in zip(stages, works, strict=True):
            if not stage_facts.sets_up_node(stage):
                prepared.append(work)
                continue
            able = [each for each in nodes if each.node.gpus or not work.gpus]
            prepared.append(dataclasses.replace(work, prepared_nodes=frozenset(each.node_id for each in able)))
            for each in able:
                where = {"scheduling_strategy": on_node(each.node_id), **self._environment(stage)}
                refs.append(once.options(num_cpus=0, num_gpus=work.gpus, **where).remote(work, ledger))
        while refs:
            done, refs = ray.wait(refs, num_returns=1, timeout=_POLL_S)
            watch.poll()
            for ref in done:
                try:
                    ray.get(ref)
                except Exception:
                    watch.poll()  # raises what the stage did
                    raise
        return prepared

    def _environment(self, stage: Any) -> dict[str, Any]:
        """Return the runtime environment of a stage, for Ray: the executor's, and the stage's own over it."""
        whole, own = self._options.runtime_env or {}, getattr(stage, "runtime_env", None) or {}
        merged = {**whole, **own}
        merged.pop("env_vars", None)  # set by the worker, before it imports the stage
        return {"runtime_env": merged} if merged else {}

    def _run_phases(
        self,
        stages: Sequence[Any],
        works: Sequence[StageWork],
        plan: ClusterPlan,
        rows: Sequence[tuple[Key, bytes]],
        cpus: float,
        ledger: Any,
        watch: Watch,
    ) -> Iterator[tuple[Key, Any]]:
        phases = _cut_after_source(plan.phases, stages, len(rows))
        with quiet_context():
            dataset = dataset_of(rows, works[0].rules.batch_size, cpus, self._tasks_per_block)
            for position, phase in enumerate(phases):
                on_ray = [self._on_ray(stages[each.stage_index], works[each.stage_index], each) for each in phase]
                made = apply_stages(dataset, on_ray, ledger, self._tasks_per_block or 1)
                if position + 1 == len(phases):
                    break
                refs, count = [], 0
                for ref, rows_in in Consumer(made, fetches=False).blocks(watch):
                    refs.append(ref)
                    count += rows_in
                batch_size = works[phases[position + 1][0].stage_index].rules.batch_size
                dataset = dataset_between(refs, count, batch_size, cpus, self._tasks_per_block)
            for table, _ in Consumer(made, fetches=True).blocks(watch):
                for key, payload in rows_of(table):
                    yield key, task_of(payload)

    def _on_ray(self, stage: Any, work: StageWork, planned: StageOnCluster) -> StageOnRay:
        return StageOnRay(work, planned, fans_out(stage), {**self._environment(stage), **remote_args(stage)})


def _cut_after_source(
    phases: Sequence[Sequence[StageOnCluster]], stages: Sequence[Any], tasks: int
) -> list[Sequence[StageOnCluster]]:
    """Return the phases, with a cut after a source that makes all tasks of one: it returns them at once anyway.

    Their number is known then, and so into how many blocks they are best divided.
    """
    first, *others = phases
    if tasks == 1 and len(first) > 1 and fans_out(stages[first[0].stage_index]):
        return [first[:1], first[1:], *others]
    return [first, *others]


def _rows(tasks: Sequence[Any], tokens: frozenset[str]) -> list[tuple[Key, bytes]]:
    encoder = codec.Encoder(announced=tokens)
    return [((position,), encoder.encode(task).join()) for position, task in enumerate(tasks)]


def in_order(results: Sequence[tuple[Key, Any]]) -> list[Any]:
    """Return tasks in the order in which one process would make them. Raises ``InternalError`` if one came twice."""
    ordered = sorted(results, key=lambda result: result[0])
    for (before, _), (after, _) in itertools.pairwise(ordered):
        if before == after:
            raise InternalError(f"Ray Data returned the task with the key {after} twice")
    return [task for _, task in ordered]
