"""What the core asks of the shell. The driver implements these; tests of the core implement them in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from gpuexec.contract.phases import StagePhase
from gpuexec.records import Record

if TYPE_CHECKING:
    from gpuexec.channel.messages import Message
    from gpuexec.channel.payload import Payload, SegmentRef
    from gpuexec.core.batch import Batch, Block, BlockSlice
    from gpuexec.core.queue import PutAway
    from gpuexec.core.stage import StageState
    from gpuexec.core.worker import Worker


class Started(Record):
    """A new process: its pid, when it was spawned, and whether it was forked from a template."""

    pid: int
    at: float
    warm: bool = False


class Processes(Protocol):
    """The worker processes. None of the methods waits for a worker."""

    def start(self, worker: Worker) -> Started | None:
        """Start a process and send it its stage. Raises ``StartRefused`` if the system refuses.

        Returns ``None`` if that must wait for the import of the stage's modules: something will happen when it can.
        """

    def send(self, worker: Worker, message: Message, /) -> None:
        """Send a message, now or when the socket takes it. Nothing happens if the worker is gone."""

    def interrupt(self, worker: Worker) -> None:
        """Make the stage's code raise in the worker, so that it goes on to ``teardown``."""

    def ask_for_stacks(self, worker: Worker) -> bool:
        """Have the worker print the stacks of its threads. Return False if it is stopped and cannot."""

    def kill(self, worker: Worker) -> None:
        """Kill the worker and what it started. Its exit is reported as any other."""

    def current_batch(self, worker: Worker) -> tuple[int, float] | None:
        """Return the id of the batch it is processing and since when; ``None`` between batches.

        In a group the time is that of the task and stage at hand.
        """


class Payloads(Protocol):
    """What can be done with a payload, which the core never opens."""

    def unpack(self, stage: StageState, block: Block) -> list[Any]:
        """Return the tasks of a block of the last stage. Raises ``ResultNotPicklable``."""

    def copy_out(self, payload: Payload) -> Payload:
        """Return the payload outside shared memory, so that it holds no descriptor."""

    def trim(self, payload: Payload) -> None:
        """Give back the memory of its segment that the payload does not use."""

    def spill(self, payload: Payload) -> Payload:
        """Return the payload on disk, where it holds no memory and shares a descriptor. Raises ``SpillFailed``."""

    def recycle(self, payload: SegmentRef) -> None:
        """Take the segment of a payload that nobody needs any more, to be written to again."""

    def spare(self, size: int) -> Payload | None:
        """Return a segment without content that has room for ``size`` bytes and that nobody else refers to, if any."""

    def put_away(self, parts: Sequence[BlockSlice]) -> PutAway:
        """Write slices of blocks to disk, with all that is known of their tasks. Raises ``SpillFailed``."""


class FailureRecord(Record):
    """All that is known of a failed batch, or of a failed set-up (then ``batch`` is ``None``), for its capsule.

    ``stage``: the one that failed, a member of the worker's group. ``task_ids``: those at fault, or all of the batch.
    ``last_lines``: what a worker that is reaped had printed and logged last; ``None`` while it lives. ``origin``: the
    batch that the worker was sent, and the index of the input that ``batch`` was made of, if stages of the group before
    ``stage`` made it there.
    """

    worker: Worker
    stage: StageState
    batch: Batch | None
    task_ids: tuple[str, ...]
    phase: StagePhase
    error_type: str
    text: str
    traceback: str
    cause_of_death: str | None = None
    last_lines: tuple[str, ...] | None = None
    origin: tuple[Batch, int] | None = None


class Surroundings(Protocol):
    """What the core needs to know of the machine, and where failures are kept."""

    def gpu_memory_used(self, uuids: Sequence[str]) -> dict[str, int]:
        """Return the bytes in use of each of these GPUs."""

    def keep(self, record: FailureRecord) -> str | None:
        """Store a failure for replay and return where; ``None`` if it is not stored."""
