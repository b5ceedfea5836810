"""Scraping a run while it goes on."""

from __future__ import annotations

import re
import socket
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gpuexec import ConfigurationError, InlineExecutor, Pipeline
from tests.process.running import local_executor, logged, run_command, run_local
from tests.process.stages import Apply, Item, items, same
from tests.process.waiting import wait_until


def url_in(lines: list[str]) -> str:
    (url,) = (match[0] for line in lines if (match := re.search(r"http://\S+", line)))
    return url


def scrape(url: str) -> dict[tuple[str, str], float]:
    """Return the values by the metric's name and the stage."""
    with urllib.request.urlopen(url, timeout=10) as answer:
        text = answer.read().decode()
    found = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {(sample.name, sample.labels.get("stage", "")): sample.value for sample in found}


def test_a_run_is_scraped_while_it_goes_on():
    with logged() as lines:
        results = local_executor(prometheus_port=0).execute_iter([Apply(same, "first"), Apply(same)], endless())
        next(results)
        url = url_in(lines)
        assert url.startswith("http://127.0.0.1:")

        def goes_on() -> bool:
            next(results)
            return scrape(url)["gpuexec_tasks_total", "apply"] >= 5

        wait_until(goes_on)
        found = scrape(url)
        results.close()
    assert found["gpuexec_batch_seconds_count", "apply"] >= 5
    assert found["gpuexec_worker_starts_total", "first"] == 1
    with pytest.raises(urllib.error.URLError):
        scrape(url)
    assert not [thread for thread in threading.enumerate() if thread.name == "gpuexec-prometheus"]


def endless():
    while True:
        yield from items(1)


class Scrapes(Apply):
    """Scrapes from within the run: InlineExecutor is in the caller's process."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__(same, "scrapes")
        self.lines = lines

    def process(self, task: Item) -> Item:
        task.data = scrape(url_in(self.lines))["gpuexec_run_start_time_seconds", ""]
        return task


def test_an_inline_run_is_scraped_too(tmp_path: Path):
    port = free_port()
    stage = Scrapes([f"http://127.0.0.1:{port}/metrics"])
    (task,) = Pipeline("p", stages=[stage]).run(InlineExecutor(prometheus_port=port), items(1))
    assert task.data > 1e9


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_a_port_in_use_ends_the_run_before_anything_starts(tmp_path: Path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        executor = local_executor(prometheus_port=taken.getsockname()[1], checkpoint=tmp_path / "checkpoint")
        with pytest.raises(ConfigurationError, match=r"'prometheus_port': 127.0.0.1:\d+ cannot be used \(Address alr"):
            executor.execute([Apply(same)], items(1))
        with pytest.raises(ConfigurationError, match="cannot be used"):
            next(executor.execute_iter([Apply(same)], items(1)))
    assert not (tmp_path / "checkpoint").exists()
    assert executor.last_report is None


def test_the_port_is_free_again_after_every_end():
    port = free_port()
    for _ in range(2):
        assert run_local([Apply(same)], items(1), prometheus_port=port).data == [1]
        run_local([Apply(fail)], items(1), prometheus_port=port, raises=LookupError, capsules=False)


def fail(value: int) -> int:
    raise LookupError(value)


def test_a_client_that_says_nothing_does_not_hold_up_the_end():
    with logged() as lines:
        results = local_executor(prometheus_port=0).execute_iter([Apply(same)], items(1, 2))
        next(results)
        port = int(re.search(r":(\d+)/", url_in(lines))[1])
        with socket.create_connection(("127.0.0.1", port)):
            assert len(list(results)) == 1


def test_without_the_package_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    monkeypatch.delitem(sys.modules, "gpuexec.observe.prometheus", raising=False)
    with pytest.raises(ConfigurationError, match=r"pip install 'gpuexec\[prometheus\]'"):
        run_local([Apply(same)], items(1), prometheus_port=0)


@pytest.mark.parametrize("executor", ["local", "inline"])
def test_the_command_serves_too(executor: str):
    done = run_command("run", "tests.process.test_cli:small", "--prometheus", "0", "--executor", executor)
    assert done.returncode == 0, done.stderr
    assert "http://127.0.0.1:" in done.stderr
    refused = run_command("run", "tests.process.test_cli:small", "--prometheus", "70000", "--executor", executor)
    assert "must be a port from 1 to 65535" in refused.stderr
