"""Every test leaves the machine as it found it: no process, descriptor, mapping or file of its own."""

from __future__ import annotations

import gc
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

pytest_plugins = ["tests.nvml_sim.plugin"]

_WATCHED_FOLDERS = (Path("/dev/shm"), Path(__file__).parent.parent)
# multiprocessing's semaphores, which gpuexec never makes: tests that run beside this one may.
_OTHERS = ("sem.mp-",) if "PYTEST_XDIST_WORKER" in os.environ else ()
_MADE_BY_TOOLS = {".coverage", ".hypothesis", ".pytest_cache", ".ruff_cache", "__pycache__", ".mypy_cache"}


@pytest.fixture(autouse=True)
def leaves_nothing_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Compare this process's children, descriptors and mappings, and our folders, before and after."""
    gc.collect()
    before = _holdings()
    yield
    gc.collect()
    leaked = {kind: now - before[kind] for kind, now in _holdings().items()}
    # Other processes of the machine use /dev/shm too, for moments.
    leaked["files"] = Counter(name for name in leaked["files"] if Path(name).exists())
    assert not any(leaked.values()), f"left behind: { {k: dict(v) for k, v in leaked.items() if v} }"


@pytest.fixture(autouse=True, scope="session")
def own_state_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Failed batches are kept in the user's folder by default: not those of tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


def _holdings() -> dict[str, Counter[str]]:
    return {
        "processes": Counter(_describe(child) for child in psutil.Process().children(recursive=True)),
        "descriptors": Counter(_descriptors()),
        "mappings": Counter(line.split()[-1] for line in _maps() if "memfd:gpuexec" in line),
        "files": Counter(_files()),
    }


def _describe(process: psutil.Process) -> str:
    try:
        return f"{process.pid} {' '.join(process.cmdline()[:4])}"
    except psutil.NoSuchProcess:
        return f"{process.pid} gone"


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
