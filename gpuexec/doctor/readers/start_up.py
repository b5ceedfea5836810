"""How the workers of a pipeline would start: in a template process, as a run makes it, the stages' modules are
imported.

No worker is started, and no method of a stage is called.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gpuexec.config import ExecutorConfig
from gpuexec.contract.allocation import Allocation
from gpuexec.doctor.facts import StageStart
from gpuexec.errors import TemplateLost
from gpuexec.observe.logging_state import how_workers_log
from gpuexec.processes.interpreter import working_directory
from gpuexec.processes.kept_templates import key_of, own_variables, search_path
from gpuexec.processes.template import Template
from gpuexec.processes.variables import variables_of_run, worker_environment
from gpuexec.records import Record

LIMIT_S = 120.0  # for all imports together


class Starting(Record):
    """A group of stages whose workers are to start. ``name``: of its first stage; ``variables``: those it asks for."""

    name: str
    modules: tuple[str, ...]
    allocation: Allocation
    workers: int
    variables: Mapping[str, str]


def read_starts(
    groups: Sequence[Starting], options: ExecutorConfig, limit_s: float = LIMIT_S
) -> tuple[StageStart, ...]:
    """Return how each group would start. Raises ``OSError`` if the system refuses a process, ``TimeoutError``."""
    deadline = time.monotonic() + limit_s
    base, _ = variables_of_run(os.environ, None)
    log, folder = how_workers_log(options.log_level), working_directory()
    alike: dict[Any, list[tuple[Starting, Mapping[str, str]]]] = {}
    for group in groups:
        env = worker_environment(base, group.allocation, group.variables)
        key = key_of(env, own_variables(group.allocation), log, folder)
        alike.setdefault(key, []).append((group, env))
    found: dict[str, StageStart] = {}
    for members in alike.values():
        waiting = [group for group, _ in members]
        while waiting:
            starts = list(_load(waiting, members[0][1], log, folder, deadline - time.monotonic()))
            found |= {start.stage: start for start in starts}
            waiting = waiting[len(starts) :]
    return tuple(found[group.name] for group in groups)


def _load(
    groups: Sequence[Starting], env: Mapping[str, str], log: Sequence[Any], folder: str | None, limit_s: float
) -> Iterator[StageStart]:
    """Have a fresh template import the modules of groups, and yield how they start, up to the first that is unfit."""
    own, began = own_variables(groups[0].allocation), time.monotonic()
    template = Template((), env, folder)
    try:
        template.control.settimeout(max(0.1, limit_s))
        request = {"sys_path": list(search_path()), "log": list(log), "own_variables": list(own)}
        template.load({**request, "stages": [list(group.modules) for group in groups]})
        answer = template.answer()
    except TemplateLost as error:
        if time.monotonic() - began >= limit_s:
            raise TimeoutError from error
        answer = {"loaded": 0, "failed": True, "cause": f"the process that imports them {error}"}
    finally:
        template.close(kill=True)
    loaded = answer["loaded"]
    for group in groups[:loaded]:
        yield StageStart(group.name, group.workers, group.modules)
    if loaded < len(groups):
        group = groups[loaded]
        if answer["failed"]:
            cause = answer.get("cause", "a module of it cannot be imported in a fresh process")
            yield StageStart(group.name, group.workers, group.modules, failed=cause)
        else:
            unsafe, module = answer["found"], answer["module"]
            yield StageStart(group.name, group.workers, group.modules, unsafe=unsafe, module=module)
