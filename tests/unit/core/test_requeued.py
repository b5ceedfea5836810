"""To whom batches go that are run again."""

from __future__ import annotations

from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st

from gpuexec.core.requeued import deal_requeued, goes_alone
from gpuexec.core.retries import FailureKind


def batch(kind: FailureKind | None, *, concurrent: bool):
    history = () if kind is None else (SimpleNamespace(failure=SimpleNamespace(kind=kind)),)
    return SimpleNamespace(
        requeued=True,
        lifecycle=SimpleNamespace(history=history) if kind else None,
        stage=SimpleNamespace(spec=SimpleNamespace(max_concurrency=4 if concurrent else None)),
    )


def test_only_asynchronous_batches_that_left_others_alone_go_beside_others():
    for kind in (None, *FailureKind):
        assert goes_alone(batch(kind, concurrent=False))
    alone = {kind for kind in (None, *FailureKind) if goes_alone(batch(kind, concurrent=True))}
    assert alone == {None, FailureKind.DIED, FailureKind.TIMED_OUT, FailureKind.RETIRED}


@given(
    st.lists(st.sampled_from([None, *FailureKind]), max_size=8),
    st.lists(st.integers(0, 5), max_size=4),
    st.booleans(),
    st.integers(1, 5),
)
def test_nothing_is_sent_twice_and_what_goes_alone_gets_an_idle_worker(kinds, in_flight, concurrent, limit):
    due = [batch(kind, concurrent=concurrent) for kind in kinds]
    ready = [SimpleNamespace(number=n, in_flight=dict.fromkeys(range(count))) for n, count in enumerate(in_flight)]
    dealt = deal_requeued(due, ready, in_flight, limit)
    sent = [id(one) for _, batches in dealt.sent for one in batches]
    assert len(sent) == len(set(sent))
    assert set(sent) <= {id(one) for one in due}
    for worker, batches in dealt.sent:
        if any(goes_alone(one) for one in batches):
            assert len(batches) == 1
            assert not worker.in_flight
            assert worker not in dealt.others
            assert [w for w, _ in dealt.sent].count(worker) == 1
        else:
            assert len(worker.in_flight) + len(batches) <= limit
