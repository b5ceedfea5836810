"""What those who watch a run get, and that the driver never waits for them."""

from __future__ import annotations

import resource
import socket
import threading
import time
from pathlib import Path

import pytest

from gpuexec import events
from gpuexec.errors import CannotAttach, RunFolderNotWritten
from gpuexec.live import address, server
from gpuexec.live.client import LiveClient
from gpuexec.live.server import LiveServer
from tests.unit.live.runs import NASTY_NAMES, ServedRun, wait_for


def next_with(client: LiveClient, key: str):
    return next_of_each(client, key)[0]


def next_of_each(client: LiveClient, *keys: str):
    """The next message with each of the keys, whichever comes first."""
    found = {}
    for message in client.messages(100.0):
        found.update((key, message[key]) for key in keys if key in message and key not in found)
        if len(found) == len(keys):
            return [found[key] for key in keys]
    raise AssertionError(f"of messages with {keys}, only those with {tuple(found)} have come")


@pytest.fixture
def run(tmp_path: Path):
    served = ServedRun(tmp_path)
    yield served
    if served.server is not None:
        served.end()


def test_one_who_attaches_learns_what_the_run_is_and_how_far(run: ServedRun, tmp_path: Path):
    run.print("before anybody came")
    with LiveClient(tmp_path) as client:
        assert client.hello["run_id"] == "abc123"
        assert client.hello["stages"] == ["read", "embed"]
        wait_for(lambda: run.server.attached)
        run.gauge(10)
        log, snapshot = next_of_each(client, "log", "snapshot")
        assert [entry["text"] for entry in log] == ["before anybody came"]
        assert [stage["total"] for stage in snapshot["stages"]] == [100, 190]
        assert [worker["id"] for worker in snapshot["workers"]] == ["read-0", "embed-0"]
        run.log("look out")
        (entry,) = next_with(client, "log")
        assert (entry["level"], entry["stage"], entry["worker"], entry["text"]) == (
            "WARNING",
            "embed",
            "embed-0",
            "look out",
        )
        run.gauge(20)
        assert next_with(client, "snapshot")["stages"][0]["rate"] == pytest.approx(10)
        run.end("ValueError: no")
        assert next_with(client, "end")["outcome"] == "failed"
        assert list(client.messages(100.0)) == []
        assert not client.is_open
    assert not (tmp_path / address.SOCKET).exists()


def test_without_descriptors_it_waits_until_there_are_some(run: ServedRun, tmp_path: Path):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket(socket.AF_UNIX) as early, address._short_path(tmp_path) as path:
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))  # no more than there are
        try:
            early.connect(path)
            before = time.process_time()
            time.sleep(0.5)
            assert time.process_time() - before < 0.25  # of one core: it does not go round and round
            assert not run.server.attached
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        wait_for(lambda: run.server.attached)


def test_nothing_is_made_of_the_events_while_nobody_is_attached(run: ServedRun, tmp_path: Path, monkeypatch):
    sent = []
    monkeypatch.setattr(run.server, "_put", lambda *content: sent.append(content))
    for done in range(5):
        run.gauge(done)
        run.print("line")
    assert sent == []
    assert run.observer._watcher is None
    monkeypatch.undo()
    with LiveClient(tmp_path) as client:
        wait_for(lambda: run.server.attached)
        run.gauge(6)
        next_with(client, "snapshot")
        assert run.observer._watcher is not None
    wait_for(lambda: not run.server.attached)
    run.gauge(7)
    assert run.observer._watcher is None


def test_two_clients_get_the_same_and_the_second_one_the_log_so_far(run: ServedRun, tmp_path: Path):
    with LiveClient(tmp_path) as first:
        wait_for(lambda: run.server.attached)
        run.print("one")
        run.gauge(1)
        assert [entry["text"] for entry in next_with(first, "log")] == ["one"]
        with LiveClient(tmp_path) as second:
            wait_for(lambda: run.server._arrivals == 2)
            run.gauge(2)
            assert [entry["text"] for entry in next_with(second, "log")] == ["one"]
            run.print("two")
            assert [entry["text"] for entry in next_with(first, "log")] == ["two"]
            assert [entry["text"] for entry in next_with(second, "log")] == ["two"]
        run.gauge(3)
        assert next_with(first, "snapshot")


