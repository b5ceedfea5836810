"""How many CPUs there are to plan with while some workers, which a stage must have anyway, are mostly idle.

Every stage has one worker, so a pipeline of more light stages than CPUs would take all of them for workers that hardly
work, and leave none for the stage that does. So such workers count with the CPU time they will use, not as a whole.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from gpuexec.plan.balance import StageLoad
from gpuexec.plan.counts import cpus_of

_NEGLIGIBLE = 0.1  # of its time: who works less is not counted


def cpus_to_share(stages: Sequence[StageLoad], usable_cpus: float) -> float:
    """The usable CPUs, and what the first workers of the stages will leave idle of theirs.

    At the pace that all CPUs together allow, a stage's first worker is busy for at most that pace times its work; at
    any slower one for less. A stage that is not measured, or has a count of its own, counts in full.
    """
    known = [(stage, work) for stage in stages if (work := stage.work_s) is not None]
    cpu_s = math.fsum(work * cpus_of(stage.request) for stage, work in known)
    if not cpu_s:
        return usable_cpus
    pace = usable_cpus / cpu_s
    idle = [
        cpus_of(stage.request) * (1.0 if busy < _NEGLIGIBLE else 1.0 - busy)
        for stage, work in known
        if stage.fixed is None and (busy := pace * work) < 1.0
    ]
    return usable_cpus + math.fsum(idle)
