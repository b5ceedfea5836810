"""The tasks that a run begins with, checked and numbered."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from gpuexec.contract.task import is_task
from gpuexec.curator import stage_facts
from gpuexec.errors import ConfigurationError


def initial_tasks_for(stages: Sequence[Any], initial_tasks: Sequence[Any] | None) -> Sequence[Any]:
    """Return the caller's tasks, or one ``EmptyTask`` if there are none (also for an empty list, as Curator does).

    Raises ``ConfigurationError`` if ``initial_tasks`` is not a sequence, or has something else than tasks in it.
    """
    if initial_tasks is not None and not isinstance(initial_tasks, Sequence):
        raise ConfigurationError(
            f"initial_tasks must be a list of tasks, got {type(initial_tasks).__name__}; "
            + (
                "put a single task into a list"
                if is_task(initial_tasks)
                else "for an iterator, use run_iter() or execute_iter()"
            )
        )
    if initial_tasks:
        for position, task in enumerate(initial_tasks):
            _checked_task(task, position)
        return initial_tasks
    if initial_tasks is not None:
        from loguru import logger

        logger.warning(
            "initial_tasks is an empty list: as in NeMo Curator, the first stage is run once, with an EmptyTask. "
            "If there is nothing to do, do not call run()."
        )
    return [stage_facts.empty_task_for(stages[0])]


def checked_tasks(initial_tasks: Iterable[Any]) -> Iterator[Any]:
    """Yield the caller's tasks, checking each when it is taken."""
    for position, task in enumerate(initial_tasks):
        yield _checked_task(task, position)


def _checked_task(task: Any, position: int) -> Any:
    if not is_task(task):
        hint = f": write {task.__name__}(…), an instance of the class" if isinstance(task, type) else ""
        raise ConfigurationError(f"initial task {position} is {task!r}, not a Task{hint}")
    task_id: object = task.task_id
    if not task_id:  # Pipeline.run() gives ids; a direct call of execute() does not
        task._set_task_id("0", position)
    elif not isinstance(task_id, str):
        task.task_id = str(task_id)  # the ids of the tasks that it becomes begin with it
    return task
