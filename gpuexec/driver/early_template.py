"""Starts a template before the driver is imported and the run is planned, which takes about as long as its own start.

Until the plan is made, it is a guess how the workers begin: as those of the first stage without a GPU. If the guess is
wrong, no run takes the template, and it is ended. It has imported nothing of the stages' by then.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator, Sequence
from typing import Any

from gpuexec.config import ExecutorConfig
from gpuexec.contract.allocation import Allocation
from gpuexec.observe.logging_state import how_workers_log
from gpuexec.policies import StartMethod
from gpuexec.processes import kept_templates
from gpuexec.processes.exit_watch import offers_pidfd
from gpuexec.processes.interpreter import working_directory
from gpuexec.processes.interrupts import signals_deferred
from gpuexec.processes.template import Template
from gpuexec.processes.variables import variables_of_run, worker_environment
from gpuexec.stage.environment import requested_variables


@contextlib.contextmanager
def template_started_early(stages: Sequence[Any], options: ExecutorConfig) -> Iterator[None]:
    """Offer a template to the run in the block, if it is the program's first. It must be one without a checkpoint."""
    template = None
    try:
        with signals_deferred():  # or nobody would know of a process that was just started
            template = _start(stages, options)
        yield
    finally:
        if template is not None:
            kept_templates.withdraw(template)


def _start(stages: Sequence[Any], options: ExecutorConfig) -> Template | None:
    if options.start_method != StartMethod.WARM or options.cpu_stages_see_gpus or not offers_pidfd():
        return None
    stage = next((stage for stage in stages if not (stage.resources.gpus or stage.resources.gpu_memory_gb)), None)
    if stage is None or not _is_number(stage.resources.cpus) or kept_templates.kept():
        return None
    allocation = Allocation(cpus=stage.resources.cpus)
    base, _ = variables_of_run(os.environ, None)
    env = worker_environment(base, allocation, requested_variables(stage, options))
    folder = working_directory()
    key = kept_templates.key_of(
        env, kept_templates.own_variables(allocation), how_workers_log(options.log_level), folder
    )
    try:
        template = Template(key, env, folder)
    except OSError:  # the system refuses a process, as it will refuse the workers'
        return None
    kept_templates.offer(template)
    return template


def _is_number(cpus: Any) -> bool:
    """Return whether it is a number of CPUs. What is wrong with others, the planner says."""
    return isinstance(cpus, int | float) and math.isfinite(cpus) and cpus >= 0
