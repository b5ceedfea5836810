"""A stage's environment variables, and setting them for a while."""

from __future__ import annotations

import os
import sys

import pytest
from loguru import logger

from gpuexec.config import ExecutorConfig
from gpuexec.stage.environment import env_vars_for, temporary_environment
from tests.unit.contract.stages import Upper

EXECUTORS = ExecutorConfig.create(runtime_env={"env_vars": {"MODE": "fast", "LEVEL": 1}})


def test_the_stages_own_variables_win():
    stage = Upper().with_(runtime_env={"env_vars": {"LEVEL": 2}})
    assert env_vars_for(stage, EXECUTORS) == {"MODE": "fast", "LEVEL": "2"}
    assert env_vars_for(Upper(), EXECUTORS) == {"MODE": "fast", "LEVEL": "1"}
    assert env_vars_for(Upper(), ExecutorConfig()) == {}


def test_other_parts_of_a_runtime_env_are_named_in_a_warning():
    lines: list[str] = []
    handler = logger.add(lines.append, level="WARNING")
    try:
        assert env_vars_for(Upper().with_(runtime_env={"nsight": "default"}), ExecutorConfig()) == {}
    finally:
        logger.remove(handler)
    assert any("runtime_env ['nsight'] is ignored" in line for line in lines)


def test_everything_is_restored_also_after_an_error(monkeypatch):
    monkeypatch.setenv("GPUEXEC_SET", "before")
    monkeypatch.delenv("GPUEXEC_UNSET", raising=False)
    path = list(sys.path)
    seen = []

    def look_and_fail() -> None:
        seen.extend([os.environ["GPUEXEC_SET"], os.environ["GPUEXEC_UNSET"], *sys.path])
        sys.path.append("/added")
        raise LookupError

    with pytest.raises(LookupError), temporary_environment({"GPUEXEC_SET": "x", "GPUEXEC_UNSET": "y"}, ["/only"]):
        look_and_fail()
    assert seen == ["x", "y", "/only"]
    assert os.environ["GPUEXEC_SET"] == "before"
    assert "GPUEXEC_UNSET" not in os.environ
    assert sys.path == path


def test_without_a_search_path_sys_path_belongs_to_the_block(monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    with temporary_environment({}):
        sys.path.append("/added")
    assert sys.path[-1] == "/added"
