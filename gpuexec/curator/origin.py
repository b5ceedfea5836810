"""Whose a stage is. Imports neither library."""

from __future__ import annotations


def is_curator_stage(stage: object) -> bool:
    """Whether the stage is NeMo Curator's; does not import it."""
    return any(
        cls.__module__ == "nemo_curator.stages.base" and cls.__name__ == "ProcessingStage"
        for cls in type(stage).__mro__
    )


def class_name_of(stage: object) -> str:
    """Return the full name of the stage's class."""
    return f"{type(stage).__module__}.{type(stage).__qualname__}"
