"""What holds for every test: it leaves nothing behind, keeps out of the user's folders, and is free of deadlines."""

from __future__ import annotations

import contextlib
import gc
import os
import re
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import hypothesis
import psutil
import pytest
from hypothesis.database import DirectoryBasedExampleDatabase

from gpuexec.driver import observers
from gpuexec.processes import kept_templates

pytest_plugins = ["tests.nvml_sim.plugin"]

ROOT = Path(__file__).parent.parent

_WITH_PROCESSES = ROOT / "tests" / "process"
_IS_EXHAUSTIVE = bool(os.environ.get("GPUEXEC_EXHAUSTIVE"))
_WATCHED_FOLDERS = (Path("/dev/shm"), ROOT)
# Tests that run beside this one may make semaphores of multiprocessing; gpuexec never does.
_OTHERS = ("sem.mp-",) if "PYTEST_XDIST_WORKER" in os.environ else ()
# Where coverage is measured, it costs each process that a test starts 0.2 s of CPU time, so not all tests pay for it.
_MEASURED_PROCESSES = re.compile(
    "test_(async_stages|bench_trial|checkpoint|cli|debugging|endings_matrix|environment|fallbacks|fusion|large_arrays|"
    "local_executor|memory_limits|output|replay|retries|shards|warm_start)"
)
_FOR_COVERAGE = "COVERAGE_PROCESS_CONFIG"
_CHILDREN_ARE_LISTED = Path("/proc/thread-self/children").exists()  # with CONFIG_PROC_CHILDREN
_MADE_BY_TOOLS = {".coverage", ".hypothesis", ".pytest_cache", ".ruff_cache", "__pycache__", ".mypy_cache"}

# Where the variable CI is set, Hypothesis would take the same examples in every run and store none.
hypothesis.settings.register_profile(
    "gpuexec",
    parent=hypothesis.settings.get_profile("default"),
    derandomize=False,
    print_blob=True,
    database=DirectoryBasedExampleDatabase(ROOT / ".hypothesis" / "examples"),
    deadline=None,  # a slow machine is no failure
)
hypothesis.settings.load_profile("gpuexec")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "exhaustive: a slow test, or the rest of a table of which others are a sample")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    _sample_cases(items)
    if _leaves_out(config):
        left_out = [item for item in items if item.get_closest_marker("exhaustive")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in set(left_out)]
    _multiply_examples(items)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if _leaves_out(config):
        terminalreporter.section(
            "LEFT OUT: exhaustive tests, most examples of property tests, tests of pages in a browser"
        )
        terminalreporter.line("GPUEXEC_EXHAUSTIVE=1 scripts/test and scripts/test-browser run them, and .ci/run does")


def _leaves_out(config: pytest.Config) -> bool:
    """Whether exhaustive tests are left out. One that is asked for by its name is run."""
    return not _IS_EXHAUSTIVE and not any("::" in argument for argument in config.args)


def _sample_cases(items: list[pytest.Item]) -> None:
    """Mark the cases of a table of tests with processes as exhaustive, but for the first.

    A table in which cases are marked already has a sample of its own.
    """
    tables: dict[tuple[Path, str], list[pytest.Item]] = {}
    for item in items:
        if item.path.is_relative_to(_WITH_PROCESSES) and getattr(item, "callspec", None) is not None:
            tables.setdefault((item.path, item.originalname), []).append(item)  # type: ignore[attr-defined]
    for cases in tables.values():
        if not any(case.get_closest_marker("exhaustive") for case in cases):
            for case in cases[1:]:
                case.add_marker("exhaustive")


def _multiply_examples(items: list[pytest.Item]) -> None:
    """Multiply the number of examples of every property test, explicit settings included, by GPUEXEC_EXAMPLES.

    Without that variable it is a fifth of them, and all of them where tests are exhaustive.
    """
    factor = float(os.environ.get("GPUEXEC_EXAMPLES", "1" if _IS_EXHAUSTIVE else "0.2"))
    scaled = set()
    for item in items if factor != 1 else ():
        function, case = getattr(item, "obj", None), getattr(item, "cls", None)
        # A state machine's test case has its settings in a public attribute, a function only in a private one.
        owner, name = (
            (case, "settings")
            if isinstance(getattr(case, "settings", None), hypothesis.settings)
            else (function, "_hypothesis_internal_use_settings")
        )
        present = getattr(owner, name, None)
        if present is not None and id(owner) not in scaled:  # a parametrized test is several items of one function
            multiplied = max(1, round(factor * present.max_examples))
            setattr(owner, name, hypothesis.settings(present, max_examples=multiplied))
            scaled.add(id(owner))


