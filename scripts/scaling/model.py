"""A simulation of nodes that share a pipeline's sources. Pure and deterministic: the same problem gives the same times.

A source is read from a file system that all nodes share, then processed by one worker of its node. Reads wait in one
line: the file system moves ``shared_bytes_per_s`` in all, and none is faster than its node's ``node_bytes_per_s``. That
is simpler than a real one, which serves reads at the same time, but the last read ends at the same moment.

How the sources are dealt out:

* HASH and POSITION: as `gpuexec.shards.shard_of` does it, before anything starts. A node keeps to its own.
* SHARED: one queue; whichever worker is free takes the next source, as in a cluster with one scheduler.
"""

from __future__ import annotations

import dataclasses
import heapq
import math
import random
from collections.abc import Iterator, Sequence
from enum import Enum

from gpuexec.shards import shard_of


class Dealing(Enum):
    """Which sources a node gets."""

    HASH = "shards, by hash"
    POSITION = "shards, by position"
    SHARED = "one shared queue"


@dataclasses.dataclass(frozen=True, slots=True)
class Problem:
    """What is to be done, and with what. Times in seconds of one worker.

    ``times``: of each source. ``slow``: the factor by which each node is slower, 1 for a sound one. ``start_up_s``:
    until a node's workers are ready. ``per_source_s``: what a node spends on each source, its own or not, before it
    begins: it lists all of them.
    """

    times: tuple[float, ...]
    slow: tuple[float, ...]
    workers: int
    start_up_s: float = 0.0
    per_source_s: float = 0.0
    source_bytes: float = 0.0
    node_bytes_per_s: float = math.inf
    shared_bytes_per_s: float = math.inf

    @property
    def nodes(self) -> int:
        """The number of nodes."""
        return len(self.slow)

    @property
    def ideal_s(self) -> float:
        """A bound that no way of dealing out beats: all workers are busy to the end, on sound nodes."""
        read_s = self.source_bytes / min(self.node_bytes_per_s, self.shared_bytes_per_s)
        shared_s = len(self.times) * self.source_bytes / self.shared_bytes_per_s
        work_s = sum(time + read_s for time in self.times) / (self.nodes * self.workers)
        longest = max((time + read_s for time in self.times), default=0.0)
        return self.start_up_s + max(work_s, shared_s, longest)


def draw(
    sources: int, nodes: int, workers: int, *, mean_s: float, spread: float, stragglers: float, seed: int, **more: float
) -> Problem:
    """Return a problem with random times.

    ``spread``: standard deviation of the times over their mean, which follow a log-normal distribution.
    ``stragglers``: the share of nodes that are 1.5 times slower; of few nodes, a whole number at random.
    """
    rng = random.Random(seed)
    sigma = math.sqrt(math.log(1 + spread**2))
    times = tuple(rng.lognormvariate(math.log(mean_s) - sigma**2 / 2, sigma) for _ in range(sources))
    slow = tuple(1.5 if rng.random() < stragglers else 1.0 for _ in range(nodes))
    return Problem(times, slow, workers, **more)


def wall_s(problem: Problem, dealing: Dealing) -> float:
    """Return the time until the last node has processed its last source."""
    return max(node_ends(problem, dealing), default=0.0)


def node_ends(problem: Problem, dealing: Dealing) -> list[float]:
    """Return when each node is done. One without sources is done when it is ready."""
    queues = _queues(problem, dealing)
    ready = problem.start_up_s + problem.per_source_s * len(problem.times)
    ends = [ready] * problem.nodes
    # The worker that is free first takes its node's next source: (time, node, worker).
    free = [(ready, node, worker) for worker in range(problem.workers) for node in range(problem.nodes)]
    heapq.heapify(free)
    shared_free = 0.0  # when the file system can begin the next read
    while free:
        now, node, worker = heapq.heappop(free)
        source = next(queues[node], None)
        if source is None:
            continue
        shared_free = max(now, shared_free) + problem.source_bytes / problem.shared_bytes_per_s
        read = max(shared_free, now + problem.source_bytes / problem.node_bytes_per_s)
        end = read + problem.times[source] * problem.slow[node]
        ends[node] = max(ends[node], end)
        heapq.heappush(free, (end, node, worker))
    return ends


def _queues(problem: Problem, dealing: Dealing) -> Sequence[Iterator[int]]:
    if dealing is Dealing.SHARED:
        return [iter(range(len(problem.times)))] * problem.nodes  # one iterator for all
    by_content = dealing is Dealing.HASH
    mine: list[list[int]] = [[] for _ in range(problem.nodes)]
    for source in range(len(problem.times)):
        name = f"0_part-{source:05}.parquet" if by_content else f"0_{source}"
        mine[shard_of(name, problem.nodes, by_content=by_content)].append(source)
    return [iter(each) for each in mine]


def largest_share(sources: int, shards: int, draws: int = 20) -> float:
    """Return the size of the largest shard over the mean, with sources dealt out by hash; a mean of data sets."""
    largest = 0
    for data_set in range(draws):
        sizes = [0] * shards
        for source in range(sources):
            sizes[shard_of(f"0_{data_set}-{source}.parquet", shards, by_content=True)] += 1
        largest += max(sizes)
    return largest / draws * shards / sources
