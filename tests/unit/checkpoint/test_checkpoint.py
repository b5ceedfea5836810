"""What a checkpoint promises: sources are skipped, repeated or refused, and outputs do not show the kills."""

from __future__ import annotations

import inspect
import random
import subprocess
import sys
from pathlib import Path

import pytest
from loguru import logger

from gpuexec import ConfigurationError
from gpuexec.checkpoint.absent import NoCheckpoint
from gpuexec.checkpoint.checkpoint import Checkpoint
from gpuexec.checkpoint.history import Counts, read_history
from gpuexec.errors import CheckpointMismatch, StageContractError
from tests.unit.checkpoint.stages import ALL_OUTPUTS, SOURCES, Filter, Reader, Shuffle

STAGES = [Reader(), Filter()]
PIPELINE = """
import pathlib, sys
from tests.unit.checkpoint.stages import run_once
run_once(sys.argv[1], pathlib.Path(sys.argv[2]))
"""


@pytest.fixture
def warnings():
    lines: list[str] = []
    handler = logger.add(lambda message: lines.append(message.record["message"]), level="WARNING")
    yield lines
    logger.remove(handler)


def test_done_sources_are_skipped_and_others_processed_again(tmp_path):
    first = Checkpoint.open(tmp_path, STAGES)
    a, b, _ = (first.admit(key) for key in ("0_a", "0_b", "0_c"))
    assert first.complete_batch([a, b], [0, 0]) == [a, a]  # b is filtered out
    assert [first.commit(), first.commit()] == [True, False], "whether anything was written"
    first.fail_source(a, "gave up")
    first.complete_batch([a], [])
    first.close()
    first.close()

    second = Checkpoint.open(tmp_path, STAGES)
    assert second.admit("0_b") is None
    again = [second.admit("0_a"), second.admit("0_c"), second.admit("0_d")]
    assert None not in again
    assert second.skipped == 1
    second.fail_batch([again[2], again[1], again[2]][:2], "poison")
    second.commit()
    second.close("RuntimeError: x")
    history = read_history(tmp_path)
    assert history.sources == Counts(done=1, failed=2, pending=1)
    assert {failure.key: failure.reason for failure in history.failures} == {"0_c": "poison", "0_d": "poison"}
    assert [run.outcome for run in history.runs] == ["done", "RuntimeError: x"]


def test_a_changed_pipeline_is_refused_with_what_changed(tmp_path):
    Checkpoint.open(tmp_path, STAGES).close()
    first = Checkpoint.open(tmp_path, [Reader(), Filter(threshold=0.4)])  # nothing was recorded yet
    first.complete_batch([first.admit("0_a")], [])
    first.close()
    with pytest.raises(CheckpointMismatch) as caught:
        Checkpoint.open(tmp_path, [Reader(), Filter(threshold=0.5)])
    assert "stage 'filter' (2 of 2): threshold was 0.4, is 0.5" in str(caught.value)
    assert "Give another folder" in str(caught.value)
    changed = Checkpoint.open(tmp_path, [Reader(), Filter(threshold=0.5)], accept_changed=True)
    assert changed.admit("0_a") is None
    changed.close()
    Checkpoint.open(tmp_path, [Reader(), Filter(threshold=0.5)]).close()  # accepted once is enough
    assert len(read_history(tmp_path).runs) == 4  # the refused one is none


def test_a_change_that_is_accepted_is_warned_about(tmp_path, warnings):
    first = Checkpoint.open(tmp_path, [Reader(), Filter(threshold=0.4)])
    first.complete_batch([first.admit("0_a")], [])
    first.close()
    Checkpoint.open(tmp_path, [Reader(), Filter(threshold=0.5)], accept_changed=True).close()
    (warning,) = warnings
    assert "threshold was 0.4, is 0.5" in warning
    assert "what is done is kept" in warning


