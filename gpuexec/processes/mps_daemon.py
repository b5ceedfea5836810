"""An MPS control daemon of a run's own: it needs no root, and other users' processes are no clients of it.

Proven with a stand-in program only, not with NVIDIA's (docs/gpu-shares.md).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from gpuexec.errors import ConfigurationError, ResourcesError
from gpuexec.hardware.mps import MPS_LOGS, MPS_PIPES, PROCESS_NAME, daemon_pid

_PROGRAM = "nvidia-cuda-mps-control"
_START_S = 10.0  # the daemon opens no GPU; its server does so, when the first client comes
_END_S = 5.0
_PAUSE_S = 0.01
_MAX_FOLDER = 60  # characters: the pipes are UNIX sockets, whose paths may have 107
_SHORT_FOLDER = "/tmp"  # noqa: S108 - the folder in it is made for this user alone
_SAID, _LOG_LINES = "start.log", 5


class MpsDaemon:
    """A control daemon for these GPUs, from `start` to `close`. ``run_id``: of the run, for the name of its folder.

    ``environ``: the environment it starts with. ``variables``: those that make a process its client. Raises
    ``ConfigurationError`` if NVIDIA's program is not installed.
    """

    def __init__(self, uuids: Sequence[str], run_id: str, environ: Mapping[str, str]) -> None:
        program = shutil.which(_PROGRAM, path=environ.get("PATH"))
        if program is None:
            raise ConfigurationError(
                f"mps='start' needs the program {_PROGRAM}, which is not on PATH. It comes with the driver (Debian and "
                "Ubuntu: the package nvidia-compute-utils of the driver's version). Leave the option out to do without"
            )
        self.program = program
        self.folder = Path(_parent_folder(), f"gpuexec-mps-{os.getpid()}-{run_id}")
        self.variables = {MPS_PIPES: str(self.folder / "pipe"), MPS_LOGS: str(self.folder / "log")}
        self._environ = {**environ, **self.variables, "CUDA_VISIBLE_DEVICES": ",".join(uuids)}
        self._pid: int | None = None

    def start(self) -> None:
        """Make the folder and start the daemon. Raises ``ResourcesError`` with what the daemon said."""
        try:
            for folder in (self.folder, self.folder / "pipe", self.folder / "log"):
                folder.mkdir(mode=0o700)
            status = self._run("-d", said=self.folder / "log" / _SAID)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise self._refusal(str(error)) from error
        if status:
            raise self._refusal(f"it ended with status {status}")
        deadline = time.monotonic() + _START_S
        while (pid := daemon_pid(self.folder / "pipe")) is None:
            if time.monotonic() > deadline:
                raise self._refusal(f"no daemon is there {_START_S:g} s later")
            time.sleep(_PAUSE_S)
        self._pid = pid

    def close(self) -> None:
        """End the daemon and its server, and remove the folder; idempotent. Its clients must have ended."""
        if self._pid is not None:
            servers = _children_of(self._pid)
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                self._run(typed="quit\n")
            _end_slow_ones((self._pid, *servers))
            self._pid = None
        shutil.rmtree(self.folder, ignore_errors=True)

    def _run(self, *arguments: str, typed: str = "", said: Path = Path(os.devnull)) -> int:
        """Run NVIDIA's program and return its exit status. What it prints goes to a file, since its daemon keeps it."""
        with said.open("wb") as out:
            return subprocess.run(
                [self.program, *arguments],
                env=self._environ,
                input=typed.encode(),
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C does not reach it
                timeout=_START_S,
                check=False,
            ).returncode

    def _refusal(self, why: str) -> ResourcesError:
        said = [line for name in (_SAID, "control.log") for line in _lines_of(self.folder / "log" / name)]
        quoted = "".join(f"\n  | {line}" for line in said[-_LOG_LINES:])
        return ResourcesError(f"mps='start': {self.program} -d has started no daemon: {why}{quoted}")


def _parent_folder() -> str:
    """Return the folder for temporary files, or a shorter one if pipes in it would have paths that are too long."""
    chosen = tempfile.gettempdir()
    return chosen if len(chosen) <= _MAX_FOLDER and "\n" not in chosen else _SHORT_FOLDER


def _lines_of(path: Path) -> list[str]:
    with contextlib.suppress(OSError):
        return [line for line in path.read_text(errors="replace").splitlines() if line.strip()]
    return []


def _children_of(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def _end_slow_ones(pids: Sequence[int]) -> None:
    """Wait until these processes have ended. Those that take too long are killed."""
    deadline = time.monotonic() + _END_S
    while living := [pid for pid in pids if _is_alive(pid)]:
        if time.monotonic() > deadline:
            for pid in living:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            return
        time.sleep(_PAUSE_S)


def _is_alive(pid: int) -> bool:
    """Return whether it is a process of MPS, and reap it if it has become a child of this one, as in a container."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    with contextlib.suppress(OSError):
        name, _, rest = Path(f"/proc/{pid}/stat").read_text().partition("(")[2].rpartition(")")
        return name.startswith(PROCESS_NAME) and rest.split()[0] not in {"Z", "X"}
    return False
