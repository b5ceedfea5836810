"""What workers forked from a template are asked, and what modules do when they are imported."""

from __future__ import annotations

import atexit
import ctypes
import gc
import os
import signal
import time
from pathlib import Path
from typing import Any, ClassVar

from gpuexec import ProcessingStage
from tests.process.stages import Apply, Item, hang
from tests.process.waiting import wait_until


def meet(folder: str) -> None:
    """Wait until two workers have a task."""
    Path(folder, str(os.getpid())).touch()
    wait_until(lambda: len(list(Path(folder).iterdir())) == 2)


def frozen_objects(_: Any) -> int:
    return gc.get_freeze_count()


def use_cpu(value: Any) -> Any:
    end = time.process_time() + 0.1
    while time.process_time() < end:
        pass
    return value


_left_open: list[Any] = []


def write_and_leave_open(path: str) -> str:
    """Keep two files in a global variable, with what was written to them in their buffers."""
    for name, content in ((path, "text"), (f"{path}.bytes", b"bytes")):
        file = open(name, "wb" if isinstance(content, bytes) else "w")  # noqa: PTH123, SIM115 - it stays open
        file.write(content)
        _left_open.append(file)
    atexit.register(Path(path).with_suffix(".exit").touch)
    return path


def start_c_thread() -> None:
    """Start a thread that no part of Python knows of."""
    libc = ctypes.CDLL(None)
    libc.pthread_create(ctypes.byref(ctypes.c_ulong()), None, ctypes.cast(libc.pause, ctypes.c_void_p), None)


def open_gpu(device: str) -> Any:
    """Open a file as if it was a GPU's, which this machine need not have."""
    from gpuexec.worker import fork_safety

    fork_safety.GPU_DEVICES = device.rstrip("0123456789")
    return Path(device).open()


class OtherVariables(Apply):
    """Has an environment of its own."""

    runtime_env: ClassVar[Any] = {"env_vars": {"SOMETHING": "else"}}


class KillsTemplate(ProcessingStage[Item, Item]):
    """Kills the process that its two workers were forked from, once."""

    name = "kills"

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def num_workers(self) -> int:
        return 2

    def process(self, task: Item) -> Item:
        marker = self.folder / "killed"
        try:
            marker.touch(exist_ok=False)
        except FileExistsError:
            return task
        os.kill(os.getppid(), signal.SIGKILL)
        hang()
        return task
