"""Every message between driver and worker. Frozen; all fields but ``payloads`` are plain JSON values.

Driver → worker: ``Start`` once; then ``SetUpOnNode`` (in a process of its own) or ``SetUp``; any number of ``Work``;
and ``Stop``.

Worker → driver: ``Booted``; then ``NodeReady`` or ``Ready``; any number of ``Results``; and ``Stopped``. ``Failed`` may
come instead of any of them, any number of times: after one with ``halted`` set the worker takes no more batches and
waits for ``Stop``, after others it continues with its next batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from gpuexec.channel.payload import Payload
from gpuexec.contract.phases import StagePhase
from gpuexec.histogram import Histogram, bin_of
from gpuexec.records import Record


class Message(Record):
    """Base of all messages. ``payloads`` is given by name; only its producer and its consumer know what is in them."""

    payloads: tuple[Payload, ...] = field(default=(), kw_only=True)

    kind: ClassVar[int] = 0

    @classmethod
    def from_json(cls, fields: Sequence[Any], payloads: tuple[Payload, ...]) -> Self:
        """Make a message from its other fields, as JSON restores them, and its payloads."""
        return cls(*fields, payloads=payloads)


class ErrorHandling(Record):
    """What a worker does when its stage raises.

    ``continue_on_error``: the worker takes the next batch. ``retire_on``: names of exception classes after which
    nothing in the process can be trusted, so the worker takes no other batch. ``split_on_oom``: the worker halves a
    batch that runs out of GPU memory and tries the halves. ``keeps_inputs``: a task may be tried again after the stage
    raised, so a group of fused stages keeps what each of them was given.
    """

    continue_on_error: bool = False
    retire_on: tuple[str, ...] = ()
    split_on_oom: bool = False
    keeps_inputs: bool = False

    @classmethod
    def from_list(cls, values: Sequence[Any]) -> ErrorHandling:
        """Restore what `to_list` returned, after it was sent as JSON."""
        continue_on_error, retire_on, split_on_oom, keeps_inputs = values
        return cls(bool(continue_on_error), tuple(retire_on), bool(split_on_oom), bool(keeps_inputs))

    def to_list(self) -> list[Any]:
        """Return the fields as a list for ``Start.error_handling``."""
        return [self.continue_on_error, list(self.retire_on), self.split_on_oom, self.keeps_inputs]


class Start(Message):
    """Tell a worker who it is and what it runs.

    The payloads are the pickled stages, one or a group of fused ones, and, if any, an `announcement`.
    """

    stages: list[str]
    worker_id: str
    node_id: str
    allocation: dict[str, Any]
    sys_path: list[str]
    cpu_affinity: list[int]
    log_level: str
    error_handling: list[Any]  # see ``ErrorHandling.to_list``
    logging_levels: dict[str, int]  # of the driver's loggers of the standard library that have one set
    logging_disabled: int  # what the driver gave to ``logging.disable``
    task_seed: int | None = None  # see ``stage.seeds``
    records_calls: bool = False  # see ``Results.calls``
    share_enforcement: str = "off"  # a ``ShareEnforcement``
    max_concurrency: int | None = None  # batches in flight at once, of an asynchronous stage
    batch_timeout_s: float | None = None  # after which such a batch is cancelled
    shards: list[str | None] | None = None  # of each stage: the shard it keeps to; see ``stage.sharding``

    kind: ClassVar[int] = 1


class SetUpOnNode(Message):
    """Run the stage's ``setup_on_node`` and exit."""

    kind: ClassVar[int] = 2


class SetUp(Message):
    """Run the stage's ``setup``. Sent when it is this worker's turn on its GPU."""

    kind: ClassVar[int] = 3


