"""The phases of a stage's code in a worker process, from start-up to teardown."""

from __future__ import annotations

from enum import StrEnum


class StagePhase(StrEnum):
    """What a worker is doing with its stage. The values appear in messages, errors, capsules and reports.

    ::

        START_UP ─► IMPORT ─► SETUP ─► (IDLE | RECEIVE ─► PROCESS ─► RETURN)* ─► TEARDOWN
                          └─► SETUP_ON_NODE (in a process of its own)
    """

    START_UP = "start-up"  # the interpreter starts; no code of the stage runs yet
    IMPORT = "import"  # the stage's module is imported and the stage unpickled
    SETUP_ON_NODE = "setup_on_node"
    SETUP = "setup"
    IDLE = "idle"  # between two batches
    RECEIVE = "receive"  # a batch's inputs are unpickled
    PROCESS = "process"
    RETURN = "return"  # a batch's outputs are pickled
    TEARDOWN = "teardown"

    @property
    def is_transfer(self) -> bool:
        """Whether tasks are pickled or unpickled in this phase. A failure here recurs with the same tasks."""
        return self in (StagePhase.RECEIVE, StagePhase.RETURN)

    @property
    def is_preparation(self) -> bool:
        """Whether this phase comes before the first batch."""
        return self in (StagePhase.START_UP, StagePhase.IMPORT, StagePhase.SETUP_ON_NODE, StagePhase.SETUP)
