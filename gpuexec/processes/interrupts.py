"""Delivers Ctrl-C and SIGTERM only while the driver waits.

Python raises ``KeyboardInterrupt`` between any two instructions: the driver might send a message twice, or lose track
of a process it has just started. So while the driver works, these signals are recorded; they are raised at its next
wait, where all its tables are consistent. A second signal that arrives while the first is still pending is raised at
once: the driver is probably stuck, for example while it unpickles a task.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

_DEFAULT_HANDLERS = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}


class _DeferredSignals:
    """Signals that have arrived but are not raised yet.

    Signal handlers belong to the process, so there is one instance. Only the main thread uses it.
    """

    waiting = False
    pending: BaseException | None = None

    def handle(self, number: int, _frame: FrameType | None) -> None:
        """Handle a signal: ``KeyboardInterrupt``, or ``SystemExit`` 143, as shells report SIGTERM."""
        stuck = self.pending is not None
        self.pending = KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number)
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
    """Defer SIGINT and SIGTERM in the block, except within `signals_delivered`.

    A signal for which the program has installed its own handler is left alone.
    """
    previous_handlers = {}
    if _is_main_thread():
        for number, default in _DEFAULT_HANDLERS.items():
            if signal.getsignal(number) is default:
                previous_handlers[number] = default
                signal.signal(number, _deferred.handle)
    try:
        yield
    finally:
        for number, handler in previous_handlers.items():
            signal.signal(number, handler)
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


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
