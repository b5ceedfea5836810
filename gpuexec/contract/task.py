"""Tasks: what stages receive and return."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeGuard, TypeVar

from gpuexec.contract.perf import StagePerfStats

if TYPE_CHECKING:
    from gpuexec.contract.interfaces import TaskLike

T = TypeVar("T")


@dataclass
class Task(ABC, Generic[T]):
    """A piece of a dataset on its way through the stages. Subclasses define how many items it has.

    ``task_id`` is the task's path: the positions of its ancestors, joined by ``"_"``, below the implicit root
    ``"0"``. The executor's adapter sets it at every stage; stages must not. An id that begins with ``"r"``
    is random: the batch's outputs could not be matched with its inputs. ``_stage_perf`` has one entry for
    every stage the task went through.
    """

    dataset_name: str
    data: T
    _stage_perf: list[StagePerfStats] = field(default_factory=list)
    _metadata: dict[str, Any] = field(default_factory=dict)
    task_id: str = field(init=False, default="")
    _source_id: str = field(init=False, default="")

    def __post_init__(self) -> None:
        """Check the data."""
        self.validate()

    @property
    @abstractmethod
    def num_items(self) -> int:
        """How many items (documents, images, …) the task holds."""

    @abstractmethod
    def validate(self) -> bool:
        """Check the data; raise, or log and return ``False``."""

    def add_stage_perf(self, perf_stats: StagePerfStats) -> None:
        """Attach the stats of a stage that the task came out of."""
        self._stage_perf.append(perf_stats)

    def get_source_id(self) -> str:
        """Return the last segment of the id. At a source stage it names the partition."""
        return self.task_id.rpartition("_")[2]

    def get_deterministic_id(self) -> str | None:
        """Return an id made from the content, or ``None``. At a source stage it becomes the last segment of the id."""
        return None

    def _set_task_id(self, parent_task_id: str, current_task_id_suffix: str | int) -> None:
        segment = str(current_task_id_suffix)
        self.task_id = f"{parent_task_id}_{segment}" if parent_task_id else segment

    def __repr__(self) -> str:
        return f"{type(self).__name__}(task_id={self.task_id}, dataset_name={self.dataset_name})"


def is_task(value: object) -> TypeGuard[TaskLike]:
    """Return whether an adapter can treat ``value`` as a task, of this library or of another."""
    return not isinstance(value, type) and is_task_class(type(value))


def is_task_class(cls: type) -> bool:
    """Return whether the instances of a class are tasks, of this library or of another."""
    return hasattr(cls, "_set_task_id") and hasattr(cls, "add_stage_perf")
