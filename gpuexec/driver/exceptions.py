"""From what a worker reported, or its silence, to the exception the caller sees."""

from __future__ import annotations

import traceback

from gpuexec.channel import codec
from gpuexec.channel.messages import Failed
from gpuexec.channel.payload import SegmentRef
from gpuexec.errors import RemoteStageError, RemoteTraceback, ResultNotPicklable, RunCancelled
from gpuexec.naming import abbreviated, shortened

_MAX_LINE = 2_000  # characters


def stage_exception(
    failed: Failed, *, stage: str, producer: str, worker_id: str, task_ids: tuple[str, ...]
) -> BaseException:
    """Return the exception to raise for a failure in a stage's code.

    It is the stage's own exception where that can travel, with a note that says where it happened.
    ``producer`` names whoever made the batch's inputs.
    """
    error = _own_exception(failed, stage, producer)
    if isinstance(error, StopIteration):  # Python lets no generator raise it, and results come from one
        error = RemoteStageError(
            f"stage {stage!r} raised {failed.text} in {failed.phase}: an iterator that it takes from has ended. Catch "
            "that in the stage, or give next() a second argument."
        )
    where = _WHERE.get(failed.phase, f"in {failed.phase}() of") + f" stage {stage!r}"
    error.add_note(f"raised {where} (worker {worker_id!r})" + (f", tasks {abbreviated(task_ids)}" if task_ids else ""))
    error.__cause__ = RemoteTraceback(failed.traceback, stage, worker_id, failed.phase, task_ids, failed.brief)
    return error


_WHERE = {"import": "while a worker imported and unpickled", "receive": "in", "return": "in"}


def _own_exception(failed: Failed, stage: str, producer: str) -> BaseException:
    match failed.phase:
        case "return":
            return ResultNotPicklable(
                f"stage {stage!r} returned a task that cannot be sent on: {failed.text.rstrip('.')}. "
                "Keep handles, locks, open files and generators out of tasks; store what they are made from."
            )
        case "receive":
            return ResultNotPicklable(
                f"a task made by {producer} was pickled but cannot be unpickled in stage {stage!r}: "
                f"{failed.text}. Its class must be importable in every worker and restore itself from its pickle."
            )
    if failed.is_exit:
        return RemoteStageError(
            f"stage {stage!r} tried to end its process in {failed.phase}: {failed.text}. "
            "Raise an ordinary exception to fail, return None to drop a task."
        )
    if failed.payloads:
        (payload,) = failed.payloads
        assert not isinstance(payload, SegmentRef)
        try:
            error: BaseException = codec.decode(payload, in_place=False)
        except Exception as why:  # noqa: BLE001 - its class may be known in the worker only
            return RemoteStageError(f"{failed.error_names[0]}: {failed.text} (it cannot be unpickled here: {why})")
        return error
    return RemoteStageError(f"{failed.error_names[0]}: {failed.text} (the exception itself cannot be pickled)")


def in_a_line(error: BaseException) -> str:
    """Name an exception and what it says, also where its own ``__str__`` fails."""
    return " ".join(shortened("".join(traceback.format_exception_only(error)), _MAX_LINE).split())


def is_interruption(error: BaseException) -> bool:
    """Return whether the run was ended from outside, rather than failed."""
    return isinstance(error, KeyboardInterrupt | SystemExit | RunCancelled)
