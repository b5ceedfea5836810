"""Refuses pipelines and observers that no executor can run with, before anything is read or started."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gpuexec.errors import ConfigurationError
from gpuexec.stage.loading import is_loading_stage

if TYPE_CHECKING:
    from gpuexec.events import Observer

_RESOURCES = ("cpus", "gpus", "gpu_memory_gb")


def check_call(stages: Sequence[Any]) -> None:
    """Raise ``ConfigurationError`` for a call that no executor can carry out; each checks its calls with this once."""
    _refuse_run_during_import()
    _check_stages(stages)


def _check_stages(stages: Sequence[Any]) -> None:
    """Raise ``ConfigurationError`` if there are no stages, one of them is not a stage, or declares a wrong type."""
    if hasattr(stages, "stages") or not isinstance(stages, Sequence) or isinstance(stages, str):
        hint = "call its run(executor) instead" if hasattr(stages, "stages") else "put a single stage into a list"
        raise ConfigurationError(f"execute() takes a list of stages, got a {type(stages).__name__}: {hint}")
    if not stages:
        raise ConfigurationError(
            "there are no stages to run: give execute() a list of stages, or add_stage() to the pipeline"
        )
    for position, stage in enumerate(stages):
        if isinstance(stage, type):
            raise ConfigurationError(
                f"stage {position} is {stage!r}, not a ProcessingStage: pass an instance instead of the class"
            )
        if not callable(getattr(stage, "process_batch", None)):
            raise ConfigurationError(f"stage {position} is a {type(stage).__name__}, not a ProcessingStage")
        _check_declarations(stage, position)


def _check_declarations(stage: Any, position: int) -> None:
    """Refuse attributes of a wrong type, which would otherwise fail far from here."""
    if not isinstance(stage.name, str):
        raise ConfigurationError(f"stage {position}: its name must be text, got {stage.name!r}")
    resources = stage.resources
    if isinstance(resources, type) or not all(hasattr(resources, field) for field in _RESOURCES):
        given = ", ".join(f"{k}={v!r}" for k, v in resources.items()) if isinstance(resources, Mapping) else "…"
        raise ConfigurationError(
            f"stage {stage.name!r}: resources must be a Resources object, got {resources!r}: write Resources({given})"
        )


def checked_observers(observers: Sequence[Observer]) -> tuple[Observer, ...]:
    """Return the caller's observers. Raises ``ConfigurationError`` for what cannot be one."""
    given: object = observers
    if not isinstance(given, Iterable):
        hint = ": put a single one into a list" if callable(getattr(given, "on_event", None)) else ""
        raise ConfigurationError(f"observers must be a list of observers, got {given!r}{hint}")
    for observer in observers:
        if isinstance(observer, type) or not callable(getattr(observer, "on_event", None)):
            raise ConfigurationError(
                f"observers must have a method on_event(event), got {observer!r}; see gpuexec.events.Observer"
            )
    return tuple(observers)


def _refuse_run_during_import() -> None:
    """Raise ``ConfigurationError`` if a worker that imports its stage's module would start the module's own run.

    That run would start workers, which import the module again, and so on without end.
    """
    if is_loading_stage():
        raise ConfigurationError(
            "the module that defines the stage starts a run when it is imported: "
            "put that run under `if __name__ == '__main__':`"
        )
