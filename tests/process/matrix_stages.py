"""Every kind of bad end, to be met with in any phase of a stage's life. Light to import: the matrix does it often."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from gpuexec import ProcessingStage, Resources, Task

PRINTED = 100_000_000  # bytes
_LINE = b"x" * 999_999 + b"\n"


class Item(Task[Any]):
    """A task that holds anything."""

    @property
    def num_items(self) -> int:
        return 1

    def validate(self) -> bool:
        return True


# ---- kinds of end: what is done where the stage's own code should be ---------------------------------------


def raise_error() -> None:
    raise LookupError("as planned")


def leave_by_sys_exit() -> None:
    sys.exit("enough")


def leave_by_os_exit() -> None:
    os._exit(7)


def die_of_sigsegv() -> None:
    ctypes.string_at(0)


def die_of_sigkill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def be_stopped() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def hang() -> None:
    while True:
        signal.pause()


def use_up_memory() -> None:
    bytearray(1 << 62)


def recurse() -> None:
    recurse()


def fork() -> None:
    """Parent and child both come back, the child first."""
    pid = os.fork()
    if pid == 0:
        return
    os.waitpid(pid, 0)


def fork_in_a_thread() -> None:
    """The child has no other thread than this one, which ends."""
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
    """One worker, which does ``end`` in ``phase``: in ``idle``, whenever SIGUSR1 comes."""

    name = "ends"
    resources = Resources(cpus=0.25)

    def __init__(self, phase: str, end: Any, folder: Path) -> None:
        self.phase = phase
        self.end = end
        self.folder = folder  # where it leaves its pid

    def num_workers(self) -> int:
        return 1

    def setup(self, worker_metadata: Any = None) -> None:
        self.come_to("setup")
        if self.phase == "idle":
            signal.signal(signal.SIGUSR1, lambda *_: self.end())

    def process(self, task: Item) -> Item:
        (self.folder / "pid").write_text(str(os.getpid()))
        self.come_to("process")
        if self.phase == "return":
            return Item(task.dataset_name, EndsWhenPickled(self.end, task.data))
        return Item(task.dataset_name, task.data + 1)

    def teardown(self) -> None:
        self.come_to("teardown")

    def come_to(self, phase: str) -> None:
        if phase == self.phase:
            self.end()


class EndsOnNode(Ends):
    """With a ``setup_on_node``, which costs a process."""

    def setup_on_node(self, node_info: Any = None, worker_metadata: Any = None) -> None:
        self.come_to("setup_on_node")


class EndsWhenUnpickled(Ends):
    """Does its end whenever it is unpickled."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.end()


class EndsWhenPickled:
    """A result that does ``end`` when it is pickled, and arrives as ``value + 1`` if that goes well."""

    def __init__(self, end: Any, value: int) -> None:
        self.end = end
        self.value = value

    def __reduce__(self) -> tuple[Any, ...]:
        self.end()
        return int, (self.value + 1,)


class Returns(Ends):
    """Returns whatever ``end`` makes of an item's data."""

    def process(self, task: Item) -> Item:
        return Item(task.dataset_name, self.end(task.data))


def unpicklable(value: int) -> Any:
    return threading.Lock()


def huge(value: int) -> bytes:
    return bytes(100_000_000) + b"%d" % (value + 1)
