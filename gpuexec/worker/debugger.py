"""What ``breakpoint()`` does in a worker, which has no terminal: it says how to debug the stage instead."""

from __future__ import annotations

import os
import sys
from typing import Any, NoReturn

from gpuexec.curator.registration import after_import
from gpuexec.errors import StageError

_VARIABLE = "PYTHONBREAKPOINT"
_DEBUGGERS = ("pdb", "ipdb", "pudb")  # those that read commands from the terminal


def explain_breakpoints() -> None:
    """Have ``breakpoint()`` and ``set_trace()`` raise ``StageError``.

    A debugger that the user has named in ``PYTHONBREAKPOINT`` is called as usual: those that listen on a port work
    here.
    """
    standard = sys.breakpointhook

    def hook(*args: Any, **kwargs: Any) -> Any:
        named = os.environ.get(_VARIABLE, "")
        if named and named.rpartition(".")[0] not in _DEBUGGERS:
            return standard(*args, **kwargs)
        _refuse("breakpoint()", sys._getframe(1))

    sys.breakpointhook = hook
    for name in _DEBUGGERS:
        after_import(name, _replace_set_trace)


def _replace_set_trace(module: Any) -> None:
    def set_trace(*_args: Any, **_kwargs: Any) -> None:
        _refuse(f"{module.__name__}.set_trace()", sys._getframe(1))

    module.set_trace = set_trace


def _refuse(call: str, frame: Any) -> NoReturn:
    raise StageError(
        f"{call} in {frame.f_code.co_filename}, line {frame.f_lineno}: a worker process has no terminal to debug in. "
        "Run the pipeline with InlineExecutor(), where it stops here; or, once a batch has failed, run it again with "
        f"`gpuexec replay CAPSULE --pdb`; or set {_VARIABLE} to a debugger that listens on a port, such as "
        f"{_VARIABLE}=remote_pdb.set_trace. {_VARIABLE}=0 skips breakpoints"
    )
