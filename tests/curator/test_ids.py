"""Documents are numbered as on Ray, by Curator's own generator in the driver, and Ray never starts."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import ray
from nemo_curator.pipeline import Pipeline
from nemo_curator.stages.deduplication import id_generator as curators
from nemo_curator.stages.deduplication.id_generator import IdGeneratorBase
from nemo_curator.stages.file_partitioning import FilePartitioningStage
from nemo_curator.stages.text.deduplication.removal_workflow import TextDuplicatesRemovalWorkflow
from nemo_curator.stages.text.io.reader import JsonlReader, ParquetReader
from nemo_curator.stages.text.io.writer import JsonlWriter

from gpuexec import CheckpointError, ConfigurationError, InlineExecutor, LocalExecutor
from gpuexec.curator import id_generator, ray_actors
from tests.curator.stages_ids import ID, AsksInChildren, CreatesItself, DiesOnce, FailsAt, HidesItsActor

FILES, ROWS = 4, 3
ALL_IDS = list(range(FILES * ROWS))


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch) -> Iterator[None]:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("PYTHONHASHSEED", "1")  # or each checkpoint has its own, and its workers import everything anew
    yield
    if id_generator.current() is not None:
        curators.kill_id_generator_actor()


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    for number in range(FILES):
        rows = [{"text": f"{number}-{row}"} for row in range(ROWS)]
        (tmp_path / "in" / f"{number}.jsonl").write_text("\n".join(map(json.dumps, rows)))
        pd.DataFrame(rows).to_parquet(tmp_path / "in" / f"{number}.parquet")
    return tmp_path / "in"


def local(**options) -> LocalExecutor:
    return LocalExecutor(show_progress=False, capsule_dir="", **options)


def reader(texts: Path, **options) -> JsonlReader:
    return JsonlReader(str(texts), files_per_partition=1, file_extensions=[".jsonl"], **options)


def numbered(tasks) -> dict[str, int]:
    """The id of each text; it must have one id only."""
    rows = [row for task in tasks for row in task.to_pandas()[["text", ID]].itertuples(index=False)]
    assert len({text for text, _ in rows}) == len(rows)
    return {text: int(number) for text, number in rows}


def run(stages, executor=None, **options) -> dict[str, int]:
    return numbered(Pipeline(name="p", stages=stages).run(executor or local(), **options))


def files(texts: Path) -> list[str]:
    return sorted(map(str, texts.glob("*.jsonl")))


def written(folder: Path) -> dict[str, int]:
    rows = [json.loads(line) for path in folder.glob("*.jsonl") for line in path.read_text().splitlines() if line]
    assert len({row["text"] for row in rows}) == len(rows)
    return {row["text"]: row[ID] for row in rows}


@pytest.mark.parametrize("make", [JsonlReader, ParquetReader])
@pytest.mark.parametrize("executor", [local, InlineExecutor])
def test_ids_are_those_of_curators_generator_in_one_process(texts: Path, tmp_path: Path, make, executor):
    source = {"file_extensions": [f".{make.__name__.removesuffix('Reader').lower()}"], "files_per_partition": 1}
    curators.create_id_generator_actor()
    ids = run([make(str(texts), _generate_ids=True, **source)], executor())
    curators.write_id_generator_to_disk(str(tmp_path / "ids.json"))
    curators.kill_id_generator_actor()
    assert sorted(ids.values()) == ALL_IDS

    state = IdGeneratorBase.from_disk(str(tmp_path / "ids.json"))
    assert state.next_id == len(ALL_IDS)
    for number, path in enumerate(sorted(map(str, texts.glob("*" + source["file_extensions"][0])))):
        first, last = state.get_batch_range([path], None)
        assert [ids[f"{number}-{row}"] for row in range(ROWS)] == list(range(first, last + 1))

    curators.create_id_generator_actor(str(tmp_path / "ids.json"))
    assert run([make(str(texts), _assign_ids=True, **source)], executor()) == ids


def test_a_batch_that_is_tried_again_has_the_same_ids(texts: Path, tmp_path: Path):
    """A worker is killed when it has its ids; the next one gets these, and none is left out."""
    curators.create_id_generator_actor()
    stages = [
        FilePartitioningStage(str(texts), files_per_partition=1, file_extensions=[".jsonl"]),
        DiesOnce(_generate_ids=True, marks=str(tmp_path)),
    ]
    ids = run(stages, local(max_attempts=3))
    assert sorted(ids.values()) == ALL_IDS
    for number in range(FILES):
        first_attempt = [int(text) for text in (tmp_path / f"{number}.jsonl").read_text().split(",")]
        assert [ids[f"{number}-{row}"] for row in range(ROWS)] == first_attempt


def test_processes_that_a_stage_starts_ask_too(texts: Path):
    curators.create_id_generator_actor()
    one_file = JsonlReader(files(texts)[:1], files_per_partition=1)
    (task,) = Pipeline("p", stages=[one_file, AsksInChildren()]).run(local())
    firsts = [task._metadata[method] for method in ("fork", "spawn", "forkserver")] + task._metadata["pool"]
    assert sorted(firsts) == list(range(0, 2 * 11, 2))


def test_runs_beside_each_other_share_the_generator(texts: Path, tmp_path: Path):
    curators.create_id_generator_actor()
    (tmp_path / "more").mkdir()
    for path in texts.glob("*.jsonl"):
        (tmp_path / "more" / path.name).write_text(path.read_text())
    results: list[dict[str, int]] = []
    runs = [
        threading.Thread(target=lambda folder=folder: results.append(run([reader(folder, _generate_ids=True)])))
        for folder in (texts, tmp_path / "more")
    ]
    for each in runs:
        each.start()
    for each in runs:
        each.join()
    assert sorted(number for ids in results for number in ids.values()) == list(range(2 * len(ALL_IDS)))


# ---- where there is none ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("executor", [local, InlineExecutor])
@pytest.mark.parametrize("asks", ["_generate_ids", "_assign_ids"])
def test_without_a_generator_the_run_is_refused(texts: Path, executor, asks):
    one = executor()
    with pytest.raises(ConfigurationError, match=r"'jsonl_reader' numbers documents.*create_id_generator_actor\(\)"):
        Pipeline("p", stages=[reader(texts, **{asks: True})]).run(one)
    assert one.last_report is None


def test_a_generator_that_was_removed_is_gone(texts: Path):
    curators.create_id_generator_actor()
    handle = curators.get_id_generator_actor()
    assert ray.get([handle.register_batch.remote("a", 2), handle.register_batch.remote(["b", "c"], 3)]) == [0, 2]
    with pytest.raises(ValueError, match="already taken"):
        curators.create_id_generator_actor()
    curators.kill_id_generator_actor()
    with pytest.raises(RuntimeError, match="is gone"):
        ray.get(handle.register_batch.remote("a", 2))
    for function in (curators.get_id_generator_actor, curators.kill_id_generator_actor):
        with pytest.raises(ValueError, match="there is no id generator"):
            function()


def test_a_stage_that_creates_a_generator_of_its_own_is_told(texts: Path):
    with pytest.raises(ConfigurationError, match="each worker would give the same ids"):
        Pipeline("p", stages=[reader(texts), CreatesItself()]).run(local())


@pytest.mark.parametrize("executor", [local, InlineExecutor])
def test_no_call_of_rays_api_starts_ray(texts: Path, executor):
    """The fixture `ray_never_starts` looks for its processes."""
    tasks = Pipeline("p", stages=[reader(texts), HidesItsActor()]).run(executor())
    assert {task._metadata["answer"].split(":")[0] for task in tasks} == {"RaySystemError"}


def test_after_an_inline_run_ray_starts_itself_as_before(texts: Path):
    from ray._private import auto_init_hook

    before = auto_init_hook.enable_auto_connect
    Pipeline("p", stages=[reader(texts)]).run(InlineExecutor())
    assert auto_init_hook.enable_auto_connect is before


# ---- data and files that would give ids twice ---------------------------------------------------------------------


def test_a_file_that_has_grown_gets_no_ids_of_others(texts: Path):
    curators.create_id_generator_actor()
    run([reader(texts, _generate_ids=True)])
    path = texts / "0.jsonl"
    path.write_text(path.read_text() + '\n{"text": "new"}')
    with pytest.raises(ValueError, match=r"0\.jsonl: 4 documents, but there were 3"):
        run([reader(texts, _generate_ids=True)])


def test_files_grouped_in_another_way_have_no_ids(texts: Path):
    curators.create_id_generator_actor()
    run([reader(texts, _generate_ids=True)])
    with pytest.raises(KeyError) as caught:
        run([JsonlReader(str(texts), files_per_partition=2, file_extensions=[".jsonl"], _assign_ids=True)])
    assert any("files_per_partition" in note for note in caught.value.__notes__)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ('{"next_id": 3, "batch_reg', "it is not JSON"),
        ('{"sources": []}', "no batch_registry"),
        ('{"next_id": 9, "batch_registry": {"a": [0, 4], "b": [4, 8]}}', "batches a and b share ids"),
        ('{"next_id": 4, "batch_registry": {"a": [0, 4]}}', "next_id is 4, and ids up to 4"),
        ('{"next_id": null, "batch_registry": {}}', "next_id is None"),
        ('{"next_id": 4, "batch_registry": {"a": 4}}', "the ids of batch a are 4"),
    ],
)
def test_a_damaged_file_is_told(tmp_path: Path, content: str, what: str):
    path = tmp_path / "ids.json"
    path.write_text(content)
    with pytest.raises(ConfigurationError, match=rf"ids\.json.*damaged.*{what}"):
        curators.create_id_generator_actor(str(path))
    assert id_generator.current() is None


# ---- with a checkpoint --------------------------------------------------------------------------------------------


def resumable(texts: Path, target: Path, fault: Path) -> Pipeline:
    stages = [reader(texts, _generate_ids=True), FailsAt("2-1", fault), JsonlWriter(str(target))]
    return Pipeline("p", stages=stages)


@pytest.mark.parametrize("given", ["option", "checkpoint_path"])
def test_a_resumed_run_gives_the_same_ids_and_none_twice(texts: Path, tmp_path: Path, given: str):
    """Another program, with a new generator, goes on where the first stopped. Files have come before the others."""
    checkpoint, target, fault = tmp_path / "ck", tmp_path / "out", tmp_path / "fault"
    option = {"checkpoint": checkpoint} if given == "option" else {}
    path = {"checkpoint_path": checkpoint} if given == "checkpoint_path" else {}
    fault.touch()
    curators.create_id_generator_actor()
    with pytest.raises(LookupError):
        resumable(texts, target, fault).run(local(**option), **path)
    handle = curators.get_id_generator_actor()
    registered = {key: ray.get(handle.get_batch_range.remote(None, key)) for key in kept_in(checkpoint)}
    assert registered == kept_in(checkpoint)
    curators.kill_id_generator_actor()

    fault.unlink()
    (texts / "00.jsonl").write_text('{"text": "new"}')
    curators.create_id_generator_actor()
    resumable(texts, target, fault).run(local(**option), **path)
    ids = written(target)
    assert sorted(ids.values()) == list(range(FILES * ROWS + 1))
    assert kept_in(checkpoint).items() >= registered.items()

    curators.write_id_generator_to_disk(str(tmp_path / "ids.json"))
    state = IdGeneratorBase.from_disk(str(tmp_path / "ids.json"))
    for number in range(FILES):
        first, last = state.get_batch_range([str(texts / f"{number}.jsonl")], None)
        assert [ids[f"{number}-{row}"] for row in range(ROWS)] == list(range(first, last + 1))


def test_shards_look_up_the_ids_that_a_whole_run_gave_and_keep_them(texts: Path, tmp_path: Path):
    curators.create_id_generator_actor()
    whole = run([reader(texts, _generate_ids=True)], local())
    curators.write_id_generator_to_disk(str(tmp_path / "ids.json"))
    with pytest.raises(ConfigurationError, match="shard 0/2: every shard has an id generator of its own"):
        run([reader(texts, _generate_ids=True)], local(shard="0/2"))
    by_shard: dict[str, int] = {}
    for index in range(2):
        curators.kill_id_generator_actor()
        curators.create_id_generator_actor(str(tmp_path / "ids.json"))
        executor = local(shard=f"{index}/2", checkpoint=tmp_path / "ck")
        by_shard |= run([reader(texts, _assign_ids=True)], executor)
    assert by_shard == whole


def kept_in(checkpoint: Path) -> dict[str, tuple[int, int]]:
    db = sqlite3.connect(checkpoint / ".gpuexec" / "journal.sqlite3")
    try:
        return {key: (first, last) for key, first, last in db.execute("SELECT batch, first, last FROM ids")}
    finally:
        db.close()


def test_a_generator_that_has_given_the_same_ids_to_others_is_refused(texts: Path, tmp_path: Path):
    curators.create_id_generator_actor()
    ids = run([reader(texts, _generate_ids=True)], local(checkpoint=tmp_path / "ck"))
    curators.kill_id_generator_actor()
    curators.create_id_generator_actor()
    ray.get(curators.get_id_generator_actor().register_batch.remote("something else", 2))
    executor = local(checkpoint=tmp_path / "ck")
    with pytest.raises(CheckpointError, match="written with another id generator: ids 0 to"):
        Pipeline("p", stages=[reader(texts, _generate_ids=True)]).run(executor)
    assert not executor.last_report.workers
    curators.kill_id_generator_actor()
    curators.create_id_generator_actor()
    assert run([reader(texts, _generate_ids=True)], local(checkpoint=tmp_path / "ck")) == {}
    assert run([reader(texts, _generate_ids=True)]) == ids


# ---- workflows and stages -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("executor", [local, InlineExecutor])
def test_duplicates_are_removed_by_their_ids(texts: Path, tmp_path: Path, executor):
    curators.create_id_generator_actor()
    ids = run([reader(texts, _generate_ids=True)], InlineExecutor())
    curators.write_id_generator_to_disk(str(tmp_path / "ids.json"))
    curators.kill_id_generator_actor()
    removed = sorted(number for text, number in ids.items() if text in ("0-1", "2-0", "2-1", "2-2"))
    (tmp_path / "duplicates").mkdir()
    pd.DataFrame({"id": removed}).to_parquet(tmp_path / "duplicates" / "part.parquet")
    workflow = TextDuplicatesRemovalWorkflow(
        input_path=str(texts),
        ids_to_remove_path=str(tmp_path / "duplicates"),
        output_path=str(tmp_path / "out"),
        input_filetype="jsonl",
        input_file_extensions=[".jsonl"],
        input_files_per_partition=1,
        output_filetype="jsonl",
        id_generator_path=str(tmp_path / "ids.json"),
    )
    result = workflow.run(executor())
    assert result.metadata["num_duplicates_removed"] == len(removed)
    assert written(tmp_path / "out") == {text: number for text, number in ids.items() if number not in removed}
    assert ray_actors.own_id_generator() is None


def test_minhash_numbers_the_files_that_it_reads(texts: Path, tmp_path: Path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "stand_ins"))
    from tests.curator.stages_minhash import MinHashOnCpu

    files_of = FilePartitioningStage(str(texts), files_per_partition=1, file_extensions=[".jsonl"])
    stages = [files_of, MinHashOnCpu(str(tmp_path / "minhashes"), read_format="jsonl", pool=False, num_hashes=16)]
    with pytest.raises(ConfigurationError, match="'MinHashOnCpu' numbers documents"):
        Pipeline("p", stages=stages).run(local())
    curators.create_id_generator_actor()
    tasks = Pipeline("p", stages=stages).run(local())
    table = pd.concat(pd.read_parquet(path) for task in tasks for path in task.data)
    assert sorted(table[ID]) == ALL_IDS
    assert {len(signature) for signature in table["_minhash_signature"]} == {16}
    of_batches = curators.get_id_generator_actor()
    for path, task in zip(files(texts), tasks, strict=True):
        first, last = ray.get(of_batches.get_batch_range.remote([path], None))
        assert list(pd.read_parquet(task.data[0])[ID]) == list(range(first, last + 1))
