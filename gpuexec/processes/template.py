"""A template process as its driver sees it: it has imported the modules of stages, and workers are forked from it.

The inside is `gpuexec.worker.template`, which lists the requests.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from typing import Any

from gpuexec.channel import handoff
from gpuexec.errors import ConnectionLost, TemplateLost
from gpuexec.processes.child import Ended
from gpuexec.processes.interpreter import start_interpreter
from gpuexec.processes.output_lines import OutputItem, OutputLines
from gpuexec.units import KIB

_ANSWER_S = 30.0  # a fork takes milliseconds; a template that is stopped, or swapped out, takes longer
_END_S = 5.0
_PAUSE_S = 0.0005
_OUTPUT_CHUNK_BYTES = 64 * KIB
_READS_OF_A_PIPE = 4  # until a full pipe is empty

Key = tuple[Any, ...]


class Template:
    """One template process and the driver's descriptors for it; ``close`` releases them.

    ``key``: what its workers have in common; see `gpuexec.processes.kept_templates`. ``was_used``: a run has had it.
    ``control`` becomes readable when the answer to `load` has arrived, ``output_fd`` when something was printed.
    """

    def __init__(self, key: Key, env: Mapping[str, str], folder: str | None) -> None:
        self.key = key
        self.was_used = False
        self.cause_of_loss: str | None = None
        self._lines = OutputLines()
        self._closed = False
        with contextlib.ExitStack() as undo:
            self.control, theirs = handoff.handoff_pair()
            undo.callback(self.control.close)
            with theirs:
                self.output_fd, write_end = os.pipe2(os.O_CLOEXEC)
                undo.callback(os.close, self.output_fd)
                try:
                    self._process: subprocess.Popen[bytes] = start_interpreter(
                        ["template"], [theirs.fileno()], write_end, env, folder
                    )
                finally:
                    os.close(write_end)
            undo.pop_all()
        os.set_blocking(self.output_fd, False)
        self.control.settimeout(_ANSWER_S)

    @property
    def pid(self) -> int:
        """The process id, which is also the id of its process group."""
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Whether it can still be asked for something, as far as is known."""
        return not self._closed and self.cause_of_loss is None and not self._has_exited()

    def load(self, request: Mapping[str, Any]) -> None:
        """Ask it to import modules. Raises ``TemplateLost``, or another ``OSError`` if the request is too large."""
        self.was_used = True
        try:
            handoff.send(self.control, {"do": "load", **request})
        except (ConnectionLost, TimeoutError) as error:
            raise self._lose() from error

    def answer(self) -> dict[str, Any]:
        """Return its answer to `load`. Raises ``TemplateLost``."""
        try:
            return handoff.receive(self.control)[0]
        except (ConnectionLost, TimeoutError) as error:
            raise self._lose() from error

    def fork(
        self, socket_fd: int, recorder_fd: int, output_fd: int, *, variables: Mapping[str, str | None]
    ) -> ForkedChild:
        """Fork a worker. ``variables``: those of which it has its own value, or none (``None``).

        Raises ``TemplateLost``, or another ``OSError`` if the system refuses a process.
        """
        fds = (socket_fd, recorder_fd, output_fd)
        answer, received = self._ask({"do": "fork", "variables": dict(variables)}, fds)
        if "errno" in answer or not received:
            code = int(answer.get("errno") or 24)
            raise OSError(code, os.strerror(code))
        return ForkedChild(int(answer["pid"]), received[0], self)

    def reap(self, pid: int) -> Ended:
        """Wait for the exit of a worker and reap it. Raises ``TemplateLost``."""
        answer, _ = self._ask({"do": "reap", "pid": pid})
        code = os.waitstatus_to_exitcode(answer["status"])
        return Ended(code, float(answer["cpu_s"]), int(answer["max_rss_kib"]) * KIB)

    def rest(self, seconds: float) -> None:
        """Let it wait for another `load`, but no longer than this. Raises ``TemplateLost``."""
        try:
            handoff.send(self.control, {"do": "rest", "seconds": seconds})
        except (ConnectionLost, TimeoutError) as error:
            raise self._lose() from error

    def read_output(self) -> tuple[list[OutputItem], bool]:
        """Return what was printed and logged since the last call, and whether the pipe is still open; never blocks."""
        try:
            chunk = os.read(self.output_fd, _OUTPUT_CHUNK_BYTES)
        except BlockingIOError:
            return [], True
        return (self._lines.feed(chunk), True) if chunk else (self._lines.end(), False)

    def read_rest(self) -> list[OutputItem]:
        """Return what is left in the pipe, with a last line that has no end."""
        items: list[OutputItem] = []
        with contextlib.suppress(BlockingIOError):
            for _ in range(_READS_OF_A_PIPE):
                chunk = os.read(self.output_fd, _OUTPUT_CHUNK_BYTES)
                if not chunk:
                    break
                items += self._lines.feed(chunk)
        return items + self._lines.end()

    def close(self, *, kill: bool = False) -> None:
        """End it and release the descriptors. Workers that it still has are killed. ``kill``: it may be stuck."""
        if self._closed:
            return
        self._closed = True
        self.control.close()
        self._end(0 if kill else _END_S)
        os.close(self.output_fd)

    def forget(self) -> None:
        """Close the descriptors: this process was forked from the driver, whose template it is."""
        self._closed = True
        self.control.close()
        os.close(self.output_fd)
        self._process.returncode = 0  # or `subprocess` would look for a child

    def _ask(self, request: Mapping[str, Any], fds: Sequence[int] = ()) -> tuple[dict[str, Any], list[int]]:
        if self._closed or self.cause_of_loss is not None:
            raise TemplateLost(self.cause_of_loss or "it was ended")
        try:
            handoff.send(self.control, request, fds)
            return handoff.receive(self.control)
        except (ConnectionLost, TimeoutError) as error:
            raise self._lose() from error

    def _lose(self) -> TemplateLost:
        """Make sure that it is dead, and note why."""
        if self.cause_of_loss is None:
            code = self._end(_END_S)
            self.cause_of_loss = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"
        return TemplateLost(self.cause_of_loss)

    def _end(self, patience_s: float) -> int:
        """Wait for its exit, at most so long, kill its group, which may hold what a module has started, and reap it."""
        if self._process.returncode is None:
            deadline = time.monotonic() + patience_s
            while time.monotonic() < deadline and not self._has_exited():
                time.sleep(_PAUSE_S)
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
        return self._process.wait()

    def _has_exited(self) -> bool:
        """Whether it has exited; it is not reaped by this, so its pid stays its own."""
        with contextlib.suppress(ChildProcessError):
            return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        return True


class ForkedChild:
    """A child of a template."""

    def __init__(self, pid: int, pidfd: int, template: Template) -> None:
        self.pid = pid
        self.exit_fd = pidfd
        self._template = template
        self._ended: Ended | None = None

    def kill(self) -> None:
        """Send SIGKILL. Harmless once it is reaped."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.exit_fd, signal.SIGKILL)

    def wait(self) -> Ended:
        """Wait for its exit and have it reaped."""
        if self._ended is None:
            select.select([self.exit_fd], [], [])
            try:
                self._ended = self._template.reap(self.pid)
            except TemplateLost as error:
                self._ended = self._without_template(str(error))
        return self._ended

    def close(self) -> None:
        """Close the descriptor, once it is reaped."""
        os.close(self.exit_fd)

    def _without_template(self, cause: str) -> Ended:
        """Return how it ended if nobody can tell: the kernel kills a template's workers when the template dies."""
        with contextlib.suppress(ChildProcessError):  # unless this process inherits orphans
            os.waitpid(self.pid, 0)
        return Ended(
            -signal.SIGKILL,
            cause=f"its template process {self._template.pid} ended ({cause}), and the kernel killed its workers",
            lost_template=True,
        )
