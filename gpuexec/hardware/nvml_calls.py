"""Calls into the driver library, each with a time limit. The only module that imports pynvml (package nvidia-ml-py).

A call may hang, even where no signal reaches it: ``nvidia-smi`` has been seen in uninterruptible sleep, for ever
(leptonai/gpud#117). So the calls of a session are made in a thread of its own. The caller waits for the answer no
longer than the limit, and Ctrl-C ends the wait. The thread is a daemon, so the process can end although it cannot.

While a call that nobody waits for any more has not returned, no further one is made in this process: it would probably
wait for a lock that the first one holds. It is answered at once with ``NvmlHangs``. When the first one returns after
all, calls are made again.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any

from gpuexec.errors import ConfigurationError, NvmlHangs, NvmlUnavailable
from gpuexec.hardware import nvml_errors

# How long to wait for a call, unless the user says it.
TIMEOUT_S = 3.0
# During a run the driver waits for some of the answers, and Ctrl-C must end it within 5 s. A reading that is given up
# by mistake is only missing.
RUNNING_TIMEOUT_S = 2.0
SAMPLING_TIMEOUT_S = 1.0  # in workers, where a batch waits for the answer
# A GPU that no process uses is initialised when it is opened, which takes about 3 s without persistence mode
# (Azure/AgentBaker#2829: 25 s for eight).
_OPENING = 1.5
_LONGEST_S = 86_400.0
_POLL_S = 0.01
_JOIN_S = 1.0
_SLICE_S = 0.25

_abandoned: dict[_Call, str] = {}  # calls that have not returned and that nobody waits for, and what to say of them


def hung_call() -> str | None:
    """Return which call does not return, in words; ``None`` if all do."""
    return next(iter(list(_abandoned.values())), None)


def _timeout_s(default_s: float) -> float:
    value = os.environ.get(nvml_errors.TIMEOUT_VARIABLE)
    if value is None:
        return default_s
    with contextlib.suppress(ValueError):
        seconds = float(value)
        if 0 < seconds < _LONGEST_S:
            return seconds
    raise ConfigurationError(
        f"{nvml_errors.TIMEOUT_VARIABLE}={value!r} must be the seconds to wait for an answer of the NVIDIA driver, "
        f"such as {TIMEOUT_S:g}"
    )


@contextlib.contextmanager
def session(timeout_s: float = TIMEOUT_S, *, at_most_s: float = _LONGEST_S) -> Iterator[Reader]:
    """Initialise NVML for the duration of the block.

    ``timeout_s``: how long to wait for a call, unless the user sets the variable for it. ``at_most_s``: no longer than
    this, whatever the user says. Raises ``NvmlUnavailable``, ``ConfigurationError`` if the variable is no such number.
    """
    limit = min(_timeout_s(timeout_s), at_most_s)
    _refuse_while_one_hangs(limit)
    try:
        import pynvml
    except ImportError as error:
        raise NvmlUnavailable(f"the Python package nvidia-ml-py is not installed ({error})") from error
    reader = Reader(pynvml, limit)
    try:
        reader.initialise()
        yield reader
    finally:
        reader.close()


class _Call:
    """One call. Whoever takes ``settled`` first decides: the thread that it is answered, the caller that it is not."""

    __slots__ = ("began", "settled")

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.settled = threading.Lock()


class _Several:
    """Makes several calls in a row, as one job of a session's thread. The attributes are those of the present call."""

    def __init__(self, nvml: ModuleType, questions: Sequence[tuple[Callable[..., Any], tuple[Any, ...]]]) -> None:
        self._errors = nvml.NVMLError
        self._questions = questions
        self.function, self.args = questions[0]

    @property
    def __name__(self) -> str:
        return self.function.__name__

    def __call__(self) -> list[tuple[Any, str]]:
        answers: list[tuple[Any, str]] = []
        for function, args in self._questions:
            self.function, self.args = function, args
            try:
                answers.append((function(*args), ""))
            except self._errors as error:
                answers.append((None, nvml_errors.reason(error)))
        return answers