@pytest.fixture(autouse=True)
def leaves_nothing_behind() -> Iterator[None]:
    """Compare this process's children, descriptors and mappings, and our folders, before and after.

    Templates that runs keep for the next one are not counted, as long as their number stays bounded: most tests thus
    start as the second run of a program does. `no_templates` is for those that must not.
    """
    before = _holdings()
    yield
    for thread in threading.enumerate():
        if "process_request_thread" in thread.name:  # of a server: it closes its socket after the client has
            thread.join(10)
    gc.collect()
    gc.freeze()  # what outlives this test is not searched again after the next: that took 0.1 s a test
    leaked = {kind: now - before[kind] for kind, now in _holdings().items()}
    leaked["files"] = Counter(_still_there(leaked["files"]))
    assert not any(leaked.values()), f"left behind: { {k: dict(v) for k, v in leaked.items() if v} }"


@pytest.fixture
def no_templates() -> Iterator[None]:
    """End the templates that are kept, before and after the test."""
    kept_templates.end_all()
    yield
    kept_templates.end_all()


@pytest.fixture(autouse=True, scope="session")
def templates_end_with_the_tests() -> Iterator[None]:
    """See whether ending the templates that are left leaves nothing behind."""
    before = _holdings()
    yield
    kept_templates.end_all()
    processes = _holdings()["processes"] - before["processes"]
    assert not processes, f"left behind: {dict(processes)}"


@pytest.fixture(autouse=True)
def coverage_of_processes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep coverage out of the processes that most tests start, if it is measured."""
    if _FOR_COVERAGE in os.environ and not _MEASURED_PROCESSES.fullmatch(request.path.stem):
        monkeypatch.delenv(_FOR_COVERAGE)


@pytest.fixture(autouse=True)
def observers_have_no_bugs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fail a test in which an observer of a run raised: the run itself goes on. A full disk is no bug."""
    failures: list[Exception] = []
    monkeypatch.setattr(observers, "report_failure", failures.append)
    yield
    bugs = [error for error in failures if not isinstance(error, OSError)]
    assert not bugs, f"an observer raised: {bugs}"


@pytest.fixture(autouse=True, scope="session")
def own_state_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the capsules of failed batches out of the user's state folder, where they go by default."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


def _still_there(names: Iterable[str], within_s: float = 10.0) -> list[str]:
    """Return those of the files that stay. Other tests use /dev/shm at the same time, and clean up in a moment."""
    ends = time.monotonic() + within_s
    while (left := [name for name in names if Path(name).exists()]) and time.monotonic() < ends:
        time.sleep(0.05)
    return left


def _holdings() -> dict[str, Counter[str]]:
    kept = {template.pid for template in kept_templates.kept()}
    of_templates = Counter({"socket": len(kept), "pipe": len(kept)})
    return {
        "processes": Counter(_describe(pid) for pid in _descendants(os.getpid()) if pid not in kept),
        "descriptors": Counter(_descriptors()) - of_templates,
        "mappings": Counter(line.split()[-1] for line in _maps() if "memfd:gpuexec" in line),
        "files": Counter(_files()),
    }


def _descendants(pid: int) -> Iterator[int]:
    """The processes that a process has started, and those that they have. psutil reads all of /proc for that."""
    if not _CHILDREN_ARE_LISTED:
        yield from (child.pid for child in psutil.Process(pid).children(recursive=True))
        return
    for listed in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # the thread has ended
            for child in map(int, listed.read_text().split()):
                yield child
                yield from _descendants(child)


def _describe(pid: int) -> str:
    with contextlib.suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        return f"{pid} {b' '.join(words[:4]).decode(errors='replace')}"
    return f"{pid} gone"


def _descriptors() -> Iterator[str]:
    """What each descriptor refers to, its number left out: libraries may reopen theirs."""
    for fd in Path("/proc/self/fd").iterdir():
        try:
            target = str(fd.readlink())
        except OSError:
            continue
        if not target.startswith(("/proc/", "anon_inode:inotify")) and "/pytest-" not in target:
            # Numbers of pipes and sockets differ each time; how many there are matters.
            yield target.split(":[", maxsplit=1)[0] if ":[" in target else target


def _maps() -> list[str]:
    return Path("/proc/self/maps").read_text().splitlines()


def _files() -> Iterator[str]:
    for folder in _WATCHED_FOLDERS:
        if folder.is_dir():
            for name in (entry.name for entry in folder.iterdir()):
                if name not in _MADE_BY_TOOLS and not name.startswith((".coverage", *_OTHERS)):
                    yield str(folder / name)
