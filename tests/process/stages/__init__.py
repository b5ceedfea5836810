"""Stages, and functions for them, that many tests use; the modules beside this one hold those of one subject.

Every worker imports the module of its stage. So these modules import little: a stage that is defined in a test's own
module makes each of its workers import pytest, which costs 0.3 s of CPU time.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpuexec import ProcessingStage, Resources, Task
from tests.process.waiting import wait_until

if TYPE_CHECKING:
    import numpy as np


@dataclass(repr=False)
class Item(Task[Any]):
    """A task that holds anything."""

    @property
    def num_items(self) -> int:
        return 1

    def validate(self) -> bool:
        return True


def items(*values: Any) -> list[Item]:
    return [Item("test", value) for value in values]


class Range(ProcessingStage[Task[Any], Item]):
    """Source: ``count`` items from 0 up."""

    name = "range"

    def __init__(self, count: int) -> None:
        self.count = count

    def process(self, task: Task[Any]) -> list[Item]:
        return items(*range(self.count))


class Apply(ProcessingStage[Item, Item]):
    """Calls a function on each item's data; ``None`` drops the item."""

    name = "apply"

    def __init__(self, function: Any, name: str = "apply", cpus: float = 0.25) -> None:
        self.function = function
        self.name = name
        self.resources = Resources(cpus=cpus)

    def process(self, task: Item) -> Item | None:
        result = self.function(task.data)
        if result is None:
            return None
        task.data = result
        return task


class ApplyIn(Apply):
    """Does so in a fixed number of workers."""

    def __init__(self, workers: int, function: Any, name: str = "apply") -> None:
        super().__init__(function, name)
        self.workers = workers

    def num_workers(self) -> int:
        return self.workers


class Journal(ProcessingStage[Item, Item]):
    """Writes a line to a file for every call of its life cycle. ``fail_in``: the method that raises."""

    name = "journal"

    def __init__(
        self, path: Path, workers: int = 1, fail_on: Any = None, fail_in: str = "process", await_setups: int = 0
    ) -> None:
        self.path = path
        self.await_setups = await_setups
        self.workers = workers
        self.fail_on = fail_on
        self.fail_in = fail_in

    def num_workers(self) -> int:
        return self.workers

    def note(self, *words: object) -> None:
        line = " ".join(map(str, (os.getpid(), *words)))
        with self.path.open("a") as out:
            out.write(line + "\n")

    def setup_on_node(self, node_info: Any = None, worker_metadata: Any = None) -> None:
        self.note("setup_on_node", node_info.node_id, worker_metadata.worker_id)
        self.maybe_fail("setup_on_node")

    def setup(self, worker_metadata: Any = None) -> None:
        self.note("setup", worker_metadata.worker_id, type(worker_metadata.allocation).__name__)
        self.maybe_fail("setup")

    def process(self, task: Item) -> Item:
        self.note("process", task.data)
        wait_until(lambda: self.path.read_text().count(" setup ") >= self.await_setups)
        if self.fail_in == "process" and task.data == self.fail_on:
            raise LookupError(f"no {task.data}")
        return task

    def teardown(self) -> None:
        self.note("teardown")
        self.maybe_fail("teardown")

    def maybe_fail(self, where: str) -> None:
        if self.fail_in == where:
            raise LookupError(f"in {where}")


class Choosy(Exception):
    """Pickles, but does not unpickle (cpython#103061)."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code}: {reason}")


class Mute(Exception):
    """Has no text: ``str()`` of it raises."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