class Work(Message):
    """Process one or more batches. Batch ``i`` takes the next ``counts[i]`` of the tasks that ``slices`` lists.

    A slice is ``None`` (all tasks of the next payload), ``[start, stop]`` (these tasks of the next payload) or
    ``[start, stop, 0]`` (these tasks of the previous payload, which this worker already has; they begin where the
    previous slice ended). Payloads beyond those are segments to write outputs to.

    In a group, batch ``i`` goes from stage ``routes[i][0]`` of the group as far as, but not through, ``routes[i][1]``.
    """

    batch_ids: list[int]
    counts: list[int]
    slices: list[list[int] | None]
    routes: Sequence[Sequence[int]] | None = None

    kind: ClassVar[int] = 4


class Stop(Message):
    """Finish the batches sent so far, run ``teardown`` and exit."""

    kind: ClassVar[int] = 5


class Booted(Message):
    """The stage is unpickled.

    Times of the monotonic clock, which all processes of a Linux node share: ``began`` when the interpreter was up and
    had received ``Start``, ``loaded`` when the stage was unpickled.
    """

    began: float
    loaded: float

    kind: ClassVar[int] = 6


class NodeReady(Message):
    """``setup_on_node`` returned after ``seconds``."""

    seconds: float

    kind: ClassVar[int] = 7


class Ready(Message):
    """``setup`` returned after ``seconds``; the worker takes batches."""

    seconds: float

    kind: ClassVar[int] = 8


class Results(Message):
    """Outputs of batches, column by column. Every payload is a block: a list of tasks.

    Piece ``i`` belongs to batch ``batch_ids[i]``, has the next ``blocks[i]`` payloads, and is the batch's last piece if
    ``complete[i]`` is 1. Block ``j`` has the next ``sizes[j]`` entries of ``task_ids`` and of ``parents`` (index into
    the batch's inputs, -1: unknown). ``stats`` (see ``BatchStats.to_list``) is the sum over the completed batches.

    In a group, block ``j`` is for stage ``goes_to[j]`` of the group, or for the next group if that is their number, and
    ``stage_stats`` has ``[stage, number of its outputs, *stats]`` of each stage that did something.

    ``calls``, if the run records them, has ``[stage, *fields of a StageCall]`` of each call of a stage, of the batches
    that are complete.
    """

    batch_ids: list[int]
    blocks: list[int]
    complete: list[int]
    sizes: list[int]
    task_ids: list[str]
    parents: list[int]
    stats: list[Any] | None
    failed: Sequence[Sequence[int]] = ()  # (batch id, index of an input, stage) of each FailedTask that was returned
    goes_to: Sequence[int] | None = None
    stage_stats: Sequence[Sequence[Any]] | None = None
    held: Sequence[int] | None = None  # batches whose segments must not be written to: the stage has kept views of them
    calls: Sequence[Sequence[Any]] | None = None

    kind: ClassVar[int] = 9


class Failed(Message):
    """The stage raised.

    The payload, if any, is the pickled exception. The worker has unpickled it once, to be sure that it can be.

    In a group, ``stage`` says which of its stages, and ``task_ids`` which tasks of the batch if not all. ``output`` is
    set if the batch goes on without the task: the number of the output that stands for it, and ``parent`` the index of
    the input that it was made of.
    """

    phase: StagePhase
    batch_id: int | None
    error_names: list[str]  # full names of the exception's class and its bases
    text: str
    traceback: str
    is_exit: bool = False  # SystemExit and similar exceptions, which must not end the driver
    halted: bool = True  # the worker takes no more batches
    brief: str = ""  # the traceback in few lines, see ``stage.brief_traceback``
    stage: int = 0
    task_ids: Sequence[str] | None = None
    output: int | None = None
    parent: int = 0

    kind: ClassVar[int] = 10

    @classmethod
    def from_json(cls, fields: Sequence[Any], payloads: tuple[Payload, ...]) -> Self:
        """Make a message as the base does, with ``phase`` restored from its value."""
        phase, *others = fields
        return cls(StagePhase(phase), *others, payloads=payloads)


