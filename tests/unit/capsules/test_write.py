from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuexec.capsules import write
from gpuexec.capsules.read import load_capsule
from gpuexec.capsules.write import CapsuleContents, default_folder, prune, write_capsule
from gpuexec.channel import codec
from gpuexec.contract.allocation import Allocation, GpuShare
from gpuexec.contract.phases import StagePhase
from gpuexec.errors import CapsuleError, CapsuleNotWritten

ROOT = Path(__file__).parents[3]
SECRET = "xY7" + "-not-to-be-seen"
SHARE = GpuShare(index=3, uuid="GPU-3", name="NVIDIA A10", fraction=0.5, memory_bytes=12)


def contents(**fields) -> CapsuleContents:
    given = {
        "stage": "embed",
        "worker_id": "embed-0",
        "node_id": "node7",
        "phase": StagePhase.PROCESS,
        "attempt": 2,
        "error_type": "builtins.LookupError",
        "text": "LookupError: no 2",
        "traceback": 'Traceback (most recent call last):\n  File "stage.py", line 1\nLookupError: no 2\n',
        "task_ids": ("0_1", "0_2"),
        "allocation": dataclasses.asdict(Allocation((SHARE,), 2.0, "GPU-3")),
        "environ": {"PATH": "/usr/bin", "HF_TOKEN": SECRET, "OMP_NUM_THREADS": "2"},
        "env_vars": {"MODE": "fast", "HF_TOKEN": SECRET},
        "stage_payload": codec.encode({"a": "stage"}).join(),
        "task_payloads": [codec.encode([1, 2]).join(), codec.encode([3]).join()],
        "sys_path": ["", "/opt/lib"],
        "last_lines": ["loading", "loaded"],
    }
    return CapsuleContents(**{**given, **fields})