class Reader:
    """Calls NVML functions within a session, in a thread of the session. Only one thread at a time may use it.

    ``nvml`` is pynvml: its constants, errors and functions, which are to be called through `call` and `ask` only.
    """

    def __init__(self, nvml: ModuleType, limit_s: float) -> None:
        self.nvml = nvml
        self._limit_s = limit_s
        self._initialised = False
        self._subjects: dict[int | None, str] = {}  # what a handle is of, by its address
        self._jobs: queue.SimpleQueue[tuple[_Call, Callable[..., Any], tuple[Any, ...]] | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[tuple[_Call, Any, BaseException | None]] = queue.SimpleQueue()
        self._late: list[tuple[Callable[..., Any], Any]] = []
        self._thread = threading.Thread(target=self._serve, name="gpuexec-nvml", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:
            raise NvmlUnavailable(f"the system refuses the thread that NVML is called in ({error})") from error

    def initialise(self) -> None:
        """Initialise NVML; `close` undoes it. Raises ``NvmlUnavailable``."""
        try:
            self.call(self.nvml.nvmlInit)
        except self.nvml.NVMLError as error:
            raise NvmlUnavailable(nvml_errors.why_unavailable(error)) from error
        self._initialised = True

    def ask(self, function: Callable[..., Any], *args: Any) -> tuple[Any, str]:
        """Return (value, "") or (None, reason)."""
        try:
            value = self.call(function, *args)
        except NvmlHangs as hang:
            return None, str(hang)
        except self.nvml.NVMLError as error:
            return None, nvml_errors.reason(error)
        return value.decode(errors="replace") if isinstance(value, bytes) else value, ""

    def ask_all(
        self, questions: Sequence[tuple[Callable[..., Any], tuple[Any, ...]]], *, blocks_s: float = 0.0
    ) -> list[tuple[Any, str]]:
        """Call functions, given with their arguments, and return what `ask` returns of each.

        They cost two switches between threads, instead of two for each. All of them together may take as long as one
        call, and ``blocks_s``. None may open a handle. Raises ``NvmlHangs``.
        """
        if not questions:
            return []
        answers: list[tuple[Any, str]] = self.call(_Several(self.nvml, questions), blocks_s=blocks_s)
        return answers

    def call(self, function: Callable[..., Any], *args: Any, blocks_s: float = 0.0) -> Any:
        """Call a function of pynvml and return its value.

        ``blocks_s``: how long the function may block by its nature. Raises ``NVMLError``, and ``NvmlHangs``, whose
        message names function and GPU.
        """
        _refuse_while_one_hangs(self._limit_s)
        call = _Call()
        opens = "Handle" in function.__name__
        try:
            self._jobs.put((call, function, args))
            value, error = self._answer_to(call, self._limit_s * (_OPENING if opens else 1) + blocks_s)
        except BaseException as problem:
            _abandoned[call] = hang = self._describe(function, args)
            if call.settled.acquire(blocking=False):
                if isinstance(problem, queue.Empty):
                    raise NvmlHangs(hang) from None
                raise
            _abandoned.pop(call, None)
            if not isinstance(problem, queue.Empty):
                raise
            value, error = self._answer_to(call, self._limit_s)  # it came in this very moment
        if error is not None:
            try:
                raise error
            finally:
                del error  # its traceback refers to this frame, and so to all that the callers hold, such as leases
        if opens:
            self._subjects[address(value)] = self._subject(args, slice_too=True)
        return value

    def take_late_values(self, function: Callable[..., Any]) -> list[Any]:
        """Return what calls of a function returned when they were no longer waited for, each once."""
        late, self._late = self._late, []
        return [value for called, value in late if called is function]

    def is_lost(self, handle: Any) -> bool:
        """Return whether the GPU no longer answers. Raises ``NvmlHangs``."""
        try:
            self.call(self.nvml.nvmlDeviceGetUUID, handle)
            self.call(self.nvml.nvmlDeviceGetMemoryInfo, handle)
        except self.nvml.NVMLError_GpuIsLost:
            return True
        except self.nvml.NVMLError:
            return False
        return False

    def close(self) -> None:
        """Undo `initialise` and end the thread. While a call hangs, both are left to the thread, should it return."""
        try:
            if self._initialised and not _abandoned:
                with contextlib.suppress(self.nvml.NVMLError, NvmlHangs):
                    self.call(self.nvml.nvmlShutdown)
        finally:
            self._jobs.put(None)
        if not _abandoned:
            self._thread.join(_JOIN_S)

    def _answer_to(self, call: _Call, seconds: float) -> tuple[Any, BaseException | None]:
        """Wait in slices: a signal that comes just before a wait does not end it, and Python looks for it after one."""
        deadline = time.monotonic() + seconds
        while True:
            rest = deadline - time.monotonic()
            try:
                answered, value, error = self._answers.get(timeout=max(0.0, min(rest, _SLICE_S)))
            except queue.Empty:
                if rest <= _SLICE_S:
                    raise
                continue
            if answered is call:  # an earlier call's answer was not fetched if a signal came just then
                return value, error

    def _serve(self) -> None:
        """Make the calls, in the session's thread, until there is no next one. Then undo `initialise`, if need be."""
        initialised = False
        while (job := self._jobs.get()) is not None:
            call, function, args = job
            value: Any = None
            error: BaseException | None = None
            try:
                value = function(*args)
                initialised = function is not self.nvml.nvmlShutdown and (initialised or function is self.nvml.nvmlInit)
            except BaseException as raised:  # noqa: BLE001 - it is raised where the call was asked for
                error = raised
            if call.settled.acquire(blocking=False):
                self._answers.put((call, value, error))
            elif error is None:
                self._late.append((function, value))
            _abandoned.pop(call, None)
            del job, call, function, args, value, error  # an exception refers to this frame
        if initialised:
            with contextlib.suppress(self.nvml.NVMLError):
                self.nvml.nvmlShutdown()

    def _describe(self, function: Callable[..., Any], args: tuple[Any, ...]) -> str:
        name = function.__name__
        if isinstance(function, _Several):
            args = function.args
        subject = self._subject(args)
        return f"the NVML call {name}{f' for {subject}' if subject else ''} does not return"

    def _subject(self, args: tuple[Any, ...], *, slice_too: bool = False) -> str:
        """Return which device a call is about, "" if none. ``slice_too``: its second argument is a slice."""
        if not args:
            return ""
        if isinstance(args[0], int):
            return f"GPU {args[0]}"
        if isinstance(args[0], str):
            return args[0]
        device = self._subjects.get(address(args[0]), "")
        if slice_too and len(args) > 1:
            return f"{device}, MIG slice {args[1]}"
        other = self._subjects.get(address(args[1])) if len(args) > 1 and not isinstance(args[1], int | list) else None
        return f"{device} and {other}" if other else device


def address(handle: Any) -> int | None:
    """Return what a handle of NVML points to."""
    return ctypes.cast(handle, ctypes.c_void_p).value


def _refuse_while_one_hangs(limit_s: float) -> None:
    """Raise ``NvmlHangs`` if a call does not return. One that Ctrl-C has cut short may still return in time."""
    for call, hang in list(_abandoned.items()):
        while call in _abandoned and time.monotonic() - call.began < limit_s:
            time.sleep(_POLL_S)
        if call in _abandoned:
            raise NvmlHangs(hang)
