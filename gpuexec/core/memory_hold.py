"""While memory is short, the first stage of a phase waits as long as the stages after it have work."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gpuexec import events
from gpuexec.core import decide
from gpuexec.core.stage import StageState


class MemoryHold:
    """Whether memory is short, and what waits for that reason.

    What is said is true: "pausing intake" only once something waits.
    """

    def __init__(self, emit: Callable[[events.RunEvent], None]) -> None:
        self._emit = emit
        self._active: Sequence[StageState] = ()
        self._reason = ""
        self._told = False
        self.is_on = False

    def begin_phase(self, active: Sequence[StageState]) -> None:
        """Look after these stages."""
        self._active = active
        self._told = False

    def set(self, *, is_on: bool, reason: str) -> None:
        """Note that memory is short, or that it is not any more."""
        self.is_on, self._reason = is_on, reason
        if self._told and not is_on:
            self._told = False
            self._emit(events.Noticed(f"resuming intake of {self._intake()}: {reason}"))

    def applies_to(self, stage: StageState) -> bool:
        """Return whether a stage that could take tasks waits because memory is short. The first time, say so."""
        if not self.holds(stage):
            return False
        if not self._told:
            self._told = True
            self._emit(events.Noticed(f"pausing intake of {self._intake()}: {self._reason}"))
        return True

    def holds(self, stage: StageState) -> bool:
        """Return whether a stage would wait because memory is short, if it could take tasks."""
        return self.is_on and stage is self._active[0] and self._others_have_work(stage)

    def limits_prefetch_of(self, stage: StageState) -> bool:
        """Return whether a stage gets one batch at a time: the others get to work as soon as it is done."""
        return self.is_on and stage is self._active[0] and len(self._active) > 1

    def _intake(self) -> str:
        spec = self._active[0].spec
        return f"what waits before stage {spec.name!r}" if spec.index else "new tasks"

    def _others_have_work(self, source: StageState) -> bool:
        """Return whether a stage after the first can free memory. Fewer tasks than a full batch do not count."""
        others = (stage for stage in self._active if stage is not source)
        return any(stage.in_flight or decide.batches_ready(stage.view()) for stage in others)
