"""What stages ask of their environment and is not there is refused before anything starts."""

from __future__ import annotations

from types import SimpleNamespace

import loguru
import pytest
from loguru import logger

from gpuexec import ConfigurationError
from gpuexec.config import ExecutorConfig
from gpuexec.curator import id_generator
from gpuexec.executors.requirements import check_requirements
from tests.process.stages import Apply, same


def stage(**runtime_env):
    return Apply(same).with_(runtime_env=runtime_env)


def check(*stages, **options):
    check_requirements(stages, ExecutorConfig.create(options))


@pytest.mark.parametrize("part", ["pip", "uv"])
@pytest.mark.parametrize(
    ("asked", "problem"),
    [
        (["loguru==0.0.1"], f"loguru {loguru.__version__} is installed"),
        (["loguru>=0.5", "no-such-package-here"], "no-such-package-here is not installed"),
        ({"packages": ["loguru<0.1"]}, "is installed"),
        (["./wheels/mine.whl"], "cannot be checked"),
    ],
)
def test_a_requirement_that_is_not_met(part, asked, problem):
    with pytest.raises(ConfigurationError) as caught:
        check(stage(**{part: asked}))
    assert problem in str(caught.value)
    assert f"runtime_env['{part}']" in str(caught.value)
    lines: list[str] = []
    handler = logger.add(lines.append, level="WARNING")
    try:
        check(stage(**{part: asked}), accept_unmet_requirements=True)
    finally:
        logger.remove(handler)
    assert any(problem in line for line in lines)


@pytest.mark.parametrize(
    "asked",
    [None, [], ["loguru"], ["Loguru>=0.5,<99"], ["nothing-at-all; python_version < '3'"], {"packages": ["pytest"]}],
)
def test_a_requirement_that_is_met(asked):
    check(stage(pip=asked), stage())


def test_a_file_of_requirements(tmp_path):
    path = tmp_path / "requirements.txt"
    path.write_text("--index-url https://example.org\n# a comment\nloguru>=0.5  # another\nloguru<0.1\n")
    with pytest.raises(ConfigurationError, match=r"asks for 'loguru<0\.1'"):
        check(stage(pip=str(path)))
    with pytest.raises(ConfigurationError, match="cannot be read: No such file"):
        check(stage(pip=str(tmp_path / "none.txt")))


@pytest.mark.parametrize("variables", [["A=1"], {"A=B": "1"}, {"": "1"}, {"A": "\0"}, {"A\0": "1"}])
def test_variables_that_cannot_be_set(variables):
    for owner in ({"runtime_env": {"env_vars": variables}}, {}):
        asks = stage() if owner else stage(env_vars=variables)
        with pytest.raises(ConfigurationError, match=r"(the executor|stage 'apply'): runtime_env\['env_vars'\]"):
            check(asks, **owner)


def test_the_executors_own_requirements():
    with pytest.raises(ConfigurationError, match=r"the executor asks for 'loguru<0\.1'"):
        check(stage(), runtime_env={"pip": ["loguru<0.1"]})


ray = SimpleNamespace(get_actor=None, init=None)


class Asks(Apply):
    def __init__(self):
        super().__init__(same)

    def setup(self, worker_metadata=None):
        self.actor = ray.get_actor("counter")


class AsksThroughItsBase(Asks):
    def setup(self, worker_metadata=None):
        super().setup(worker_metadata)


class AsksNoMore(Asks):
    def setup(self, worker_metadata=None):
        self.actor = None


class StartsItsOwn(Asks):
    def setup(self, worker_metadata=None):
        ray.init()
        self.actor = ray.get_actor("counter")


class Numbers(Asks):
    def __init__(self, generate):
        super().__init__()
        self._generate_ids = generate

    def setup(self, worker_metadata=None):
        if self._generate_ids:
            from nemo_curator.stages.deduplication.id_generator import get_id_generator_actor

            self.generator = get_id_generator_actor()


class MinHashes(Numbers):
    """As Curator's MinHashStage, which asks always, but needs ids only for files that it reads."""

    def __init__(self):
        super().__init__(generate=True)
        self.read_format = None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Asks, "no Ray cluster is named"),
        (AsksThroughItsBase, "no Ray cluster is named"),
        (lambda: Numbers(True), r"'apply'.*create_id_generator_actor\(\)"),
    ],
)
def test_a_stage_that_asks_for_an_actor_needs_a_named_cluster(make, message, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(ConfigurationError, match=message):
        check(make())
    check(make().with_(runtime_env={"env_vars": {"RAY_ADDRESS": "10.0.0.1:6379"}}))
    monkeypatch.setenv("RAY_ADDRESS", "local")  # which starts one
    with pytest.raises(ConfigurationError, match=message):
        check(make())
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    check(make())


@pytest.fixture
def own_generator(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(id_generator, "_own", id_generator.OwnGenerator(object()))


@pytest.mark.usefixtures("own_generator")
def test_shards_give_no_new_ids_but_may_look_them_up():
    looks_up = Numbers(True)
    looks_up._generate_ids, looks_up._assign_ids = False, True
    check_requirements([Numbers(True)], ExecutorConfig(shard="0/1"))
    check_requirements([looks_up, Numbers(False)], ExecutorConfig(shard="1/3"))
    with pytest.raises(ConfigurationError, match="shard 1/3: every shard has an id generator of its own"):
        check_requirements([Numbers(True)], ExecutorConfig(shard="1/3"))


def test_a_checkpoint_cannot_keep_the_ids_of_a_cluster(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    with pytest.raises(ConfigurationError, match="a checkpoint cannot keep its ids"):
        check_requirements([Numbers(True)], ExecutorConfig(), has_checkpoint=True)
    check_requirements([Numbers(False), Asks()], ExecutorConfig(), has_checkpoint=True)


@pytest.mark.parametrize("make", [StartsItsOwn, AsksNoMore, lambda: Numbers(False), lambda: Apply(same), MinHashes])
def test_other_stages_need_none(make, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    check(make())