class LogLine(Message):
    """A log record of the worker; ``time`` is a POSIX timestamp. It is sent in the output pipe: see `log_frames`.

    ``library``: "loguru", or "logging" for the standard library's. ``name``: of the logger, with loguru of the module.
    ``path``: the source file. ``stage``: of the worker's group.
    """

    level: str
    level_no: int
    text: str
    time: float
    name: str | None
    function: str
    line: int
    path: str = ""
    library: str = "loguru"
    stage: int = 0

    kind: ClassVar[int] = 11


class PrintsFor(Record):
    """What the worker prints from here on is of this stage of its group. It travels in the output, as records do."""

    stage: int


class Stopped(Message):
    """``teardown`` returned after ``seconds``; the worker exits."""

    seconds: float

    kind: ClassVar[int] = 12


@dataclass(slots=True)
class BatchStats:
    """The cost of batches, measured in the worker and added up; times in seconds of the monotonic clock.

    Batches of a few milliseconds and more are reported one by one. Tiny ones are reported together, one message at a
    time. Of a stage that is fused with others, a batch is what the stage did with one task.

    ``began``: when the first of the batches was received, ``ended``: when the last one was returned. ``longest_batch``
    and ``longest_input``: which one took ``longest_s``, by its id and, of a fused stage, by the index of the batch's
    input. Of an asynchronous stage, ``process_s`` is the time in which any batch was in flight, and ``slot_s`` the sum
    of the batches' own times, divided by ``max_concurrency``: how much of the worker they took.
    """

    batches: int = 0
    tasks_in: int = 0
    items: int = 0
    input_bytes: int = 0
    output_bytes: int = 0
    receive_s: float = 0.0  # unpickling the inputs
    process_s: float = 0.0  # the adapter's process_batch
    send_s: float = 0.0  # pickling the outputs
    idle_s: float = 0.0  # waiting for the batches
    rss_peak_bytes: int = 0  # highest resident memory of the worker so far
    metrics: dict[str, float] = field(default_factory=dict)  # the stage's own metrics and the GPU metrics
    began: float = 0.0
    ended: float = 0.0
    shortest_s: float = math.inf  # ``process_s`` of one batch
    longest_s: float = 0.0
    longest_batch: int = -1
    longest_input: int = 0
    slot_s: float = 0.0
    histogram: Histogram = field(default_factory=dict)  # of ``process_s`` of the batches

    @classmethod
    def from_list(cls, values: Sequence[Any]) -> BatchStats:
        """Restore what `to_list` returned, after it was sent as JSON."""
        *others, pairs = values
        stats = cls(*others)
        stats.histogram = dict(zip(pairs[::2], pairs[1::2], strict=True))
        return stats

    def note_time(self, seconds: float, batch_id: int, at_input: int = 0) -> None:
        """Count the time that one batch was processed."""
        number = bin_of(seconds)
        self.histogram[number] = self.histogram.get(number, 0) + 1
        self.shortest_s = min(self.shortest_s, seconds)
        if seconds >= self.longest_s:
            self.longest_s, self.longest_batch, self.longest_input = seconds, batch_id, at_input

    @property
    def busy_s(self) -> float:
        """Return the time in which the worker was not waiting."""
        return self.receive_s + self.process_s + self.send_s

    def to_list(self) -> list[Any]:
        """Return the fields as a list for ``Results.stats``. JSON has no numbers as keys, so the bins become pairs."""
        *fields, _ = self.__slots__
        return [*(getattr(self, name) for name in fields), [n for pair in self.histogram.items() for n in pair]]


_ALL = (
    Start,
    SetUpOnNode,
    SetUp,
    Work,
    Stop,
    Booted,
    NodeReady,
    Ready,
    Results,
    Failed,
    LogLine,
    Stopped,
)
BY_KIND: dict[int, type[Message]] = {cls.kind: cls for cls in _ALL}
