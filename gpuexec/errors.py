"""Every error this package raises, grouped by whose fault it is.

GpuexecError
├── ConfigurationError      the caller: an option, a target or a pipeline that cannot work
├── StageError              the stage's code or declaration
│   ├── StageNotPicklable   the stage cannot travel to a worker
│   ├── ResultNotPicklable  what the stage returned cannot travel back
│   ├── RemoteStageError    its exception cannot travel, only its text
│   └── StageContractError  it returned or declared something the contract does not allow
├── ResourcesError          the node cannot satisfy the request (says the arithmetic); GpusBusy: not now;
│                           GpusLost: no longer
├── CheckpointError         a checkpoint folder cannot be used; CheckpointMismatch: it is another pipeline's
├── WorkerDied              a worker process ended without being asked to
├── NvmlError               the driver library answered with an error; NvmlUnavailable: there is none to ask
└── InternalError           our own fault: please report it
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class GpuexecError(Exception):
    """Base of every error raised by gpuexec itself (a stage's own exceptions keep their type)."""


class ConfigurationError(GpuexecError, ValueError):
    """An option, environment variable or pipeline is invalid; the message says what to change."""


class ResourcesError(GpuexecError):
    """The node can never satisfy a stage's request; the message names the stage, request and node."""


class GpusLost(ResourcesError):
    """GPUs failed during the run and none is left that a stage fits on."""


class NvmlError(GpuexecError):
    """NVML answered with an error that is not just an unknown reading."""


class InternalError(GpuexecError):
    """An invariant of gpuexec was violated. It is a bug in gpuexec, not in the pipeline."""


class StageError(GpuexecError):
    """The stage's own code or declaration is at fault."""


class StageNotPicklable(StageError, TypeError):
    """A stage (or an initial task) cannot be sent to a worker; names the attribute."""


class ResultNotPicklable(StageError, TypeError):
    """A stage returned a task that cannot be pickled, or that pickles but does not unpickle."""


class StageContractError(StageError, TypeError):
    """A stage returned, or was declared as, something the contract does not allow."""


class RemoteStageError(StageError):
    """A stage's exception whose own type cannot travel between processes; carries its text."""


class CheckpointError(GpuexecError):
    """A checkpoint cannot be read or written: in use, no journal, disk full, no permission, a newer format."""


class CheckpointMismatch(CheckpointError):
    """A checkpoint belongs to another pipeline; the message says how they differ and what to do."""


class WorkerDied(GpuexecError):
    """A worker process ended without being asked to.

    Attributes: ``stage``, ``worker_id``, ``exit_code`` (negative: signal number, as in subprocess),
    ``cause`` (one line: signal name or exit code and what evidence there is), ``phase`` of the stage's code
    (process, setup, …), ``task_ids`` of the
    batches it had in hand, ``last_lines`` of what it had printed or logged.
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
            shown = ", ".join(self.task_ids[:8]) + (" …" if len(self.task_ids) > 8 else "")
            lines.append(f"  tasks in hand: {shown}")
        if self.last_lines:
            lines.append("  its last lines:")
            lines += [f"    | {line}" for line in self.last_lines]
        return "\n".join(lines)


def _rebuild_worker_died(fields: dict[str, object]) -> WorkerDied:
    return WorkerDied(**fields)  # type: ignore[arg-type]


def names_of(error: BaseException) -> list[str]:
    """Return the full names of an exception's class and its bases, but for ``object``."""
    return [f"{cls.__module__}.{cls.__qualname__}" for cls in type(error).__mro__[:-1]]


def error_names_match(names: Sequence[str], wanted: Sequence[str]) -> bool:
    """Whether one of ``names`` (see `names_of`) is among ``wanted``, given in full or as the bare class name."""
    return any(name in wanted or name.rpartition(".")[2] in wanted for name in names)
