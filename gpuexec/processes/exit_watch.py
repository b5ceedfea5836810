"""A descriptor that becomes readable when a child process exits."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import threading

_NOT_OFFERED = {errno.ENOSYS, errno.EPERM, errno.EACCES, errno.EINVAL}

_offers_pidfd = hasattr(os, "pidfd_open") and hasattr(signal, "pidfd_send_signal")


def offers_pidfd() -> bool:
    """Return whether Python, the kernel and the sandbox offer pidfds, as far as is known."""
    return _offers_pidfd


class ExitWatch:
    """A pidfd; where Python has none, or the kernel or a sandbox refuses it, a pipe that a thread closes at the exit.

    ``fd``: what to select on. The process is not reaped by this.
    """

    def __init__(self, pid: int) -> None:
        global _offers_pidfd  # noqa: PLW0603 - it describes the system
        self._thread: threading.Thread | None = None
        if _offers_pidfd:
            try:
                self.fd = os.pidfd_open(pid)
            except OSError as error:
                if error.errno not in _NOT_OFFERED:
                    raise
                _offers_pidfd = False
            else:
                return
        self.fd, write_end = os.pipe2(os.O_CLOEXEC)
        self._thread = threading.Thread(target=_close_at_exit, args=(pid, write_end), name="gpuexec-exit", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:  # the system refuses a thread
            os.close(self.fd)
            os.close(write_end)
            raise BlockingIOError(errno.EAGAIN, str(error)) from error

    def close(self) -> None:
        """Close the descriptor. The process must have been reaped."""
        if self._thread is not None:
            self._thread.join()
        os.close(self.fd)


def _close_at_exit(pid: int, write_end: int) -> None:
    with contextlib.suppress(ChildProcessError):  # it is reaped already
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    os.close(write_end)
