"""Signals during a run are recorded while it works and raised where it waits."""

from __future__ import annotations

import faulthandler
import os
import signal
import threading

import pytest

from gpuexec.processes.interrupts import signals_deferred, signals_delivered

EACH = pytest.mark.parametrize(
    ("number", "error"),
    [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit), (signal.SIGHUP, SystemExit)],
    ids=["SIGINT", "SIGTERM", "SIGHUP"],
)


@pytest.fixture(autouse=True)
def handlers_are_restored():
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    yield
    assert [signal.getsignal(number) for number in numbers] == before


@EACH
def test_a_signal_is_raised_at_the_next_wait(number: signal.Signals, error: type[BaseException]):
    steps = []

    def work() -> None:
        signal.raise_signal(number)
        steps.append("worked")
        with signals_delivered():
            steps.append("waited")

    with pytest.raises(error) as caught, signals_deferred():
        work()
    assert steps == ["worked"]
    if error is SystemExit:
        assert caught.value.code == 128 + number


@EACH
def test_a_signal_ends_a_wait(number: signal.Signals, error: type[BaseException]):
    with signals_deferred(), pytest.raises(error), signals_delivered():
        signal.raise_signal(number)


def test_a_second_signal_is_raised_at_once():
    with signals_deferred():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    with signals_deferred(), signals_delivered():
        pass


def test_a_signal_without_a_later_wait_is_raised_at_the_end_of_the_block():
    with pytest.raises(KeyboardInterrupt), signals_deferred():
        signal.raise_signal(signal.SIGINT)


@pytest.fixture
def handled():
    """A function that sets a handler of the program for the duration of the test."""
    before = {}

    def handle(number: signal.Signals, handler) -> None:
        before[number] = signal.signal(number, handler)

    yield handle
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_handler_of_the_program_is_called_and_the_wait_ends(handled):
    received = []
    handled(signal.SIGTERM, lambda number, _frame: received.append(number))
    with pytest.raises(SystemExit), signals_deferred(), signals_delivered():
        signal.raise_signal(signal.SIGTERM)
    assert received == [signal.SIGTERM]


def test_what_a_handler_of_the_program_raises_is_raised_at_the_wait(handled):
    class Stop(BaseException):
        pass

    def stop(_number: int, _frame: object) -> None:
        raise Stop

    steps = []
    handled(signal.SIGINT, stop)

    def work() -> None:
        signal.raise_signal(signal.SIGINT)
        steps.append("worked")
        with signals_delivered():
            steps.append("waited")

    with pytest.raises(Stop), signals_deferred():
        work()
    assert steps == ["worked"]


def test_an_ignored_signal_stays_ignored(handled):
    """As after nohup."""
    handled(signal.SIGHUP, signal.SIG_IGN)
    with signals_deferred(), signals_delivered():
        signal.raise_signal(signal.SIGHUP)


def test_a_handler_that_is_set_during_a_run_stays(handled):
    handled(signal.SIGTERM, signal.SIG_DFL)
    with signals_deferred():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN


def test_a_signal_is_acknowledged_at_once(capfd):
    def work() -> None:
        signal.raise_signal(signal.SIGINT)
        assert "gpuexec: Ctrl-C: the run ends within 5 s" in capfd.readouterr().err
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt), signals_deferred():
        work()
    assert "the workers are killed" in capfd.readouterr().err


def test_in_other_threads_nothing_changes():
    handlers = []

    def record_handler() -> None:
        with signals_deferred(), signals_delivered():
            handlers.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=record_handler)
    thread.start()
    thread.join()
    assert handlers == [signal.getsignal(signal.SIGINT)]


def test_sigusr1_ends_the_run_where_it_would_have_killed_the_process():
    with pytest.raises(SystemExit) as caught, signals_deferred():
        os.kill(os.getpid(), signal.SIGUSR1)
    assert caught.value.code == 128 + signal.SIGUSR1
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL


def test_sigusr1_stays_with_a_program_that_handles_it():
    seen = []
    previous = signal.signal(signal.SIGUSR1, lambda number, frame: seen.append(number))
    try:
        with signals_deferred(), signals_delivered():
            os.kill(os.getpid(), signal.SIGUSR1)
        assert seen == [signal.SIGUSR1]
    finally:
        signal.signal(signal.SIGUSR1, previous)


def test_sigusr1_stays_with_faulthandler(tmp_path):
    with (tmp_path / "stacks").open("w") as stacks:
        faulthandler.register(signal.SIGUSR1, file=stacks)
        try:
            with signals_deferred(), signals_delivered():
                os.kill(os.getpid(), signal.SIGUSR1)
        finally:
            faulthandler.unregister(signal.SIGUSR1)
    assert "test_sigusr1_stays_with_faulthandler" in (tmp_path / "stacks").read_text()
