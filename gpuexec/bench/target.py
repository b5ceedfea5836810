"""What is swept: a name that trials can import, or a pipeline that they unpickle."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gpuexec.bench.child import VARIABLE, ChildProcess, new_id
from gpuexec.bench.request import Request
from gpuexec.bench.trial import Spec
from gpuexec.errors import ConfigurationError, SweepImpossible
from gpuexec.executors.target import is_pipeline
from gpuexec.records import Record
from gpuexec.report.wording import seconds as duration

_LOADS_WITHIN_S = 600.0  # to import a target and make its pipeline, whatever the limit of a trial is


class Target(Record):
    """What is swept. ``pickled``: the pipeline and its initial tasks, ``None`` where ``name`` can be imported."""

    name: str
    pickled: bytes | None = None


def target_of(target: Any, initial_tasks: Sequence[Any] | None = None) -> Target:
    """Return the target that a caller means: ``MODULE_OR_FILE:OBJECT``, a function that returns a pipeline, or one.

    ``initial_tasks``: what every trial begins with. Raises ``ConfigurationError`` for anything else, and for functions
    that another process cannot import.
    """
    _refuse_in_trials()
    if isinstance(target, str):
        name, pipeline = target, None
    elif is_pipeline(target):
        stages = ", ".join(str(stage.name) for stage in target.stages)
        name, pipeline = f"Pipeline {getattr(target, 'name', '')!r} ({stages})", target
    elif callable(target):
        name, pipeline = _name_of(target), None
    else:
        raise ConfigurationError(
            f"a sweep needs a Pipeline, a function that returns one, or 'MODULE:OBJECT', got {target!r}"
        )
    if pipeline is None and initial_tasks is None:
        return Target(name)
    import cloudpickle

    try:
        return Target(name, cloudpickle.dumps((pipeline, initial_tasks)))
    except Exception as error:
        raise ConfigurationError(
            f"{name} cannot be sent to the processes of its trials ({type(error).__name__}: {error}). Give a function "
            "instead that makes the pipeline there, in a module that can be imported"
        ) from error


def describe(request: Request, target: Target, *, plans: bool = False) -> dict[str, Any]:
    """Return what a sweep begins with, as a process of its own has found it: see `gpuexec.bench.describe`.

    Raises ``ConfigurationError`` for what cannot be varied, and ``SweepImpossible`` if the target cannot be loaded.
    """
    with tempfile.TemporaryDirectory(prefix="gpuexec-bench-") as temporary:
        pickled = Path(temporary, "target.pickle")
        if target.pickled is not None:
            pickled.write_bytes(target.pickled)
        spec = Spec(
            task="describe",
            folder=temporary,
            target=target.name,
            object=None if target.pickled is None else str(pickled),
            arguments=dict(request.arguments),
            options=dict(request.options),
            vary=dict(request.vary),
            points=request.points,
            goal=str(request.goal),
            plans=plans,
        )
        child = ChildProcess(spec, Path(temporary), new_id(), request.directory)
        try:
            ended = child.wait(_LOADS_WITHIN_S)
        finally:
            child.end()
        answer = child.answer
        if answer is None:
            too_long = f"it took longer than {duration(_LOADS_WITHIN_S)}"
            raise SweepImpossible(
                f"{request.target} could not be loaded: {child.how_it_ended() if ended else too_long}"
            )
    if "error" in answer:
        raise (ConfigurationError if answer["is_caller"] else SweepImpossible)(answer["error"])
    return answer


def _name_of(function: Any) -> str:
    """Return ``MODULE:NAME`` or ``FILE:NAME`` of a function. Raises ``ConfigurationError`` if it has neither."""
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", "")
    loaded = sys.modules.get(module or "")
    if isinstance(function, type) or loaded is None or getattr(loaded, name, None) is not function:
        raise ConfigurationError(
            f"{function!r} cannot be imported by the processes of the trials: give a function that a module defines by "
            "name, not a class, a lambda, a method or one inside another function"
        )
    if module != "__main__":
        return f"{module}:{name}"
    file = getattr(loaded, "__file__", None)
    if file is None or not Path(file).is_file():
        raise ConfigurationError(
            f"{name}() was defined in an interactive session, which the processes of the trials cannot import: write "
            "it to a module, or give the Pipeline that it returns"
        )
    return f"{Path(file).absolute()}:{name}"


def _refuse_in_trials() -> None:
    """Raise ``ConfigurationError`` in a process that imports a target which starts a sweep when it is imported."""
    if VARIABLE in os.environ and getattr(sys.modules.get("__main__"), "__spec__", None) is not None:
        name = sys.modules["__main__"].__spec__.name  # type: ignore[union-attr]
        if name == "gpuexec.bench.trial":
            raise ConfigurationError(
                "the target's module starts a sweep when it is imported: put that under `if __name__ == '__main__':`"
            )
