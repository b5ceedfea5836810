"""A state machine: a table of transitions, the present state, and the story of how it came there."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Generic, TypeVar

from gpuexec.errors import InternalError

StateT = TypeVar("StateT", bound=StrEnum)
EventT = TypeVar("EventT", bound=StrEnum)


class Machine(Generic[StateT, EventT]):
    """One thing's state. ``table`` maps (state, event) to the next state; every other step is illegal."""

    __slots__ = ("_story", "_table", "name", "state")

    def __init__(self, name: str, table: Mapping[tuple[StateT, EventT], StateT], state: StateT) -> None:
        self.name = name
        self.state = state
        self._table = table
        self._story: list[str] = [state.value]

    def advance(self, event: EventT) -> None:
        """Take the step for ``event``. Raises ``InternalError``, with the story so far, if the table has none."""
        following = self._table.get((self.state, event))
        if following is None:
            raise self.impossible(event.value)
        if following is not self.state:
            self._story.append(following.value)
            self.state = following

    def impossible(self, what: str) -> InternalError:
        """Return the error for something that cannot happen in the present state."""
        return InternalError(
            f"{self.name} is {self.state.value}: {what!r} cannot happen now (its story: {' → '.join(self._story)})"
        )

    def continue_story(self, of: Machine[StateT, EventT]) -> None:
        """Put another machine's story before this one's."""
        self._story = [*of._story, *self._story]
