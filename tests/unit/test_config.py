"""Options: one way in, and errors that name the option."""

from __future__ import annotations

import dataclasses

import pytest

from gpuexec import ConfigurationError, InlineExecutor, LocalExecutor
from gpuexec.config import ExecutorConfig
from gpuexec.policies import BusyGpuPolicy, TaskFailurePolicy


def test_defaults_are_valid_and_documented():
    config = ExecutorConfig.create()
    again = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    assert ExecutorConfig.create(again) == config


@pytest.mark.parametrize("option", dataclasses.fields(ExecutorConfig), ids=lambda option: option.name)
def test_every_option_is_documented_by_a_phrase(option):
    about = option.metadata["about"]
    assert about
    assert not about.endswith(".")
    assert "  " not in about


def test_members_of_the_policies_are_accepted_as_values():
    config = ExecutorConfig.create(busy_gpus=BusyGpuPolicy.WAIT, on_task_failure=TaskFailurePolicy.QUARANTINE)
    assert (config.busy_gpus, config.on_task_failure) == ("wait", "quarantine")


def test_exceptions_are_given_as_classes_or_names():
    config = ExecutorConfig.create(retry_on=ConnectionError, retire_on=["torch.AcceleratorError", OSError])
    assert (config.retry_on, config.retire_on) == (
        ("builtins.ConnectionError",),
        ("torch.AcceleratorError", "builtins.OSError"),
    )


def test_a_log_level_may_be_written_in_any_case():
    assert ExecutorConfig.create(log_level="warning").log_level == "WARNING"


class Known(Exception):
    """Loaded, so its bare name is one that an exception can have."""


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ("Known", "Known"),
        ("IOError", "OSError"),  # what such an exception calls itself
        ("socket.timeout", "builtins.TimeoutError"),
        ("json.JSONDecodeError", "json.decoder.JSONDecodeError"),
        ("not_loaded_here.SomeError", "not_loaded_here.SomeError"),
        ("__main__.SomeError", "__main__.SomeError"),
        ("module.function.<locals>.SomeError", "module.function.<locals>.SomeError"),
    ],
)
def test_an_exception_is_taken_by_the_name_by_which_it_is_recognised(given, taken):
    assert ExecutorConfig.create(retry_on=given).retry_on == (taken,)


def test_keywords_win_over_the_mapping():
    assert ExecutorConfig.create({"queue_tasks": 5}, queue_tasks=6).queue_tasks == 6


@pytest.mark.parametrize("executor", [LocalExecutor, InlineExecutor])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"show_progres": True}, "unknown executor option 'show_progres'; did you mean 'show_progress'?"),
        ({"reserve_cpus": 1}, "did you mean 'reserved_cpus'?"),
        ({"zzz": 1}, "known options: "),
        ({"show_progress": 1}, "option 'show_progress' must be True or False, got int 1"),
        ({"queue_tasks": True}, "must be a whole number, got bool"),
        ({"queue_tasks": 1.5}, "must be a whole number, got float"),
        ({"queue_tasks": 0}, "must be a finite number >= 1, got 0"),
        ({"reserved_cpus": "1"}, "must be a number, got str '1'"),
        ({"reserved_cpus": -0.5}, "must be a finite number >= 0"),
        ({"stop_timeout_s": float("nan")}, "must be a finite number"),
        ({"busy_gpus": "ignore"}, "must be one of 'error', 'skip', 'wait', got 'ignore'"),
        ({"busy_gpu_memory_fraction": 1.1}, "must lie between 0 and 1"),
        ({"on_task_failure": "ignore"}, "must be one of 'raise', 'quarantine', got 'ignore'"),
        ({"runtime_env": "A=1"}, "option 'runtime_env' must be a mapping, got str"),
        ({"checkpoint": ""}, "option 'checkpoint' must name a folder (leave it out for no checkpoint), got ''"),
        ({"checkpoint": "  "}, "option 'checkpoint' must name a folder"),
        ({"capsule_dir": " "}, "option 'capsule_dir' must name a folder"),
        ({"log_level": "verbose"}, "option 'log_level' must be one of TRACE, DEBUG"),
        ({"log_level": "WARN"}, "did you mean 'WARNING'?"),
        ({"log_level": ""}, "option 'log_level' must be one of"),
        ({"retry_on": "ConectionError"}, "option 'retry_on': no exception that is loaded is called 'ConectionError'"),
        ({"retry_on": "ConectionError"}, "did you mean 'ConnectionError'?"),
        ({"retry_on": "Value Error"}, "'Value Error' is not the name of a class; did you mean 'ValueError'?"),
        ({"retire_on": "int"}, "option 'retire_on': 'int' is not an exception"),
        ({"retire_on": "json.JSONDecodError"}, "did you mean 'json.JSONDecodeError'?"),
        ({"retire_on": "json.loads"}, "'json.loads' is not an exception"),
        ({"retire_on": "builtins.ValueErrors"}, "did you mean 'builtins.ValueError'?"),
        ({"retry_on": [3]}, "option 'retry_on' takes exception classes or their names"),
        ({"stage_options": {"a": 3}}, "option 'stage_options': stage 'a': its options must be a mapping"),
        (
            {"stage_options": {"a": {"max_atempts": 3}}},
            "stage 'a': unknown executor option 'max_atempts'; did you mean",
        ),
        (
            {"stage_options": {"a": {"max_attempts": 0}}},
            "stage 'a': option 'max_attempts' must be a finite number >= 1",
        ),
        ({"stage_options": {"a": {"queue_tasks": 3}}}, "stage 'a': option 'queue_tasks' is of the whole run"),
        ({"queue_tasks": 10**5000}, "option 'queue_tasks' is too large a number, of 16,610 bits"),
        ({"cpus": 10**400}, "option 'cpus' is too large a number"),
        ({"task_seed": "1"}, "option 'task_seed' must be a whole number, got str '1'"),
    ],
)
def test_a_bad_option_is_named(executor, options, message):
    with pytest.raises(ConfigurationError) as caught:
        executor(options)
    assert message in str(caught.value)
    with pytest.raises(ValueError, match=r"."):
        executor(**options)


def test_whole_numbers_serve_as_fractions():
    assert ExecutorConfig.create(reserved_cpus=1).reserved_cpus == 1.0
