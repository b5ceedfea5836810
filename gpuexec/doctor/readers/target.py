"""A pipeline that the user named: what its plan asks for, its requirements, and how its workers would start.

The caller loads it, since that runs the user's code; everything after that is read here. Nothing of it is run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from gpuexec.channel import codec
from gpuexec.channel.own_modules import send_own_modules_by_value
from gpuexec.config import ExecutorConfig
from gpuexec.curator import adapters, registration
from gpuexec.doctor.facts import TargetFacts
from gpuexec.doctor.readers import start_up
from gpuexec.doctor.readers.start_up import Starting
from gpuexec.errors import GpuexecError, GpusBusy
from gpuexec.executors.prepare import Prepared, prepare
from gpuexec.executors.requirements import unmet_requirements
from gpuexec.planning.model import Phase, StagePlan
from gpuexec.policies import StartMethod
from gpuexec.processes.exit_watch import offers_pidfd
from gpuexec.stage.environment import requested_variables
from gpuexec.units import format_bytes


def read_target(
    name: str, load: Callable[[], Any], options: ExecutorConfig, arguments: str = ""
) -> tuple[TargetFacts, tuple[str, ...]]:
    """Return the facts of a pipeline, and the modules that its workers import.

    ``load`` returns the pipeline and may raise anything. ``arguments``: those of the command line that belong to it.
    """
    registration.install()
    try:
        pipeline = load()
        pipeline.build()
        stages = list(pipeline.stages)
    except Exception as error:  # noqa: BLE001 - the user's code may raise anything
        return TargetFacts(name, arguments, load_problem=_in_words(error)), ()
    facts, prepared = _planned(TargetFacts(name, arguments), stages, options)
    if prepared is None:
        return facts, ()
    modules, not_sendable = _modules(prepared.stages)
    facts = dataclasses.replace(facts, not_sendable=tuple(not_sendable.items()))
    groups = [group for group in _groups(prepared, options, modules) if group.modules or group.name not in not_sendable]
    facts = dataclasses.replace(facts, **_starts(groups, options))
    return facts, tuple(dict.fromkeys(module for found in modules.values() for module in found))


def _planned(facts: TargetFacts, stages: Sequence[Any], options: ExecutorConfig) -> tuple[TargetFacts, Prepared | None]:
    """Plan as a run would, without waiting for GPUs that are busy, and without leasing any."""
    try:
        facts = dataclasses.replace(facts, unmet=tuple(unmet_requirements(stages, options)))
        ready = dataclasses.replace(options, accept_unmet_requirements=True, busy_gpu_timeout_s=0.0)
        with _without_warnings():
            prepared = prepare(stages, ready, fuses=True, has_checkpoint=options.checkpoint is not None)
    except GpuexecError as error:
        problem = "; ".join(line.strip() for line in str(error).splitlines())
        return dataclasses.replace(facts, plan_problem=problem, is_busy=isinstance(error, GpusBusy)), None
    found = dataclasses.replace(
        facts,
        notes=prepared.plan.notes,
        workers=max(map(_workers, prepared.plan.phases)),
        summary="; ".join(_summary(stage) for phase in prepared.plan.phases for stage in phase.stages),
    )
    return found, prepared


def _summary(stage: StagePlan) -> str:
    """Return how many workers a stage may have, and what each of them gets."""
    allocation = stage.workers[0].allocation
    parts = [f"{allocation.cpus:g} CPU{'' if allocation.cpus == 1 else 's'}"]
    if len(allocation.gpus) > 1:
        parts.append(f"{len(allocation.gpus)} GPUs")
    elif allocation.gpus:
        share = allocation.gpus[0]
        part = "a GPU" if share.fraction == 1 else f"{share.fraction:g} of a GPU"
        parts.append(part + (f" ({format_bytes(share.memory_bytes)})" if share.memory_bytes else ""))
    return f"{stage.name} {len(stage.workers)} × {', '.join(parts)}"


def _workers(phase: Phase) -> int:
    return sum(len(stage.workers) for stage in phase.stages)


def _modules(stages: Sequence[Any]) -> tuple[dict[str, tuple[str, ...]], dict[str, str]]:
    """Return the modules that a worker imports for each stage, and why stages cannot be sent to one, by name."""
    send_own_modules_by_value(stages)
    modules, problems = {}, {}
    for stage in stages:
        try:
            _, imported = codec.encode_with_modules(stage)
        except Exception as error:  # noqa: BLE001 - pickling runs the user's code
            problems[stage.name] = _in_words(error)
        else:
            modules[stage.name] = (*imported, *adapters.modules_for(stage))
    return modules, problems


def _groups(prepared: Prepared, options: ExecutorConfig, modules: dict[str, tuple[str, ...]]) -> Iterator[Starting]:
    for planned in (stage for phase in prepared.plan.phases for stage in phase.stages):
        members = [prepared.stages[index] for index in (planned.stage_index, *planned.fused)]
        imported = [module for stage in members for module in modules.get(stage.name, ())]
        if len(members) > 1:
            imported.append("gpuexec.worker.group_loop")
        yield _starting(planned, tuple(dict.fromkeys(imported)), requested_variables(members[0], options))


def _starting(planned: StagePlan, modules: tuple[str, ...], variables: dict[str, str]) -> Starting:
    return Starting(planned.name, modules, planned.workers[0].allocation, len(planned.workers), variables)


def _starts(groups: Sequence[Starting], options: ExecutorConfig) -> dict[str, Any]:
    """Return the fields of the facts that say how workers start."""
    if options.start_method != StartMethod.WARM:
        return {"spawned": f"start_method={str(options.start_method)!r}"}
    if not offers_pidfd():
        return {"spawned": "pidfds are not offered here"}
    try:
        return {"starts": start_up.read_starts(groups, options)}
    except TimeoutError:
        return {"starts_unknown": f"the stages' modules were not imported within {start_up.LIMIT_S:g} s"}
    except OSError as error:
        return {"starts_unknown": f"the system refuses a process ({error})"}


def _in_words(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, GpuexecError) else f"{type(error).__name__}: {text}".removesuffix(": ")


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Keep what planning logs from the terminal: the checks say it."""
    from loguru import logger

    logger.disable("gpuexec")
    try:
        yield
    finally:
        logger.enable("gpuexec")


def shell_arguments(settings: Sequence[str], options: Sequence[str]) -> str:
    """Return the settings and options of a command line as they are typed, for remedies."""
    parts = [part for setting in settings for part in ("--set", setting)]
    parts += [part for option in options for part in ("-o", option)]
    return shlex.join(parts)
