from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuexec.checkpoint.id_ranges import first_collision, merged, next_id


@st.composite
def registries(draw) -> dict[str, tuple[int, int]]:
    """What a generator registers: one range after the other, some of them empty, with gaps."""
    following, registry = draw(st.integers(0, 3)), {}
    for key, count in draw(st.dictionaries(st.integers(0, 99), st.integers(0, 4), max_size=12)).items():
        following += draw(st.integers(0, 2))
        registry[f"batch-{key}"] = (following, following + count - 1)
        following += count
    return registry


def ids_of(registry: dict[str, tuple[int, int]]) -> list[int]:
    return [number for first, last in registry.values() for number in range(first, last + 1)]


@given(registries(), st.data())
def test_parts_of_one_registry_are_merged_into_it(registry, data):
    sides = {key: data.draw(st.sampled_from(["live", "kept", "both"])) for key in registry}
    live = {key: ids for key, ids in registry.items() if sides[key] != "kept"}
    kept = {key: ids for key, ids in registry.items() if sides[key] != "live"}
    assert merged(live, kept) == registry


@given(registries(), registries())
def test_whatever_is_merged_gives_no_id_twice(live, kept):
    ids_collide = len(set(ids_of({**kept, **live}))) < len(ids_of({**kept, **live}))
    keys_differ = any(live[key] != kept[key] for key in live.keys() & kept.keys())
    if ids_collide or keys_differ:
        with pytest.raises(ValueError, match="batch"):
            merged(live, kept)
    else:
        union = merged(live, kept)
        assert len(set(ids_of(union))) == len(ids_of(union))
        assert all(number < next_id(union.values()) for number in ids_of(union))


@given(registries())
def test_a_registry_of_one_generator_has_no_collision(registry):
    assert first_collision(registry) is None


def test_the_next_id_is_never_below_what_is_asked():
    assert next_id([], at_least=7) == 7
    assert next_id([(0, 3)], at_least=7) == 7
    assert next_id([(0, 9), (2, 1)], at_least=7) == 10
