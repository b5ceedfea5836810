"""Turns whatever a stage raised into the `Failed` message that the driver gets."""

from __future__ import annotations

import sys
import traceback
from typing import Any

from gpuexec.channel import codec
from gpuexec.channel.messages import Failed
from gpuexec.channel.payload import Payload
from gpuexec.contract.phases import StagePhase
from gpuexec.errors import names_of
from gpuexec.naming import shortened

# Characters. Some exceptions hold all the data that they complain about; it travels in the exception itself only.
_MAX_TEXT = 8_000
_MAX_TRACEBACK = 64_000

_CALLERS = {  # of a stage's methods: their frames say nothing about the failure
    "gpuexec.contract.adapter",
    "gpuexec.contract.async_adapter",
    "gpuexec.contract.stage",
    "gpuexec.stage.seeds",
    "gpuexec.stage.session",
    "gpuexec.worker.async_loop",
    "gpuexec.worker.loop",
    "gpuexec.worker.group_loop",
    "nemo_curator.backends.base",
    "nemo_curator.stages.base",
}


def describe_failure(
    error: BaseException, phase: StagePhase, batch_id: int | None = None, *, halted: bool = True, **where: Any
) -> Failed:
    """Return the message for an exception; it has the exception itself only if that survives pickling.

    ``where``: the fields of `Failed` that say where in a group it was raised.
    """
    text = shortened("".join(traceback.format_exception_only(error)).strip(), _MAX_TEXT)
    is_exit = not isinstance(error, Exception)
    return Failed(
        phase=phase,
        batch_id=batch_id,
        error_names=names_of(error),
        text=text,
        traceback=shortened(_stage_traceback(error), _MAX_TRACEBACK),
        is_exit=is_exit,
        halted=halted,
        brief=shortened(_brief(error), _MAX_TEXT),
        **where,
        payloads=() if is_exit else _pickled_if_portable(error),
    )


def _pickled_if_portable(error: BaseException) -> tuple[Payload, ...]:
    """Pickle an exception if it also unpickles, to the same type. Many do not: cpython#103061.

    Code of its class runs here, which may do anything, ``sys.exit()`` included.
    """
    try:
        payload = codec.encode_by_value(error).join()
        if type(codec.decode(payload, in_place=False)) is type(error):
            return (payload,)
    except BaseException:  # noqa: BLE001, S110 - the text and traceback still travel
        pass
    return ()


def _brief(error: BaseException) -> str:
    from gpuexec.stage.brief_traceback import brief_traceback  # only failures pay for it

    try:
        return brief_traceback(error)
    except Exception:  # noqa: BLE001 - the whole traceback is sent too
        return ""


def _stage_traceback(error: BaseException) -> str:
    """Format the traceback without the frames at its top that only lead to the stage's code."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None and trace.tb_frame.f_globals.get("__name__") in _CALLERS:
        trace = trace.tb_next
    try:
        return "".join(traceback.format_exception(type(error), error, trace))
    except Exception:  # noqa: BLE001 - an exception whose __str__ raises must still be reported
        return f"{type(error).__name__} (its text could not be formatted)\n{sys.exc_info()[1]!r}"
