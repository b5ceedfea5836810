"""Turns the events of a run into a trace, in the trace event format that Perfetto and ``chrome://tracing`` read.

The driver is a process with what was decided and said. Every worker is a process: its start, its batches with what
they consist of, its end. The queues are counters of a process "stages"; every GPU is a process with counters and with
the times in which it was busy or, for a reason, idle.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import NamedTuple

from gpuexec import events
from gpuexec.channel.messages import BatchStats
from gpuexec.naming import shortened
from gpuexec.report import trace_names as names
from gpuexec.report.trace_amounts import Amounts
from gpuexec.report.trace_clock import TraceClock
from gpuexec.report.trace_flows import Flows
from gpuexec.report.trace_levels import PIECE_EVENTS, PieceText, TraceLevels, Track, add_amounts, part_line, stamp
from gpuexec.units import GIB

_RUN, _NOTES = 1, 2  # threads of the driver
_BATCHES = 1  # thread of a worker: its batches, or those of the first stage of its group
_TINY_US = 25_000.0  # tiny batches of this time become one slice
_LONGEST_PAUSE_US = 5_000.0  # between them
_SHORT_US = 50.0  # receiving and returning that took less are not drawn
_MOST_TEXT = 2000  # characters of an error
_FLUSH_EVENTS = 512


class _TinyBatches:
    """Batches of one thread that are too short to be drawn each by itself, since ``began``, in microseconds."""

    __slots__ = ("amounts", "began", "ended", "name")

    def __init__(self, name: str, began: float) -> None:
        self.name = name
        self.began = self.ended = began
        self.amounts: dict[str, float] = {}

    def takes(self, began: float, ended: float) -> bool:
        """Whether batches that took place then are to be drawn with these."""
        return began - self.ended < _LONGEST_PAUSE_US and ended - self.began < _TINY_US

    def add(self, ended: float, amounts: Mapping[str, float]) -> None:
        self.ended = ended
        add_amounts(self.amounts, amounts)


class _WorkerTracks:
    """A worker that lives. ``ended``: microseconds, of the last slice of each of its threads. ``lines``: its names."""

    __slots__ = ("ended", "lines", "pid", "stage", "tiny")

    def __init__(self, pid: int, stage: int, lines: list[str]) -> None:
        self.pid = pid
        self.stage = stage
        self.lines = lines
        self.ended: dict[int, float] = {}
        self.tiny: dict[int, _TinyBatches] = {}


class _Counter(NamedTuple):
    """A reading that is a counter of the trace. ``digits``: behind the point, in this unit."""

    field: str
    name: str
    unit: str
    divisor: float = 1.0
    digits: int = 0


_GPU_COUNTERS = (
    _Counter("memory_used_bytes", '"memory in use"', "GiB", GIB, 2),
    _Counter("power_w", '"power"', "W"),
    _Counter("sm_util_percent", '"SM utilisation"', "%"),
    _Counter("temperature_c", '"temperature"', "°C"),
    _Counter("sm_clock_mhz", '"SM clock"', "MHz"),
)
_RSS = _Counter("rss_bytes", '"host memory"', "GiB", GIB, 2)


class _GpuTrack(NamedTuple):
    track: Track
    name: str
    uuid: str


class Trace:
    """The trace of one run, from its ``RunStarted`` on.

    ``write`` and ``end_piece``: see `TraceLevels`. ``metadata`` and ``first_event`` are for the file's beginning.
    """

    def __init__(
        self,
        started: events.RunStarted,
        posix_time: float,
        write: Callable[[bytes, int], None],
        end_piece: Callable[[list[PieceText]], None],
        piece_events: int = PIECE_EVENTS,
    ) -> None:
        self._clock = TraceClock(started.at, posix_time)
        self._stage_names = [names.quoted(name) for name in started.stage_names]
        self._plain_names = started.stage_names
        self._leads = {i: stage.stage_index for ph in started.plan.phases for stage in ph.stages for i in stage.fused}
        self._ids = names.ProcessIds()
        self._driver = self._ids.take(os.getpid())
        self._workers: dict[str, _WorkerTracks] = {}
        self._gpus = _gpus_of(started)
        self._readings: dict[tuple[int, str], float] = {}
        self._gauges: dict[int, tuple[int, int]] = {}
        self._flows = Flows()
        self._amounts = Amounts()
        self._intervals = 0
        self._began = self._now = self._clock.at(started.at)
        self._levels = TraceLevels(write, end_piece, self._standing, piece_events)
        self.first_event, *more = self._driver_lines()
        for line in [*more, *self._device_lines()]:
            self._levels.keep(line)
        self._levels.keep(f'{{"ph":"B","name":"run","pid":{self._driver},"tid":{_RUN},{stamp(self._began)}}}')

    @property
    def base_time(self) -> int:
        """Return the POSIX time that the trace's clock counts from, in seconds."""
        return self._clock.base

    def on_event(self, event: events.RunEvent) -> None:  # noqa: C901, PLR0912 - one arm for each kind of event
        """Add an event to the trace."""
        match event:
            case events.BatchesFinished():
                self._add_batches(event)
            case events.Gauged():
                self._add_gauges(event)
            case events.WorkerStarted():
                self._add_worker(event)
            case events.WorkerLoaded() | events.WorkerReady() | events.WorkerStopped():
                self._update_worker(event)
            case events.NodeSetUp():
                name = f"setup_on_node: {self._plain_names[event.stage_index]}"
                self._interval(name, event.at, event.seconds)
            case events.TemplateLoaded():
                self._interval("template: imports", event.at, event.seconds)
            case events.GpuTimeAccounted():
                self._add_gpu_time(event)
            case events.NodeSampled():
                self._add_samples(event)
            case events.BatchFailed():
                self._add_failure(event)
            case events.PlanDecided():
                self._add_plan(event)
            case events.Noticed():
                self._note(event.text, self._now)
            case events.RunEnded():
                self._end(event)
        if self._levels.waiting >= _FLUSH_EVENTS:
            self._levels.flush()

    def flush(self) -> None:
        """Pass on what has come together."""
        self._draw_all_tiny()
        self._levels.flush()

    # ---- workers -------------------------------------------------------------------------------------------

    def _add_worker(self, event: events.WorkerStarted) -> None:
        pid = self._ids.take(event.pid)
        lines = names.process_lines(pid, event.worker_id, (event.stage_index + 1) * 10_000)
        lines += names.thread_lines((pid, _BATCHES), "batches")
        members = [index for index, lead in self._leads.items() if lead == event.stage_index]
        for index in members:
            lines += names.thread_lines((pid, _thread(event.stage_index, index)), f"fused: {self._plain_names[index]}")
        for line in lines:
            self._levels.keep(line)
        self._workers[event.worker_id] = _WorkerTracks(pid, event.stage_index, lines)

    def _update_worker(self, event: events.WorkerLoaded | events.WorkerReady | events.WorkerStopped) -> None:
        worker = self._workers.get(event.worker_id)
        if worker is None:
            return
        at, track = self._at(event.at), (worker.pid, _BATCHES)
        if isinstance(event, events.WorkerLoaded):
            loaded = at - event.load_s * 1e6
            self._slice(worker, '"start: interpreter"', loaded - event.spawn_s * 1e6, loaded)
            self._slice(worker, '"start: load the stage"', loaded, at)
        elif isinstance(event, events.WorkerReady):
            self._slice(worker, '"setup"', at - event.setup_s * 1e6, at)
        else:
            if event.teardown_s is not None:
                self._slice(worker, '"teardown"', at - event.teardown_s * 1e6, at)
            for thread in tuple(worker.tiny):
                self._draw_tiny(worker, thread)
            if event.exit_code:
                self._levels.keep(names.instant_line(track, f"exit status {event.exit_code}", at, {}))
            self._readings.pop((worker.pid, _RSS.field), None)
            del self._workers[event.worker_id]

    def _add_batches(self, event: events.BatchesFinished) -> None:
        worker, stats = self._workers.get(event.worker_id), event.stats
        if worker is None or not stats.batches:
            return
        stage = event.stage_index
        thread = _thread(worker.stage, stage)
        began = max(self._at(stats.began), worker.ended.get(thread, 0.0))
        ended = max(began, self._at(stats.ended))
        tiny = worker.tiny.get(thread)
        if tiny is not None and not (stats.batches > 1 and tiny.takes(began, ended)):
            self._draw_tiny(worker, thread)
            tiny = None
        worker.ended[thread] = ended
        track, amounts = (worker.pid, thread), self._amounts.of(stats, event.tasks_out)
        if stats.batches > 1:
            if tiny is None:
                tiny = worker.tiny[thread] = _TinyBatches(self._stage_names[stage], began)
            tiny.add(ended, amounts)
        else:
            self._levels.slice(track, self._stage_names[stage], began, ended, amounts)
            self._draw_parts(track, began, ended, stats)
        if event.first_task_ids:
            for line in self._flows.processed(event.first_task_ids, stage, track, began, ended):
                self._levels.fine(line)

    def _draw_tiny(self, worker: _WorkerTracks, thread: int) -> None:
        """Draw the tiny batches that have come together on a thread, as one slice."""
        tiny = worker.tiny.pop(thread)
        self._levels.slice((worker.pid, thread), tiny.name, tiny.began, tiny.ended, tiny.amounts)

    def _draw_all_tiny(self) -> None:
        for worker in self._workers.values():
            for thread in tuple(worker.tiny):
                self._draw_tiny(worker, thread)

    def _draw_parts(self, track: Track, began: float, ended: float, stats: BatchStats) -> None:
        """Draw what a batch consists of, inside of its slice."""
        processing, returning = began + stats.receive_s * 1e6, ended - stats.send_s * 1e6
        if not began <= processing <= returning <= ended:
            return
        parts = (('"receive"', began, processing), ('"process"', processing, returning), ('"return"', returning, ended))
        for name, start, stop in parts:
            if name == '"process"' or stop - start >= _SHORT_US:
                self._levels.fine(part_line(track, name, start, stop))

    def _slice(self, worker: _WorkerTracks, name: str, began: float, ended: float) -> None:
        """Draw a slice behind the last one of its thread, since slices that overlap but do not nest are an error."""
        if _BATCHES in worker.tiny:
            self._draw_tiny(worker, _BATCHES)
        began = max(began, worker.ended.get(_BATCHES, 0.0))
        worker.ended[_BATCHES] = ended = max(began, ended)
        self._levels.slice((worker.pid, _BATCHES), name, began, ended, {})

    def _add_failure(self, event: events.BatchFailed) -> None:
        worker = self._workers.get(event.worker_id)
        track = (self._driver, _NOTES) if worker is None else (worker.pid, _BATCHES)
        what = "batch" if event.batch_id is not None else "setup"
        figures = {
            "error": _cut(event.error),
            "action": event.action,
            "reason": event.reason,
            "tasks": list(event.task_ids[:8]),
            "elapsed_s": event.elapsed_s,
            "capsule": event.capsule,
        }
        self._levels.keep(names.instant_line(track, f"{what} failed: {event.action}", self._at(event.at), figures))

    # ---- the driver and the stages -------------------------------------------------------------------------

    def _add_gauges(self, event: events.Gauged) -> None:
        for index, gauges in enumerate(event.stages):
            reading = (gauges.queued, gauges.in_flight)
            if self._gauges.get(index) != reading:
                self._gauges[index] = reading
                values = {"queued": gauges.queued, "in flight": gauges.in_flight}
                self._levels.counter(names.STAGES, self._stage_names[index], self._at(event.at), values)

    def _add_gpu_time(self, event: events.GpuTimeAccounted) -> None:
        gpu = self._gpus.get(event.uuid)
        if gpu is not None:
            part = names.quoted(event.part)
            began, ended = self._at(event.began), self._at(event.at)
            amounts = {f"{event.part}_s": event.at - event.began}
            self._levels.slice(gpu.track, part, began, ended, amounts, merged_name='"busy and idle"')

    def _add_samples(self, event: events.NodeSampled) -> None:
        for gpu in event.gpus:
            found = self._gpus.get(gpu.uuid)
            if found is not None:
                for counter in _GPU_COUNTERS:
                    self._count(found.track[0], counter, getattr(gpu, counter.field), gpu.at)
        for process in event.processes:
            worker = self._workers.get(process.worker_id)
            if worker is not None:
                self._count(worker.pid, _RSS, process.rss_bytes, event.at)

    def _count(self, process: int, counter: _Counter, value: float | None, at: float) -> None:
        """Write a reading, unless it is what the counter shows already."""
        if value is None:
            return
        shown = round(value / counter.divisor, counter.digits)
        if self._readings.get((process, counter.field)) != shown:
            self._readings[process, counter.field] = shown
            self._levels.counter(process, counter.name, self._at(at), {counter.unit: shown})

    def _add_plan(self, event: events.PlanDecided) -> None:
        figures = {
            "reason": str(event.reason),
            "limit": str(event.limit),
            "gain_s": event.gain_s,
            "stopped": list(event.stopped),
            "started": list(event.started),
            "workers": {self._plain_names[s.stage_index]: f"{s.workers} → {s.target}" for s in event.stages},
        }
        line = names.instant_line((self._driver, _NOTES), f"plan: {event.reason}", self._at(event.at), figures)
        self._levels.keep(line)

    def _note(self, text: str, at: float) -> None:
        self._levels.keep(names.instant_line((self._driver, _NOTES), text, at, {"text": _cut(text)}))

    def _interval(self, name: str, at: float, seconds: float) -> None:
        """Draw what took time beside other things: such intervals overlap, which slices must not."""
        self._intervals += 1
        ended = self._at(at)
        for kind, moment in (("b", ended - seconds * 1e6), ("e", ended)):
            self._levels.keep(
                f'{{"ph":"{kind}","cat":"start","id":{self._intervals},"name":{names.quoted(name)},'
                f'"pid":{self._driver},"tid":{_RUN},{stamp(moment)}}}'
            )

    def _end(self, event: events.RunEnded) -> None:
        if event.error is not None:
            self._note(f"the run ended: {event.error}", self._at(event.at))
        self._levels.keep(f'{{"ph":"E","name":"run","pid":{self._driver},"tid":{_RUN},{stamp(self._at(event.at))}}}')
        self._levels.flush()

    def _at(self, seconds: float) -> float:
        self._now = at = self._clock.at(seconds)
        return at

    def _driver_lines(self) -> list[str]:
        return [
            *names.process_lines(self._driver, "driver", 0),
            *names.thread_lines((self._driver, _RUN), "run"),
            *names.thread_lines((self._driver, _NOTES), "plan and notes"),
        ]

    def _device_lines(self) -> list[str]:
        lines = names.process_lines(names.STAGES, "stages: tasks waiting", 1)
        for number, gpu in enumerate(self._gpus.values()):
            lines += names.process_lines(gpu.track[0], gpu.name, 2 + number, gpu.uuid)
            lines += names.thread_lines(gpu.track, "busy or idle")
        return lines

    def _standing(self) -> list[str]:
        """Return the names of all processes that live."""
        lines = [*self._driver_lines(), *self._device_lines()]
        for worker in self._workers.values():
            lines += worker.lines
        return lines


def _gpus_of(started: events.RunStarted) -> dict[str, _GpuTrack]:
    """Return the track of each GPU that the plan gives to workers, by UUID."""
    shares = {
        share.uuid: share
        for phase in started.plan.phases
        for stage in phase.stages
        for grant in stage.workers
        for share in grant.allocation.gpus
    }
    by_index = sorted(shares.values(), key=lambda share: (share.index, share.uuid))
    return {
        share.uuid: _GpuTrack((names.FIRST_GPU + n, _BATCHES), f"GPU {share.index}: {share.name}", share.uuid)
        for n, share in enumerate(by_index)
    }


def _thread(lead: int, stage: int) -> int:
    return _BATCHES + stage - lead


def _cut(text: str) -> str:
    return shortened(text, _MOST_TEXT).encode("utf-8", "replace").decode()
