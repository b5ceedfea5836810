"""What counts as a change of a pipeline, and how it is explained."""

from __future__ import annotations

import subprocess
import sys
import threading
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuexec import Resources
from gpuexec.checkpoint.fingerprint import Fingerprint, differences, fingerprint_of
from tests.unit.checkpoint.stages import Filter, Reader, WordCount


@dataclass(frozen=True, slots=True)
class Rule:
    fewest: int


class Color(Enum):
    RED = 1


def changes(before, after):
    return differences(fingerprint_of(before), fingerprint_of(after))


def test_a_changed_setting_is_named_with_its_stage():
    assert changes([Reader(), Filter()], [Reader(), Filter(threshold=0.5)]) == [
        "stage 'filter' (2 of 2): threshold was 0.3, is 0.5"
    ]


def test_settings_inside_an_object_count_private_ones_too():
    (line,) = changes([Filter(rule=WordCount(5))], [Filter(rule=WordCount(6))])
    assert (
        line
        == """stage 'filter' (1 of 1): rule was {"<WordCount>": {"_fewest": 5}}, is {"<WordCount>": {"_fewest": 6}}"""
    )


def test_a_class_attribute_is_a_setting(monkeypatch):
    before = fingerprint_of([Reader()])
    monkeypatch.setattr(Reader, "suffix", ".parquet")
    assert differences(before, fingerprint_of([Reader()])) == [
        """stage 'reader' (1 of 1): suffix was ".jsonl", is ".parquet\""""
    ]


def test_what_does_not_change_outputs_does_not_count():
    plain, other = Filter(), Filter(api_key="another")
    other = other.with_(batch_size=7, resources=Resources(cpus=2), runtime_env={"env_vars": {"A": "1"}}, num_workers=3)
    other._custom_metrics = {"a": 1.0}
    other.is_sink_stage = True
    assert changes([plain], [other]) == []
    assert "from the environment" not in fingerprint_of([plain]).to_json()


def test_max_tokens_is_no_credential():
    assert changes([Filter()], [Filter(max_tokens=11)]) == ["stage 'filter' (1 of 1): max_tokens was 10, is 11"]


def test_a_password_in_a_value_is_not_written_down():
    text = fingerprint_of([Filter(rule={"url": "s3://me:hunter22@host", "password": "hunter22"})]).to_json()
    assert "host" in text
    assert "hunter22" not in text


def test_added_removed_and_replaced_stages():
    assert changes([Reader(), Filter()], [Reader(), Filter(name="f2"), Filter(threshold=1.0)]) == [
        "the stages were reader → filter, are reader → f2 → filter",
        "stage 'filter' (3 of 3): threshold was 0.3, is 1.0",
    ]

    class Other(Filter):
        pass

    (line,) = changes([Filter()], [Other()])
    assert line.endswith("its class was Filter, is test_added_removed_and_replaced_stages.<locals>.Other")


def test_the_source_role_counts():
    source = Reader()
    source.is_source_stage = True
    assert changes([Reader()], [source]) == ["stage 'reader' (1 of 1): is_source_stage did not exist, is true"]
    assert changes([source], [Reader()]) == ["stage 'reader' (1 of 1): is_source_stage was true, no longer exists"]


def test_opaque_values_count_by_type():
    assert changes([Filter(rule=threading.Lock())], [Filter(rule=threading.Lock())]) == []
    (line,) = changes([Filter(rule=threading.Lock())], [Filter(rule=object())])
    assert line.endswith('rule was "<lock>", is "<object>"')


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (Path("a"), Path("b")),
        (b"a", b"b"),
        ({"a", "b"}, {"a", "c"}),
        ({"a": 1}, {"a": 2}),
        ((1, [2]), (1, [3])),
        (Color.RED, "RED"),
        (Rule(1), Rule(2)),
        (WordCount, Filter),
        (len, max),
        (1, True),
        ("1", 1),
        (None, "None"),
        ("x" * 1000 + "a", "x" * 1000 + "b"),
        (complex(1, 2), complex(1, 3)),
    ],
)
def test_values_that_differ(before, after):
    assert changes([Filter(rule=before)], [Filter(rule=before)]) == []
    assert len(changes([Filter(rule=before)], [Filter(rule=after)])) == 1


def test_long_values_are_kept_short():
    (line,) = changes([Filter(rule=["word"] * 100_000)], [Filter(rule=["word"] * 100_001)])
    assert len(line) < 600


def test_a_cycle_ends():
    first = WordCount(1)
    first.itself = first
    assert len(fingerprint_of([Filter(rule=first)]).to_json()) < 1000


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner) | st.frozensets(st.integers()),
    max_leaves=10,
)


@given(json_like)
def test_any_plain_value_survives_the_journal(value):
    made = fingerprint_of([Filter(rule=value)])
    assert Fingerprint.from_json(made.to_json()) == made
    assert Fingerprint.from_json(made.to_json()).digest == made.digest


def test_it_is_the_same_in_every_process():
    code = (
        "from gpuexec.checkpoint.fingerprint import fingerprint_of\n"
        "from tests.unit.checkpoint.stages import Filter\n"
        "print(fingerprint_of([Filter(rule={'z', 'a', 'k', frozenset({'b', 'c'})})]).digest)"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", code], check=True, capture_output=True, text=True, env={"PYTHONHASHSEED": seed}
        ).stdout
        for seed in "123"
    }
    assert len(digests) == 1
