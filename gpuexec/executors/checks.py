"""Refuses pipelines that no executor can run, before anything is read or started."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gpuexec.errors import ConfigurationError
from gpuexec.stage.loading import is_loading_stage


def check_stages(stages: Sequence[Any]) -> None:
    """Raise ``ConfigurationError`` if there are no stages, or one of them is not a stage."""
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


def refuse_run_during_import() -> None:
    """Raise ``ConfigurationError`` if a worker that imports its stage's module would start the module's own run.

    That run would start workers, which import the module again, and so on without end.
    """
    if is_loading_stage():
        raise ConfigurationError(
            "the module that defines the stage starts a run when it is imported: "
            "put that run under `if __name__ == '__main__':`"
        )
