"""What the keys of ``ray_stage_spec()`` and ``xenna_stage_spec()`` become."""

from __future__ import annotations

from enum import StrEnum

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuexec import ConfigurationError, plan
from gpuexec.config import ExecutorConfig
from gpuexec.curator import stage_facts
from gpuexec.curator.spec_keys import RAY, REMOTE_ARGS, XENNA, Found, found_in
from gpuexec.curator.stage_specs import asks_of, combined, runtime_env_of
from gpuexec.executors.stage_options import check_stage_options, own_options
from tests.unit.contract.stages import Upper
from tests.unit.planning.nodes import node


class Asks(Upper):
    def __init__(self, ray=None, xenna=None):
        self.ray, self.xenna = ray or {}, xenna or {}

    def ray_stage_spec(self):
        return self.ray

    def xenna_stage_spec(self):
        return self.xenna


class AsksSideBySide(Asks):
    async def process(self, task):
        return task


class Member(StrEnum):  # as Curator's keys are
    CALLS = "max_calls_per_worker"


@pytest.mark.parametrize(
    ("ray", "xenna", "options"),
    [
        ({Member.CALLS: 2}, {}, {"max_batches_per_worker": 2}),
        ({"ray_remote_args": {"max_retries": 4}}, {}, {"max_attempts": 5}),
        ({"ray_remote_args": {"max_task_retries": 0}}, {}, {"max_attempts": 1}),
        ({"ray_remote_args": {"retry_exceptions": True}}, {}, {"retry_on": ("Exception",)}),
        ({"ray_remote_args": {"retry_exceptions": [OSError]}}, {}, {"retry_on": ("builtins.OSError",)}),
        ({}, {"num_run_attempts_python": 3}, {"max_attempts": 3, "retry_on": ("Exception",)}),
        ({}, {"num_run_attempts_python": 1}, {}),
        ({}, {"ignore_failures": True}, {"on_task_failure": "quarantine", "max_quarantined": None}),
        ({}, {"ignore_failures": False}, {"on_task_failure": "raise"}),
        (
            {},
            {"reset_workers_on_failure": True, "ignore_failures": True},
            {"retire_on": ("Exception",), "on_task_failure": "quarantine", "max_quarantined": None},
        ),
        ({}, {"worker_max_lifetime_m": 1.5}, {"max_worker_lifetime_s": 90.0}),
        ({}, {"worker_max_lifetime_m": 0}, {}),
        ({"max_calls_per_worker": None, "ray_remote_args": None}, {"ignore_failures": None}, {}),
        (
            {"is_actor_stage": True, "is_fanout_stage": True, "ray_num_cpus": 1},
            {"slots_per_actor": 2, "num_setup_attempts_python": 1, "worker_restart_interval_m": 1},
            {},
        ),
    ],
)
def test_what_has_an_equal_becomes_options(ray, xenna, options):
    asks = asks_of(Asks(ray, xenna))
    assert asks.options == options
    assert asks.without_effect == ()
    ExecutorConfig.create(options)


@pytest.mark.parametrize(
    ("ray", "xenna", "key"),
    [
        ({"ray_remote_args": {"memory": 5}}, {}, "ray_stage_spec()['ray_remote_args']['memory']"),
        ({"ray_remote_args": {"max_retries": -1}}, {}, "['max_retries']"),
        ({"ray_remote_args": {"max_restarts": 0}}, {}, "['max_restarts']"),
        ({"ray_remote_args": {"max_concurrency": 4}}, {}, "['max_concurrency']"),
        ({"ray_remote_args": {"scheduling_strategy": "x"}}, {}, "['scheduling_strategy']"),
        ({"max_worker": 4}, {}, "did you mean 'max_workers'?"),
        ({}, {"num_setup_attempts_python": 2}, "xenna_stage_spec()['num_setup_attempts_python']=2"),
        ({}, {"slots_per_actor": 8}, "['slots_per_actor']"),
        ({}, {"worker_restart_interval_m": 5}, "['worker_restart_interval_m']"),
        ({}, {"max_setup_failure_percentage": 50.0}, "['max_setup_failure_percentage']"),
        ({}, {"reset_workers_on_failure": True}, "together with ignore_failures=True"),
    ],
)
def test_what_has_none_is_told_once(ray, xenna, key):
    stage = Asks(ray, xenna)
    asks = asks_of(stage)
    assert asks.options == {}
    (told,) = asks.without_effect
    assert key in told
    (note,) = plan([stage], node=node(cpus=2)).plan.notes
    assert note.startswith("stage 'upper', without effect: ")
    assert key in note


