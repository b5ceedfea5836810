"""Findings, results and the exit status."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuexec.doctor.catalogue import CHECKS, chosen
from gpuexec.doctor.model import SEVERITY, Check, Finding, Outcome, Topic, check, examine, fail, passed, unknown, warn
from gpuexec.errors import ConfigurationError
from tests.unit.doctor.sample_facts import facts

findings = st.builds(
    Finding,
    st.sampled_from(Outcome),
    st.sampled_from(["a", "b"]),
    st.sampled_from(["", "reset {gpus}"]),
    st.sampled_from(["", "c"]),
    st.lists(st.integers(0, 9), max_size=1).map(tuple),
)


def check_that_finds(*found: Finding, name: str = "one") -> Check:
    return check(name, Topic.HOST, source="", remedies=())(lambda facts: found)


@pytest.mark.parametrize(
    ("outcomes", "status"),
    [
        ([], 0),
        ([passed("a")], 0),
        ([passed("a"), unknown("b", "c")], 3),
        ([passed("a"), unknown("b", "c"), warn("b", "c")], 1),
        ([fail("b", "c"), unknown("b", "c"), warn("b", "c"), passed("a")], 2),
    ],
)
def test_the_exit_status_is_that_of_the_worst_check(outcomes, status):
    checks = [check_that_finds(finding, name=str(number)) for number, finding in enumerate(outcomes)]
    assert examine(facts(), checks).exit_status == status


@settings(max_examples=50)
@given(st.lists(findings, max_size=12))
def test_findings_that_differ_only_in_their_gpus_are_one(found):
    (result,) = examine(facts(), [check_that_finds(*found)]).results
    merged = result.findings
    keys = [(f.outcome, f.found, f.remedy, f.advice, bool(f.gpus)) for f in merged]
    assert len(keys) == len(set(keys))
    flat = {(f.outcome, f.found, f.remedy, f.advice, gpu) for f in merged for gpu in f.gpus or (None,)}
    assert flat == {(f.outcome, f.found, f.remedy, f.advice, gpu) for f in found for gpu in f.gpus or (None,)}
    assert [SEVERITY.index(f.outcome) for f in merged] == sorted(SEVERITY.index(f.outcome) for f in merged)
    assert all(f.gpus == tuple(sorted(set(f.gpus))) for f in merged)
    assert result.outcome is (min((f.outcome for f in found), key=SEVERITY.index) if found else Outcome.PASS)


@pytest.mark.parametrize(
    ("gpus", "subject", "command"),
    [
        ((), "", "reset "),
        ((3,), "GPU 3: ", "reset 3"),
        ((0, 1), "GPU 0, 1: ", "reset 0,1"),
        ((0, 2, 3, 4, 7), "GPU 0, 2 to 4, 7: ", "reset 0,2,3,4,7"),
    ],
)
def test_gpus_are_named(gpus, subject, command):
    finding = Finding(Outcome.FAIL, "a", "reset {gpus}", gpus=gpus)
    assert (finding.subject, finding.command) == (subject, command)


def test_checks_of_a_pipeline_are_left_out_without_one():
    without = {result.check.name for result in examine(facts(target=None), CHECKS).results}
    assert {each.name for each in CHECKS} - without == {each.name for each in CHECKS if each.needs_target} != set()


def test_names_sources_and_texts_of_the_checks():
    names = [each.name for each in CHECKS]
    assert len(set(names)) == len(names) >= 35
    for each in CHECKS:
        assert each.source
        assert each.about.endswith(".")
        assert each.remedies


def test_checks_are_chosen_by_name():
    assert [each.name for each in chosen(["swap", "ecc"], [])] == ["ecc", "swap"]
    assert len(chosen([], ["swap"])) == len(CHECKS) - 1
    assert chosen(["swap"], ["swap"]) == ()
    with pytest.raises(ConfigurationError, match=r"no check 'exc'; did you mean 'ecc'\?"):
        chosen(["exc"], [])
    with pytest.raises(ConfigurationError, match="there are checkpoint-folder, clock-source"):
        chosen([], ["zzzzzzzz"])
