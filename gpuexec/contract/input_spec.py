"""What ``ProcessingStage.inputs()`` declares, and how a task is checked against it."""

from __future__ import annotations

from typing import Any

from gpuexec.errors import StageContractError

InputSpec = tuple[list[str], list[str]]
InputSpecs = InputSpec | dict[type, InputSpec]


def spec_for_task(stage_name: str, specs: object, task: Any) -> InputSpec:
    """Return the spec that applies to a task: the tuple, or from a mapping the entry of the task's nearest class.

    Raises ``StageContractError`` for a malformed spec, and for a task type that the mapping does not have.
    """
    if isinstance(specs, tuple):
        return _checked(stage_name, specs, "inputs()")
    if not isinstance(specs, dict):
        raise StageContractError(
            f"Stage {stage_name}: inputs() must return (attributes, columns) or a dict from task type to "
            f"such a tuple, got {type(specs).__name__}"
        )
    for cls in type(task).__mro__:
        if cls in specs:
            return _checked(stage_name, specs[cls], f"inputs()[{cls.__name__}]")
    supported = ", ".join(cls.__name__ for cls in specs) or "none"
    raise StageContractError(
        f"Stage {stage_name} does not support input task type {type(task).__name__} (supported: {supported})"
    )


def missing_from(task: Any, spec: InputSpec) -> tuple[list[str], list[str]]:
    """Return the attributes of the task and the columns of its data that are declared but missing."""
    attributes, columns = spec
    if not (attributes or columns):  # of most stages, and on the hot path
        return [], []
    get_columns = getattr(task, "get_columns", None)
    present = get_columns() if callable(get_columns) else getattr(task.data, "column_names", ())
    return (
        [name for name in attributes if not hasattr(task, name)],
        [name for name in columns if not hasattr(task.data, name) and name not in present],
    )


def _checked(stage_name: str, spec: object, source: str) -> InputSpec:
    if not isinstance(spec, tuple) or len(spec) != 2:
        raise StageContractError(f"Stage {stage_name}: {source} must be a tuple (attributes, columns), got {spec!r}")
    return spec
