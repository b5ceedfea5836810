"""The table fits the terminal, cuts nothing off, and needs no colour."""

from __future__ import annotations

import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from gpuexec.bench.analysis import analyse
from gpuexec.bench.model import Goal, Sweep
from gpuexec.bench.table import SweepTable
from gpuexec.report.columns import cell_width
from tests.unit.bench.sweeps import (
    SAMPLES,
    all_failed,
    embedding_on_gpus,
    halving,
    many_points,
    measured,
    one_parameter,
    one_point,
    sweep_of,
    sweeps,
)


def lines_of(sweep: Sweep, width: int = 80) -> list[str]:
    return SweepTable(analyse(sweep), sweep).lines(width)


def without_code(lines: list[str]) -> list[str]:
    return [line for line in lines if " = " not in line and "import" not in line and not line.startswith("  # ")]


@pytest.mark.parametrize("width", [40, 80, 200])
@pytest.mark.parametrize("make", SAMPLES.values(), ids=SAMPLES)
def test_a_sample_fits(make, width: int):
    lines = lines_of(make(), width)
    assert max(map(cell_width, without_code(lines))) <= width
    assert all(line.isprintable() for line in lines)


@settings(max_examples=50)
@given(sweeps(), st.integers(20, 200))
def test_any_sweep_fits(sweep: Sweep, width: int):
    lines = lines_of(sweep, width)
    assert all(line.isprintable() for line in lines)
    assert max(map(cell_width, without_code(lines))) <= max(40, width)


@pytest.mark.parametrize("width", [40, 80])
def test_every_point_is_told_with_its_settings(width: int):
    text = " ".join(" ".join(lines_of(embedding_on_gpus(), width)).split())
    for point in analyse(embedding_on_gpus()).points:
        assert point.point.id in text
    assert text.count("batch_size") >= (24 if width == 40 else 1)


def test_the_best_comes_first_and_marks_are_explained():
    lines = lines_of(embedding_on_gpus())
    header = next(n for n, line in enumerate(lines) if line.startswith("point "))
    assert lines[header].split() == [
        "point",
        "batch_size",
        "gpus",
        "num_workers",
        "items/s",
        "95",
        "%",
        "spread",
        "J/item",
    ]
    assert lines[header + 2].split()[:3] == ["p13", "*", "F"]
    text = " ".join(" ".join(lines).split())
    assert "* best; F on the front: no other point has both" in text
    assert "? doubtful, see below" in text
    assert "= equally good" not in text  # none is
    assert "p05 another tenant: python (pid 812) held 3.1 GiB of GPU 0" in text
    assert "p18 out of GPU memory (batch_size 128, gpus 0.25, num_workers 2): torch.OutOfMemoryError" in text
    assert "p21 over the time limit" in text


def test_equally_good_points_are_marked():
    lines = lines_of(one_parameter())
    assert [line.split()[:2] for line in lines if line.startswith(("p03", "p02"))][:2] == [["p03", "*"], ["p02", "="]]
    assert "= equally good: its 95 % interval overlaps the best's" in " ".join(lines)


def test_the_answer_stands_at_the_end():
    lines = lines_of(one_parameter())
    assert lines[-1] == "  embed = embed.with_(batch_size=64)"
    assert any(line.startswith("Use p03 (batch_size 64): throughput 334 items/s") for line in lines)


def test_wide_terminals_get_more_columns_and_narrow_ones_blocks():
    wide, narrow = lines_of(embedding_on_gpus(), 140), lines_of(embedding_on_gpus(), 40)
    assert next(line for line in wide if line.startswith("point ")).split()[-3:] == ["p99", "first", "runs"]
    assert "1. p13 * F" in narrow
    assert "  216 items/s ± 1.3 % (steady, 5 runs)" in narrow
    assert "  p99 of a task 852 ms" in narrow


def test_nothing_measured():
    lines = lines_of(sweep_of([], complete=False))
    assert "not measured yet: p00, p01, p02, p03" in lines
    assert lines[-1] == "No answer: no point went through with a known throughput."


def test_all_failed():
    lines = lines_of(all_failed())
    assert "without a result, and why" in lines
    assert "  p06  out of GPU memory (batch_size 6): reason 6" in lines
    assert "No answer" in lines[-1]


def test_one_repeat_has_no_interval():
    lines = lines_of(one_point())
    row = next(line for line in lines if line.startswith("p00"))
    assert row.split() == ["p00", "today", "*", "132", "–", "–", "1"]
    assert "95 %" not in " ".join(lines[lines.index(row) + 1 :])


def test_many_points_are_cut_but_todays_stays():
    lines = lines_of(many_points())
    begin = next(n for n, line in enumerate(lines) if line.startswith("───")) + 1
    rows = lines[begin : lines.index("", begin) - 1]
    assert len(rows) in (40, 41)
    assert any(row.startswith("p00 today") for row in rows)
    left_out = len(many_points().points) - len(rows)
    assert f"… and {left_out} more points, in bench.json and its page" in lines


def test_rungs_of_a_halving_search_are_told():
    lines = lines_of(halving())
    assert "rung" in next(line for line in lines if line.startswith("point "))
    assert "(steady, 3 runs, rung 3)" in " ".join(" ".join(lines_of(halving(), 40)).split())


def test_short_energies_are_marked():
    found = embedding_on_gpus()
    results = tuple(each if each.trial.point_id != "p00" else _short(each) for each in found.results)
    lines = lines_of(sweep_of(results, found.varied, found.today, points=found.points))
    assert next(line for line in lines if line.startswith("p00 today")).endswith("short")
    assert "short: measured for less than 10 s" in " ".join(" ".join(lines).split())


def _short(each):
    from dataclasses import replace

    return replace(each, energy_is_short=True)


def test_joules_that_nobody_measured_are_no_ranking():
    lines = lines_of(sweep_of(measured({"p00": [1.0, 1.1]}), goal=Goal.JOULES))
    assert "No answer: no point went through with a known energy per item" in " ".join(lines)


def test_it_can_be_printed_by_rich():
    sweep = one_parameter()
    console = Console(width=60, file=io.StringIO())
    console.print(SweepTable(analyse(sweep), sweep))
    assert "p03 *" in console.file.getvalue()
