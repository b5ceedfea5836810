"""Which library a stage is from. Imports neither of them."""

from __future__ import annotations

STAGE_MODULE = "nemo_curator.stages.base"


def is_curator_stage(stage: object) -> bool:
    """Return whether the stage is NeMo Curator's, without importing it."""
    return any(cls.__module__ == STAGE_MODULE and cls.__name__ == "ProcessingStage" for cls in type(stage).__mro__)
