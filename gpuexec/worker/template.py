"""The inside of a template process: it imports the modules of stages once, and is forked into workers.

It does what the driver asks, one request after the other, in its only thread:

=========  ==================================================================  =====================================
request    what it does                                                        its answer
=========  ==================================================================  =====================================
``load``   imports modules, stage by stage, until a fork would not be safe     which stages it can be forked for
``fork``   forks a worker, which gets the descriptors that come with it        the worker's pid, with its pidfd
``reap``   waits for a worker that is about to end                             its exit status and what it has used
``rest``   ends when nothing is asked for so many seconds                      none
=========  ==================================================================  =====================================

It is the parent of its workers, and reaps one only when asked to: until then, the driver may send signals to the
worker's pid. When the template dies, however it dies, the kernel kills its workers (see `orphan`), and so does the
template when the driver is gone.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import signal
import socket
import sys
import time
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

from gpuexec.channel import handoff
from gpuexec.curator import registration
from gpuexec.errors import ConnectionLost
from gpuexec.stage.loading import loading_stage
from gpuexec.worker.fork_safety import Finding, ForkSafety
from gpuexec.worker.import_watch import ImportWatch, VariableReads, file_of
from gpuexec.worker.log_sink import LogSink


class Birth(NamedTuple):
    """What a forked worker begins with."""

    socket_fd: int
    recorder_fd: int
    output_fd: int
    variables: dict[str, str | None]
    parent: int  # the template


class Template:
    """Serves one driver over ``control``."""

    def __init__(self, control: socket.socket, log: LogSink) -> None:
        self._control = control
        self._log = log
        self._pid = os.getpid()
        self._watch = ImportWatch()
        self._safety = ForkSafety(self._watch)
        self._sources = _Sources()
        self._workers: set[int] = set()

    def serve(self) -> Birth:
        """Answer requests. Only a forked worker returns; the template itself ends in here."""
        while True:
            try:
                request, fds = handoff.receive(self._control)
            except (ConnectionLost, TimeoutError):
                self._end()
            self._control.settimeout(None)
            match request.pop("do"):
                case "load":
                    self._answer(self._load(**request))
                case "fork":
                    birth = self._fork(fds, **request)
                    if birth is not None:
                        return birth
                case "reap":
                    self._reap(**request)
                case "rest":
                    self._control.settimeout(request["seconds"])

    def _answer(self, content: dict[str, Any], fds: tuple[int, ...] = ()) -> None:
        try:
            handoff.send(self._control, content, fds)
        except ConnectionLost:
            self._end()

    def _end(self) -> None:
        """End with all workers. They have processes of their own, which the kernel's death signal does not reach."""
        for pid in self._workers:
            with contextlib.suppress(OSError):
                os.killpg(pid, signal.SIGKILL)
        os._exit(0)  # what modules do at exit, the workers have done, each for itself

    # ---- loading -----------------------------------------------------------------------------------------

    def _load(
        self, sys_path: list[str], log: list[Any], own_variables: list[str], stages: list[list[str]]
    ) -> dict[str, Any]:
        """Import the modules of each stage. ``own_variables``: the variables of which each worker has its own value.

        ``stale``: a source file has changed since it was imported. ``loaded``: how many of the stages were imported. If
        that is not all, the next one is at fault: either its import ``failed``, or ``found`` says why it must not be
        forked for, and ``module`` and ``file`` what is to blame, as far as that is known.
        """
        began = time.time_ns()
        if self._sources.have_changed():
            return {"stale": True}
        importlib.invalidate_caches()
        sys.path[:] = sys_path
        self._log.configure(*log)
        registration.install()
        answer: dict[str, Any] = {"stale": False, "loaded": 0, "failed": False}
        reads = VariableReads(own_variables, self._watch)
        with self._watch, loading_stage(), reads:
            for modules in stages:
                for name in modules:
                    known = len(sys.modules)
                    if not self._import(name):
                        return {**answer, "failed": True}
                    # Looking takes some milliseconds once much is imported.
                    is_safe = len(sys.modules) == known and answer["loaded"]
                    finding = None if is_safe else self._safety.check() or next(_read_too_early(reads), None)
                    if finding is not None:
                        module = finding.module or name
                        return {**answer, "found": finding.what, "module": module, "file": file_of(module)}
                answer["loaded"] += 1
        self._log.apply_levels()
        self._sources.note(began)
        _flush_c_streams()
        gc.freeze()  # or the collector of each worker would write to, and so copy, every page that holds objects
        return answer

    def _import(self, name: str) -> bool:
        try:
            importlib.import_module(name)
        except BaseException:  # noqa: BLE001 - an import can raise anything; a worker that is spawned reports it
            return False
        finally:
            self._leave_if_forked()
        return True

    def _leave_if_forked(self) -> None:
        if os.getpid() != self._pid:  # a child that a module has forked came back here
            os._exit(1)

    # ---- workers ------------------------------------------------------------------------------------------

    def _fork(self, fds: list[int], variables: dict[str, str | None]) -> Birth | None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Python 3.12 counts threads; ours have been looked at
                pid = os.fork()
        except OSError as error:
            self._refuse(fds, error)
            return None
        if pid == 0:
            self._control.close()
            socket_fd, recorder_fd, output_fd = fds
            return Birth(socket_fd, recorder_fd, output_fd, variables, self._pid)
        with contextlib.suppress(OSError):  # the child does so too: whoever comes first
            os.setpgid(pid, pid)
        try:
            pidfd = os.pidfd_open(pid)
        except OSError as error:  # the driver has seen that they are offered, so there is no descriptor left
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            self._refuse(fds, error)
            return None
        self._workers.add(pid)
        self._answer({"pid": pid}, (pidfd,))
        for fd in (pidfd, *fds):
            os.close(fd)
        return None

    def _refuse(self, fds: list[int], error: OSError) -> None:
        for fd in fds:
            os.close(fd)
        self._answer({"errno": error.errno})

    def _reap(self, pid: int) -> None:
        _, status, used = os.wait4(pid, 0)
        self._workers.discard(pid)
        self._answer({"status": status, "cpu_s": used.ru_utime + used.ru_stime, "max_rss_kib": used.ru_maxrss})


def _read_too_early(reads: VariableReads) -> Iterator[Finding]:
    for name, module in reads.reads:
        yield Finding(f"read {name}, of which each worker has its own", module)


class _Sources:
    """The source files of the imported modules, as they were when they were imported."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[int, int] | None] = {}

    def note(self, began: int) -> None:
        """Note the files of all modules. ``began``: when the import began, in nanoseconds since 1970."""
        for module in list(sys.modules):
            path = file_of(module)
            if path is not None and path not in self._seen:
                state = _state_of(path)
                # A file that was written since may have been read before.
                self._seen[path] = None if state is None or state[0] >= began else state

    def have_changed(self) -> bool:
        """Whether any of them is not what was imported."""
        return any(state is None or _state_of(path) != state for path, state in self._seen.items())


def _state_of(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)  # noqa: PTH116 - importing pathlib takes every worker 3 ms
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


def _flush_c_streams() -> None:
    import ctypes

    ctypes.CDLL(None).fflush(None)  # what C code has left in its buffers, each worker would write again
