"""Checks of a pipeline that was named: can it be loaded, planned here, sent to workers, and how do they start."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from gpuexec.doctor.facts import Facts, StageStart, TargetFacts
from gpuexec.doctor.model import Finding, Topic, check, fail, passed, unknown, warn

_PLAN = "gpuexec plan {target}"
_RUN = "gpuexec run {target}"
_WAIT = "gpuexec run {target} -o busy_gpus=wait"
_INSTALL = "python -m pip install {requirement}"
_IMPORT_TIME = "python -X importtime -c {statement}"
_IMPORT = "python -c {statement}"


@check("target", Topic.PIPELINE, source="docs/python.md", remedies=(_PLAN,), needs_target=True)
def target(facts: Facts) -> Iterator[Finding]:
    """The target can be imported, and is a pipeline. Fails if not."""
    named = _target(facts)
    if named.load_problem is not None:
        yield fail(named.load_problem, _PLAN.format(target=_typed(named)))
    else:
        yield passed(named.name)


@check("plan", Topic.PIPELINE, source="docs/planning.md", remedies=(_PLAN, _WAIT), needs_target=True)
def plan(facts: Facts) -> Iterator[Finding]:
    """This machine has the GPUs, GPU memory and CPUs that the plan asks for. Fails if not, warns if others hold them
    now. Notes of the planner are warnings."""
    named = _target(facts)
    command = _PLAN.format(target=_typed(named))
    if named.load_problem is not None:
        yield unknown("there is no pipeline", command)
    elif named.plan_problem is not None and named.is_busy:
        yield warn(named.plan_problem, _WAIT.format(target=_typed(named)))
    elif named.plan_problem is not None:
        yield fail(named.plan_problem, command)
    else:
        for note in named.notes:
            yield warn(note, command)
        have = facts.cpus.host.usable_cpus
        yield passed(f"at most {named.workers} workers at once on {have:g} CPUs: {named.summary}")


@check(
    "requirements",
    Topic.PIPELINE,
    source="runtime_env of the stages, as Ray has it; docs/options.md",
    remedies=(_INSTALL, _PLAN),
    needs_target=True,
)
def requirements(facts: Facts) -> Iterator[Finding]:
    """The packages that stages ask for in their runtime_env are installed, in that version. Fails if not."""
    named = _target(facts)
    if named.load_problem is not None:
        yield unknown("there is no pipeline", _PLAN.format(target=_typed(named)))
        return
    for text in named.unmet:
        _, _, rest = text.partition(" asks for ")
        requirement, _, part = rest.partition(" in its ")
        install = _INSTALL.format(requirement=shlex.quote(requirement.strip("'\"")))
        is_package = part.startswith(("runtime_env['pip']", "runtime_env['uv']"))
        remedy = install if is_package else _PLAN.format(target=_typed(named))
        yield fail(text, remedy, "Or `-o accept_unmet_requirements=yes`")
    if not named.unmet:
        yield passed("all that stages ask for is installed")


@check(
    "start-up",
    Topic.PIPELINE,
    source="docs/start-up.md",
    remedies=(_RUN, _IMPORT, _IMPORT_TIME, _PLAN),
    needs_target=True,
)
def start_up(facts: Facts) -> Iterator[Finding]:
    """Stages can be sent to workers, and their workers forked from a template. Fails if a stage cannot be pickled or
    its modules not imported, warns if a fork is not safe: then each worker imports the modules itself."""
    named = _target(facts)
    command = _PLAN.format(target=_typed(named))
    if named.load_problem is not None or named.plan_problem is not None:
        yield unknown("there is no plan", command)
        return
    for stage, why in named.not_sendable:
        text = f"stage {stage!r} cannot be sent to a worker: {why}"
        yield fail(text, _RUN.format(target=_typed(named)), "Make such objects in setup(), which runs in the worker")
    for start in named.starts:
        yield from _judge_start(start)
    safe = sum(start.workers for start in named.starts if start.unsafe is None and start.failed is None)
    if named.starts_unknown is not None:
        yield unknown(named.starts_unknown, _RUN.format(target=_typed(named)))
    elif named.spawned is not None:
        yield passed(f"every worker imports its modules itself: {named.spawned}")
    elif safe:
        yield passed(f"{safe} workers are forked from a template")


def _judge_start(start: StageStart) -> Iterator[Finding]:
    if start.failed is not None:
        statement = shlex.quote(f"import {', '.join(start.modules) or 'gpuexec'}")
        yield fail(f"stage {start.stage!r}: {start.failed}", _IMPORT.format(statement=statement))
    elif start.unsafe is not None:
        statement = shlex.quote(f"import {start.module}")
        yield warn(
            f"stage {start.stage!r}: module {start.module!r} {start.unsafe} when it was imported, so that each of "
            f"{start.workers} worker(s) imports its modules itself",
            _IMPORT_TIME.format(statement=statement),
            "Do that in setup() instead",
        )


def _target(facts: Facts) -> TargetFacts:
    assert facts.target is not None  # checks that need one are not made without
    return facts.target


def _typed(named: TargetFacts) -> str:
    """Return the target with its settings and options, as they are typed."""
    return f"{shlex.quote(named.name)} {named.arguments}".strip()
