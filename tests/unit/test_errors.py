"""Errors tell their story and survive the way between processes."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import pickle
import pkgutil
import re

import pytest

import gpuexec
import gpuexec.dedup
from gpuexec import errors
from gpuexec.errors import ConfigurationError, GpuexecError, InvalidTask, WorkerDied

_LINE = re.compile(r"    (?P<branches>[│├└─ ]*)(?P<name>\w+)(?: \((?P<builtin>\w+)\))?(?: |$)")
_INTERNAL = {"ConnectionLost", "TemplateLost"}


def classes() -> dict[str, type[GpuexecError]]:
    found = {name: value for name, value in vars(errors).items() if isinstance(value, type)}
    return {name: cls for name, cls in found.items() if issubclass(cls, GpuexecError)}


def drawn() -> dict[str, set[str]]:
    """The names of each class's bases, as the docstring draws them."""
    above: list[str] = []
    bases: dict[str, set[str]] = {}
    for line in errors.__doc__.partition("::")[2].splitlines():
        if match := _LINE.match(line):
            depth = len(match["branches"]) // 4
            above[depth:] = [match["name"]]
            bases[match["name"]] = {*above[depth - 1 : depth], *filter(None, [match["builtin"]])}
    return bases


def test_the_drawing_shows_every_class_in_its_place():
    assert drawn() == {
        name: {base.__name__ for base in cls.__bases__ if base is not Exception} for name, cls in classes().items()
    }


def test_every_error_of_the_package_is_here_and_public():
    """Those of deduplication, which has an interface of its own, are in its module of errors instead."""
    for module in pkgutil.walk_packages(gpuexec.__path__, "gpuexec."):
        if not module.name.endswith("__main__"):
            with needs_ray(module.name):
                importlib.import_module(module.name)

    def below(cls: type) -> set[type]:
        return {cls}.union(*(below(child) for child in cls.__subclasses__()))

    ours = {cls for cls in below(GpuexecError) if cls.__module__.startswith("gpuexec.")}
    of_deduplication = {cls for cls in ours if cls.__module__ == "gpuexec.dedup.errors"}
    assert ours - of_deduplication == set(classes().values())
    assert {cls.__name__ for cls in of_deduplication} <= set(gpuexec.dedup.__all__)
    assert set(classes()) - _INTERNAL <= set(gpuexec.__all__)


def needs_ray(module: str) -> contextlib.AbstractContextManager[None]:
    """Allow a module of the executor for Ray to fail where there is no Ray, as in the environment of this suite."""
    is_of_ray = module.startswith("gpuexec.executors.ray.") and importlib.util.find_spec("ray") is None
    return contextlib.suppress(ModuleNotFoundError) if is_of_ray else contextlib.nullcontext()


@pytest.mark.parametrize(
    ("error", "builtin"), [(ConfigurationError, ValueError), (InvalidTask, (TypeError, ValueError))]
)
def test_callers_may_catch_the_builtin_classes(error, builtin):
    assert all(issubclass(error, base) for base in (builtin if isinstance(builtin, tuple) else (builtin,)))


def died(**changes) -> WorkerDied:
    fields = {
        "stage": "embed",
        "worker_id": "embed-1",
        "exit_code": -9,
        "cause": "killed by SIGKILL (signal 9)",
        "phase": "process",
        "task_ids": [f"0_{i}" for i in range(10)],
        "last_lines": ["loading", "allocating"],
    }
    return WorkerDied(**{**fields, **changes})


def test_a_death_tells_who_when_how_and_with_what():
    text = str(died())
    assert text.splitlines()[0] == (
        "worker 'embed-1' of stage 'embed' died during process: killed by SIGKILL (signal 9)"
    )
    assert "tasks in flight: 0_0, 0_1, 0_2, 0_3, 0_4, 0_5, 0_6, 0_7 and 2 more" in text
    assert text.endswith("    | loading\n    | allocating")
    assert isinstance(died(), GpuexecError)


def test_a_death_without_tasks_or_lines_is_one_line():
    assert "\n" not in str(died(task_ids=(), last_lines=()))


def test_a_death_can_be_pickled():
    again = pickle.loads(pickle.dumps(died()))
    assert str(again) == str(died())
    assert (again.exit_code, again.last_lines, len(again.task_ids)) == (-9, ("loading", "allocating"), 10)