def test_a_client_that_reads_nothing_holds_nobody_up_and_is_dropped(tmp_path: Path):
    listening = LiveServer(tmp_path, {"protocol": "gpuexec-live/1"}, patience_s=0.3)
    with LiveClient(tmp_path) as stuck, LiveClient(tmp_path) as other:
        wait_for(lambda: listening._arrivals == 2)
        listening.send_log_so_far([])
        last = 0
        while len(listening._clients) == 2:
            last += 1
            listening.send_snapshot({"number": last, "filler": "x" * 100_000})
            listening.send_log([{"text": f"{last}"}] * 10)
            received = [message["snapshot"]["number"] for message in other.messages(0.01) if "snapshot" in message]
            assert received == sorted(received)
            held = max(len(client._sending) + len(client.snapshot or b"") for client in listening._clients.values())
            assert held < 10**6
        texts = [message["log"] for message in stuck.messages(5.0) if "log" in message]
        assert not stuck.is_open
        assert len(texts) < last
        listening.send_snapshot({"number": 0})
        while next_with(other, "snapshot") != {"number": 0}:
            pass
        listening.close({"outcome": "ok"})


def test_a_client_that_reads_late_gets_the_newest_snapshot_and_the_last_lines(run: ServedRun, tmp_path: Path):
    with LiveClient(tmp_path) as client:
        wait_for(lambda: run.server.attached)
        run.gauge(1)
        for number in range(3000):
            run.print(*[f"{number}: {'x' * 500}"] * 3)
            if number % 100 == 0:
                run.gauge(number // 100)
        run.gauge(99)
        logs, dones = [], []
        while not dones or dones[-1] != 99:
            for message in client.messages(100.0):
                logs += message.get("log", [])
                dones += [message["snapshot"]["stages"][0]["done"]] if "snapshot" in message else []
                if dones and dones[-1] == 99 and logs and logs[-1]["text"].startswith("2999"):
                    break
            else:
                raise AssertionError("the newest snapshot has not come")
        assert len(logs) < 9000, "lines were left out"


def test_the_end_does_not_wait_for_a_client_that_is_stuck(tmp_path: Path):
    run = ServedRun(tmp_path)
    with LiveClient(tmp_path):
        wait_for(lambda: run.server.attached)
        for number in range(200):
            run.gauge(number % 100)
            run.print(*["x" * 1000] * 100)
        began = time.monotonic()
        run.end()
        assert time.monotonic() - began < 0.9, "the thread would have been given up after a second"
    assert not [thread for thread in threading.enumerate() if thread.name == "gpuexec-live"]


def test_one_client_too_many_is_told_so(run: ServedRun, tmp_path: Path):
    clients = [LiveClient(tmp_path) for _ in range(server.MOST_CLIENTS)]
    with pytest.raises(CannotAttach, match="16 others are attached"):
        LiveClient(tmp_path)
    for client in clients:
        client.close()
    wait_for(lambda: not run.server.attached)
    LiveClient(tmp_path).close()


def test_what_a_client_says_is_not_read(run: ServedRun, tmp_path: Path):
    with address.connect(tmp_path, 5.0) as rude:
        rude.sendall(b"GET / HTTP/1.1\r\n\r\n" * 1000)
        wait_for(lambda: run.server.attached)
        run.gauge(1)
        with LiveClient(tmp_path) as client:
            wait_for(lambda: run.server._arrivals == 2)
            run.gauge(2)
            assert next_with(client, "snapshot")
        assert rude.recv(9) == b'{"hello":'


def test_names_of_any_kind_arrive_as_they_are(tmp_path: Path):
    run = ServedRun(tmp_path, names=NASTY_NAMES, pipeline=NASTY_NAMES[0])
    with LiveClient(tmp_path) as client:
        wait_for(lambda: run.server.attached)
        run.gauge(1)
        assert [stage["name"] for stage in next_with(client, "snapshot")["stages"]] == list(NASTY_NAMES)
        assert client.hello["pipeline"] == NASTY_NAMES[0]
    run.end()


def test_a_folder_that_takes_no_socket_is_one_warning(tmp_path: Path):
    run = ServedRun(tmp_path)
    second = ServedRun(tmp_path)
    with pytest.raises(RunFolderNotWritten, match="`gpuexec top` cannot show this run"):
        second.gauge(1)
    second.gauge(2)
    second.end()
    run.end()


def test_a_child_of_the_driver_sends_nothing(run: ServedRun, tmp_path: Path):
    run.observer._pid += 1
    with LiveClient(tmp_path) as client:
        wait_for(lambda: run.server.attached)
        run.observer.on_event(events.RunEnded(1.0, None))
        assert run.server is not None
        run.observer._pid -= 1
        run.gauge(1)
        assert next_with(client, "snapshot")
