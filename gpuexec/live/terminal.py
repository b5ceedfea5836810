"""The terminal that ``gpuexec top`` draws on: there has to be one, the display ends with it, and leaves it in order.

When a terminal goes away, since its window is closed or its connection breaks, the kernel sends SIGHUP to the processes
of its session only, and some ignore that (``nohup``). For the others the terminal's input has ended: it can always be
read, and nothing comes. Textual (8.2) reads on without a pause then, which takes most of a core. Its thread that writes
ends with an error, and its loop may wait for that thread for ever.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterable

from gpuexec.errors import CannotAttach


def check_terminal() -> None:
    """Raise ``CannotAttach`` if this process has no terminal to draw on and to hear keys from."""
    streams = (
        ("standard input", sys.__stdin__),
        ("standard output", sys.__stdout__),
        ("standard error", sys.__stderr__),
    )
    others = [name for name, stream in streams if stream is None or not stream.isatty()]
    if others:
        raise CannotAttach(
            f"`gpuexec top` draws on a terminal and listens to its keys, and {' and '.join(others)} "
            f"{'is' if len(others) == 1 else 'are'} not a terminal. `gpuexec top --once` prints one snapshot as text"
        )


def end_with_terminal(descriptors: Iterable[int] = (0, 2)) -> None:
    """End this process, with the status of one that SIGHUP ended, as soon as the terminal of one of these goes away.

    A thread of its own waits for that, since Textual's loop may be blocked at that moment. There is nothing to put in
    order: the kernel closes the connection to the run, and there is no terminal left to restore.
    """
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, 0)  # only errors and the end are reported

    def wait() -> None:
        poll.poll()
        os._exit(128 + signal.SIGHUP)

    threading.Thread(target=wait, name="gpuexec-terminal", daemon=True).start()


def leave_on_sigterm(leave: Callable[[int], None], patience_s: float = 2.0) -> None:
    """Let SIGTERM call ``leave``, with the exit status, so that the terminal is left in order.

    The process ends without that if it has not within so many seconds: the terminal may take nothing (Ctrl-S), and
    everything then waits for it. ``leave`` is called in the main thread, between any two steps of what it does.
    """
    status = 128 + signal.SIGTERM

    def on_signal(*_: object) -> None:
        last_resort = threading.Timer(patience_s, os._exit, [status])
        last_resort.daemon = True
        last_resort.start()
        leave(status)

    signal.signal(signal.SIGTERM, on_signal)
