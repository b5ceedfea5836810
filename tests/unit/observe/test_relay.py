"""What the relay writes to the driver's log."""

from __future__ import annotations

import time

import pytest
from loguru import logger

from gpuexec import events
from gpuexec.channel.messages import LogLine
from gpuexec.observe.relay import LogRelay
from gpuexec.planning.model import Plan


@pytest.fixture
def records():
    logged = []
    handler = logger.add(lambda message: logged.append(message.record), level=0)
    yield logged
    logger.remove(handler)


def relay(*later_events):
    observer = LogRelay()
    observer.on_event(events.RunStarted(0.0, Plan((), ("a note",)), ("read",)))
    for event in later_events:
        observer.on_event(event)


def test_a_record_keeps_its_own_time_and_source_location(records):
    then = time.time() - 100
    relay(events.WorkerLogged(0, "read-1", LogLine("ERROR", 40, "{x} <b>", then, "my.stage", "process", 12)))
    note, record = records
    assert (note["level"].name, note["message"]) == ("WARNING", "a note")
    assert (record["name"], record["function"], record["line"]) == ("my.stage", "process", 12)
    assert record["message"] == "read-1 | {x} <b>"
    assert record["time"].timestamp() == pytest.approx(then)
    assert (record["extra"]["stage"], record["extra"]["worker"]) == ("read", "read-1")


def test_a_level_defined_by_the_stage_is_kept_as_a_number(records):
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


def failed(batch_id, **fields) -> events.BatchFailed:
    return events.BatchFailed(
        at=1.0,
        stage_index=0,
        worker_id="read-0",
        batch_id=batch_id,
        task_ids=tuple(f"0_{n}" for n in range(9)),
        elapsed_s=0.5,
        error="Traceback\nLookupError: x",
        action="retry",
        reason="it has attempts left",
        **fields,
    )


def test_a_failed_batch_is_a_warning_with_the_action_and_a_few_task_ids(records):
    relay(failed(3, capsule="/tmp/capsule"), failed(None))
    _, record = records
    assert record["level"].name == "WARNING"
    assert record["message"] == (
        "read-0: a batch failed (LookupError: x); retry: it has attempts left; "
        "tasks 0_0, 0_1, 0_2, 0_3, 0_4, 0_5, 0_6, 0_7 and 1 more; to reproduce it: gpuexec replay /tmp/capsule"
    )


def test_a_notice_has_its_own_level(records):
    relay(events.Noticed("a worker is replaced", "INFO"))
    assert (records[-1]["level"].name, records[-1]["message"]) == ("INFO", "a worker is replaced")
