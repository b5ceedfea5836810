"""What runs in Ray's worker processes: one stage, set up once per process."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import ray

from gpuexec.channel import codec
from gpuexec.contract.allocation import Allocation
from gpuexec.contract.executor import NodeInfo, WorkerMetadata
from gpuexec.contract.phases import StagePhase
from gpuexec.core.retries import Action, DecisionReason, Failure, RetryPolicy, judge_setup
from gpuexec.curator import adapters, own_gpu, registration
from gpuexec.executors.ray.attempts import BatchRules, BlockRunner, RunIsOver
from gpuexec.executors.ray.notes import AttemptFailed, RunFailed
from gpuexec.executors.ray.rows import rows_of, table_of
from gpuexec.executors.ray.watchdog import Watchdog
from gpuexec.executors.ray.worker_gpus import allocation_of
from gpuexec.policies import ShareEnforcement
from gpuexec.processes.variables import worker_environment
from gpuexec.records import Record
from gpuexec.stage.environment import temporary_environment
from gpuexec.stage.loading import loading_stage
from gpuexec.stage.seeds import seeded
from gpuexec.stage.session import StageSession
from gpuexec.worker.failures import describe_failure
from gpuexec.worker.memory import probe_for

if TYPE_CHECKING:
    import pyarrow as pa


class StageWork(Record):
    """Everything that a process needs for one stage. ``payload``: the pickled stage.

    ``announcement``: definitions of a script's task classes, pickled; empty if there are none. ``tokens``: theirs.
    ``env_vars``: the stage's own. ``prepared_nodes``: Ray's ids of the nodes on which ``setup_on_node`` has run;
    ``None`` for a stage that has nothing to do there.
    """

    run_id: str
    index: int
    name: str
    payload: bytes
    announcement: bytes
    tokens: frozenset[str]
    env_vars: dict[str, str]
    cpus: float
    gpus: float
    rules: BatchRules
    gpu_pinning: str
    share_enforcement: str
    sees_gpus: bool
    task_seed: int | None = None
    setup_timeout_s: float | None = None
    prepared_nodes: frozenset[str] | None = None


class _Calls:
    """Calls the ledger's methods and waits for the answers: what was told survives this process."""

    def __init__(self, ledger: Any) -> None:
        self._ledger = ledger

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._ledger, name)

        def call(*arguments: Any, **named: Any) -> Any:
            return ray.get(method.remote(*arguments, **named))

        return call


# ---- plain tasks -----------------------------------------------------------------------------------------

_RUNNERS: dict[tuple[str, int], tuple[BlockRunner, dict[str, str]]] = {}  # of the latest run only


def task_function(work: StageWork, ledger: Any) -> Callable[[pa.Table], pa.Table]:
    """Return the function that Ray Data calls with blocks, for a stage without a set-up."""

    def run_stage(table: pa.Table) -> pa.Table:
        return run_in_task(work, ledger, table)

    run_stage.__name__ = run_stage.__qualname__ = work.name
    return run_stage


def run_in_task(work: StageWork, ledger: Any, table: pa.Table) -> pa.Table:
    """Run a stage on a block. The process keeps the stage for the blocks that follow."""
    if not table.num_rows:
        return table_of([])
    known = _RUNNERS.get((work.run_id, work.index))
    if known is None:
        for key in [key for key in _RUNNERS if key[0] != work.run_id]:
            del _RUNNERS[key]
        calls = _Calls(ledger)
        allocation = allocation_of(work.cpus, 0.0, (), work.gpu_pinning, sees_gpus=work.sees_gpus)
        variables = _variables(work, allocation)
        with temporary_environment(variables):
            adapter = _loaded(work, calls, work.name)
            worker_id = calls.enrol(work.index, ray.get_runtime_context().get_node_id(), os.getpid())
            session = _session(adapter, worker_id, allocation)
            known = _RUNNERS[work.run_id, work.index] = _runner(work, calls, session, worker_id, allocation), variables
    runner, variables = known
    with temporary_environment(variables):
        return table_of(runner.run(rows_of(table)))


# ---- actors ----------------------------------------------------------------------------------------------


def actor_class(work: StageWork) -> type[StageActor]:
    """Return the class of the stage's actors, which Ray shows under the stage's name."""
    return type(work.name, (StageActor,), {"__module__": __name__})


