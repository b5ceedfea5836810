"""Every kind of bad end, for every phase of a stage's life."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from gpuexec import ProcessingStage, Resources
from tests.process.stages import Item

PRINTED = 20_000_000  # bytes
_LINE = b"x" * 999_999 + b"\n"

# ---- kinds of end: what happens instead of the stage's own code ---------------------------------------------


def raise_error() -> None:
    raise LookupError("as planned")


def leave_by_sys_exit() -> None:
    sys.exit("enough")


def leave_by_os_exit() -> None:
    os._exit(7)


def use_up_memory() -> None:
    bytearray(1 << 62)


def recurse() -> None:
    recurse()


def raise_stop_iteration() -> None:
    next(iter(()))


def raise_much() -> None:
    raise LookupError("begin" + "x" * 30_000_000 + "end")


class ExitsWhenPickled(LookupError):
    """Its own code ends the process that pickles it."""

    def __reduce__(self) -> Any:
        sys.exit("pickled")


def raise_what_exits_when_pickled() -> None:
    raise ExitsWhenPickled("as planned")


def fork() -> None:
    """Return from the child, then from the parent."""
    pid = os.fork()
    if pid == 0:
        return
    os.waitpid(pid, 0)


def fork_in_a_thread() -> None:
    """Fork in a thread: the child has that thread alone, and it ends."""
    import threading

    thread = threading.Thread(target=lambda: os._exit(0) if os.fork() == 0 else os.wait())
    thread.start()
    thread.join()


def close_descriptors() -> None:
    os.closerange(0, 1024)


def print_much() -> None:
    for _ in range(PRINTED // len(_LINE)):
        os.write(1, _LINE)


# ---- phases ------------------------------------------------------------------------------------------------


class Ends(ProcessingStage[Item, Item]):
    """One worker, which calls ``end`` in ``phase``; for ``idle``, whenever SIGUSR1 arrives."""

    name = "ends"
    resources = Resources(cpus=0.25)

    def __init__(self, phase: str, end: Any, folder: Path) -> None:
        self.phase = phase
        self.end = end
        self.folder = folder  # its process writes its pid to the file `pid` there

    def num_workers(self) -> int:
        return 1

    def setup(self, worker_metadata: Any = None) -> None:
        self.end_in("setup")
        if self.phase == "idle":
            signal.signal(signal.SIGUSR1, lambda *_: self.end())

    def process(self, task: Item) -> Item:
        (self.folder / "pid").write_text(str(os.getpid()))
        self.end_in("process")
        if self.phase == "return":
            return Item(task.dataset_name, EndsWhenPickled(self.end, task.data))
        return Item(task.dataset_name, task.data + 1)

    def teardown(self) -> None:
        self.end_in("teardown")

    def end_in(self, phase: str) -> None:
        if phase == self.phase:
            self.end()


class EndsOnNode(Ends):
    """Has a ``setup_on_node`` too, which costs a process."""

    def setup_on_node(self, node_info: Any = None, worker_metadata: Any = None) -> None:
        self.end_in("setup_on_node")


class EndsInTeardown(ProcessingStage[Item, Item]):
    """Calls ``end`` in ``teardown``, in each of its workers."""

    name = "ends_in_teardown"

    def __init__(self, end: Any) -> None:
        self.end = end

    def process(self, task: Item) -> Item:
        return task

    def teardown(self) -> None:
        self.end()


class EndsWhenUnpickled(Ends):
    """Calls ``end`` whenever it is unpickled."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.end()


class EndsWhenPickled:
    """A result that calls ``end`` when it is pickled, and arrives as ``value + 1`` if that returns."""

    def __init__(self, end: Any, value: int) -> None:
        self.end = end
        self.value = value

    def __reduce__(self) -> tuple[Any, ...]:
        self.end()
        return int, (self.value + 1,)


class Returns(Ends):
    """Returns what ``end`` makes of an item's data."""

    def process(self, task: Item) -> Item:
        return Item(task.dataset_name, self.end(task.data))


def unpicklable(value: int) -> Any:
    import threading

    return threading.Lock()


def huge(value: int) -> bytes:
    return bytes(100_000_000) + b"%d" % (value + 1)
