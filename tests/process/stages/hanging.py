"""Functions and stages that never return, in different ways."""

from __future__ import annotations

import atexit
import threading
from pathlib import Path
from typing import Any

from tests.process.stages import Apply, Journal


def wait_in_two_threads(value: Any) -> None:
    threading.Thread(target=wait_in_the_other_thread, daemon=True).start()
    threading.Event().wait()


def wait_in_the_other_thread() -> None:
    threading.Event().wait()


def wait_in_c_with_the_gil(value: Any) -> None:
    """Let no Python code run any more in this process, signal handlers included."""
    import ctypes

    while True:
        ctypes.PyDLL(None).pause()


def wait_once(path: str) -> str:
    """Wait indefinitely, if this is the first call for the file."""
    try:
        Path(path).touch(exist_ok=False)
    except FileExistsError:
        return path
    threading.Event().wait()
    return path


def take_a_moment(value: int) -> int:
    return value + 0 * sum(range(50_000))


class HangsInSetup(Journal):
    """Waits indefinitely in the method ``fail_in``."""

    def maybe_fail(self, where: str) -> None:
        if where == self.fail_in:
            threading.Event().wait()


class HangsInTeardown(Apply):
    def teardown(self) -> None:
        threading.Event().wait()


class LeavesAThread(Apply):
    def setup(self, worker_metadata: Any = None) -> None:
        threading.Thread(target=threading.Event().wait).start()


class HangsAtExit(Apply):
    def setup(self, worker_metadata: Any = None) -> None:
        atexit.register(threading.Event().wait)
