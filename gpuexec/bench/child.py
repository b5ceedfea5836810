"""Starts the process of a trial, waits for it, and ends it with everything that it has started.

The process has a session of its own, so Ctrl-C in a terminal does not reach it. Its workers have process groups of
their own, which end with it (docs/architecture.md, "How a worker ends"). What a stage has moved to another session is
found by a variable of its environment: every process that descends from a trial has inherited it.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import gpuexec
from gpuexec.bench.trial import Spec
from gpuexec.processes.exit_watch import ExitWatch
from gpuexec.processes.interpreter import interpreter, interpreter_flags
from gpuexec.processes.reap import describe_exit

VARIABLE = "GPUEXEC_BENCH_SWEEP"
_GONE_WITHIN_S = 5.0  # a killed process ends within milliseconds, unless it is stuck inside the kernel
_PAUSE_S = 0.01
_LAST_BYTES = 4096
_LAST_LINES = 3


def new_id() -> str:
    """Return an id for a sweep, which no other one has."""
    return os.urandom(8).hex()


class ChildProcess:
    """The process of a trial, or of a description. ``folder``: for its files. ``end`` it before the next is started.

    ``sweep_id``: marks what descends from it. ``directory``: its working directory, ``None`` for this process's.
    """

    def __init__(self, spec: Spec, folder: Path, sweep_id: str, directory: str | None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.output = folder / "output.log"
        self._answer = folder / "answer.json"
        self._sweep_id = sweep_id
        self._answer.unlink(missing_ok=True)
        spec_file = folder / "spec.json"
        told: Spec = {**spec, "answer": str(self._answer), "parent": os.getpid(), "sys_path": list(sys.path)}
        spec_file.write_text(json.dumps(told))
        with self.output.open("wb") as output:
            self._process = subprocess.Popen(
                [interpreter(), *interpreter_flags(), "-P", "-m", "gpuexec.bench.trial", str(spec_file)],
                env={**os.environ, VARIABLE: sweep_id, "PYTHONPATH": _python_path()},
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._is_reaped = False
        try:
            self._exit = ExitWatch(self._process.pid)
        except BaseException:
            self._process.kill()
            self._process.wait()
            raise

    def wait(self, seconds: float) -> bool:
        """Wait until the process has ended, for so many seconds at most. Return whether it has."""
        return self._is_reaped or bool(select.select([self._exit.fd], [], [], max(0.0, seconds))[0])

    def end(self, grace_s: float = 0.0) -> None:
        """End the process, if it has not ended, and all that descends from it. Safe to repeat.

        ``grace_s``: seconds after SIGTERM in which it may end by itself.
        """
        if self._is_reaped:
            return
        try:
            if grace_s > 0 and not self.wait(0):
                with contextlib.suppress(ProcessLookupError):
                    self._process.send_signal(signal.SIGTERM)
                self.wait(grace_s)
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):  # until it is reaped, its number is its own
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._is_reaped = True
            self._exit.close()
            kill_descendants(self._sweep_id)

    @property
    def answer(self) -> dict[str, Any] | None:
        """What the process has answered, ``None`` if it has not."""
        try:
            return cast(dict[str, Any], json.loads(self._answer.read_bytes()))
        except (OSError, ValueError):
            return None

    def how_it_ended(self) -> str:
        """Return how a process that has ended without an answer did so, with its last lines."""
        exit_code = self._process.returncode
        text = "the trial's process " + describe_exit(0 if exit_code is None else exit_code, oom_kills=None)
        lines = self._last_lines()
        return f"{text}; its last lines: {' / '.join(lines)}" if lines else text

    def _last_lines(self) -> list[str]:
        try:
            with self.output.open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - _LAST_BYTES))
                text = file.read().decode(errors="replace")
        except OSError:
            return []
        return [line.strip() for line in text.splitlines() if line.strip()][-_LAST_LINES:]


def kill_descendants(sweep_id: str) -> list[int]:
    """Kill every process that descends from a trial of a sweep, wherever it has gone. Return their ids.

    Returns once they are gone, or after 5 s.
    """
    killed: dict[int, None] = {}
    deadline = time.monotonic() + _GONE_WITHIN_S
    while (found := list(_descendants(sweep_id))) and time.monotonic() < deadline:
        for pid in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
                killed[pid] = None
        time.sleep(_PAUSE_S)
    return list(killed)


def _descendants(sweep_id: str) -> Iterator[int]:
    """Yield the processes of this user that have the variable. Those that have ended have no environment any more."""
    wanted = f"{VARIABLE}={sweep_id}".encode()
    for entry in os.scandir("/proc"):
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if wanted in Path(entry.path, "environ").read_bytes().split(b"\0"):
                    yield int(entry.name)


def _python_path() -> str:
    package_root = str(Path(gpuexec.__file__).parents[1])
    return os.pathsep.join(filter(None, [package_root, os.environ.get("PYTHONPATH")]))