def test_of_two_that_ask_for_the_same_option_rays_wins_and_the_other_is_told():
    asks = asks_of(Asks({"ray_remote_args": {"max_retries": 4}}, {"num_run_attempts_python": 2}))
    assert asks.options == {"max_attempts": 5, "retry_on": ("Exception",)}
    (told,) = asks.without_effect
    assert told.startswith("xenna_stage_spec()['num_run_attempts_python']")


def test_the_options_of_the_user_win():
    stage = Asks({"max_calls_per_worker": 2}).with_(max_batches_per_worker=7)
    assert own_options(stage, ExecutorConfig())["max_batches_per_worker"] == 7
    options = ExecutorConfig.create(stage_options={"upper": {"max_batches_per_worker": 9}}, max_batches_per_worker=1)
    assert own_options(stage, options)["max_batches_per_worker"] == 9
    assert own_options(Asks({"max_calls_per_worker": 2}), options.create(max_batches_per_worker=1)) == {
        "max_batches_per_worker": 2
    }


def test_calls_side_by_side():
    args = {"ray_remote_args": {"max_concurrency": 4}}
    assert asks_of(AsksSideBySide(args)).options == {"max_concurrency": 4}
    check_stage_options([AsksSideBySide(args), Asks(args)], ExecutorConfig())


@pytest.mark.parametrize(
    ("ray", "xenna", "problem"),
    [
        ({"max_calls_per_worker": 0}, {}, r"\['max_calls_per_worker'\] must be a whole number >= 1, got 0"),
        ({"max_calls_per_worker": True}, {}, "must be a whole number"),
        ({"max_calls_per_worker": "2"}, {}, "must be a whole number"),
        ({"min_workers": 2.0}, {}, "must be a whole number"),
        ({"min_workers": 3, "max_workers": 2}, {}, "min_workers=3, which is more than its max_workers=2"),
        ({"initial_workers": 3, "max_workers": 2}, {}, "initial_workers=3, which is more than"),
        ({"initial_workers": 1, "min_workers": 2}, {}, "initial_workers=1, which is fewer than"),
        ({"ray_remote_args": 3}, {}, "must be a mapping, got 3"),
        ({"ray_remote_args": {"num_cpus": 3}}, {}, r"use Resources\(cpus=…\)"),
        ({"ray_remote_args": {"retry_exceptions": ["OSError"]}}, {}, "a list of exception classes"),
        ({"ray_num_cpus": float("nan")}, {}, "must be a number >= 0"),
        ({}, {"num_workers": 3}, r"use num_workers\(\)"),
        ({}, {"num_workers_per_node": 0}, "must be a number > 0"),
        ({}, {"ignore_failures": "no"}, "must be true or false"),
        ({}, {"max_setup_failure_percentage": 101}, "and <= 100"),
        ([], {}, r"ray_stage_spec\(\) must return a mapping, got \[\]"),
        ({}, {1: 2}, "must have texts as keys, got 1"),
    ],
)
def test_what_cannot_be_is_refused(ray, xenna, problem):
    stage = Asks()
    stage.ray, stage.xenna = ray, xenna
    with pytest.raises(ConfigurationError, match=problem) as caught:
        plan([stage], node=node(cpus=2))
    assert "stage 'upper'" in str(caught.value)


