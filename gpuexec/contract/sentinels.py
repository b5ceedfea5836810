"""Tasks without data, which say something about their place."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

from gpuexec.contract.task import Task
from gpuexec.errors import InvalidTask


@dataclass
class SentinelTask(Task[None]):
    """Base of the markers: no data, no items."""

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
        """Nothing to check."""
        return True


@dataclass(repr=False)
class EmptyTask(SentinelTask):
    """What a pipeline without initial tasks begins with: the root of all ids."""

    dataset_name: str = "empty"
    task_id: str = field(init=False, default="0")


@dataclass(repr=False)
class NoneTask(SentinelTask):
    """This slot was filtered out on purpose; a stage may return ``None`` instead."""

    dataset_name: str = "none"


@dataclass(repr=False)
class FailedTask(SentinelTask):
    """This slot failed and should be tried again by a later run."""

    dataset_name: str = "failed"


class TaskKind(IntEnum):
    """What an adapter does with a task: pass it on, or drop it as filtered out or failed."""

    TASK = 0
    NONE = 1
    FAILED = 2


_NONE_TYPES: list[type] = [NoneTask]
_FAILED_TYPES: list[type] = [FailedTask]
_KINDS: dict[type, TaskKind] = {}  # asking an abstract base class costs more than the rest of a tiny batch


def register_sentinels(none_type: type, failed_type: type) -> None:
    """Also recognise another library's markers."""
    if none_type not in _NONE_TYPES:
        _NONE_TYPES.append(none_type)
        _FAILED_TYPES.append(failed_type)
        _KINDS.clear()


def kind_of(cls: type) -> TaskKind:
    """Tell markers, which no following stage may see, from tasks."""
    kind = _KINDS.get(cls)
    if kind is None:
        failed, none = issubclass(cls, tuple(_FAILED_TYPES)), issubclass(cls, tuple(_NONE_TYPES))
        kind = _KINDS[cls] = TaskKind.FAILED if failed else TaskKind.NONE if none else TaskKind.TASK
    return kind
