"""Runs a check in a process of its own, and sees that nothing of it is left."""

from __future__ import annotations

import ctypes
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from gpu_checks.results import Check, Outcome, Result

_PR_SET_CHILD_SUBREAPER = 36  # include/uapi/linux/prctl.h
_PATIENCE_S = 5.0  # for what a check has started to end with it
_LOG_LINES = 40


def adopt_orphans() -> None:
    """Become the parent of what our children leave behind, so that it is found and ended."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def run(check: Check, options: Sequence[str]) -> Result:
    """Make a check. It fails if it hangs, ends without a result, or leaves a process."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as name:
        folder = Path(name)
        log = folder / "log"
        with log.open("wb") as out:
            command = [sys.executable, "-m", "gpu_checks.one", check.name, str(folder), *options]
            child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT)
            status = _wait(child, check.limit_s)
        left = _end_what_is_left()
        result = _result(check, folder / "result.json", status, time.monotonic() - start)
        if left:
            problem = f"it left processes behind: {', '.join(left)}"
            result = _changed(result, outcome=Outcome.FAIL, reasons=(*result.reasons, problem))
        if result.outcome is Outcome.FAIL:
            result = _changed(result, log=tuple(log.read_text(errors="replace").splitlines()[-_LOG_LINES:]))
    return result


def _wait(child: subprocess.Popen[bytes], limit_s: float) -> int | None:
    """Return the exit status; ``None``: it hung, and was killed. Whatever ends us ends the child too."""
    try:
        return child.wait(limit_s)
    except subprocess.TimeoutExpired:
        return None
    finally:
        if child.poll() is None:
            child.send_signal(signal.SIGKILL)
            child.wait()


def _end_what_is_left() -> list[str]:
    """Wait for the descendants that a check has left to end; kill those that do not, and name them."""
    _, alive = psutil.wait_procs(psutil.Process().children(recursive=True), timeout=_PATIENCE_S)
    named = [f"pid {process.pid}" for process in alive]
    for process in alive:
        process.kill()
    psutil.wait_procs(alive, timeout=_PATIENCE_S)
    return named


def _result(check: Check, path: Path, status: int | None, seconds: float) -> Result:
    if status is None:
        reason = f"it did not end within {check.limit_s:g} s, and was killed"
    elif not path.exists():
        reason = f"its process ended with status {status} and no result"
    else:
        fields = json.loads(path.read_text())
        tuples = {name: tuple(fields[name]) for name in ("reasons", "log")}
        return Result(**{**fields, **tuples, "outcome": Outcome(fields["outcome"])})
    return Result(check.name, check.proves, Outcome.FAIL, reasons=(reason,), seconds=seconds)


def _changed(result: Result, **fields: object) -> Result:
    return Result(**{**{name: getattr(result, name) for name in Result.__match_args__}, **fields})