def test_a_method_that_raises():
    stage = Asks()
    stage.xenna_stage_spec = lambda: {}["missing"]
    with pytest.raises(ConfigurationError, match=r"stage 'upper': xenna_stage_spec\(\) raised KeyError: 'missing'"):
        plan([stage], node=node(cpus=2))


@pytest.mark.parametrize(
    ("ray", "xenna", "settings"),
    [
        ({"max_workers": 2}, {}, {"num_workers": 2}),
        ({}, {"num_workers_per_node": 2}, {"num_workers": 2}),
        ({}, {"num_workers_per_node": 2}, {"num_workers_per_node": 3}),
        ({"min_workers": 1}, {"num_workers_per_node": 2}, {}),
    ],
)
def test_two_ways_to_ask_for_a_number_of_workers(ray, xenna, settings):
    stage = Asks({}, xenna).with_(**settings)
    stage.ray = ray
    with pytest.raises(ConfigurationError, match=r"number of workers by .* and by .*: use one"):
        plan([stage], node=node(cpus=2))


def test_workers_per_node_are_workers():
    assert stage_facts.demand_of(Asks({}, {"num_workers_per_node": 1.5})).num_workers == 2


def test_the_environment_of_ray_remote_args():
    inner = {"env_vars": {"A": "1"}}
    assert runtime_env_of(Asks({"ray_remote_args": {"runtime_env": inner}})) == inner
    own = Asks({"ray_remote_args": {"runtime_env": inner}}).with_(runtime_env={"env_vars": {"B": "2"}})
    assert runtime_env_of(own) == {"env_vars": {"B": "2"}}


def test_a_plan_shows_what_was_asked_for():
    made = plan([Asks({"max_calls_per_worker": 2, "max_workers": 3})], node=node(cpus=8))
    asked = "ray_stage_spec()['max_calls_per_worker']=2, which is max_batches_per_worker=2"
    assert made.stage_specs == {"upper": (asked, "ray_stage_spec()['max_workers']=3")}
    assert made.to_dict()["stage_specs"]["upper"][0] == asked
    assert f"stage 'upper' asks for {asked}" in " ".join(str(made).split())


# ---- the table ---------------------------------------------------------------------------------------------

VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 6),
    st.floats(allow_nan=True),
    st.text(max_size=3),
    st.lists(st.integers(), max_size=1),
    st.dictionaries(st.sampled_from(sorted(REMOTE_ARGS)), st.integers(-2, 4), max_size=2),
)


@given(
    st.dictionaries(st.sampled_from([*RAY, "unknown"]), VALUES, max_size=5),
    st.dictionaries(st.sampled_from([*XENNA, "unknown"]), VALUES, max_size=5),
    st.booleans(),
)
def test_every_key_is_refused_or_honoured_or_told_or_needs_nothing(ray, xenna, is_async):
    found = [*found_in(xenna, XENNA, "xenna_stage_spec()"), *found_in(ray, RAY, "ray_stage_spec()")]
    assert len([one for one in found if isinstance(one, Found)]) >= sum(
        value is not None for spec in (ray, xenna) for key, value in spec.items() if key != "unknown"
    )
    try:
        asks = combined("s", found, is_async=is_async)
    except ConfigurationError:
        return
    ExecutorConfig.create(asks.options)
    low, first, most = asks.min_workers or 1, asks.initial_workers, asks.max_workers
    assert first is None or low <= first
    assert most is None or (first or low) <= most
    for one in found:
        place = one if isinstance(one, str) else one.place
        if isinstance(one, str):
            assert one in asks.without_effect
        elif one.key.options is not None and one.key.options(one.value):
            assert any(place in text for text in (*asks.honoured, *asks.without_effect))


def test_every_key_of_the_table_says_what_it_means():
    for table in (RAY, XENNA, REMOTE_ARGS):
        for key in table.values():
            assert key.about
            assert not key.about.endswith(".")
