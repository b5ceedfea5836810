"""What is asked of a sweep: checked before anything is run, and compared with what was asked before."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from gpuexec import ConfigurationError, SweepImpossible
from gpuexec.bench.model import Goal, SearchKind
from gpuexec.bench.request import Request, checked_options, continued, differences, read_request

ASKED = Request(
    "pipe.py:make",
    "/data",
    vary={"embed.batch_size": ("1", "8"), "embed.gpus": (0.5, None)},
    arguments={"count": "3"},
    options={"cpus": 4.0},
    goal=Goal.JOULES,
    search=SearchKind.HALVING,
    seed=7,
)


def test_a_request_comes_back():
    assert read_request(ASKED.as_dict()) == ASKED
    listed = replace(ASKED, vary={}, points=({"embed.batch_size": 8},))
    assert read_request(listed.as_dict()) == listed.checked()


@pytest.mark.parametrize(
    ("changes", "messages"),
    [
        ({"target": "other.py:make"}, ["target was pipe.py:make and is other.py:make"]),
        ({"directory": "/other"}, ["directory was /data and is /other"]),
        (
            {"vary": {"embed.batch_size": ("1", "8"), "embed.gpus": (1, None)}},
            ["--vary embed.gpus was 0.5,None and is 1,None"],
        ),
        (
            {"vary": {"embed.batch_size": ("1", "8"), "embed.cpus": ("1",)}},
            ["--vary embed.gpus was 0.5,None and is absent", "--vary embed.cpus was absent and is 1"],
        ),
        ({"arguments": {"count": "4", "x": "1"}}, ["--set count was 3 and is 4", "--set x was absent and is 1"]),
        ({"options": {}}, ["option cpus was 4.0 and is absent"]),
        ({"goal": Goal.LATENCY, "warmup": 0}, ["goal was joules and is latency", "warmup was 1 and is 0"]),
        ({"seed": 8}, ["seed was 7 and is 8"]),
        ({"seed": None, "limit_s": 5.0, "cooldown_s": 1.0, "repeat": 9}, []),
        ({}, []),
    ],
)
def test_what_differs_is_named(changes, messages):
    now = replace(ASKED, **changes)
    assert differences(ASKED, now) == messages
    if messages:
        with pytest.raises(SweepImpossible) as caught:
            continued(ASKED, now, Path("folder"))
        assert all(message in str(caught.value) for message in messages)
    else:
        assert continued(ASKED, now, Path("folder")) is now


def test_another_order_is_another_grid():
    reordered = replace(ASKED, vary=dict(reversed(ASKED.vary.items())))
    (message,) = differences(ASKED, reordered)
    assert "the order of what is varied" in message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vary": {"batch_size": (1,)}}, "STAGE.key"),
        ({"vary": {"embed.batch_size": ()}}, "no values"),
        ({"vary": {"embed.dtype": (object(),)}}, "must be a number, text"),
        ({"vary": {"embed.gpus": (math.nan,)}}, "must be a number, text"),
        ({"vary": {"option.run_dir": ("a",)}}, "keeps the runs"),
        ({"vary": {"option.checkpoint": ("a",)}}, "skip what the first one has done"),
        ({"points": ({"embed.batch_size": 1},)}, "not both"),
        ({"vary": {}, "points": ({"embed": 1},)}, "STAGE.key"),
        ({"repeat": 0}, "repeat must be a whole number >= 1"),
        ({"warmup": -1}, "warmup must be"),
        ({"limit_s": 0.0}, "limit_s must be"),
        ({"budget_s": math.inf}, "budget_s must be"),
        ({"cooldown_s": -1.0}, "cooldown_s must be"),
    ],
)
def test_what_cannot_be_met_is_refused(changes, message):
    with pytest.raises(ConfigurationError, match=message):
        replace(ASKED, **changes).checked()


def test_options_are_checked_and_plain(tmp_path):
    given = {"retry_on": ConnectionError, "spill_dir": tmp_path, "stage_options": {"embed": {"retry_on": (OSError,)}}}
    assert checked_options(given) == {
        "retry_on": ["builtins.ConnectionError"],
        "spill_dir": str(tmp_path),
        "stage_options": {"embed": {"retry_on": ["builtins.OSError"]}},
    }
    with pytest.raises(ConfigurationError, match="did you mean 'queue_tasks'"):
        checked_options({"queue_task": 3})
    with pytest.raises(ConfigurationError, match="a process of its own"):
        checked_options({"warm_idle_s": 3})
