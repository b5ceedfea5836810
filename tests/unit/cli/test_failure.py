"""Texts that are cut so that they fit on a screen."""

from __future__ import annotations

import importlib
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuexec.cli.failure import fit, show_failure
from gpuexec.stage import brief_traceback as brief

LINES = st.lists(st.text(st.characters(exclude_categories=["C", "Z"]), max_size=300), max_size=60)


@given(LINES, st.integers(20, 200), st.integers(3, 30))
def test_a_text_takes_no_more_rows_than_it_may(lines, width, rows):
    shown = fit("\n".join(lines), width, rows)
    assert sum(max(1, -(-len(line) // width)) for line in shown) <= rows


@given(st.lists(st.text("abc", min_size=1, max_size=20), min_size=1, max_size=5))
def test_what_fits_is_left_as_it_is(lines):
    assert fit("\n".join(lines), 20, 5) == lines


@given(st.integers(10, 1000))
def test_the_beginning_and_the_end_are_kept(count):
    shown = fit("\n".join(f"line {number}" for number in range(count)), 80, 9)
    assert (shown[0], shown[-1]) == ("line 0", f"line {count - 1}")
    assert f"  … {count - 8} more lines" in shown


def test_a_fault_of_this_program_is_raised():
    error = AssertionError("ours")
    with pytest.raises(AssertionError):
        show_failure(error)


def raised(function) -> BaseException:
    try:
        function()
    except BaseException as error:
        return error
    raise AssertionError


def test_a_stage_of_an_installed_package_is_shown(monkeypatch):
    """Where no frame is the user's, those after gpuexec's own are."""
    monkeypatch.setattr(brief, "_is_users", lambda _: False)
    text = brief.brief_traceback(raised(lambda: int("x")))
    assert "ValueError: invalid literal" in text
    assert "test_failure.py" in text


def test_a_syntax_error_in_an_imported_file_is_shown_without_the_frames_of_the_import(tmp_path, monkeypatch):
    (tmp_path / "with_a_syntax_error.py").write_text("def pipeline(:\n")
    monkeypatch.setattr(brief, "_is_users", lambda _: False)
    monkeypatch.syspath_prepend(tmp_path)
    text = brief.brief_traceback(raised(lambda: importlib.import_module("with_a_syntax_error")))
    first, *_, last = text.splitlines()
    assert first.endswith('with_a_syntax_error.py", line 1')
    assert last.startswith("SyntaxError: ")
    assert "importlib" not in text


def test_an_exception_that_cannot_say_anything():
    class Mute(Exception):
        def __str__(self) -> str:
            raise LookupError

    def fail():
        raise Mute

    assert "Mute" in brief.brief_traceback(raised(fail))


def test_a_circle_of_exceptions_ends():
    one, other = ValueError("one"), ValueError("other")
    one.__cause__, other.__cause__ = other, one

    def fail():
        raise one

    assert brief.brief_traceback(raised(fail)).count("caused by") == 1


@pytest.mark.parametrize(
    ("path", "users"),
    [
        ("/home/me/pipeline.py", True),
        ("pipeline.py", True),
        ("/tmp/ipykernel_17/3.py", True),
        ("<stdin>", True),
        ("<string>", False),
        ("<frozen runpy>", False),
        (f"{sys.prefix}/lib/python3.11/site-packages/torch/nn/module.py", False),
        ("/usr/lib/python3/dist-packages/x.py", False),
        (pytest.__file__, False),
        (st.__file__, False),
        (brief.__file__, False),
    ],
)
def test_whose_code_it_is(path, users):
    assert brief._is_users(brief.traceback.FrameSummary(path, 1, "f")) == users
