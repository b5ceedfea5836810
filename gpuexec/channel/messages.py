"""Every message between driver and worker. Frozen; all fields but ``payloads`` are plain JSON values.

Driver → worker: ``Start`` once, then ``SetUpOnNode`` (in a process of its own) or ``SetUp``, any number of
``Work``, and ``Stop``. Worker → driver: ``Booted``, ``NodeReady`` or ``Ready``, ``Results``, at most one
``Failed``, ``Stopped``; ``LogLine`` at any time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from gpuexec.channel.segments import Range

Inline = bytes | bytearray | memoryview
Payload = Inline | Range


def payload_size(payload: Payload) -> int:
    """Size of a payload in bytes, wherever it lies."""
    return payload.length if isinstance(payload, Range) else len(payload)


@dataclass(frozen=True, slots=True)
class Message:
    """Base: ``payloads`` are opaque to everybody but the code that made or consumes them."""

    payloads: tuple[Payload, ...] = field(default=(), kw_only=True)

    kind: ClassVar[int] = 0


@dataclass(frozen=True, slots=True)
class Start(Message):
    """Who the worker is and what it runs; its only payload is the pickled stage."""

    stage: str
    worker_id: str
    node_id: str
    allocation: dict[str, Any]
    sys_path: list[str]
    cpu_affinity: list[int]
    log_level: str

    kind: ClassVar[int] = 1


@dataclass(frozen=True, slots=True)
class SetUpOnNode(Message):
    """Run the stage's ``setup_on_node`` and exit."""

    kind: ClassVar[int] = 2


@dataclass(frozen=True, slots=True)
class SetUp(Message):
    """Run the stage's ``setup``: sent when it is this worker's turn on its GPU."""

    kind: ClassVar[int] = 3


@dataclass(frozen=True, slots=True)
class Work(Message):
    """One or more batches; batch ``i`` takes the next ``counts[i]`` payloads as its tasks."""

    batch_ids: list[int]
    counts: list[int]

    kind: ClassVar[int] = 4


@dataclass(frozen=True, slots=True)
class Stop(Message):
    """Finish the batches sent so far, run ``teardown`` and exit."""

    kind: ClassVar[int] = 5


@dataclass(frozen=True, slots=True)
class Booted(Message):
    """The stage is unpickled. Times of the monotonic clock, which all processes of a Linux node share:
    ``began`` when the interpreter was up and had its orders, ``loaded`` when the stage was there."""

    pid: int
    began: float
    loaded: float

    kind: ClassVar[int] = 6


@dataclass(frozen=True, slots=True)
class NodeReady(Message):
    """``setup_on_node`` returned after ``seconds``."""

    seconds: float

    kind: ClassVar[int] = 7


@dataclass(frozen=True, slots=True)
class Ready(Message):
    """``setup`` returned after ``seconds``; the worker takes batches."""

    seconds: float

    kind: ClassVar[int] = 8


@dataclass(frozen=True, slots=True)
class Results(Message):
    """Outputs of batches, column by column.

    Piece ``i`` belongs to batch ``batch_ids[i]`` and has the next ``counts[i]`` of ``task_ids``,
    ``parents`` (index into the batch's inputs, -1: not known) and payloads. A batch's last piece has its
    ``figures`` (see ``Figures.to_list``); an earlier piece has ``None`` there.
    """

    batch_ids: list[int]
    counts: list[int]
    figures: list[list[Any] | None]
    task_ids: list[str]
    parents: list[int]

    kind: ClassVar[int] = 9


@dataclass(frozen=True, slots=True)
class Failed(Message):
    """The stage raised. ``phase``: import, setup_on_node, setup, receive, process, return or teardown.

    The payload, if any, is the pickled exception, which has been unpickled once to prove that it can.
    """

    phase: str
    batch_id: int | None
    error_type: str
    text: str
    traceback: str
    is_exit: bool = False  # SystemExit and its like, which must not end the driver

    kind: ClassVar[int] = 10


@dataclass(frozen=True, slots=True)
class LogLine(Message):
    """One loguru record of the worker; ``time`` is a POSIX timestamp."""

    level: str
    level_no: int
    text: str
    time: float
    name: str | None
    function: str
    line: int

    kind: ClassVar[int] = 11


@dataclass(frozen=True, slots=True)
class Stopped(Message):
    """``teardown`` returned after ``seconds``; the worker exits."""

    seconds: float

    kind: ClassVar[int] = 12


@dataclass(frozen=True, slots=True)
class Figures:
    """What one batch cost, measured in the worker; times in seconds of the monotonic clock."""

    tasks_in: int
    items: int
    input_bytes: int
    output_bytes: int
    receive_s: float  # unpickling the inputs
    process_s: float  # the adapter's process_batch
    send_s: float  # pickling the outputs
    idle_s: float  # waiting for this batch
    rss_peak_bytes: int  # most resident memory of the worker so far
    metrics: dict[str, float]  # the stage's own and the GPU figures

    def to_list(self) -> list[Any]:
        """For ``Results.figures``."""
        return [getattr(self, name) for name in self.__slots__]


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
