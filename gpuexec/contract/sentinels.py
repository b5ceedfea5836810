"""Markers: tasks without data, which stand for the absence of a task."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

from gpuexec.contract.task import Task
from gpuexec.errors import InvalidTask


@dataclass
class SentinelTask(Task[None]):
    """Base of the markers: it has no data and no items."""

    data: None = None

    def __post_init__(self) -> None:
        """Refuse data."""
        if self.data is not None:
            raise InvalidTask(f"{type(self).__name__} carries no data, got {type(self.data).__name__}")
        super().__post_init__()

    @property
    def num_items(self) -> int:
        """Always 0."""
        return 0

    def validate(self) -> bool:
        """Return ``True``: there is nothing to check."""
        return True


@dataclass(repr=False)
class EmptyTask(SentinelTask):
    """The first stage's input when a pipeline has no initial tasks: the root of all ids."""

    dataset_name: str = "empty"
    task_id: str = field(init=False, default="0")


@dataclass(repr=False)
class NoneTask(SentinelTask):
    """A task was filtered out on purpose. A stage may return ``None`` instead."""

    dataset_name: str = "none"


@dataclass(repr=False)
class FailedTask(SentinelTask):
    """A task failed and should be tried again by a later run."""

    dataset_name: str = "failed"


class TaskKind(IntEnum):
    """What an adapter does with a task that a stage returned: pass it on, or drop it as filtered out or failed."""

    TASK = 0
    NONE = 1
    FAILED = 2


_NONE_TYPES: list[type] = [NoneTask]
_FAILED_TYPES: list[type] = [FailedTask]
_KINDS: dict[type, TaskKind] = {}  # by class; issubclass on an abstract base class costs more than a tiny batch


def register_sentinels(none_type: type, failed_type: type) -> None:
    """Make `kind_of` recognise another library's markers too. Safe to repeat."""
    if none_type not in _NONE_TYPES:
        _NONE_TYPES.append(none_type)
        _FAILED_TYPES.append(failed_type)
        _KINDS.clear()


def kind_of(cls: type) -> TaskKind:
    """Return whether a class is one of tasks or of markers, which the next stage must not see."""
    kind = _KINDS.get(cls)
    if kind is None:
        failed, none = issubclass(cls, tuple(_FAILED_TYPES)), issubclass(cls, tuple(_NONE_TYPES))
        kind = _KINDS[cls] = TaskKind.FAILED if failed else TaskKind.NONE if none else TaskKind.TASK
    return kind
