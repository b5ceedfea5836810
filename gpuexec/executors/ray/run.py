"""One run on a Ray cluster: the driver's part."""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
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
from gpuexec.driver.exceptions import stage_exception
from gpuexec.errors import InternalError, ResourcesError, StageError, TooManyQuarantined, WorkerDied
from gpuexec.events import Observer
from gpuexec.executors.pickled_stage import encoded_stage
from gpuexec.executors.progress import progress_for
from gpuexec.executors.ray.attempts import BatchRules
from gpuexec.executors.ray.ledger import Ledger
from gpuexec.executors.ray.nodes import RayNode, end_processes, on_node, read_nodes
from gpuexec.executors.ray.notes import RunFailed
from gpuexec.executors.ray.pipeline import StageOnRay, apply_stages, dataset_between, dataset_of, quiet_context
from gpuexec.executors.ray.ray_events import RayEvents
from gpuexec.executors.ray.rows import Key, rows_of, task_of
from gpuexec.executors.ray.sizing import fans_out, remote_args, sizings_of
from gpuexec.executors.ray.stage_worker import StageWork, set_up_node
from gpuexec.executors.run_facts import facts_of
from gpuexec.executors.run_folder import folder_for
from gpuexec.executors.stage_options import own_options, policy_of
from gpuexec.planning.allocator import unique_names
from gpuexec.planning.cluster import ClusterPlan, StageOnCluster, plan_cluster
from gpuexec.report.builder import ReportBuilder
from gpuexec.report.model import RunReport
from gpuexec.stage.environment import requested_variables

_POLL_S = 0.25
_BUNDLES_AHEAD = 8  # of finished blocks, that wait for the caller
_STOP_S = 2.0  # for what is at work when the run is ended: then its process is killed
_KILLED_S = 10.0


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
        room = {"usable_cpus": cpus, "devices": []}
        facts = facts_of("ray", stages, demands, self._options, room, cpus=os.cpu_count() or 0)
        policies = [work.rules.policy for work in works]
        actor: Any = ray.remote(num_cpus=0, max_restarts=0)(Ledger)
        here = ray.get_runtime_context().get_node_id()
        ledger = actor.options(scheduling_strategy=on_node(here)).remote(names, policies)
        events = RayEvents(plan, names, facts, observers)
        watch = _Watch(ledger, events, names, cancellation, gauge_every_s, len(tasks))
        try:
            works = self._prepare_nodes(stages, works, plan, nodes, ledger, watch)
            yield from self._run_phases(stages, works, plan, rows, cpus, ledger, watch)
            watch.wait_for_teardown(max(self._options.for_stage(own_options(s, self._options)).stop_timeout_s for s in stages))
        except BaseException as error:
            watch.end_workers()
            events.end(error if not isinstance(error, GeneratorExit) else None)
            raise
        finally:
            ray.kill(ledger)
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
        plan: ClusterPlan,
        nodes: Sequence[RayNode],
        ledger: Any,
        watch: _Watch,
    ) -> list[StageWork]:
        """Run ``setup_on_node`` of every stage on every node where it may run, each in a process of its own."""
        import dataclasses

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
        watch: _Watch,
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
                for ref, rows_in in _Consumer(made, fetches=False).blocks(watch):
                    refs.append(ref)
                    count += rows_in
                batch_size = works[phases[position + 1][0].stage_index].rules.batch_size
                dataset = dataset_between(refs, count, batch_size, cpus, self._tasks_per_block)
            for table, _ in _Consumer(made, fetches=True).blocks(watch):
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


class _Consumer:
    """Takes the finished blocks of a dataset in a thread, so that the driver is free for everything else."""

    def __init__(self, dataset: Any, *, fetches: bool) -> None:
        self._queue: queue.Queue[Any] = queue.Queue(_BUNDLES_AHEAD)
        self._stopping = threading.Event()
        self._fetches = fetches
        self._thread = threading.Thread(target=self._run, args=(dataset,), name="gpuexec-ray", daemon=True)

    def blocks(self, watch: _Watch) -> Iterator[tuple[Any, int]]:
        """Yield the blocks, as tables or as references to them, and how many rows each has.

        Raises what ended the run.
        """
        watch.consumer = self._thread
        self._thread.start()
        try:
            while True:
                try:
                    item = self._queue.get(timeout=_POLL_S)
                except queue.Empty:
                    watch.poll()
                    continue
                watch.poll_if_due()
                if item is None:
                    watch.poll()
                    return
                if isinstance(item, BaseException):
                    watch.poll()  # raises what the stage did
                    raise _without_ray_frames(item)
                yield item
        finally:
            self._stopping.set()

    def _run(self, dataset: Any) -> None:
        try:
            for bundle in dataset.iter_internal_ref_bundles():
                for ref, metadata in zip(bundle.block_refs, bundle.metadata, strict=True):
                    self._put((ray.get(ref) if self._fetches else ref, metadata.num_rows or 0))
                if self._stopping.is_set():
                    return
        except BaseException as error:  # noqa: BLE001 - the driver decides what it means
            self._put(error)
        else:
            self._put(None)

    def _put(self, item: Any) -> None:
        while not self._stopping.is_set():
            with contextlib.suppress(queue.Full):
                self._queue.put(item, timeout=_POLL_S)
                return


