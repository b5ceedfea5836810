"""Lines and log records of a worker's output, whatever the chunks it is read in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuexec.channel.log_frames import MARK, encode_record
from gpuexec.channel.messages import LogLine
from gpuexec.processes import output_lines
from gpuexec.processes.output_lines import OutputLines
from gpuexec.units import MIB


def record(text: str = "said") -> LogLine:
    return LogLine("INFO", 20, text, 1.5, "mine", "process", 3, "/a/b.py", "logging")


def fed(*chunks: bytes) -> list:
    lines = OutputLines()
    return [item for chunk in chunks for item in lines.feed(chunk)] + lines.end()


@given(
    st.lists(
        st.one_of(st.text(st.characters(exclude_characters="\r\n\x1e")), st.builds(record, st.text())), max_size=6
    ),
    st.data(),
)
def test_lines_and_records_arrive_in_order_however_they_are_cut(items, data):
    stream = b"".join(
        encode_record(item) if isinstance(item, LogLine) else item.encode(errors="replace") + b"\n" for item in items
    )
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=5)))
    chunks = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    expected = [item if isinstance(item, LogLine) else item.encode(errors="replace").decode() for item in items]
    assert fed(*chunks) == expected


def test_a_record_in_the_middle_of_a_line_does_not_cut_it():
    assert fed(b"load" + encode_record(record()) + b"ing\nnext\n") == [record(), "loading", "next"]


def test_what_only_looks_like_a_record_is_text():
    assert fed(MARK + b"[1,2]\n") == [(MARK + b"[1,2]").decode()]


@pytest.mark.parametrize(
    "chunks",
    [
        (b"\r 10%\r 20%\r100%\n",),
        (b"\r 10%", b"\r 20%", b"\r100%"),
        (b" 10%\r 20%\r100%\r", b"\n"),
        (b"100%\r\n",),
        (b"\r 10%" * MIB, b"\r100%"),
        (b" 10%\r" * MIB, b"100%\r", b"\n"),
    ],
)
def test_of_a_progress_bar_the_last_state_is_left(chunks):
    assert [line.strip() for line in fed(*chunks)] == ["100%"]


def test_a_long_line_is_one_line():
    assert fed(*[b"x" * 1000] * 900, b"\n") == ["x" * 900_000]


def test_a_very_long_line_is_reported_in_parts_of_whole_characters():
    text = "€" * MIB
    parts = fed(*(text.encode()[i : i + 65536] for i in range(0, 3 * MIB, 65536)))
    assert len(parts) > 1
    assert "".join(parts) == text


def test_of_nested_bars_the_last_states_are_left():
    outer, inner = "\r outer {}%", "\n\r inner {}%\x1b[A"
    drawn = "".join(outer.format(n) + inner.format(n + 5) for n in range(0, 100, 10))
    lines = fed((drawn + "\r outer 100%\n" + "\n" + "done\n").encode())
    assert [line.strip() for line in lines] == ["outer 0%", "outer 100%", "inner 95%", "done"]


def test_what_follows_an_erased_bar_stands_at_the_beginning_of_its_line():
    assert fed(b"outer\n\r inner\x1b[A\n\r      \r\x1b[A\router 2\nwritten\n") == ["outer", "outer 2", "written"]


def test_a_line_printed_between_nested_bars_is_not_lost():
    bars = "\r outer {0}%\n\r inner {0}%\x1b[A"
    lines = fed((bars.format(1) + "hello\n" + bars.format(2) + "\r\x1b[2K\n\x1b[K").encode())
    assert len([line for line in lines if "hello" in line]) == 1
    assert not [line for line in lines if "\x1b" in line]


@given(st.lists(st.sampled_from(["a", "\n", "\r", "\x1b[A", "\x1b[3A", "\x1b[K", "\x1b[31m"]), max_size=30))
def test_any_movement_of_the_cursor_is_survived(parts):
    fed("".join(parts).encode())


def test_the_stack_of_a_crash_ends_where_gpuexecs_frames_begin():
    folder = output_lines._OWN_FOLDER
    own = f'  File "{folder}/worker/loop.py", line 164 in _run_batch'
    stack = ["Current thread 0x01 (most recent call first):", '  File "/home/me/stage.py", line 3 in process']
    elsewhere = ["Thread 0x02 (most recent call first):", own, '  File "/home/me/stage.py", line 9 in run']
    traceback = [f'  File "{folder}/worker/loop.py", line 164, in _run_batch', "    self._process()"]
    printed = [*stack, own, '  File "<frozen runpy>", line 88 in _run_code', *elsewhere, own, *traceback]
    fed = OutputLines().feed("".join(f"{line}\n" for line in printed).encode())
    assert fed == [*stack, *elsewhere, *traceback]
