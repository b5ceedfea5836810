"""Tasks: what stages receive and return."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from gpuexec.contract.perf import StagePerfStats

T = TypeVar("T")


@dataclass
class Task(ABC, Generic[T]):
    """A piece of a dataset on its way through the stages. Subclasses say how many items it has.

    ``task_id`` is the task's path: its ancestors' positions joined by ``"_"``, below the implicit root
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
        """Attach the figures of a stage the task came out of."""
        self._stage_perf.append(perf_stats)

    def get_source_id(self) -> str:
        """Return the last segment of the id: at a source stage, the partition's own."""
        return self.task_id.rpartition("_")[2]

    def get_deterministic_id(self) -> str | None:
        """Return an id made from the content, if the class has one; source stages use it as segment."""
        return None

    def _set_task_id(self, parent_task_id: str, current_task_id_suffix: str | int) -> None:
        segment = str(current_task_id_suffix)
        self.task_id = f"{parent_task_id}_{segment}" if parent_task_id else segment

    def __repr__(self) -> str:
        return f"{type(self).__name__}(task_id={self.task_id}, dataset_name={self.dataset_name})"


def is_task(value: object) -> bool:
    """Whether an adapter can treat ``value`` as a task, of this library or of NeMo Curator."""
    if isinstance(value, type):
        return False
    return isinstance(value, Task) or (hasattr(value, "_set_task_id") and hasattr(value, "add_stage_perf"))
