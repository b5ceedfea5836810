"""A worker's ``sys.stdout`` and ``sys.stderr``: what is printed is on its way to the driver when ``print`` returns.

Python itself would keep 8 KiB of it in the process, where it is late, and lost when the worker is killed. libc's
``stdout``, for C code, is told to write line by line.

Lines of several threads and forked processes are kept apart. As long as only the main thread prints and nothing was
forked, even an unfinished line is written at once; from then on, each thread's line is written when it ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
import select
import sys
import threading
from collections.abc import Callable
from typing import Any, TextIO

_IOLBF = 1  # stdio.h: line by line

Claim = Callable[[str], bool]


class Pipe:
    """The output pipe. Short writes are atomic by themselves, long ones of several threads are kept apart."""

    def __init__(self) -> None:
        self._renew_lock()
        os.register_at_fork(after_in_child=self._renew_lock)

    def write(self, fd: int, data: Any) -> None:
        """Write everything to a descriptor of the pipe."""
        if len(data) <= select.PIPE_BUF:
            os.write(fd, data)
            return
        view = memoryview(data)
        with self._lock:
            while view:
                view = view[os.write(fd, view) :]

    def _renew_lock(self) -> None:
        self._lock = threading.RLock()


class _DirectWriter(io.BufferedIOBase):
    """Writes to a descriptor without a buffer. Unlike Python's own it can be used again inside a signal handler."""

    def __init__(self, fd: int, name: str, pipe: Pipe) -> None:
        self._fd = fd
        self._pipe = pipe
        self.name = name
        self.mode = "wb"

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        self._pipe.write(self._fd, view)
        return len(view)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._fd


class ConsoleStream(io.TextIOWrapper):
    """A text stream of the worker. ``claim`` is asked about each text first; it is written unless claimed.

    The driver reads the pipe as UTF-8. So the locale and ``PYTHONIOENCODING``, which are about terminals and files, do
    not matter here, and no text makes ``print`` raise.
    """

    def __init__(self, buffer: io.BufferedIOBase, claim: Claim) -> None:
        super().__init__(
            buffer,  # type: ignore[arg-type]
            encoding="utf-8",
            errors="backslashreplace",
            newline="\n",
            write_through=True,
        )
        self._claim = claim
        self._main_thread = threading.get_ident()
        self._unfinished: dict[int, str] | None = None  # by thread, once others may print too
        os.register_at_fork(after_in_parent=self._share, after_in_child=self._share_in_child)

    def write(self, text: str, /) -> int:
        """Write a text, or keep it until its line ends if others may print too."""
        if self._claim(text):
            return len(text)
        thread = threading.get_ident()
        if self._unfinished is None:
            if thread == self._main_thread:
                return super().write(text)
            self._unfinished = {}
        end = text.rfind("\n") + 1
        line = self._unfinished.pop(thread, "") + (text[:end] or text)
        if end:
            super().write(line)
            line = text[end:]
        if line:
            self._unfinished[thread] = line
        return len(text)

    def _share(self) -> None:
        if self._unfinished is None:
            self._unfinished = {}

    def _share_in_child(self) -> None:
        self._unfinished = {}  # what there was is its parent's to write

    def start_over(self) -> None:
        """Forget what a forked worker has inherited: it is a process of its own, in which one thread prints."""
        self._unfinished = None

    def flush(self) -> None:
        """Write this thread's unfinished line, and those of threads that have ended."""
        if self._unfinished:
            running = sys._current_frames().keys() - {threading.get_ident()}
            for thread in self._unfinished.keys() - running:
                super().write(self._unfinished.pop(thread))
        super().flush()


def replace_standard_streams(pipe: Pipe, claim: Claim) -> list[ConsoleStream]:
    """Put a `ConsoleStream` in the place of stdout and of stderr, and return the two."""
    consoles = []
    for name in ("stdout", "stderr"):
        stream: TextIO = getattr(sys, name)
        stream.flush()
        console = ConsoleStream(_DirectWriter(stream.fileno(), stream.name, pipe), claim)
        setattr(sys, name, console)
        setattr(sys, f"__{name}__", console)
        stream.detach()  # type: ignore[attr-defined]  # or it would close the descriptor when it is freed
        consoles.append(console)
    with contextlib.suppress(ValueError, AttributeError):  # another libc may have no such symbol
        libc = ctypes.CDLL(None)
        libc.setvbuf(ctypes.c_void_p.in_dll(libc, "stdout"), None, _IOLBF, ctypes.c_size_t(0))
    return consoles
