"""What stages print and log arrives once, promptly, in order and at its own level."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from loguru import logger

from gpuexec import WorkerDied
from tests.process.running import run_local
from tests.process.stages import Apply, items, output


@pytest.fixture(autouse=True)
def _buffered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)


@contextmanager
def loguru_records() -> Iterator[list[Any]]:
    """Collect (level, text) of what workers say in loguru, without the worker's id.

    Meanwhile the root logger of the standard library has none of pytest's handlers, so its records go to loguru too.
    """
    found: list[Any] = []

    def keep(message: Any) -> None:
        worker, _, text = message.record["message"].partition(" | ")
        if worker == message.record["extra"].get("worker"):
            found.append((message.record["level"].name, text))

    of_pytest, logging.root.handlers = logging.root.handlers, []
    handler = logger.add(keep, level=0)
    try:
        yield found
    finally:
        logger.remove(handler)
        logging.root.handlers = of_pytest


@pytest.mark.parametrize(
    "say",
    [
        output.print_and_die,
        output.print_unfinished_and_die,
        output.write_bytes_and_die,
        output.print_in_c_and_die,
        output.log_and_die,
        output.log_with_loguru_and_die,
    ],
)
def test_what_was_said_just_before_a_kill_is_kept(say):
    with loguru_records() as found:
        ran = run_local([Apply(say)], items(0), raises=WorkerDied, max_attempts=1)
    assert isinstance(ran.error, WorkerDied)
    assert [line for line in ran.error.last_lines if "last words" in line]
    assert [text for _, text in found] == ["last words"]


def test_prints_and_records_come_in_the_order_in_which_they_were_made():
    with loguru_records() as found:
        run_local([Apply(output.say_in_order)], items(0))
    assert [text for _, text in found] == [f"line {n}" for n in range(50)]
    assert [level for level, _ in found[:5]] == ["INFO", "ERROR", "INFO", "INFO", "INFO"]


def test_lines_of_several_threads_are_kept_apart():
    with loguru_records() as found:
        run_local([Apply(output.print_in_threads)], items(200))
    assert Counter(text for _, text in found) == Counter(f"{name * 10} {n}" for name in "abcd" for n in range(200))


def test_lines_of_forked_processes_are_kept_apart():
    with loguru_records() as found:
        run_local([Apply(output.print_in_a_pool)], items(300))
    assert Counter(text for _, text in found) == Counter(f"number {n}" for n in range(300))


def test_a_long_line_is_one_line_and_a_progress_bar_its_last_state():
    with loguru_records() as found:
        run_local([Apply(output.print_a_long_line), Apply(output.draw_a_progress_bar, "draw")], items(500))
    assert [text for _, text in found] == ["x" * 500, "step 500/500"]


def test_a_print_names_the_stage_as_its_source():
    sources = []
    handler = logger.add(lambda m: sources.append((m.record["name"], m.record["file"].path)), level=0)
    try:
        run_local([Apply(output.print_a_long_line, "prints")], items(5))
    finally:
        logger.remove(handler)
    assert ("prints", "") in sources
    assert not [source for source in sources if "relay" in " ".join(source)]


# ---- the standard library's logging ------------------------------------------------------------------------


@pytest.fixture
def levels():
    """Restore the levels that a test sets."""
    names = (None, "mine")
    before = [logging.getLogger(name).level for name in names]
    yield
    for name, level in zip(names, before, strict=True):
        logging.getLogger(name).setLevel(level)


@pytest.mark.parametrize(
    "configure",
    [
        output.leave_unconfigured,
        output.configure_basically,
        output.add_a_console_of_the_librarys_own,
        output.print_what_is_logged,
        output.pass_on_to_loguru,
    ],
)
@pytest.mark.parametrize("level", [logging.DEBUG, logging.ERROR])
def test_standard_records_arrive_once_at_their_level(configure, level, levels):
    logging.getLogger("mine").setLevel(level)
    with loguru_records() as found:
        run_local([output.LogsAtEveryLevel(configure)], items(0))
    *plain, (caught, text) = found
    assert plain == [
        (name, f"at {name.lower()} of lock")
        for name in ("DEBUG", "INFO", "WARNING", "ERROR")
        if logging.getLevelName(name) >= level
    ]
    assert caught == "ERROR"
    assert text.startswith("caught\nTraceback")
    assert text.endswith("KeyError: 'nothing there'")


def test_the_drivers_handlers_get_them_if_it_has_any(levels):
    records: list[logging.LogRecord] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    logging.root.setLevel(logging.WARNING)
    with loguru_records() as found:
        logging.root.addHandler(Keep())
        run_local([output.LogsAtEveryLevel(output.leave_unconfigured)], items(0))
    assert not found
    first = records[0]
    assert [r.levelname for r in records] == ["WARNING", "ERROR", "ERROR"]
    assert (first.name, first.funcName, first.filename) == ("mine", "process", "output.py")
    assert (first.getMessage(), first.stage, first.worker) == (  # type: ignore[attr-defined]
        "logs-0 | at warning of lock",
        "logs",
        "logs-0",
    )


def test_a_record_whose_arguments_do_not_fit_says_so():
    with loguru_records() as found:
        run_local([Apply(output.log_what_does_not_fit)], items(0))
    assert [level for level, _ in found] == ["WARNING", "ERROR"]
    assert found[0][1].startswith("%d pages (arguments ('many',); cannot be formatted: TypeError: ")
    assert found[1][1] == "'page %s' (cannot be formatted: RuntimeError: no text)"


def test_a_forked_childs_records_arrive():
    with loguru_records() as found:
        run_local([Apply(output.log_in_a_child)], items(0))
    assert found == [("WARNING", "of the child")]


def test_log_level_holds_for_all_records(levels):
    logging.root.setLevel(logging.DEBUG)
    with loguru_records() as found:
        stages = [output.LogsAtEveryLevel(output.leave_unconfigured), output.LogsWithLoguru(output.leave_loguru)]
        run_local(stages, items(0), log_level="ERROR")
    assert [level for level, _ in found] == ["ERROR", "ERROR", "ERROR"]


# ---- loguru ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "configure",
    [
        output.leave_loguru,
        output.replace_by_stderr,
        output.replace_by_stdout_as_json,
        output.add_several_consoles,
        output.use_a_queue,
        output.add_a_file,
        output.pass_on_to_logging,
        output.show_warnings_only,
    ],
)
def test_loguru_records_arrive_once_however_it_is_configured(configure, levels):
    logging.root.setLevel(logging.DEBUG)
    with loguru_records() as found:
        run_local([output.LogsWithLoguru(configure)], items(0))
    level, text = found.pop()
    assert level == "ERROR"
    assert text.startswith("caught\nTraceback")
    assert "KeyError: 'nothing there'" in text
    expected = [("DEBUG", "at debug"), ("WARNING", "at WARNING\nin two lines")]
    assert found == (expected[1:] if configure is output.show_warnings_only else expected)


@pytest.mark.parametrize(
    "variables",
    [
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"PYTHONIOENCODING": "latin-1"},
        {"PYTHONIOENCODING": "utf-8:strict", "PYTHONINSPECT": "1"},
    ],
)
def test_any_text_can_be_printed_in_any_locale(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with loguru_records() as found:
        assert run_local([Apply(output.print_any_text)], items("\udcff")).data == ["\udcff"]
    assert found == [("INFO", "ü✓ \\udcff")] * 2
