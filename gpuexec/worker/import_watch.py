"""Notes which module a thread was started by, or a descriptor opened, while modules are imported.

Before and after the code of each module runs, the numbers of threads and descriptors are compared with those of the
look before. That takes 5 µs a module, where importing one takes a millisecond.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Collection, Iterator
from importlib.machinery import ExtensionFileLoader, SourceFileLoader
from types import TracebackType
from typing import Any, Self

THREADS, DESCRIPTORS = "/proc/self/task", "/proc/self/fd"

_Entry = tuple[str, str]  # ("thread", its id), or the number of a descriptor and its target

# The classes whose method runs the code of a module, for all loaders that Python comes with.
_EXECUTING: tuple[Any, ...] = (
    next(loader for loader in SourceFileLoader.__mro__ if "exec_module" in loader.__dict__),
    ExtensionFileLoader,
)


class ImportWatch:
    """A block in which modules are imported. ``culprit`` says which of them opened a descriptor and so on."""

    def __init__(self) -> None:
        self._first_seen: dict[_Entry, str] = {}
        self._known = _entries()
        self._counts = (-1, -1)
        self._running: list[str] = []
        self._originals: list[tuple[Any, Any]] = []

    def __enter__(self) -> Self:
        self._counts = _counts()
        for loader in _EXECUTING:
            original = loader.__dict__["exec_module"]
            self._originals.append((loader, original))
            loader.exec_module = self._watching(original)
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        for loader, original in self._originals:
            loader.exec_module = original
        self._originals.clear()

    def starter_of(self, tid: str) -> str | None:
        """Return the module whose code was running when a thread was started, if one was."""
        return self._first_seen.get(("thread", tid))

    def opener_of(self, descriptor: str, target: str) -> str | None:
        """Return the module whose code was running when a descriptor of this target was opened, if one was."""
        return self._first_seen.get((descriptor, target))

    @property
    def running(self) -> str | None:
        """The module whose code is running."""
        return self._running[-1] if self._running else None

    def _watching(self, original: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
        def exec_module(loader: Any, module: Any) -> None:
            self._look()
            self._running.append(module.__name__)
            try:
                original(loader, module)
            finally:
                self._look()
                self._running.pop()

        return exec_module

    def _look(self) -> None:
        counts = _counts()
        if counts == self._counts:
            return
        self._counts = counts
        entries = _entries()
        for entry in entries - self._known if self._running else ():
            self._first_seen[entry] = self._running[-1]
        self._known = entries


class VariableReads:
    """A block in which it is noted who reads certain environment variables, those that each worker has its own of."""

    def __init__(self, names: Collection[str], watch: ImportWatch) -> None:
        self.reads: list[tuple[str, str | None]] = []  # variable, module
        reads, plain = self.reads, type(os.environ)

        class Watched(plain):  # type: ignore[misc,valid-type]
            def __getitem__(self, key: Any) -> Any:
                if key in names:
                    reads.append((key, watch.running))
                return super().__getitem__(key)

        self._plain, self._watched = plain, Watched

    def __enter__(self) -> Self:
        os.environ.__class__ = self._watched
        return self

    def __exit__(self, *_error: object) -> None:
        os.environ.__class__ = self._plain


def _counts() -> tuple[int, int]:
    # A folder of /proc has a link per thread; since Linux 6.2 its size is the number of descriptors.
    count = os.stat(DESCRIPTORS).st_size  # noqa: PTH116 - importing pathlib takes every worker 3 ms
    return os.stat(THREADS).st_nlink, count or len(os.listdir(DESCRIPTORS))  # noqa: PTH116, PTH208 - as above


def _entries() -> set[_Entry]:
    return {*descriptors(), *(("thread", tid) for tid in os.listdir(THREADS))}  # noqa: PTH208 - as above


def descriptors() -> Iterator[_Entry]:
    """Yield the number of every open descriptor, as text, and what it refers to."""
    for number in os.listdir(DESCRIPTORS):  # noqa: PTH208 - as above
        with contextlib.suppress(OSError):  # the one that has listed the folder is closed again
            yield number, os.readlink(f"{DESCRIPTORS}/{number}")  # noqa: PTH115 - as above


def file_of(module: str) -> str | None:
    """Return the source file of an imported module, if it has one."""
    spec = getattr(sys.modules.get(module), "__spec__", None)
    return spec.origin if spec is not None and spec.has_location else None
