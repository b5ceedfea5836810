"""Starts the interpreters that workers and templates run in, and says which Python that is."""

from __future__ import annotations

import functools
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from gpuexec.errors import ConfigurationError

P = ParamSpec("P")
T = TypeVar("T")


def interpreter() -> str:
    """Return the path of the Python of this process.

    Where Python is embedded in another program, such as uWSGI, ``sys.executable`` names that program, or nothing
    (joblib#827, ray#21327, dask/distributed#2401). Then it is the one that the program has told multiprocessing to use,
    or else the one beside the standard library. Raises ``ConfigurationError`` if there is none.
    """
    if sys.executable and "py" in Path(sys.executable).name.lower():
        return sys.executable
    spawn = sys.modules.get("multiprocessing.spawn")
    chosen = spawn.get_executable() if spawn is not None else None
    if chosen and os.fsdecode(chosen) != sys.executable:
        return os.fsdecode(chosen)
    for path in _beside_the_library():
        if os.access(path, os.X_OK):
            return str(path)
    if sys.executable:  # perhaps it has another name
        return sys.executable
    raise ConfigurationError(
        f"workers cannot start: sys.executable is {sys.executable!r}, and there is no Python "
        f"{sys.version_info.major}.{sys.version_info.minor} in {Path(sys.exec_prefix, 'bin')}. Set sys.executable, or "
        "call multiprocessing.set_executable()"
    )


def _beside_the_library() -> Iterator[Path]:
    for prefix in dict.fromkeys((sys.exec_prefix, sys.base_exec_prefix)):
        for name in (f"python{sys.version_info.major}.{sys.version_info.minor}", "python3", "python"):
            yield Path(prefix, "bin", name)


def interpreter_flags() -> list[str]:
    """Return the flags of this Python for another one, without those that make it ignore its environment.

    -E and -I would hide the hash seed of workers, whose variables `variables_of_run` has chosen.
    """
    flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    return ["-s" if flag == "-I" else flag for flag in flags if flag != "-E"]


def working_directory() -> str | None:
    """Return the working directory; ``None`` if it has been removed, so that it has no name."""
    try:
        return os.getcwd()  # noqa: PTH109 - it is for a process to start in
    except FileNotFoundError:
        return None


def _call_in_permanent_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function in a thread that lives as long as this process.

    The kernel kills a worker when the *thread* that started it ends (see ``worker/orphan.py``), and the caller may
    consume ``execute_iter`` in a thread of any lifetime.
    """
    if threading.current_thread() is threading.main_thread():
        return function(*args, **kwargs)
    return _permanent_thread().call(functools.partial(function, *args, **kwargs))


class _CallingThread:
    """A thread that calls functions for others.

    No thread pool: those take no work once the main thread has ended, while other threads still run. A daemon, so that
    it delays no exit.
    """

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[tuple[Callable[[], Any], queue.SimpleQueue[Any]]] = queue.SimpleQueue()
        threading.Thread(target=self._work, name="gpuexec-spawn", daemon=True).start()

    def call(self, function: Callable[[], T]) -> T:
        """Call the function there; return what it returns, or raise what it raises."""
        answers: queue.SimpleQueue[tuple[T, BaseException | None]] = queue.SimpleQueue()
        self._calls.put((function, answers))
        value, error = answers.get()
        if error is not None:
            raise error
        return value

    def _work(self) -> None:
        while True:
            function, answers = self._calls.get()
            try:
                answers.put((function(), None))
            except BaseException as error:  # noqa: BLE001 - it is the caller's
                answers.put((None, error))
            del function, answers


@functools.cache
def _permanent_thread() -> _CallingThread:
    return _CallingThread()


os.register_at_fork(after_in_child=_permanent_thread.cache_clear)  # a child has none of its parent's threads


def start_interpreter(
    arguments: Sequence[str], fds: Sequence[int], output_fd: int, env: Mapping[str, str], folder: str | None
) -> subprocess.Popen[bytes]:
    """Start ``-m gpuexec.worker`` in a process group of its own, which Ctrl-C does not reach.

    ``folder``: its working directory (``None``: the one of this process).
    """
    return _call_in_permanent_thread(_start_interpreter, arguments, fds, output_fd, env, folder)


def _start_interpreter(
    arguments: Sequence[str], fds: Sequence[int], output_fd: int, env: Mapping[str, str], folder: str | None
) -> subprocess.Popen[bytes]:
    # Without -P, -m would look in the working directory first, where a file may be called like a standard module. The
    # worker gets the driver's sys.path once it is running, so the stage's own imports are as in the driver.
    command = [interpreter(), *interpreter_flags(), "-P", "-m", "gpuexec.worker"]
    return subprocess.Popen(
        [*command, *arguments, *map(str, fds), str(os.getpid())],
        env=dict(env),
        cwd=folder if folder and Path(folder).is_dir() else None,
        stdin=subprocess.DEVNULL,
        stdout=output_fd,
        stderr=subprocess.STDOUT,
        pass_fds=fds,
        process_group=0,  # so Ctrl-C reaches the driver only, and one kill also reaches what the stage started
    )
