"""The live table's lines at any size: what comes first, and what is left out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuexec.observe.live_table import gpu_lines, live_lines, rate_of, steady
from gpuexec.report.columns import cell_width
from tests.unit.observe.views import stage_view, view_of


def shown(width: int, height: int, names: tuple[str, ...], finished: int = 0) -> list[str]:
    return live_lines(view_of(names, finished=finished), width, height)


@pytest.mark.parametrize("width", range(18, 120, 7))
def test_names_come_first_where_there_is_little_room(width):
    lines = shown(width, 10, ("decode_video", "embed_frames"))
    assert "decode_video" in lines[2]
    assert "embed_frames" in lines[3]
    assert max(map(cell_width, lines)) <= width


def test_a_long_name_keeps_its_beginning_and_its_end():
    (line,) = shown(24, 9, ("a_very_long_name_of_a_stage_number_1",))[2:]
    assert line.startswith("a_very_lo")
    assert line.split()[0].endswith("r_1")


def test_wide_characters_count_twice_and_control_characters_do_nothing():
    lines = shown(20, 9, ("阶段一二三四五六七八九十", "one\x1b[2Jtwo"))
    assert max(map(cell_width, lines)) <= 20
    assert not any("\x1b" in line for line in lines)


def test_more_stages_than_rows_leave_out_those_that_are_finished():
    names = tuple(f"stage{n}" for n in range(20))
    lines = shown(80, 8, names, finished=16)
    assert len(lines) == 8
    assert [line.split()[0] for line in lines[2:7]] == ["stage0", "stage16", "stage17", "stage18", "stage19"]
    assert lines[7] == "… 15 more stages, 15 of them finished"


def test_the_whole_table_of_a_run_at_80_columns():
    stages = (
        stage_view(0, "read", done=500, total=500, queued=0, in_flight=0, starting=0, workers=1, finished=True),
        stage_view(1, "caption", done=120, total=500, queued=372, in_flight=8, starting=0, rate=3.21),
        stage_view(2, "write", done=110, total=700, is_estimate=True, queued=0, in_flight=1, starting=0, rate=3.14),
    )
    view = view_of(("read",), gpus=2, seconds=40.0, stages=stages, bottleneck=1, remaining_s=125.0)
    assert live_lines(view, 79, 23) == [
        "running for 40 s · about 2 min 5 s left · limited by caption",
        "stage          done  queued  in flight  workers   rate",
        "read ✓          500       0          0        1      –",
        "caption ◄   120/500     372          8        8  3.2/s",
        "write      110/~700       0          1        8  3.1/s",
        "GPU 0 9.0/80 GiB 90 %   GPU 1 10.0/80 GiB 91 %",
    ]


@given(
    names=st.lists(st.text(max_size=40), max_size=30),
    gpus=st.integers(0, 9),
    finished=st.integers(0, 30),
    width=st.integers(1, 140),
    height=st.integers(1, 40),
)
def test_no_table_is_wider_or_higher_than_its_room(names, gpus, finished, width, height):
    lines = live_lines(view_of(names, finished=finished, gpus=gpus, remaining_s=1e6), width, height)
    assert len(lines) <= height
    assert max(map(cell_width, lines)) <= max(width, 18)
    assert all(line.isprintable() for line in lines)


@pytest.mark.parametrize(("width", "height"), [(79, 23), (39, 23)])
def test_eight_gpus_and_ten_stages_are_whole_at_the_usual_sizes(width, height):
    names = tuple(f"stage_{n}" for n in range(10))
    text = "\n".join(live_lines(view_of(names, gpus=8, bottleneck=3, remaining_s=65.0), width, height))
    assert all(name in text for name in names)
    assert all(f"GPU {n} " in text for n in range(8))
    assert "stage_3 ◄" in text
    assert "about 65 s left" in text


def test_gpus_that_do_not_fit_are_added_up():
    gpus = view_of((), gpus=4).gpus
    assert gpu_lines(gpus, 79, 2) == [
        "GPU 0 9.0/80 GiB 90 %   GPU 1 10.0/80 GiB 91 %   GPU 2 11.0/80 GiB 92 %",
        "GPU 3 12.0/80 GiB 93 %",
    ]
    assert gpu_lines(gpus, 79, 1) == ["4 GPUs 42.0/320 GiB 92 %"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.6, "60 s"), (180, "3 min"), (599, "9 min 59 s"), (629, "10 min"), (7500, "2 h 5 min")],
)
def test_durations_do_not_change_all_the_time(seconds, text):
    assert steady(seconds) == text


@pytest.mark.parametrize(
    ("rate", "text"),
    [(None, "–"), (0.0, "0.00/s"), (0.01, "0.6/min"), (0.5, "0.50/s"), (3.21, "3.2/s"), (1234.5, "1,234/s")],
)
def test_rates_have_three_digits(rate, text):
    assert rate_of(rate) == text