class StageActor:
    """A worker of a stage with a set-up: Ray Data makes one in each process of the stage's pool."""

    def __init__(self, work: StageWork, ledger: Any) -> None:
        self._work, self._calls = work, _Calls(ledger)
        self._torn_down = False
        self._session: StageSession | None = None
        context = ray.get_runtime_context()
        self._actor = str(context.get_actor_id())
        ids = [str(each) for each in context.get_accelerator_ids().get("GPU", ())]
        allocation = allocation_of(work.cpus, work.gpus, ids, work.gpu_pinning, sees_gpus=work.sees_gpus)
        _be_worker(work, allocation)
        gpus = [share.uuid for share in allocation.gpus]
        self._worker_id: str = self._calls.enrol(work.index, context.get_node_id(), os.getpid(), gpus, self._actor)
        standing = self._calls.begin_setup(work.index, self._actor)
        if standing.run_is_over:  # Ray Data had added it before it knew
            self._calls.left(work.index, self._worker_id, 0.0)
            return
        self._judge_lost_setups(standing.lost)
        self._session = self._set_up(allocation)
        self._runner = _runner(work, self._calls, self._session, self._worker_id, allocation)

    def __call__(self, table: pa.Table) -> pa.Table:
        """Run the stage on a block."""
        if self._session is None:
            raise RunIsOver("the run has ended")
        return table_of(self._runner.run(rows_of(table))) if table.num_rows else table_of([])

    def __del__(self) -> None:
        """Tear down. Ray Data deletes the object when the actor ends in good order."""
        if self._torn_down or self._session is None:
            return
        self._torn_down = True
        began: float | None = time.monotonic()
        try:
            self._session.tear_down()
        except Exception as error:  # noqa: BLE001 - the run's results are complete
            began = None
            _warn(f"stage {self._work.name!r}: teardown() raised: {type(error).__name__}: {error}")
        with contextlib.suppress(Exception):  # the run may be over, and the ledger with it
            self._calls.left(self._work.index, self._worker_id, None if began is None else time.monotonic() - began)

    def _judge_lost_setups(self, lost: int) -> None:
        policy = self._work.rules.policy
        if lost < policy.max_attempts:
            return
        cause = f"its process ended during setup, {lost} times. `ray logs` shows what it wrote"
        note = RunFailed(time.time(), self._work.index, self._worker_id, (), StagePhase.SETUP.value, None, cause)
        self._calls.tell(note)
        raise RunIsOver(cause)

    def _set_up(self, allocation: Allocation) -> StageSession:
        """Return a session that is set up; try again, with a fresh copy of the stage, where the policy retries.

        Raises `RunIsOver` if that does not help.
        """
        work, policy, attempts = self._work, self._work.rules.policy, 0
        while True:
            adapter = _loaded(work, self._calls, self._worker_id)
            session = _session(adapter, self._worker_id, allocation)
            began = time.monotonic()
            try:
                with Watchdog(work.setup_timeout_s).watching(self._told_of_timeout):
                    self._set_up_node_if_new(session)
                    session.set_up()
            except BaseException as error:  # noqa: BLE001 - as in a batch
                attempts += 1
                phase = session.phase
                with contextlib.suppress(Exception):  # the first error is the one to see
                    session.tear_down()
                _report_setup(work, self._calls, self._worker_id, error, phase, attempts)
                time.sleep(policy.delay_s(attempts, attempts))
            else:
                self._calls.end_setup(work.index, self._actor, self._worker_id, time.monotonic() - began)
                return session

    def _set_up_node_if_new(self, session: StageSession) -> None:
        """Prepare a node that has joined since the run began. The others were prepared before it."""
        prepared = self._work.prepared_nodes
        if prepared is not None and ray.get_runtime_context().get_node_id() not in prepared:
            session.set_up_on_node()

    def _told_of_timeout(self, stacks: str) -> None:
        text = f"setup took longer than setup_timeout_s={self._work.setup_timeout_s:g}\n{stacks}"
        _warn(f"stage {self._work.name!r}: {text}")


