"""Ctrl-C and SIGTERM, let in only while the driver waits.

Python raises ``KeyboardInterrupt`` between any two instructions: a message just sent would be sent again, a process
just started would belong to nobody. While a run is at work its signals are therefore noted, and raised at the next
wait, where every table is whole. A second signal that finds the first still waiting is raised on the spot: the driver
is stuck, perhaps in the unpickling of a task.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

_OURS_IF = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}


class _Held:
    """Handlers belong to the process, so there is one of these. Only the main thread uses it."""

    waiting = False
    pending: BaseException | None = None

    def arrive(self, number: int, _frame: FrameType | None) -> None:
        """Handle a signal: ``KeyboardInterrupt``, or ``SystemExit`` 143 as shells report SIGTERM."""
        stuck = self.pending is not None
        self.pending = KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number)
        if self.waiting or stuck:
            self.let_in()

    def let_in(self) -> None:
        """Raise what has come meanwhile."""
        error, self.pending = self.pending, None
        if error is not None:
            raise error


_held = _Held()


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Hold signals back in the block, but for `admitted`, and those that the program handles itself."""
    before = {}
    if _is_main():
        for number, default in _OURS_IF.items():
            if signal.getsignal(number) is default:
                before[number] = default
                signal.signal(number, _held.arrive)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if before:
            _held.let_in()


@contextlib.contextmanager
def admitted() -> Iterator[None]:
    """Raise what came before the block, and what comes during it."""
    if not _is_main():
        yield
        return
    try:
        _held.waiting = True
        _held.let_in()
        yield
    finally:
        _held.waiting = False


def _is_main() -> bool:
    return threading.current_thread() is threading.main_thread()
