"""Figures and names in sentences."""

from __future__ import annotations

import pytest

from gpuexec.report.wording import counted, seconds


@pytest.mark.parametrize(
    ("duration", "text"),
    [
        (-1.0, "0 s"),
        (0.0, "0 s"),
        (0.00002, "20 µs"),
        (0.04, "40 ms"),
        (0.9999, "1 s"),
        (12.34, "12.3 s"),
        (99.4, "99.4 s"),
        (125.0, "2 min 5 s"),
        (11_400.0, "3 h 10 min"),
        (4e5, "111 h 7 min"),
    ],
)
def test_durations_have_the_unit_that_suits_them(duration, text):
    assert seconds(duration) == text


@pytest.mark.parametrize(("count", "text"), [(1, "1 failed attempt"), (2000, "2,000 failed attempts")])
def test_counts_agree_with_their_noun(count, text):
    assert counted(count, "failed attempt") == text
