"""Worker records in the driver's log."""

from __future__ import annotations

import time

import pytest
from loguru import logger

from gpuexec import events
from gpuexec.channel.messages import LogLine
from gpuexec.observe.relay import LogRelay
from gpuexec.plan.model import Plan


@pytest.fixture
def records():
    seen = []
    handler = logger.add(lambda message: seen.append(message.record), level=0)
    yield seen
    logger.remove(handler)


def relay(*seen):
    reader = LogRelay()
    reader.on_event(events.RunStarted(0.0, Plan((), ("a note",)), ("read",)))
    for event in seen:
        reader.on_event(event)


def test_a_record_keeps_its_own_place_and_time(records):
    then = time.time() - 100
    relay(events.WorkerLogged(0, "read-1", LogLine("ERROR", 40, "{x} <b>", then, "my.stage", "process", 12)))
    note, record = records
    assert (note["level"].name, note["message"]) == ("WARNING", "a note")
    assert (record["name"], record["function"], record["line"]) == ("my.stage", "process", 12)
    assert record["message"] == "read-1 | {x} <b>"
    assert record["time"].timestamp() == pytest.approx(then)
    assert (record["extra"]["stage"], record["extra"]["worker"]) == ("read", "read-1")


def test_a_level_of_the_stages_own_is_kept_as_a_number(records):
    relay(events.WorkerLogged(0, "read-1", LogLine("SHOUT", 33, "x", 0.0, None, "f", 1)))
    assert records[-1]["level"].no == 33


def test_prints_are_marked(records):
    relay(events.WorkerPrinted(0, "read-0", ("one", "two")))
    assert [r["message"] for r in records[1:]] == ["read-0 | one", "read-0 | two"]
    assert {r["extra"]["stream"] for r in records[1:]} == {"output"}


def test_gpu_memory_left_behind_is_a_warning(records):
    relay(events.NodeSetUp(1.0, 0, 0.5, (("GPU-7", 3 * 2**20),)))
    assert records[-1]["level"].name == "WARNING"
    assert "left 3 MiB more in use on GPU-7" in records[-1]["message"]
