"""What is printed: of any width, problems first, commands that a shell reads."""

from __future__ import annotations

import shlex

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuexec.doctor.catalogue import CHECKS
from gpuexec.doctor.checks import gpus
from gpuexec.doctor.model import Examination, Finding, Outcome, Result, examine
from gpuexec.doctor.text import command_lines, examination_lines
from tests.unit.doctor.sample_facts import facts, health, of_gpu, part, without_driver
from tests.unit.doctor.test_checks import CASES

words = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=12).map(shlex.quote)


@settings(max_examples=50)
@given(st.lists(words, min_size=1, max_size=12), st.integers(0, 24), st.integers(30, 120))
def test_a_shell_reads_the_lines_of_a_command_as_one(parts, indent, width):
    command = " ".join(parts)
    lines = command_lines(command, " " * indent, width)
    assert lines[0].startswith(f"{' ' * indent}$ ")
    assert all(line.endswith(" \\") for line in lines[:-1])
    joined = " ".join(line.strip().removesuffix("\\") for line in lines)
    assert shlex.split(joined)[1:] == shlex.split(command)
    longest = max(map(len, parts))
    assert max(map(len, lines)) <= max(width, indent + len("    ") + longest + len(" \\"))


def lines_of(examination: Examination, width: int) -> list[str]:
    return [line.text for line in examination_lines(examination, width)]


def everything_wrong() -> Examination:
    """Return an examination with every finding of the table of cases."""
    found: dict[str, list[Finding]] = {}
    for case in CASES:
        for check in CHECKS:
            if check.name == case.check:
                found.setdefault(case.check, []).extend(examine(facts(**case.changes), [check]).results[0].findings)
    results = tuple(Result(check, tuple(dict.fromkeys(found[check.name]))) for check in CHECKS)
    return Examination(results, facts())


@pytest.mark.parametrize("width", [40, 63, 64, 80, 120])
def test_every_finding_is_shown_within_the_width(width):
    examination = everything_wrong()
    lines = lines_of(examination, width)
    text = " ".join(" ".join(line.removesuffix("\\").split()) for line in lines)
    for result in examination.results:
        for finding in result.findings:
            if finding.outcome is not Outcome.PASS:
                assert " ".join((finding.subject + finding.found).split()) in text
                assert " ".join(finding.command.split()) in text
    too_long = [line for line in lines if len(line) > width]
    assert all(len(line.split()) <= 3 for line in too_long), "only a long word may stand out"


def test_problems_come_first_and_the_last_line_sums_up():
    changes = {**of_gpu(ecc_uncorrected=1), **part("memory", swap_free=0), **part("cpus", clock_source=None)}
    lines = lines_of(examine(facts(**changes), CHECKS), 100)
    starts = [line.split()[0] for line in lines[2:-2] if line and not line.startswith(" ")]
    assert starts == ["FAIL", "WARN", "?", *["pass"] * (len(starts) - 3)]
    assert lines[-1] == f"{len(CHECKS)} checks: 1 failed, 1 warned, 1 could not run, {len(CHECKS) - 3} passed"
    assert lines[0] == "box, 2 × NVIDIA H100, pipeline.py:pipeline"


def test_what_passed_beside_a_problem_is_left_out():
    (line, *_, last) = lines_of(examine(facts(**of_gpu(ecc_uncorrected=1)), [gpus.ecc]), 100)[2:]
    assert last == "1 check: 1 failed"
    assert line == "FAIL  ecc  GPU 1: 1 uncorrected memory error(s)"


def test_checks_that_found_the_same_are_one_entry():
    lines = lines_of(examine(facts(**without_driver("?", 999)), CHECKS), 80)
    text = " ".join(" ".join(line.split()) for line in lines)
    assert text.count("no GPU can be read") == 1
    assert "no GPU can be read: gpus, visible-devices, torch-cuda, compute-mode" in text
    assert text.count("gpuexec doctor --check driver --check gpus") == 1


def test_what_moves_a_cursor_is_not_printed():
    finding = Finding(Outcome.FAIL, "a\x1b[2Jb", "c")
    lines = lines_of(Examination((Result(gpus.ecc, (finding,)),), facts()), 80)
    assert "\x1b" not in "".join(lines)


def test_gpus_of_several_kinds_are_counted():
    (heading, *_) = lines_of(examine(facts(**of_gpu({"name": "NVIDIA A10"})), []), 80)
    assert heading == "box, 2 GPUs, pipeline.py:pipeline"
    assert health(3).index == 3
