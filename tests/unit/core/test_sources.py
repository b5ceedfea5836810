"""A source is done exactly when its last descendant is gone and none failed, in whatever order it happens."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gpuexec.core.sources import UNTRACED, Settled, SourceTracker
from gpuexec.errors import InternalError


class Tracking(RuleBasedStateMachine):
    """Compares the tracker with a model that keeps, for each task, the set of keys it may descend from."""

    def __init__(self) -> None:
        super().__init__()
        self.tracker = SourceTracker()
        self.live: dict[int, tuple[int, frozenset[str]]] = {}  # task → its source number, and keys
        self.groups: list[set[str]] = []  # keys that are settled together
        self.open: set[str] = set()
        self.failed: set[str] = set()
        self.done: set[str] = set()
        self.names = 0

    def _new(self, source: int, keys: frozenset[str]) -> None:
        self.names += 1
        self.live[self.names] = (source, keys)

    def _group(self, key: str) -> set[str]:
        return next(group for group in self.groups if key in group)

    def _join(self, keys: set[str]) -> None:
        joined = set().union(*(self._group(key) for key in keys))
        self.groups = [group for group in self.groups if not group & joined] + [joined]
        if joined & self.failed:
            self.failed |= joined

    @rule(key=st.sampled_from("abcdef"))
    def opens(self, key):
        source = self.tracker.opened(key)
        if key not in self.open:
            self.open.add(key)
            self.groups = [*self.groups, {key}]
            self.done.discard(key)
        self._new(source, frozenset(self._group(key)))

    @precondition(lambda self: self.live)
    @rule(data=st.data(), ends=st.sampled_from([False, False, True]))
    def completes_a_batch(self, data, ends):
        batch = data.draw(st.lists(st.sampled_from(sorted(self.live)), min_size=1, max_size=4, unique=True))
        taken = [self.live.pop(task) for task in batch]
        inputs = [source for source, _ in taken]
        traced = st.integers(0, len(batch) - 1)
        parents = data.draw(st.just(list(range(len(batch)))) | st.lists(traced, max_size=4) | st.just([UNTRACED] * 2))
        outputs = self.tracker.moved_batch(inputs, parents, ends=ends)
        assert len(outputs) == len(parents)
        keys = frozenset().union(*(keys for _, keys in taken))
        if UNTRACED in parents and not ends and len(set(inputs)) > 1:
            self._join(keys)
        if not ends:
            for source, parent in zip(outputs, parents, strict=True):
                self._new(source, taken[parent][1] if parent >= 0 else keys)

    @precondition(lambda self: self.live)
    @rule(data=st.data(), consumed_first=st.booleans())
    def fails_a_task(self, data, consumed_first):
        source, keys = self.live.pop(data.draw(st.sampled_from(sorted(self.live))))
        self.failed |= set().union(*(self._group(key) for key in keys))
        if consumed_first:
            self.tracker.moved(source, 1, 0)
        self.tracker.failed(source, "reason")
        if not consumed_first:
            self.tracker.moved(source, 1, 0)

    @rule()
    def ends_a_step(self):
        busy = set().union(*(self._group(key) for _, keys in self.live.values() for key in keys))
        settled = self.tracker.settle()
        gone = self.open - busy
        assert set(settled.done) == gone - self.failed
        assert len(settled.done) == len(set(settled.done))
        assert {key for key, _ in settled.failed} <= self.failed
        self.done |= set(settled.done)
        self.open -= gone
        self.groups = [group for group in self.groups if not group & gone]
        assert len(self.tracker) == len(self.open)

    @invariant()
    def nothing_done_is_failed(self):
        assert not self.done & self.failed

    def teardown(self):
        for source, _ in self.live.values():
            self.tracker.moved(source, 1, 0)
        self.live = {}
        self.ends_a_step()
        assert len(self.tracker) == 0


TestTracking = Tracking.TestCase
TestTracking.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)


def test_a_source_is_done_when_its_last_descendant_is_gone():
    tracker = SourceTracker()
    a = tracker.opened("0_a")
    assert tracker.settle() == Settled(opened=("0_a",))
    tracker.moved(a, consumed=1, produced=3)
    tracker.moved(a, consumed=2, produced=0)
    assert not tracker.settle()
    tracker.moved(a)
    assert tracker.settle() == Settled(done=("0_a",))
    assert len(tracker) == 0


def test_equal_keys_are_one_source():
    tracker = SourceTracker()
    a = tracker.opened("a")
    assert tracker.opened("a") == a
    tracker.moved(a)
    assert tracker.settle().done == ()
    tracker.moved(a)
    assert tracker.settle().done == ("a",)
    again = tracker.opened("a")
    assert tracker.settle() == Settled(opened=("a",))  # no longer done
    tracker.moved(again)
    assert tracker.settle().done == ("a",)


def test_a_key_that_failed_once_is_not_done_later_in_the_run():
    tracker = SourceTracker()
    a = tracker.opened("a")
    tracker.failed(a, "first")
    tracker.failed(a, "second")
    tracker.moved(a)
    assert tracker.settle().failed == (("a", "first"),)
    again = tracker.opened("a")
    tracker.moved(again)
    assert not tracker.settle()


def test_mixed_sources_are_done_together():
    tracker = SourceTracker()
    sources = [tracker.opened(key) for key in "abc"]
    outputs = tracker.moved_batch(sources[:2], [UNTRACED])
    tracker.moved_batch(sources[2:], [], ends=True)
    assert tracker.settle().done == ("c",)
    tracker.moved_batch(outputs, [0], ends=True)
    assert sorted(tracker.settle().done) == ["a", "b"]


def test_mixing_with_a_failed_source_says_so():
    tracker = SourceTracker()
    a, b = tracker.opened("a"), tracker.opened("b")
    tracker.opened("a")
    tracker.failed(a, "it broke")
    tracker.moved_batch([a, b], [UNTRACED])
    assert dict(tracker.settle().failed)["b"] == "its tasks were mixed with those of source a: it broke"


@pytest.mark.parametrize(("parents", "expected"), [([1, 0], "ba"), ([1, 1], "bb"), ([0, 1], "ab"), ([0, 1, 0], "aba")])
def test_an_output_has_the_source_of_its_parent(parents, expected):
    tracker = SourceTracker()
    numbers = {key: tracker.opened(key) for key in "ab"}
    assert tracker.moved_batch(list(numbers.values()), parents) == [numbers[key] for key in expected]
    left = {key: expected.count(key) for key in "ab"}
    assert set(tracker.settle().done) == {key for key in "ab" if not left[key]}


def test_a_long_run_keeps_nothing_of_sources_that_are_gone():
    tracker = SourceTracker()
    for round_ in range(3):
        sources = [tracker.opened(f"{round_} {n}") for n in range(4)]
        outputs = tracker.moved_batch(sources, [UNTRACED])
        tracker.moved_batch(outputs, [], ends=True)
        assert len(tracker.settle().done) == 4
    assert not any(getattr(tracker, table) for table in ("_numbers", "_keys", "_live", "_joined_into", "_members"))


def test_the_last_stage_may_return_what_cannot_be_traced():
    tracker = SourceTracker()
    a, b = tracker.opened("a"), tracker.opened("b")
    tracker.opened("b")
    tracker.moved_batch([a, b], [UNTRACED], ends=True)
    assert tracker.settle().done == ("a",)  # not held up by the other task of b


@pytest.mark.parametrize("consumed", [2, 100])
def test_consuming_more_tasks_than_there_were_is_an_internal_error(consumed):
    tracker = SourceTracker()
    a = tracker.opened("a")
    with pytest.raises(InternalError, match=f"{consumed} tasks consumed, 1 were there"):
        tracker.moved(a, consumed)


def test_a_source_that_is_not_open_is_an_internal_error():
    tracker = SourceTracker()
    a = tracker.opened("a")
    tracker.moved(a)
    tracker.settle()
    with pytest.raises(InternalError, match="not open"):
        tracker.moved(a, 0, 0)
    with pytest.raises(InternalError, match="not open"):
        tracker.failed(a, "late")
