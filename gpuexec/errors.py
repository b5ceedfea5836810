"""Every error of this package, grouped by whose fault it is.

Built-in classes that an error is a subclass of, beside the one above it, stand in parentheses.

::

    GpuexecError
    ├── ConfigurationError (ValueError)         the caller: an option, a target or a pipeline that cannot work
    │   └── CompositeNotDecomposed (RuntimeError)   a composite stage was run without a pipeline
    ├── StageError                              the stage's code or declaration
    │   ├── StageNotPicklable (TypeError)       the stage cannot be sent to a worker
    │   ├── ResultNotPicklable (TypeError)      a task that the stage returned cannot be sent back
    │   ├── RemoteStageError                    the stage's exception cannot be sent back, only its text
    │   ├── BatchTimedOut (TimeoutError)        an asynchronous call took longer than ``batch_timeout_s``
    │   ├── GpuShareExceeded                    its worker held more of a GPU than its share, under 'strict'
    │   ├── TooManyQuarantined                  so many of its tasks fail that the stage itself must be wrong
    │   └── StageContractError (TypeError)      it returned or declared something the contract does not allow
    │       └── InvalidTask (ValueError)        a task is of the right type, but not allowed there
    ├── ResourcesError                          the node cannot satisfy the request; the message shows the arithmetic
    │   ├── GpusBusy                            not now: other processes hold the GPUs
    │   └── GpusLost                            no longer: the GPUs failed during the run
    ├── CheckpointError                         a checkpoint folder cannot be used
    │   └── CheckpointMismatch                  it was written by a different pipeline
    ├── CapsuleError                            a failure capsule cannot be read or replayed
    │   └── CapsuleNotWritten (OSError)         it cannot be written
    ├── RunFolderNotWritten (OSError)           never raised: a run's folder cannot be written, and the run goes on
    ├── RunNotFound                             there is no such run folder, or what it holds cannot be read
    ├── CannotAttach                            a run cannot be shown by ``gpuexec top``: it has ended, or is silent
    ├── ComparisonImpossible (ValueError)       there are not two different runs to compare
    ├── SweepImpossible                         ``gpuexec bench`` cannot begin a sweep, or go on with one
    ├── RunCancelled                            the program ended the run, by ``cancel()`` or through asyncio
    ├── WorkerDied                              a worker process ended unexpectedly
    ├── StartRefused (OSError)                  the system refuses another process; the message names the limit
    ├── SpillFailed (OSError)                   what waits for a later phase cannot be written to its folder
    ├── NvmlError                               the driver library answered with an error
    │   └── NvmlUnavailable                     there is no usable driver library
    │       └── NvmlHangs                       a call into it does not return
    ├── RemoteTraceback                         never raised: the `__cause__` that shows a worker's traceback
    ├── ConnectionLost (ConnectionError)        internal: the process at the other end of a socket is gone
    │   └── TemplateLost                        internal: that process is a template
    └── InternalError                           our own fault: please report it
"""

from __future__ import annotations

from collections.abc import Sequence

from gpuexec.naming import abbreviated, full_name


class GpuexecError(Exception):
    """Base of all errors that gpuexec itself raises. Exceptions of a stage's code keep their own type."""


# ---- the caller ----------------------------------------------------------------------------------------


class ConfigurationError(GpuexecError, ValueError):
    """An option, an environment variable or a pipeline is invalid; the message says what to change."""


class CompositeNotDecomposed(ConfigurationError, RuntimeError):
    """A composite stage was asked to process tasks. Only the stages it decomposes into can do that."""


# ---- the stage -----------------------------------------------------------------------------------------


class StageError(GpuexecError):
    """The stage's own code or declaration is at fault."""


class StageNotPicklable(StageError, TypeError):
    """A stage (or an initial task) cannot be sent to a worker; the message names the attribute."""


class ResultNotPicklable(StageError, TypeError):
    """A stage returned a task that cannot be pickled, or that can be pickled but not unpickled."""


class StageContractError(StageError, TypeError):
    """A stage returned, or was declared with, something that the contract does not allow."""


class InvalidTask(StageContractError, ValueError):
    """A task is not allowed where it is: it fails the stage's validation, or a source stage returned a FailedTask."""


class BatchTimedOut(StageError, TimeoutError):
    """A call of an asynchronous stage took longer than ``batch_timeout_s`` and was cancelled; its worker goes on."""


class GpuShareExceeded(StageError):
    """A worker held more GPU memory than its share while it set up or processed a batch, and must not.

    The option ``share_enforcement`` is "strict". The message names the GPU, both sizes and what to ask for.
    """


class TooManyQuarantined(StageError):
    """More of a stage's tasks were quarantined than ``max_quarantined`` allows; the ``__cause__`` is the first error.

    The message names the stage, the counts and the first error.
    """


class RemoteStageError(StageError):
    """Stands for a stage's exception that cannot be sent between processes; carries its text."""


# ---- the node ------------------------------------------------------------------------------------------


class ResourcesError(GpuexecError):
    """The node can never satisfy a stage's request; the message names the stage, the request and the node."""


class GpusBusy(ResourcesError):
    """Other processes hold GPUs and did not free them in time, and the policy is to wait for them."""


class GpusLost(ResourcesError):
    """GPUs failed during the run, and none is left that a stage fits on."""


class NvmlError(GpuexecError):
    """NVML answered with an error that means more than one unknown reading."""


class NvmlUnavailable(NvmlError):
    """There is no usable driver; the message gives the reason in one line."""


