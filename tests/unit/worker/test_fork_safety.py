"""Whether a generator was seeded or only drawn from, seen from its state alone."""

from __future__ import annotations

import random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuexec.worker import fork_safety

DRAWS = st.lists(
    st.sampled_from(["random", "getrandbits", "gauss", "shuffle"]) | st.integers(1, 3000), min_size=0, max_size=5
)


def draw(generator: random.Random, what: str | int) -> None:
    if what == "random":
        generator.random()
    elif what == "getrandbits":
        generator.getrandbits(700)
    elif what == "gauss":
        generator.gauss(0, 1)
    elif what == "shuffle":
        generator.shuffle(list(range(100)))
    else:
        generator.getrandbits(32 * what)


@settings(max_examples=30)
@given(st.integers(), DRAWS)
def test_drawing_leads_to_a_state_that_is_known(seed: int, draws: list[str | int]):
    generator = random.Random(seed)
    before = generator.getstate()
    for what in draws:
        draw(generator, what)
    assert fork_safety._is_reached_python(random, before, generator.getstate())


@settings(max_examples=10)
@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), DRAWS)
def test_seeding_does_not(before: int, seed: int, draws: list[str | int]):
    generator = random.Random(f"before {before}")
    state = generator.getstate()
    generator.seed(seed)
    for what in draws:
        draw(generator, what)
    assert not fork_safety._is_reached_python(random, state, generator.getstate())


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1), st.integers(0, 5000), st.booleans())
def test_numpy_likewise(seed: int, count: int, seeds: bool):
    generator = np.random.RandomState(seed)
    before = generator.get_state()
    if seeds:
        generator.seed((seed + 1) % 2**32)
    generator.random_sample(count)
    assert fork_safety._is_reached_numpy(np.random, before, generator.get_state()) is not seeds
