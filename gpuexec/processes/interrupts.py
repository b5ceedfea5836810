"""Delivers Ctrl-C, SIGTERM, SIGHUP and SIGUSR1 only while the driver waits.

Python raises ``KeyboardInterrupt`` between any two instructions: the driver might send a message twice, or lose track
of a process it has just started. So while the driver works, these signals are recorded; they are raised at its next
wait, where all its tables are consistent. A second signal that arrives while the first is still pending is raised at
once: the driver is probably stuck, for example while it unpickles a task.

A handler that the program has installed (asyncio's for Ctrl-C, a server's for SIGTERM) is called as well, at once. If
it raises, its exception is the one to be raised at the wait. If it does not, it has only taken note of the signal, and
the run ends all the same. A signal that is ignored (``nohup``), or handled by other than Python code, is left alone.

SIGUSR1 is what batch systems are commonly told to send some time before the time limit (``sbatch --signal``). It would
kill the process at once, so it ends the run in order, unless the program handles it in any way: it may be there for
something else, such as ``faulthandler``.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

_SIGNALS: tuple[int, ...] = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
_STDERR = 2


class _DeferredSignals:
    """Signals that have arrived but are not raised yet.

    Signal handlers belong to the process, so there is one instance. Only the main thread uses it.
    """

    waiting = False
    pending: BaseException | None = None
    arrived = 0  # since the outermost block began

    def __init__(self) -> None:
        self.hosts: dict[int, Callable[[int, FrameType | None], Any]] = {}  # the program's handlers

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal: ``KeyboardInterrupt``, or ``SystemExit`` 128 + n, as shells report the others."""
        stuck = self.pending is not None
        self.arrived += 1
        _acknowledge(number, again=self.arrived > 1)
        self.pending = KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number)
        host = self.hosts.get(number)
        if host is not None:
            try:
                host(number, frame)
            except BaseException as error:  # noqa: BLE001 - it is raised where the driver waits
                self.pending = error
        if self.waiting or stuck:
            self.raise_pending()

    def raise_pending(self) -> None:
        """Raise the exception of the signal that has arrived, if any."""
        error, self.pending = self.pending, None
        if error is not None:
            raise error


_deferred = _DeferredSignals()


@contextlib.contextmanager
def signals_deferred() -> Iterator[None]:
    """Defer SIGINT, SIGTERM, SIGHUP and SIGUSR1 in the block, except within `signals_delivered`."""
    previous_handlers: dict[int, Any] = {}
    if _is_main_thread():
        for number in _SIGNALS:
            handler = signal.getsignal(number)
            if handler == _deferred.handle or handler is signal.SIG_IGN or handler is None:
                continue
            if number == signal.SIGUSR1 and (callable(handler) or _is_caught(number)):
                continue
            previous_handlers[number] = handler
            if callable(handler) and handler is not signal.default_int_handler:
                _deferred.hosts[number] = handler
            signal.signal(number, _deferred.handle)
        if previous_handlers:
            _deferred.arrived = 0
    try:
        yield
    finally:
        for number, previous in previous_handlers.items():
            if signal.getsignal(number) == _deferred.handle:  # the program may have set another in the meantime
                signal.signal(number, previous)
            _deferred.hosts.pop(number, None)
        if previous_handlers:
            _deferred.raise_pending()


@contextlib.contextmanager
def signals_delivered() -> Iterator[None]:
    """Raise a signal that arrived before the block at its start, and one that arrives during it at once."""
    if not _is_main_thread():
        yield
        return
    try:
        _deferred.waiting = True
        _deferred.raise_pending()
        yield
    finally:
        _deferred.waiting = False


def _acknowledge(number: int, *, again: bool) -> None:
    """Say on the screen, at once, that a signal has arrived: what follows may take seconds."""
    name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
    what = (
        "the workers are killed"
        if again
        else "the run ends within 5 s, batches in flight may be finished; once more kills the workers"
    )
    text = f"gpuexec: {name}: {what}\n"
    with contextlib.suppress(OSError, ValueError, AttributeError):  # the screen may be what has gone
        if "ipykernel" in sys.modules:  # a notebook shows what is written to sys.stderr only
            print(text, end="", file=sys.stderr, flush=True)
            return
        # Past sys.stderr, which may be in the middle of a write. The live table's last line has no end.
        os.write(_STDERR, (("\r\n" if os.isatty(_STDERR) else "") + text).encode())


def _is_caught(number: int) -> bool:
    """Whether any code handles a signal. Python knows of its own handlers only, not of ``faulthandler``'s."""
    with contextlib.suppress(OSError, StopIteration), Path("/proc/self/status").open(encoding="ascii") as status:
        mask = next(line for line in status if line.startswith("SigCgt:")).split()[1]
        return bool(int(mask, 16) >> (number - 1) & 1)
    return True  # unknown: leave it alone


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