class PicklesOnly:
    """Pickles, but does not unpickle."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (int, ("not a number",))


# ---- functions for Apply: with a result --------------------------------------------------------------------


def same(value: Any) -> Any:
    return value


def double(value: int) -> int:
    return 2 * value


def invert(value: int) -> float:
    return 1 / value


def drop(value: Any) -> None:
    return None


def big_array(value: int) -> np.ndarray:
    import numpy as np

    return np.full(1_000_000, value, np.uint8)


def write_into(array: np.ndarray) -> int:
    array += 1
    return int(array.sum())


def spin(array: np.ndarray) -> int:
    """Take some milliseconds of CPU time and return the first element."""
    return int(array[0]) + 0 * sum(i % 7 for i in range(50_000))


def environment(value: Any) -> dict[str, str]:
    return dict(os.environ)


def hash_of(value: Any) -> int:
    return hash(value)


def raise_hash(value: Any) -> None:
    raise ValueError(f"hash {hash(value)}")


def add_environment(value: Any) -> tuple[Any, dict[str, str]]:
    return value, dict(os.environ)


def import_beside(value: Any) -> int:
    import found_beside

    return found_beside.VALUE


def pid_after_a_while(value: Any) -> int:
    time.sleep(0.05)  # the time of a batch
    return os.getpid()


def has_memfd(value: Any) -> bool:
    return hasattr(os, "memfd_create")


def leave_children(value: Any) -> int:
    import subprocess

    subprocess.Popen(["true"])
    return subprocess.Popen(["sh", "-c", "sleep 100 & sleep 100"]).pid


def oom_score(value: Any) -> int:
    return int(Path("/proc/self/oom_score_adj").read_text())


def loaded_modules(value: Any) -> list[str]:
    return sorted(sys.modules)


def return_lock(value: Any) -> Any:
    import threading

    return threading.Lock()


def return_pickles_only(value: Any) -> Any:
    return PicklesOnly()


def close_stdin_and_print(value: int) -> int:
    sys.stdin.close()
    print(f"printed {value}")
    print(f"complained {value}", file=sys.stderr)
    sys.stdout.write("no newline")
    os.write(1, b"\x00\xff binary\n")
    return value


# ---- with an exception -------------------------------------------------------------------------------------


def rest(value: Any) -> Any:
    time.sleep(0.6)
    return value


def fail(value: Any = None) -> None:
    raise ConnectionError("refused")


def raise_choosy(value: Any) -> None:
    raise Choosy(5, "because")


def raise_mute(value: Any) -> None:
    raise Mute


def call_exit(value: Any) -> None:
    sys.exit("enough")


def write_to_a_full_disk(value: Any) -> Any:
    with Path("/dev/full").open("w") as out:
        out.write("x" * 100_000)
    return value


# ---- with the end of the worker ----------------------------------------------------------------------------


def die(value: Any = None) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_self(value: Any) -> None:
    print("about to die", flush=True)
    die()


def kill_self_at_two(value: int) -> int:
    if value == 2:
        die()
    return value


def terminate_self(value: Any) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def segfault(value: Any = None) -> None:
    import ctypes

    ctypes.string_at(0)


def leave(value: Any) -> None:
    os._exit(7)


# ---- with no end -------------------------------------------------------------------------------------------


def be_stopped(value: Any = None) -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def hang(value: Any = None) -> None:
    """Wait indefinitely; signal handlers run meanwhile.

    `signal.pause` would not notice a signal that arrives just before it is called.
    """
    while True:
        time.sleep(0.05)


def announce_and_wait(path: str) -> None:
    """Write this process's pid to a file, then wait indefinitely."""
    Path(path).write_text(str(os.getpid()))
    hang()


def start_child_and_wait(path: str) -> None:
    """Start a process, write its pid after this one's to a file, then wait for a signal."""
    import subprocess

    child = subprocess.Popen(["sleep", "1000"])
    Path(path).write_text(f"{os.getpid()} {child.pid}")
    hang()


def ignore_everything(path: str) -> None:
    """Wait indefinitely, whatever signals and exceptions arrive."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    announce_and_wait(path)


def note_and_ignore_termination(path: str) -> None:
    signal.signal(signal.SIGTERM, lambda *_: Path(path + ".told").write_text("told"))
    announce_and_wait(path)


class WaitsInFinalizer:
    """Waits for a signal while it is finalized."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __del__(self) -> None:
        Path(self.path).write_text(str(os.getpid()))
        hang()


def wait_in_a_finalizer(path: str) -> str:
    waiting = WaitsInFinalizer(path)
    del waiting
    Path(path + ".after").touch()
    return path


# ---- with processes of their own ---------------------------------------------------------------------------


def square(value: int) -> int:
    return value * value


def sum_in_a_pool(count: int) -> int:
    """Use processes, which a daemonic worker could not."""
    import multiprocessing

    with multiprocessing.get_context("spawn").Pool(2) as pool:
        return sum(pool.map(square, range(count)))


def leave_a_child(path: str) -> str:
    import subprocess

    child = subprocess.Popen(["sleep", "1000"])
    Path(path).write_text(str(child.pid))
    return path


def leave_a_chatterer(value: int) -> int:
    """Start a process that prints indefinitely into the worker's output."""
    import subprocess

    subprocess.Popen(["yes"])
    return value


def fork_and_exit(value: int) -> int:
    """Return the exit code of a child that leaves by ``sys.exit``, through the worker's own frames."""
    pid = os.fork()
    if pid == 0:
        sys.exit(3)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def fork_and_return(value: int) -> int:
    """Return from both the child and the parent: only the parent's result may count."""
    pid = os.fork()
    if pid == 0:
        return -1
    os.waitpid(pid, 0)
    return value