def everything_in(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_what_is_written_is_read(tmp_path: Path):
    written = contents(stacks="Thread 1", cause_of_death="killed by SIGKILL", task_slices=[(0, 1), None])
    path = write_capsule(tmp_path / "new" / "folder", written)
    assert path.parent == tmp_path / "new" / "folder"
    assert "-embed-" in path.name
    found = load_capsule(path)
    assert found.allocation == Allocation((SHARE,), 2.0, "GPU-3")
    assert found.failure.env_vars == {"MODE": "fast"}
    assert found.failure.environ == {"PATH": "/usr/bin", "OMP_NUM_THREADS": "2"}
    assert found.failure.sys_path == [str(Path.cwd()), "/opt/lib"]
    assert codec.decode(found.failure.stage_payload, in_place=False) == {"a": "stage"}
    assert [codec.decode(p, in_place=False) for p in found.failure.task_payloads] == [[1, 2], [3]]
    same = ("stage", "worker_id", "node_id", "phase", "attempt", "error_type", "text", "traceback", "stacks")
    assert all(getattr(found.failure, name) == getattr(written, name) for name in same)
    assert found.failure.task_slices == [[0, 1], None]
    assert found.variables_left_out == ("HF_TOKEN",)
    assert not found.python_differs
    assert "numpy" in found.versions
    assert not found.missing


def test_the_summary_says_what_where_and_what_to_do(tmp_path: Path):
    path = write_capsule(tmp_path / "a b", contents(cause_of_death="killed by SIGKILL", stacks="Thread 1"))
    summary = (path / "summary.txt").read_text()
    assert summary.startswith("stage 'embed' failed in process: LookupError: no 2\n")
    for message in (
        "embed-0 on node7",
        "attempt 2",
        "GPU 3 (NVIDIA A10, GPU-3), 2.0 CPUs",
        "2: 0_1, 0_2",
        f"gpuexec replay '{path}' --pdb",
        "killed by SIGKILL",
        "Thread 1",
        "loaded",
        "HF_TOKEN",
        'File "stage.py", line 1',
        "pickle",
    ):
        assert message in summary


@pytest.mark.parametrize("where", ["text", "traceback", "stacks", "cause_of_death"])
def test_secrets_are_in_no_byte(tmp_path: Path, where: str):
    path = write_capsule(
        tmp_path,
        contents(
            **{where: f"cannot log in with {SECRET}!"},
            last_lines=[f"token={SECRET}"],
            environ={"HF_TOKEN": SECRET, "COMMAND": f"login {SECRET}", "URL": "http://me:hunter22@host/"},
            stage_payload=codec.encode({"runtime_env": {"env_vars": {"HF_TOKEN": SECRET}}, "n": 1}).join(),
            task_payloads=[codec.encode([SECRET.encode(), 5]).join()],
        ),
    )
    assert SECRET.encode() not in everything_in(path)
    assert b"hunter22" not in everything_in(path)
    found = load_capsule(path)
    stage = codec.decode(found.failure.stage_payload, in_place=False)
    assert stage == {"runtime_env": {"env_vars": {"HF_TOKEN": "*" * len(SECRET)}}, "n": 1}
    assert found.variables_left_out == ("HF_TOKEN", "URL")
    for file in ("stage.pickle", "tasks.pickle"):
        assert f"{file} contained the value of HF_TOKEN" in found.summary


def test_only_the_owner_can_read_it(tmp_path: Path):
    before = os.umask(0)
    try:
        path = write_capsule(tmp_path / "folder", contents())
    finally:
        os.umask(before)
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert path.stat().st_mode & 0o777 == 0o700
    assert {file.stat().st_mode & 0o777 for file in path.iterdir()} == {0o600}


def test_names_are_made_safe(tmp_path: Path):
    path = write_capsule(tmp_path, contents(stage="../a/ b\x00" + "x" * 300))
    assert path.parent == tmp_path
    assert load_capsule(path).failure.stage.startswith("../a/")
    assert "stage" in write_capsule(tmp_path, contents(stage="../..")).name


def test_what_json_does_not_know_is_written_as_text(tmp_path: Path):
    path = write_capsule(
        tmp_path, contents(text="\udc80 \u20ac", environ={"BYTES": "\udcff"}, allocation={"cpus": np.float32(0.5)})
    )
    found = load_capsule(path)
    assert found.failure.environ == {"BYTES": "\udcff"}
    assert found.failure.text == "\udc80 \u20ac"
    assert found.allocation.cpus == "0.5"


def test_tasks_that_are_too_large_are_left_out_and_the_summary_says_so(tmp_path: Path):
    big = contents(task_payloads=[bytes(5000)])
    found = load_capsule(write_capsule(tmp_path, big, max_bytes=4000))
    assert set(found.missing) == {"tasks"}
    assert not found.failure.task_payloads
    assert len(found.failure.stage_payload) == len(big.stage_payload)
    assert "NOT IN THIS CAPSULE, so it cannot be replayed: the tasks, of 5,000 bytes" in found.summary
    assert "gpuexec replay" not in found.summary
    found = load_capsule(write_capsule(tmp_path, contents(stage_payload=bytes(5000)), max_bytes=4000))
    assert set(found.missing) == {"stage", "tasks"}


WRITE_WITH_SMALL_DISK = """
import resource, signal, sys
from pathlib import Path
from gpuexec.capsules.write import write_capsule
from gpuexec.errors import CapsuleNotWritten
from tests.unit.capsules.test_write import contents

signal.signal(signal.SIGXFSZ, getattr(signal, sys.argv[2]))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
try:
    write_capsule(Path(sys.argv[1]), contents(task_payloads=[bytes(100_000)]))
except OSError as error:
    print(type(error).__name__, error)
"""


def write_with_small_disk(folder: Path, on_limit: str) -> subprocess.CompletedProcess[str]:
    """Files cannot grow beyond 50 kB: the kernel refuses the write, or kills the process in the middle of it."""
    return subprocess.run(
        [sys.executable, "-B", "-c", WRITE_WITH_SMALL_DISK, str(folder), on_limit],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
    )


def test_a_full_disk_leaves_nothing(tmp_path: Path):
    done = write_with_small_disk(tmp_path / "capsules", "SIG_IGN")
    assert done.stdout.startswith("CapsuleNotWritten no failure capsule could be written to"), done.stderr
    assert "File too large" in done.stdout
    assert list((tmp_path / "capsules").iterdir()) == []


def test_a_crash_in_the_middle_leaves_no_capsule_and_prune_clears_up(tmp_path: Path):
    done = write_with_small_disk(tmp_path, "SIG_DFL")
    assert done.returncode == -signal.SIGXFSZ, done.stderr
    (partial,) = tmp_path.iterdir()
    assert partial.name.startswith(".")
    with pytest.raises(CapsuleError, match="not a failure capsule"):
        load_capsule(partial)
    assert prune(tmp_path, keep=20) == []
    assert partial.exists(), "its writer could be at work still"
    os.utime(partial, (0, 0))
    prune(tmp_path, keep=20)
    assert not partial.exists()


def test_a_folder_that_cannot_be_used_is_an_os_error(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(CapsuleNotWritten, match="no failure capsule") as caught:
        write_capsule(tmp_path / "file", contents())
    assert isinstance(caught.value, OSError)
    with pytest.raises(OSError, match="TypeError"):
        write_capsule(tmp_path, contents(task_payloads=["text"]))
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


@given(st.integers(0, 4), st.integers(0, 4))
@settings(max_examples=15)
def test_prune_keeps_the_newest(tmp_path_factory, count: int, keep: int):
    folder = tmp_path_factory.mktemp("capsules")
    (folder / "notes").mkdir()
    (folder / "20250101T000000.000000Z-x-00000000").touch()
    written = [write_capsule(folder, contents(stage=f"s{n}")) for n in range(count)]
    removed = prune(folder, keep=keep)
    assert removed == written[: max(0, count - keep)]
    assert [path for path in written if path.exists()] == written[max(0, count - keep) :]
    assert len(list(folder.iterdir())) == 2 + min(count, keep)


def test_prune_follows_no_links_and_minds_no_missing_folder(tmp_path: Path):
    elsewhere = write_capsule(tmp_path / "elsewhere", contents())
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / elsewhere.name).symlink_to(elsewhere)
    assert prune(tmp_path / "folder", keep=0) == []
    assert load_capsule(elsewhere)
    assert prune(tmp_path / "missing", keep=0) == []


def test_the_default_folder_is_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "state" / "gpuexec").mkdir(parents=True, mode=0o755)
    folder = default_folder()
    assert folder == tmp_path / "state" / "gpuexec" / "capsules"
    assert {p.stat().st_mode & 0o777 for p in (folder, folder.parent)} == {0o700}
    assert default_folder() == folder


