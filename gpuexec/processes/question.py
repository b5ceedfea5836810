"""Asks a fresh Python something that this process should not find out itself, such as what CUDA says to torch.

It runs a script of this package that needs nothing of it, and prints one JSON object. It ends with this process.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from gpuexec.processes.interpreter import interpreter

_LAST_LINES = 3  # of what it says before it fails


class Question:
    """A script that runs. ``with`` ends it. Raises ``OSError`` if the system refuses a process."""

    def __init__(self, script: Path, limit_s: float) -> None:
        self._limit_s = limit_s
        self._deadline = time.monotonic() + limit_s
        self._process = subprocess.Popen(
            [interpreter(), "-P", str(script), str(os.getpid())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            process_group=0,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self._kill()

    def answer(self) -> tuple[dict[str, Any] | None, str]:
        """Wait for the answer: (answer, "") or (None, reason)."""
        try:
            said, complaints = self._process.communicate(timeout=max(0.0, self._deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            return None, f"there was no answer within {self._limit_s:g} s"
        with contextlib.suppress(ValueError):
            answer = json.loads(said)
            if isinstance(answer, dict):
                return answer, ""
        code = self._process.returncode
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with status {code}"
        lines = [line for line in complaints.splitlines() if line.strip()][-_LAST_LINES:]
        return None, f"the process that was asked {how}" + (f": {' | '.join(lines)}" if lines else "")

    def _kill(self) -> None:
        """End it with whatever it has started, and reap it."""
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()
