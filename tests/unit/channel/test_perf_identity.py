"""A batch's perf stats stay one object in each process, and are forgotten with the last task."""

from __future__ import annotations

import copy
import gc
import pickle

from gpuexec.channel import codec
from gpuexec.channel.perf_identity import PERF_IDENTITY
from gpuexec.contract.perf import StagePerfStats
from tests.process.stages import Item


def travel(value):
    return codec.decode(codec.encode(value).join(), in_place=False)


def test_tasks_of_a_batch_share_their_stats_again():
    stats = StagePerfStats("s", process_time=1.5, custom_metrics={"a": 1.0})
    first, second = (travel(Item("d", i, _stage_perf=[stats])) for i in range(2))
    assert first._stage_perf[0] is second._stage_perf[0]
    assert first._stage_perf[0] == stats


def test_equal_stats_of_two_batches_stay_two():
    first, second = (travel(Item("d", i, _stage_perf=[StagePerfStats("s", 1.0)])) for i in range(2))
    assert first._stage_perf[0] is not second._stage_perf[0]


def test_stats_also_survive_two_hops():
    stats = StagePerfStats("s")
    payloads = [codec.encode(Item("d", i, _stage_perf=[stats])).join() for i in range(2)]
    del stats
    gc.collect()
    hop = [codec.decode(p, in_place=False) for p in payloads]
    again = [travel(task) for task in hop]
    assert again[0]._stage_perf[0] is again[1]._stage_perf[0]


def test_nothing_is_kept_of_stats_that_were_freed():
    before = len(PERF_IDENTITY._objects), len(PERF_IDENTITY._by_id)
    stats = StagePerfStats("s")
    travel([stats])
    assert (len(PERF_IDENTITY._objects), len(PERF_IDENTITY._by_id)) == (before[0] + 1, before[1] + 1)
    del stats
    gc.collect()
    assert (len(PERF_IDENTITY._objects), len(PERF_IDENTITY._by_id)) == before


def test_a_copy_is_another_object():
    stats = StagePerfStats("s")
    travel(stats)
    copied = copy.deepcopy(stats)
    first, second = travel([stats]), travel([copied])
    assert first[0] is stats
    assert second[0] is copied


def test_ordinary_pickling_is_unchanged():
    stats = StagePerfStats("s", 2.0)
    assert pickle.loads(pickle.dumps(stats)) == stats


def test_cloudpickle_keeps_identity_too():
    stats = StagePerfStats("s")
    first, second = (travel(Item("d", lambda i=i: i, _stage_perf=[stats])) for i in range(2))
    assert first._stage_perf[0] is second._stage_perf[0]
    assert (first.data(), second.data()) == (0, 1)


def test_unshared_stats_get_no_token_but_keep_one_they_have():
    encoder = codec.Encoder()
    stats = StagePerfStats("s", 1.0)
    before = len(PERF_IDENTITY._objects)
    arrived = codec.decode(encoder.encode(Item("d", 1, _stage_perf=[stats]), shared_stats=False).join(), in_place=False)
    assert arrived._stage_perf[0] == stats
    assert arrived._stage_perf[0] is not stats
    assert len(PERF_IDENTITY._objects) == before
    assert travel(stats) is stats
    again = codec.decode(encoder.encode([stats], shared_stats=False).join(), in_place=False)
    assert again[0] is stats


def test_one_encoder_pickles_shared_and_unshared_stats():
    encoder = codec.Encoder()
    stats = StagePerfStats("s")
    payloads = [encoder.encode([stats], shared_stats=shared).join() for shared in (False, True, False, True)]
    arrived = [codec.decode(payload, in_place=False)[0] for payload in payloads]
    assert [each is stats for each in arrived] == [False, True, True, True]
