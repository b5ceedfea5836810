"""From a bare interpreter to a worker with its stage loaded.

The environment (CUDA_VISIBLE_DEVICES, thread caps, the stage's own variables) was set before this interpreter started,
so every library reads the right values, whatever the stage imports first. In a worker that was forked from a template,
what differs from worker to worker is set after the fork, and nothing has read it before.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from gpuexec.channel.messages import Booted, ErrorHandling, Start
from gpuexec.channel.payload_store import load
from gpuexec.channel.recorder import FlightRecorder
from gpuexec.channel.wire import BlockingConnection
from gpuexec.contract.adapter import StageAdapter
from gpuexec.contract.allocation import Allocation
from gpuexec.contract.executor import NodeInfo, WorkerMetadata
from gpuexec.contract.phases import StagePhase
from gpuexec.curator import adapters, own_gpu, registration
from gpuexec.errors import ConnectionLost
from gpuexec.policies import ShareEnforcement
from gpuexec.stage.loading import loading_stage
from gpuexec.stage.pools import support_pools
from gpuexec.stage.session import StageSession
from gpuexec.stage.stacks import write_stacks_on_signal
from gpuexec.worker import memory
from gpuexec.worker.call_records import CallRecords
from gpuexec.worker.debugger import explain_breakpoints
from gpuexec.worker.failures import describe_failure
from gpuexec.worker.log_sink import LogSink
from gpuexec.worker.loop import WorkerLoop
from gpuexec.worker.orphan import die_with_parent

if TYPE_CHECKING:
    from gpuexec.stage.nvtx_ranges import Ranges


def main(socket_fd: int, recorder_fd: int, driver_pid: int) -> int:
    """Be a worker: serve one driver and return the exit status: 0 after an orderly end, 1 if the driver is gone."""
    die_with_parent(driver_pid)
    log = _behave_as_worker()
    memory.be_killed_first()
    return _work(socket_fd, recorder_fd, log, forked=False)


def serve_as_template(control_fd: int, driver_pid: int) -> NoReturn:
    """Be a template (see `gpuexec.worker.template`), and in each process that is forked from it, a worker."""
    # Only templates pay for these imports.
    from gpuexec.worker.fork_safety import renew_random_state
    from gpuexec.worker.leave import run_and_leave
    from gpuexec.worker.template import Template

    die_with_parent(driver_pid)
    os.set_inheritable(control_fd, False)
    log = _behave_as_worker()
    birth = Template(socket.socket(fileno=control_fd), log).serve()
    os.setpgid(0, 0)
    die_with_parent(birth.parent)
    log.move_to(birth.output_fd)
    memory.be_killed_first()
    for name, value in birth.variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    renew_random_state()
    run_and_leave(lambda: _work(birth.socket_fd, birth.recorder_fd, log, forked=True))


def _behave_as_worker() -> LogSink:
    log = LogSink()
    explain_breakpoints()
    write_stacks_on_signal()
    for handled_by_driver in (signal.SIGINT, signal.SIGUSR1):  # batch systems send the latter to every process of a job
        signal.signal(handled_by_driver, signal.SIG_IGN)
    return log


def _work(socket_fd: int, recorder_fd: int, log: LogSink, *, forked: bool) -> int:
    connection = BlockingConnection(socket.socket(fileno=socket_fd))
    for fd in (socket_fd, recorder_fd):
        os.set_inheritable(fd, False)
    os.register_at_fork(after_in_child=connection.disown)
    try:
        _serve(connection, FlightRecorder(recorder_fd), log, forked=forked)
    except ConnectionLost:
        return 1
    return 0


def _serve(connection: BlockingConnection, recorder: FlightRecorder, log: LogSink, *, forked: bool) -> None:
    start = connection.receive()
    assert isinstance(start, Start), start
    began = time.monotonic()
    if not forked:  # else the template has set it, and what was imported may have added to it
        sys.path[:] = start.sys_path
    if start.cpu_affinity:
        with contextlib.suppress(OSError):  # CPUs may have gone offline since the plan
            os.sched_setaffinity(0, start.cpu_affinity)
    log.configure(start.log_level, start.logging_levels, start.logging_disabled)
    registration.install()
    allocation = Allocation.from_dict(start.allocation)
    own_gpu.show_own_gpu(allocation)
    enforcement = ShareEnforcement(start.share_enforcement)
    if enforcement is not ShareEnforcement.OFF and any(share.is_partial for share in allocation.gpus):
        from gpuexec.worker.gpu_limits import limit_libraries  # few workers need it

        limit_libraries(allocation)
    stages, announcement = start.payloads[: len(start.stages)], start.payloads[len(start.stages) :]
    loaded: list[StageAdapter] = []
    ranges = _nvtx_ranges()
    try:
        for each in announcement:
            load(each)
        with loading_stage():
            for log.stage, payload in enumerate(stages):
                adapter = _with_options(adapters.adapter_for(load(payload)), start, log.stage)
                if ranges is not None and start.max_concurrency is None:  # ranges nest, and calls side by side do not
                    adapter = ranges.around(adapter)
                loaded.append(adapter)
        support_pools()
    except BaseException as error:  # noqa: BLE001 - an import can raise anything, SystemExit included
        at_fault = min(len(loaded), len(stages) - 1)
        connection.send(describe_failure(error, StagePhase.IMPORT, stage=at_fault))
        return
    log.stage = 0
    log.apply_levels()
    connection.send(Booted(began, time.monotonic()))
    worker = WorkerMetadata(worker_id=start.worker_id, allocation=allocation)
    node = NodeInfo(node_id=start.node_id)
    loop = _loop_for(start)(
        [StageSession(adapter, node, worker, checks_pinning=True) for adapter in loaded],
        connection,
        memory.probe_for(allocation, checks_share=enforcement is ShareEnforcement.STRICT),
        recorder,
        ErrorHandling.from_list(start.error_handling),
        log,
        ranges,
        CallRecords() if start.records_calls else None,
    )

    def terminate_once(_signal: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not interrupt teardown
        loop.terminate()

    signal.signal(signal.SIGTERM, terminate_once)
    loop.run()


def _with_options(adapter: StageAdapter, start: Start, position: int) -> StageAdapter:
    """Return the adapter of the stage at this position of the group with what few runs ask for."""
    if start.task_seed is not None:
        from gpuexec.stage.seeds import seeded

        adapter = seeded(adapter, start.task_seed)
    shard = start.shards[position] if start.shards is not None else None
    if shard is not None:
        from gpuexec.shards import Shard
        from gpuexec.stage.sharding import sharded

        adapter = sharded(adapter, Shard.read(shard))
    return adapter


def _nvtx_ranges() -> Ranges | None:
    if "GPUEXEC_NVTX" not in os.environ:
        return None
    from gpuexec.stage.nvtx_ranges import ranges_if_wanted  # few workers need it

    return ranges_if_wanted()


def _loop_for(start: Start) -> Callable[..., WorkerLoop]:
    if start.max_concurrency is not None:
        from gpuexec.worker.async_loop import AsyncLoop  # most workers need neither it nor asyncio

        return functools.partial(
            AsyncLoop, max_concurrency=start.max_concurrency, batch_timeout_s=start.batch_timeout_s
        )
    if len(start.stages) == 1:
        return WorkerLoop
    from gpuexec.worker.group_loop import GroupLoop  # most workers do not need it

    return GroupLoop
