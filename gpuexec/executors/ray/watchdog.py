"""Ends this process if something takes too long, even inside a C call that keeps the interpreter."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator

_GRACE_S = 5.0  # for telling the ledger; then the watchdog of the C runtime ends the process without a word
_EXIT_STATUS = 1


class Watchdog:
    """Watches one thing at a time. ``limit_s``: seconds that it may take; ``None`` for ever."""

    def __init__(self, limit_s: float | None) -> None:
        self._limit_s = limit_s

    @contextlib.contextmanager
    def watching(self, tell: Callable[[str], None]) -> Iterator[None]:
        """Call ``tell`` with the threads' stacks and end the process if the block is not left in time."""
        if self._limit_s is None:
            yield
            return
        main = threading.get_ident()
        timer = threading.Timer(self._limit_s, _end_process, (tell, main))
        timer.daemon = True
        timer.start()
        with open(os.devnull, "w") as nowhere:  # noqa: PTH123 - the stacks have been told, or nobody could
            faulthandler.dump_traceback_later(self._limit_s + _GRACE_S, exit=True, file=nowhere)
            try:
                yield
            finally:
                faulthandler.cancel_dump_traceback_later()
                timer.cancel()


def _end_process(tell: Callable[[str], None], thread_id: int) -> None:
    frame = sys._current_frames().get(thread_id)
    stack = "".join(traceback.format_stack(frame)) if frame is not None else ""
    try:
        tell(stack)
    finally:
        os._exit(_EXIT_STATUS)