def test_a_long_list_of_changes_is_cut(tmp_path):
    first = Checkpoint.open(tmp_path, [Filter() for _ in range(15)])
    first.admit("0_a")
    first.close()
    with pytest.raises(CheckpointMismatch, match="and 5 more"):
        Checkpoint.open(tmp_path, [Filter(threshold=1.0) for _ in range(15)])


def test_stages_that_are_not_resumable_are_refused_before_anything_is_made(tmp_path):
    with pytest.raises(ValueError, match=r"not resumable: \['shuffle'\]") as caught:
        Checkpoint.open(tmp_path / "c", [Reader(), Shuffle()])
    assert isinstance(caught.value, ConfigurationError)
    assert not (tmp_path / "c").exists()


def test_random_ids_are_refused(tmp_path):
    checkpoint = Checkpoint.open(tmp_path, STAGES)
    with pytest.raises(StageContractError, match="give it batch_size=1"):
        checkpoint.admit("r" + "0" * 32)
    checkpoint.close("StageContractError")


def test_positions_as_keys_are_warned_about_once(tmp_path, warnings):
    checkpoint = Checkpoint.open(tmp_path, STAGES)
    for key in ("0_f3a9", "0_10", "0", "0_0", "0_5_0"):
        checkpoint.admit(key)
    checkpoint.close()
    (warning,) = warnings
    assert "source 0_0 is identified by its position only" in warning


def test_a_failed_run_keeps_its_own_error_when_the_disk_is_full_too(tmp_path):
    checkpoint = Checkpoint.open(tmp_path, STAGES)
    database = checkpoint._journal._db
    (pages,) = database.execute("PRAGMA page_count").fetchone()
    database.execute(f"PRAGMA max_page_count={pages}")
    for number in range(5000):
        checkpoint.admit(f"0_key{number:06}")
    checkpoint.close("ValueError: the first trouble")
    Checkpoint.open(tmp_path, STAGES).close()


@pytest.mark.parametrize("seed", range(4))
def test_outputs_do_not_show_the_kills(tmp_path: Path, seed):
    """Killed again and again at random steps, then left alone: each output is there once, as it should be."""
    folder, outputs = tmp_path / "checkpoint", tmp_path / "outputs"
    outputs.mkdir()
    run = [sys.executable, "-c", PIPELINE, str(folder), str(outputs)]
    dice = random.Random(seed)
    for _ in range(3):
        with subprocess.Popen(run, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            for _ in range(dice.randrange(1, 7)):
                process.stdout.readline()
                process.stdin.write("\n")
                process.stdin.flush()
            process.kill()
    done = read_history(folder).sources.done
    assert done < SOURCES
    finished = subprocess.run(run, check=True, input="\n" * 100, capture_output=True, text=True)
    assert len(finished.stdout.split()) * SOURCES == len(ALL_OUTPUTS) * (SOURCES - done)  # no source that was done
    assert {file.name: file.read_text() for file in outputs.iterdir()} == ALL_OUTPUTS
    assert read_history(folder).sources == Counts(done=SOURCES)


def test_no_checkpoint_takes_the_calls_of_a_run_and_needs_no_database():
    for name in ("commit", "end_early", "close"):
        assert inspect.signature(getattr(NoCheckpoint, name)) == inspect.signature(getattr(Checkpoint, name))
    none = NoCheckpoint()
    assert none.commit() is False
    none.end_early()
    none.close("an error")
    assert none.skipped == 0
    unwanted = {"gpuexec.checkpoint.checkpoint", "gpuexec.checkpoint.journal", "gpuexec.checkpoint.fingerprint"}
    script = f"import sys, gpuexec.checkpoint.absent; assert not {unwanted} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_discarded_completions_are_repeated_by_the_next_run(tmp_path):
    first = Checkpoint.open(tmp_path, STAGES)
    first.complete_batch([first.admit("0_a")], [0], ends=True)
    first.commit()
    first.complete_batch([first.admit("0_b")], [0], ends=True)
    first.end_early()
    first.close("stopped")
    second = Checkpoint.open(tmp_path, STAGES)
    assert second.admit("0_a") is None
    assert second.admit("0_b") is not None
    second.close()