def set_up_node(work: StageWork, ledger: Any) -> None:
    """Run ``setup_on_node`` of a stage in this process, which ends afterwards. Raises `RunIsOver` if it fails."""
    calls = _Calls(ledger)
    context = ray.get_runtime_context()
    ids = [str(each) for each in context.get_accelerator_ids().get("GPU", ())]
    allocation = allocation_of(work.cpus, work.gpus, ids, work.gpu_pinning, sees_gpus=work.sees_gpus)
    _be_worker(work, allocation)
    worker_id = f"{work.name}-node"
    began = time.monotonic()
    session = _session(_loaded(work, calls, worker_id), worker_id, allocation)

    def tell(stacks: str) -> None:
        cause = f"setup_on_node took longer than setup_timeout_s={work.setup_timeout_s:g}\n{stacks}"
        phase = StagePhase.SETUP_ON_NODE.value
        calls.tell(RunFailed(time.time(), work.index, worker_id, (), phase, None, cause))

    try:
        with Watchdog(work.setup_timeout_s).watching(tell):
            session.set_up_on_node()
    except BaseException as error:  # noqa: BLE001
        _report_setup(work, calls, worker_id, error, session.phase, work.rules.policy.max_attempts)
    calls.node_ready(work.index, socket.gethostname(), time.monotonic() - began)


# ---- both ------------------------------------------------------------------------------------------------


def _variables(work: StageWork, allocation: Allocation) -> dict[str, str]:
    """Return what has to be set for the stage. Ray has set thread counts and GPUs already."""
    enforcement = ShareEnforcement(work.share_enforcement)
    wanted = worker_environment(os.environ, allocation, work.env_vars, enforcement=enforcement)
    if work.sees_gpus and not allocation.gpus:
        wanted.pop("CUDA_VISIBLE_DEVICES", None)
    return {name: value for name, value in wanted.items() if os.environ.get(name) != value}


def _be_worker(work: StageWork, allocation: Allocation) -> None:
    """Give this process, which is the stage's own, its environment, before the stage's modules are imported."""
    os.environ.update(_variables(work, allocation))
    registration.install()
    own_gpu.show_own_gpu(allocation)
    enforcement = ShareEnforcement(work.share_enforcement)
    if enforcement is not ShareEnforcement.OFF and any(share.is_partial for share in allocation.gpus):
        from gpuexec.worker.gpu_limits import limit_libraries  # few workers need it

        limit_libraries(allocation)


def _loaded(work: StageWork, calls: Any, worker_id: str) -> Any:
    """Return the adapter of the stage. Raises `RunIsOver` if it cannot be imported here."""
    try:
        if work.announcement:
            codec.decode(work.announcement, in_place=False)
        with loading_stage():
            stage = codec.decode(work.payload, in_place=False)
        return seeded(adapters.adapter_for(stage), work.task_seed)
    except BaseException as error:  # noqa: BLE001 - an import can raise anything, SystemExit included
        failed = describe_failure(error, StagePhase.IMPORT)
        calls.tell(RunFailed(time.time(), work.index, worker_id, (), failed.phase, failed))
        raise RunIsOver(failed.text) from None


def _session(adapter: Any, worker_id: str, allocation: Allocation) -> StageSession:
    node = NodeInfo(node_id=socket.gethostname())
    return StageSession(
        adapter, node, WorkerMetadata(worker_id=worker_id, allocation=allocation), checks_pinning=bool(allocation.gpus)
    )


def _runner(work: StageWork, calls: Any, session: StageSession, worker_id: str, allocation: Allocation) -> BlockRunner:
    strict = work.share_enforcement == ShareEnforcement.STRICT
    return BlockRunner(
        session,
        work.rules,
        calls,
        probe_for(allocation, checks_share=strict),
        codec.Encoder(announced=work.tokens),
        stage_index=work.index,
        worker_id=worker_id,
    )


def _report_setup(
    work: StageWork, calls: Any, worker_id: str, error: BaseException, phase: StagePhase, attempts: int
) -> None:
    """Tell of a failed set-up. Returns if it is to be tried again, else raises `RunIsOver`."""
    policy: RetryPolicy = work.rules.policy
    failed = describe_failure(error, phase)
    failure = Failure(policy.kind_of(failed.error_names), failed.text, tuple(failed.error_names))
    verdict = judge_setup(policy, failure)
    spent = attempts >= policy.max_attempts or failed.is_exit
    action = Action.RAISE if spent else verdict.action
    reason = DecisionReason.ATTEMPTS_SPENT if spent and verdict.action is Action.RETRY else verdict.reason
    calls.tell(AttemptFailed(time.time(), work.index, worker_id, (), 0.0, failed.text, action.value, reason.value))
    if action is not Action.RAISE:
        return
    calls.tell(RunFailed(time.time(), work.index, worker_id, (), failed.phase, failed))
    raise RunIsOver(failed.text) from None


def _warn(text: str) -> None:
    with contextlib.suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)  # Ray sends it to the driver
