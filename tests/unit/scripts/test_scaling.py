"""The simulation of several nodes: it adds up on one, and beats no bound on many."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

ROOT = Path(__file__).parents[3]


sys.path.insert(0, str(ROOT / "scripts"))
from scaling.__main__ import with_section  # noqa: E402
from scaling.model import Dealing, Problem, draw, largest_share, node_ends, wall_s  # noqa: E402
from scaling.tables import imbalance_table, measured_table, picture, simulated, simulated_table  # noqa: E402

sys.path.remove(str(ROOT / "scripts"))

TIMES = st.lists(st.floats(0, 1000), max_size=60).map(tuple)
DEALING = st.sampled_from(Dealing)
SHARDS = st.sampled_from([Dealing.HASH, Dealing.POSITION])
PROBLEMS = st.builds(
    Problem,
    times=TIMES,
    slow=st.lists(st.floats(1, 3), min_size=1, max_size=8).map(tuple),
    workers=st.integers(1, 4),
    start_up_s=st.floats(0, 100),
    per_source_s=st.floats(0, 1),
    source_bytes=st.floats(0, 1e9),
    node_bytes_per_s=st.floats(1e6, 1e9),
    shared_bytes_per_s=st.floats(1e6, 1e10),
)


@given(TIMES, st.floats(0, 100), DEALING)
def test_one_worker_on_one_node_takes_the_sum(times, start_up, dealing):
    problem = Problem(times, slow=(1.0,), workers=1, start_up_s=start_up)
    assert wall_s(problem, dealing) == pytest.approx(start_up + sum(times))


@given(TIMES, st.floats(1e3, 1e9), st.floats(0, 1e6), DEALING)
def test_one_worker_reads_what_it_has_not_read_at_the_speed_of_the_slower(times, speed, size, dealing):
    problem = Problem(times, (1.0,), 1, source_bytes=size, node_bytes_per_s=speed, shared_bytes_per_s=2 * speed)
    assert wall_s(problem, dealing) == pytest.approx(sum(times) + len(times) * size / speed)


@given(PROBLEMS, DEALING)
def test_nothing_is_better_than_the_bound(problem, dealing):
    assert wall_s(problem, dealing) >= problem.ideal_s * (1 - 1e-9)


@given(PROBLEMS, DEALING)
def test_it_is_the_same_every_time(problem, dealing):
    assert node_ends(problem, dealing) == node_ends(problem, dealing)


@given(PROBLEMS, SHARDS, st.integers(0, 7))
def test_a_slow_node_delays_only_itself(problem, dealing, node):
    problem = dataclasses.replace(problem, source_bytes=0.0)  # or they would wait for each other's reads
    node %= problem.nodes
    slower = dataclasses.replace(problem, slow=tuple(2 * s if i == node else s for i, s in enumerate(problem.slow)))
    before, after = node_ends(problem, dealing), node_ends(slower, dealing)
    assert [a for i, a in enumerate(after) if i != node] == [b for i, b in enumerate(before) if i != node]
    assert after[node] >= before[node]


@given(st.integers(1, 6), st.integers(1, 4), st.integers(0, 40), st.floats(0.1, 10))
def test_equal_sources_by_position_take_the_time_of_the_largest_shard(nodes, workers, count, time):
    problem = Problem((time,) * count, (1.0,) * nodes, workers)
    rounds = math.ceil(math.ceil(count / nodes) / workers)
    assert wall_s(problem, Dealing.POSITION) == pytest.approx(rounds * time)


@given(PROBLEMS)
def test_a_shared_queue_is_within_one_source_of_the_best_on_equal_nodes(problem):
    """Graham's bound for list scheduling: the work over the workers, and one more source."""
    problem = dataclasses.replace(problem, slow=(1.0,) * problem.nodes, source_bytes=0.0, per_source_s=0.0)
    work = sum(problem.times) / (problem.nodes * problem.workers)
    longest = max(problem.times, default=0.0)
    assert wall_s(problem, Dealing.SHARED) <= problem.start_up_s + (work + longest) * (1 + 1e-9)


def test_drawn_times_have_the_mean_and_spread_that_are_asked_for():
    problem = draw(20_000, 64, 8, mean_s=30.0, spread=0.5, stragglers=0.25, seed=1)
    mean = sum(problem.times) / len(problem.times)
    deviation = (sum((t - mean) ** 2 for t in problem.times) / len(problem.times)) ** 0.5
    assert mean == pytest.approx(30.0, rel=0.02)
    assert deviation / mean == pytest.approx(0.5, rel=0.05)
    assert set(problem.slow) == {1.0, 1.5}
    assert 8 <= problem.slow.count(1.5) <= 24
    assert draw(100, 4, 8, mean_s=1.0, spread=0.5, stragglers=0.0, seed=2).slow == (1.0,) * 4


def test_the_largest_shard_comes_closer_to_the_mean_with_more_sources():
    shares = [largest_share(per_shard * 16, 16) for per_shard in (4, 64, 1024)]
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] < 1.1


@pytest.mark.exhaustive
def test_the_page_has_what_the_figures_give():
    docs = ROOT / "docs"
    page, figures = (docs / "scaling.md").read_text(), json.loads((docs / "scaling.json").read_text())
    found = simulated(figures)
    for name, lines in (
        ("measured", measured_table(figures)),
        ("imbalance", imbalance_table()),
        ("simulated", simulated_table(found)),
    ):
        assert with_section(page, name, lines) == page, "run scripts/scale --save"
    assert picture(found) == (docs / "scaling.svg").read_text()
