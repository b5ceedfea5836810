from __future__ import annotations

import os
import pickle
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from gpuexec.curator.id_service import IdService, ask

ASKS = "import sys; from gpuexec.curator.id_service import ask; print(ask(sys.argv[1], 'append', (sys.argv[2],), {}))"


class Unsendable(Exception):
    def __init__(self, one, two):
        super().__init__(one)


class Counting:
    def __init__(self) -> None:
        self.calls: list[str] = []

    def __call__(self, method, args, kwargs):
        self.calls.append(method)
        if method == "raise":
            error = LookupError("not here")
            error.add_note("look there")
            raise error
        if method == "raise unsendable":
            raise Unsendable("one", "two")
        if method == "echo":
            return args, kwargs
        return len(self.calls)


@pytest.fixture
def answer() -> Counting:
    return Counting()


@pytest.fixture
def service(answer: Counting) -> Iterator[IdService]:
    service = IdService(answer)
    yield service
    service.close()
    service.close()


def test_calls_and_exceptions_pass(service: IdService):
    files = [f"/some/folder/{number}.jsonl" for number in range(50_000)]  # more than a socket holds
    assert ask(service.address, "echo", (files, 3), {"key": None}) == ((files, 3), {"key": None})
    with pytest.raises(LookupError, match="not here") as caught:
        ask(service.address, "raise", (), {})
    assert caught.value.__notes__ == ["look there"]
    with pytest.raises(RuntimeError, match="Unsendable: one"):
        ask(service.address, "raise unsendable", (), {})


def test_calls_come_one_after_the_other_whoever_makes_them(service: IdService):
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: ask(service.address, "next", (), {}), range(200)))
    assert sorted(answers) == list(range(1, 201))
    other = subprocess.run([sys.executable, "-c", ASKS, service.address, "x"], capture_output=True, check=True)
    assert int(other.stdout) == 201


def test_a_forked_child_asks_too(service: IdService):
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, str(ask(service.address, "next", (), {})).encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(write)
    assert os.read(read, 10) == b"1"
    os.close(read)


def test_a_client_that_dies_in_its_request_has_asked_nothing(service: IdService, answer: Counting):
    request = pickle.dumps(("next", (), {}))
    for part in (b"", request[:1], request[:-1]):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect("\0" + service.address)
            client.sendall(part)
    with socket.socket(socket.AF_UNIX) as stopped:  # in the middle of its request, as with SIGSTOP
        stopped.connect("\0" + service.address)
        stopped.sendall(request[:5])
        assert ask(service.address, "next", (), {}) == 1
    assert answer.calls == ["next"]


def test_a_client_that_dies_before_the_answer_has_asked(service: IdService, answer: Counting):
    with socket.socket(socket.AF_UNIX) as client:
        client.connect("\0" + service.address)
        client.sendall(pickle.dumps(("next", (), {})))
        client.shutdown(socket.SHUT_WR)
    assert ask(service.address, "next", (), {}) == 2


def test_after_its_end_nobody_answers(answer: Counting):
    threads = threading.active_count()
    service = IdService(answer)
    service.close()
    with pytest.raises(ConnectionError, match="is gone"):
        ask(service.address, "next", (), {})
    assert threading.active_count() == threads


def test_another_users_process_is_not_answered(service: IdService, monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: 12345)  # then this process is another's for the service
    with pytest.raises(ConnectionError, match="another user"):
        ask(service.address, "next", (), {})
    with socket.socket(socket.AF_UNIX) as client:
        client.connect("\0" + service.address)
        assert client.recv(10) == b""
