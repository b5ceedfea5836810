"""Which shard a source belongs to: every source to one, the same everywhere."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuexec.errors import ConfigurationError, StageContractError
from gpuexec.shards import Shard, content_id, shard_of

COUNTS = st.integers(1, 200)
IDS = st.one_of(
    st.lists(st.integers(0, 10**6), min_size=1, max_size=4).map(lambda path: "_".join(map(str, path))),
    st.text(min_size=1, max_size=30).filter(lambda text: len(text) < 33),
)


@given(IDS, COUNTS, st.booleans())
def test_every_source_belongs_to_exactly_one_shard(source_id, count, by_content):
    owners = [k for k in range(count) if shard_of(source_id, count, by_content=by_content) == k]
    assert len(owners) == 1


@given(st.lists(IDS, unique=True), COUNTS, st.randoms())
def test_a_source_stays_in_its_shard_whatever_else_there_is(ids, count, random):
    alone = {each: shard_of(each, count, by_content=True) for each in ids}
    some = random.sample(ids, len(ids) // 2)
    assert {each: shard_of(each, count, by_content=True) for each in some} == {each: alone[each] for each in some}


@given(st.integers(0, 3000), COUNTS, st.sampled_from(["0_{}", "{}", "0_{}_0", "7_{}"]))
def test_shards_of_a_list_differ_by_one_at_most(length, count, pattern):
    sizes = Counter(shard_of(pattern.format(i), count, by_content=False) for i in range(length))
    assert max((sizes[k] for k in range(count)), default=0) - min(sizes[k] for k in range(count)) <= 1


def test_hashed_shards_are_alike_in_size():
    sizes = Counter(shard_of(f"0_part-{i}.parquet", 8, by_content=True) for i in range(8000))
    assert max(sizes.values()) < 1.15 * 1000
    assert min(sizes.values()) > 0.85 * 1000


def test_the_rule_is_the_same_for_ever_and_with_every_hash_seed():
    # A checkpoint of an earlier version must not find its sources in other shards.
    code = (
        "from gpuexec.shards import shard_of; "
        "print([shard_of(f'0_{t}', 64, by_content=True) for t in ('a.jsonl', 'b.jsonl', '17')], "
        "shard_of('0_17', 64, by_content=False))"
    )
    for seed in ("0", "1"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            check=True,
            capture_output=True,
            text=True,
        )
        assert done.stdout == "[45, 31, 27] 17\n"


def test_random_ids_are_refused():
    with pytest.raises(StageContractError, match="batch_size=1"):
        shard_of("r" + "0f" * 16, 4, by_content=False)


@given(st.integers(0, 10**4), st.integers(0, 10**4))
def test_text_and_back(index, count):
    if index < count:
        assert Shard.read(str(Shard(index, count))) == Shard(index, count)
    else:
        with pytest.raises(ConfigurationError, match=r"counted from 0|at least one"):
            Shard.read(f"{index}/{count}")


@pytest.mark.parametrize("text", ["", "1", "1/", "/2", "-1/2", "1/2/3", "a/2", "1 / 2", "½/2"])
def test_what_is_no_shard(text):
    with pytest.raises(ConfigurationError, match="K/N"):
        Shard.read(text)


@given(st.integers(1, 10**5))
def test_names_of_folders_sort_as_the_shards_do(count):
    indices = sorted({0, count // 3, count // 2, count - 1})
    names = [Shard(index, count).folder_name for index in indices]
    assert names == sorted(names)


@pytest.mark.parametrize(
    ("task_id", "own", "expected"),
    [("0_3", "a", "0_a"), ("0_a", "a", "0_a"), ("a", "a", "a"), ("3", "a", "a"), ("0_1_2", "x_y", "0_1_x_y")],
)
def test_the_id_of_a_source_by_its_content(task_id, own, expected):
    assert content_id(task_id, own) == expected