@pytest.mark.parametrize("value", ["", "relative/place"])
def test_the_default_folder_without_a_usable_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str):
    monkeypatch.setenv("XDG_STATE_HOME", value)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_folder() == tmp_path / ".local" / "state" / "gpuexec" / "capsules"


def test_a_default_folder_that_is_a_link_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    (tmp_path / "other").mkdir()
    (tmp_path / "gpuexec").symlink_to(tmp_path / "other")
    with pytest.raises(CapsuleNotWritten, match="not a folder of this user's own"):
        default_folder()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
def test_what_belongs_to_somebody_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = write_capsule(tmp_path, contents())
    os.chown(path, 12345, -1)
    with pytest.raises(CapsuleError, match=r"belongs to another user \(uid 12345\)"):
        load_capsule(path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    (tmp_path / "gpuexec").mkdir()
    os.chown(tmp_path / "gpuexec", 12345, -1)
    with pytest.raises(CapsuleNotWritten, match="not a folder of this user's own"):
        default_folder()


def test_a_secret_is_not_in_the_text_of_the_record_itself():
    assert SECRET not in repr(contents())


def edit(path: Path, **changes) -> None:
    document = json.loads((path / "capsule.json").read_text())
    (path / "capsule.json").write_text(json.dumps({**document, **changes}))


def edit_failure(path: Path, **changes) -> None:
    document = json.loads((path / "capsule.json").read_text())
    edit(path, failure={**document["failure"], **changes})


def test_a_phase_is_stored_as_its_value_and_read_as_a_member(tmp_path: Path):
    path = write_capsule(tmp_path, contents(phase=StagePhase.SETUP_ON_NODE))
    assert json.loads((path / "capsule.json").read_text())["failure"]["phase"] == "setup_on_node"
    assert load_capsule(path).failure.phase is StagePhase.SETUP_ON_NODE


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: edit(path, format_version=99), "has format 99, and this gpuexec reads format 1"),
        (
            lambda path: edit(path, format="other"),
            "is not a failure capsule: its capsule.json was written by another program",
        ),
        (lambda path: edit(path, failure={}), "is damaged"),
        (lambda path: edit_failure(path, phase="lunch"), "is damaged: .*'lunch' is not a valid StagePhase"),
        (lambda path: edit(path, failure=None), "is damaged"),
        (lambda path: edit(path, **{"tasks.pickle": {"lengths": [1], "crc32": 0}}), "tasks.pickle was changed"),
        (lambda path: (path / "capsule.json").write_text("{"), "is damaged: capsule.json is not JSON"),
        (lambda path: (path / "capsule.json").write_text("[]"), "is not a failure capsule"),
        (lambda path: (path / "capsule.json").write_bytes(b"\xff\xfe"), "is not JSON"),
        (lambda path: (path / "capsule.json").unlink(), "is not a failure capsule: there is no capsule.json in it"),
        (lambda path: (path / "stage.pickle").unlink(), "is damaged: .*stage.pickle: No such file"),
        (lambda path: (path / "summary.txt").unlink(), "is damaged: .*summary.txt: No such file"),
        (lambda path: (path / "stage.pickle").write_bytes(b"garbage"), "stage.pickle was changed after it was written"),
        (lambda path: os.truncate(path / "tasks.pickle", 10), "tasks.pickle was changed after it was written"),
    ],
)
def test_an_unreadable_capsule_is_explained_in_one_line(tmp_path: Path, damage, message: str):
    path = write_capsule(tmp_path, contents())
    damage(path)
    with pytest.raises(CapsuleError, match=message) as caught:
        load_capsule(path)
    assert "\n" not in str(caught.value)


def test_foreign_paths(tmp_path: Path):
    for path, message in (
        (tmp_path / "x", "no such folder"),
        (tmp_path, "no capsule.json"),
        (Path(__file__), "is a file"),
    ):
        with pytest.raises(CapsuleError, match=message):
            load_capsule(path)


def test_the_drivers_version(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    text = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.95.05  Tue Sep 23 10:11:16 UTC 2025\nGCC version: 12\n"
    (tmp_path / "version").write_text(text)
    monkeypatch.setattr(write, "_DRIVER_VERSION_FILE", tmp_path / "version")
    found = load_capsule(write_capsule(tmp_path, contents()))
    assert found.versions["nvidia driver"] == "580.95.05"