class NvmlHangs(NvmlUnavailable):
    """A call into the driver library does not return; the message names the call and the GPU."""


# ---- files ---------------------------------------------------------------------------------------------


class CheckpointError(GpuexecError):
    """A checkpoint cannot be used: in use, no journal, disk full, no permission, or a newer format."""


class CheckpointMismatch(CheckpointError):
    """A checkpoint was written by a different pipeline; the message says how they differ and what to do."""


class CapsuleError(GpuexecError):
    """A capsule cannot be read, or cannot be replayed here; the message says why and what to do."""


class CapsuleNotWritten(CapsuleError, OSError):
    """A capsule could not be written (disk full, no permission). The failure it is about is reported all the same."""


class RunFolderNotWritten(GpuexecError, OSError):
    """A run's folder, or a part of it, could not be written (disk full, no permission). The run is not affected."""


class RunNotFound(GpuexecError):
    """There is no such run folder, or its report cannot be read; the message says why and what to do."""


class CannotAttach(GpuexecError):
    """``gpuexec top`` cannot show a run: it has ended, does not answer, or is of another version; the message says."""


class ComparisonImpossible(GpuexecError, ValueError):
    """There are not two different runs to compare; the message says what to name."""


class SweepImpossible(GpuexecError):
    """A sweep cannot begin or go on: its folder, its journal, or the target in it; the message says what to do."""


# ---- processes -----------------------------------------------------------------------------------------


class RunCancelled(GpuexecError):
    """The run was ended by ``LocalExecutor.cancel``, or because the asyncio task around it was cancelled."""


class WorkerDied(GpuexecError):
    """A worker process ended unexpectedly.

    Attributes: ``stage``; ``worker_id``; ``exit_code`` (negative: the signal's number, as in subprocess);
    ``cause`` (one line: the signal's name or the exit code, and the evidence for what caused it); ``phase``
    of the stage's code (process, setup, …); ``task_ids`` of the batches in flight; ``last_lines`` that the
    worker printed or logged.
    """

    def __init__(
        self,
        *,
        stage: str,
        worker_id: str,
        exit_code: int | None,
        cause: str,
        phase: str,
        task_ids: Sequence[str] = (),
        last_lines: Sequence[str] = (),
    ) -> None:
        self.stage = stage
        self.worker_id = worker_id
        self.exit_code = exit_code
        self.cause = cause
        self.phase = phase
        self.task_ids = tuple(task_ids)
        self.last_lines = tuple(last_lines)
        super().__init__(self._story())

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild_worker_died, (dict(self.__dict__),)

    def _story(self) -> str:
        when = "while idle" if self.phase == "idle" else f"during {self.phase}"
        lines = [f"worker {self.worker_id!r} of stage {self.stage!r} died {when}: {self.cause}"]
        if self.task_ids:
            lines.append(f"  tasks in flight: {abbreviated(self.task_ids)}")
        if self.last_lines:
            lines.append("  its last lines:")
            lines += [f"    | {line}" for line in self.last_lines if line.strip()]
        return "\n".join(lines)


class StartRefused(GpuexecError, OSError):
    """The system refuses a process (process or descriptor limit, memory), and a stage has no worker at all."""


class SpillFailed(GpuexecError, OSError):
    """What waits for a later phase does not fit in memory and cannot be written to ``spill_dir`` (disk full, quota).

    The message names the folder, the bytes wanted and free, and the options to change.
    """


def _rebuild_worker_died(fields: dict[str, object]) -> WorkerDied:
    return WorkerDied(**fields)  # type: ignore[arg-type]


class RemoteTraceback(GpuexecError):
    """The ``__cause__`` of a stage's exception. It shows where in the worker the exception was raised.

    Attributes: ``stage``, ``worker_id``, ``phase``, ``task_ids``, ``text`` (the worker's traceback) and ``brief`` (of
    it, the frames of the user's own code; empty if there are none).
    """

    def __init__(
        self, text: str, stage: str, worker_id: str, phase: str, task_ids: tuple[str, ...], brief: str = ""
    ) -> None:
        super().__init__(text)
        self.text = text
        self.stage = stage
        self.worker_id = worker_id
        self.phase = phase
        self.task_ids = task_ids
        self.brief = brief

    def __str__(self) -> str:
        return f"\n\n{self.text.rstrip()}\n"


class ConnectionLost(GpuexecError, ConnectionError):
    """The process at the other end of a connection is gone."""


class TemplateLost(ConnectionLost):
    """A template process has died, or did not answer and was killed."""


class InternalError(GpuexecError):
    """An invariant of gpuexec was violated. It is a bug in gpuexec, not in the pipeline."""


# ---- names of exceptions -------------------------------------------------------------------------------


def drop_driver_frames(error: BaseException) -> None:
    """Drop this package's frames from a stage's exception: it was raised in a worker, as its ``__cause__`` says."""
    if isinstance(error.__cause__, RemoteTraceback):
        error.__traceback__ = None


def names_of(error: BaseException) -> list[str]:
    """Return the full names of an exception's class and its bases, without ``object``."""
    return [full_name(cls) for cls in type(error).__mro__[:-1]]


def error_names_match(names: Sequence[str], wanted: Sequence[str]) -> bool:
    """Return whether one of ``names`` (see `names_of`) is among ``wanted``, given in full or as the bare class name."""
    return any(name in wanted or name.rpartition(".")[2] in wanted for name in names)