class _Watch:
    """What the driver looks after while Ray works: the ledger, cancellation, progress."""

    def __init__(
        self,
        ledger: Any,
        events: RayEvents,
        names: Sequence[str],
        cancellation: Cancellation,
        gauge_every_s: float,
        tasks_given: int,
    ) -> None:
        self.consumer: threading.Thread | None = None
        self._ledger = ledger
        self._events = events
        self._names = names
        self._cancellation = cancellation
        self._gauge_every_s = gauge_every_s
        self._tasks_given = tasks_given
        self._next_poll = self._next_gauge = 0.0

    def poll_if_due(self) -> None:
        """Poll, if it is time to."""
        if time.monotonic() >= self._next_poll:
            self.poll()

    def poll(self) -> None:
        """Pass on what is new. Raises ``RunCancelled``, and the exception of a stage that ended the run."""
        self._next_poll = time.monotonic() + _POLL_S
        self._cancellation.check()
        notes = ray.get(self._ledger.drain.remote())
        self._events.take(notes)
        for note in notes:
            if isinstance(note, RunFailed):
                raise _exception_of(note, self._names)
        if time.monotonic() >= self._next_gauge:
            self._next_gauge = time.monotonic() + self._gauge_every_s
            self._events.gauge(self._tasks_given)

    def wait_for_teardown(self, timeout_s: float) -> None:
        """Wait until the actors have torn down; those of lost nodes are not waited for."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            self.poll()
            living = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
            if not any(actor and node in living for node, _, actor in self._alive()):
                return
            time.sleep(_POLL_S / 5)
        from loguru import logger

        logger.warning("workers did not tear down within stop_timeout_s={:g}; Ray ends them", timeout_s)

    def end_workers(self) -> None:
        """End what is at work, as fast as can be: ask first, then kill."""
        with contextlib.suppress(ray.exceptions.RayError):
            ray.get(self._ledger.stop.remote(), timeout=_STOP_S)
            if self._consumer_ends(_STOP_S):
                return
            end_processes([(node, pid) for node, pid, _ in self._alive()])
            self._consumer_ends(_KILLED_S)

    def _consumer_ends(self, timeout_s: float) -> bool:
        if self.consumer is None:
            return True
        if self.consumer.ident is not None:
            self.consumer.join(timeout_s)
        return not self.consumer.is_alive()

    def _alive(self) -> list[tuple[str, int, str | None]]:
        return list(ray.get(self._ledger.alive.remote()).values())


def _rows(tasks: Sequence[Any], tokens: frozenset[str]) -> list[tuple[Key, bytes]]:
    encoder = codec.Encoder(announced=tokens)
    return [((position,), encoder.encode(task).join()) for position, task in enumerate(tasks)]


def _exception_of(note: RunFailed, names: Sequence[str]) -> BaseException:
    stage = names[note.stage_index]
    if note.failed is not None:
        producer = f"stage {names[note.stage_index - 1]!r}" if note.stage_index else "the caller"
        ids = tuple(note.task_ids)
        error = stage_exception(note.failed, stage=stage, producer=producer, worker_id=note.worker_id, task_ids=ids)
    else:
        error = WorkerDied(
            stage=stage,
            worker_id=note.worker_id,
            exit_code=None,
            cause=note.cause or "Ray does not say why",
            phase=note.phase,
            task_ids=note.task_ids,
        )
    if note.too_many is not None:
        many = TooManyQuarantined(note.too_many)
        many.__cause__ = error
        return many
    return error


def _without_ray_frames(error: BaseException) -> BaseException:
    """Return an exception of Ray's own, with a note that says so."""
    if not isinstance(error, StageError):
        error.add_note("raised by Ray, not by a stage: `ray status` and `ray logs` say more")
    return error.with_traceback(None)


def in_order(results: Sequence[tuple[Key, Any]]) -> list[Any]:
    """Return tasks in the order in which one process would make them. Raises ``InternalError`` if one came twice."""
    ordered = sorted(results, key=lambda result: result[0])
    for (before, _), (after, _) in zip(ordered, ordered[1:], strict=False):
        if before == after:
            raise InternalError(f"Ray Data returned the task with the key {after} twice")
    return [task for _, task in ordered]


