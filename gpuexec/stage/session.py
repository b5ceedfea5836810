"""The life of one stage in one process: the order of its methods, with ``teardown`` at the end.

::

    set_up_on_node ─► set_up ─► process* ─► tear_down

Workers, `InlineExecutor` and replay all run stages through a `StageSession`, so a stage sees the same order everywhere.

Invariants:

1. At most one process of this user on this node is inside ``setup_on_node`` of a stage class (see `node_lock`).
2. ``teardown`` is called if and only if ``setup`` was called, even if ``setup`` raised, the GPUs were the wrong ones,
   a batch raised, or a signal handler raised in the middle of any of these. ``setup_on_node`` alone needs none.
3. ``teardown`` is called once. It is not repeated if it raises or is interrupted.
4. ``phase`` is the phase of the stage's code that is running, or IDLE. After an exception it stays at the phase in
   which the exception was raised, until the next call.
5. As a context manager, a session never replaces the exception that left the block with one of ``teardown``: it logs
   the latter. If the block ended normally, the exception of ``teardown`` passes through.

Not promised: a session does not catch exceptions of the stage, and it does not guard against calls in another order.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from gpuexec.contract.adapter import StageAdapter
from gpuexec.contract.executor import NodeInfo, WorkerMetadata
from gpuexec.contract.phases import StagePhase
from gpuexec.naming import full_name
from gpuexec.stage.pinning import check_pinning

_PROCESS = StagePhase.PROCESS  # on the hot path: looking up a member costs 0.1 µs in Python 3.11


class StageSession:
    """Calls the methods of one stage in this process and knows which one is running.

    ``checks_pinning``: compare the GPUs that CUDA shows after ``setup`` with the worker's allocation. Leave it off in
    a process whose ``CUDA_VISIBLE_DEVICES`` was not set for this stage.
    """

    def __init__(
        self, adapter: StageAdapter, node: NodeInfo, worker: WorkerMetadata, *, checks_pinning: bool = False
    ) -> None:
        self.adapter = adapter
        self.phase = StagePhase.IDLE  # whoever pickles a batch around `process` sets RECEIVE and RETURN
        self._node = node
        self._worker = worker
        self._checks_pinning = checks_pinning
        self._needs_teardown = False

    def set_up_on_node(self) -> None:
        """Call ``setup_on_node`` while holding the stage class's lock on this node."""
        from gpuexec.stage.node_lock import node_lock  # few workers need it

        self.phase = StagePhase.SETUP_ON_NODE
        with node_lock(full_name(type(self.adapter.stage))):
            self.adapter.setup_on_node(self._node, self._worker)
        self.phase = StagePhase.IDLE

    def set_up(self) -> None:
        """Call ``setup``. Raises ``StageContractError`` if the stage then sees GPUs that it was not given."""
        self.phase = StagePhase.SETUP
        self._needs_teardown = True
        try:
            self.adapter.setup(self._worker)
        except AttributeError as error:
            self.explain_missing_attribute(error)
            raise
        if self._checks_pinning:
            check_pinning(self._worker.allocation)
        self.phase = StagePhase.IDLE

    def process(self, tasks: list[Any]) -> list[Any]:
        """Run one batch and return its outputs. ``phase`` stays PROCESS: what follows is the caller's to say."""
        self.phase = _PROCESS
        try:
            return list(self.adapter.process_batch(tasks))
        except AttributeError as error:
            self.explain_missing_attribute(error)
            raise

    def tear_down(self) -> None:
        """Call ``teardown`` if ``setup`` was called and ``teardown`` was not."""
        if not self._needs_teardown:
            return
        self._needs_teardown = False
        self.phase = StagePhase.TEARDOWN
        self.adapter.teardown()
        self.phase = StagePhase.IDLE

    def explain_missing_attribute(self, error: AttributeError) -> None:
        """Add a note if the attribute is one that ``setup_on_node`` sets."""
        stage = self.adapter.stage
        code = getattr(type(stage).setup_on_node, "__code__", None)
        if error.obj is stage and code is not None and error.name in code.co_names:
            error.add_note(
                f"setup_on_node() of stage {self.adapter.stage.name!r} sets {error.name!r}, but it runs in a process "
                "of its own, and what it sets on the stage is lost: set it in setup(), or write it to a file"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        if error is None:
            self.tear_down()
            return
        phase = self.phase
        try:
            self.tear_down()
        except Exception as second:  # noqa: BLE001 - whatever it is, the first error is the one to see
            from loguru import logger

            logger.warning(
                "stage {}: teardown() raised too: {}: {}", self.adapter.stage.name, type(second).__name__, second
            )
        self.phase = phase  # of the error that passes through
