"""Validated options of the executors: one frozen record, one way in, errors that name the option."""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gpuexec.errors import ConfigurationError
from gpuexec.naming import full_name
from gpuexec.units import MIB

_IN_WORDS = {"bool": "True or False", "int": "a whole number", "float": "a number", "str": "text"}


def _at_least(low: float) -> Callable[[Any], str | None]:
    def check(value: Any) -> str | None:
        return None if math.isfinite(value) and value >= low else f"must be a finite number >= {low:g}"

    return check


def _above(low: float) -> Callable[[Any], str | None]:
    def check(value: Any) -> str | None:
        return None if math.isfinite(value) and value > low else f"must be a finite number > {low:g}"

    return check


def _fraction(value: Any) -> str | None:
    return None if 0 <= value <= 1 else "must lie between 0 and 1"


def _one_of(*choices: str) -> Callable[[Any], str | None]:
    def check(value: Any) -> str | None:
        return None if value in choices else f"must be one of {', '.join(map(repr, choices))}"

    return check


def _option(default: Any, check: Callable[[Any], str | None] | None, about: str) -> Any:
    return field(default=default, metadata={"check": check, "about": about})


@dataclass(frozen=True, slots=True)
class ExecutorConfig:
    """Options of ``LocalExecutor`` and ``InlineExecutor``; each field's ``about`` is its documentation."""

    show_progress: bool = _option(True, None, "display progress on stderr")
    progress_interval_s: float = _option(
        10.0, _at_least(0.1), "seconds between progress lines when stderr is no terminal"
    )
    cpus: float | None = _option(None, _above(0), "CPUs to plan with (default: those of the affinity mask and cgroup)")
    reserved_cpus: float = _option(0.0, _at_least(0), "CPUs kept off for others")
    reserved_gpus: float = _option(0.0, _at_least(0), "GPUs (or a fraction of one) kept off for others")
    busy_gpus: str = _option("skip", _one_of("error", "skip", "wait"), "what to do with GPUs that other processes hold")
    busy_gpu_memory_fraction: float = _option(
        0.1, _fraction, "part of a GPU's memory that others may hold before it counts as busy"
    )
    busy_gpu_timeout_s: float = _option(600.0, _at_least(0), "how long busy_gpus='wait' waits, in seconds")
    cpu_stages_see_gpus: bool = _option(False, None, "let stages that ask for no GPU see all of them (default: none)")
    queue_tasks: int = _option(4096, _at_least(1), "tasks that may wait before a stage")
    queue_bytes: int = _option(256 * MIB, _at_least(1), "bytes of tasks that may wait before a stage")
    max_parallel_setups: int = _option(
        8, _at_least(1), "workers of the node that may run setup() at the same time (one per GPU at most)"
    )
    stop_timeout_s: float = _option(
        10.0,
        _at_least(0),
        "seconds that workers may take for teardown() once told to stop; then they are killed, with a warning",
    )
    max_attempts: int = _option(
        3, _at_least(1), "how often a batch is tried whose worker dies, or whose exception is one of retry_on"
    )
    on_task_failure: str = _option(
        "raise",
        _one_of("raise", "quarantine"),
        "whether a batch that keeps failing ends the run, or its task at fault is put aside and the run goes on",
    )
    retry_on: tuple[str, ...] = _option(
        (), None, "exceptions of stages (classes or their names) after which the batch is tried again"
    )
    retire_on: tuple[str, ...] = _option(
        (), None, "exceptions after which the worker is replaced too, such as a lost CUDA context"
    )
    split_on_oom: bool = _option(False, None, "halve a batch that runs out of GPU memory, and try the halves")
    batch_timeout_s: float | None = _option(None, _above(0), "seconds a batch may take before its worker is killed")
    setup_timeout_s: float | None = _option(
        None,
        _above(0),
        "seconds that loading the stage, setup_on_node() and setup() may each take, else the worker is killed",
    )
    max_batches_per_worker: int | None = _option(None, _at_least(1), "batches after which a worker is replaced")
    worker_memory_limit_bytes: int | None = _option(
        None, _at_least(1), "bytes of resident memory above which a worker is replaced between batches"
    )
    memory_high_watermark: float = _option(
        0.9, _fraction, "part of the host's (or cgroup's) memory in use above which no new tasks are let in"
    )
    checkpoint: str | None = _option(None, None, "folder of the journal of finished sources; a later run skips them")
    checkpoint_changed: str = _option(
        "refuse", _one_of("refuse", "accept"), "what to do when the journal was written by a different pipeline"
    )
    capsule_dir: str | None = _option(
        None, None, "folder for failed batches (default: ~/.local/state/gpuexec/capsules; '' keeps none)"
    )
    log_level: str = _option("DEBUG", None, "lowest loguru level that workers send to the driver")
    runtime_env: Mapping[str, Any] | None = _option(
        None, None, "Ray-style runtime environment; its env_vars are set in every worker"
    )

    @classmethod
    def create(cls, config: Mapping[str, Any] | None = None, **options: Any) -> ExecutorConfig:
        """Build from a config mapping and keyword options (which win).

        Raises ``ConfigurationError`` for an unknown key (with the nearest known one), a wrong type or a
        value out of range.
        """
        merged = {**(config or {}), **options}
        known = {f.name: f for f in dataclasses.fields(cls)}
        for name in merged:
            if name not in known:
                raise ConfigurationError(_unknown_option(str(name), known))
        return cls(**{name: _checked(known[name], value) for name, value in merged.items()})


def _unknown_option(name: str, known: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"known options: {', '.join(sorted(known))}"
    return f"unknown executor option {name!r}; {hint}"


def _checked(option: dataclasses.Field[Any], value: Any) -> Any:
    expected = option.type if isinstance(option.type, str) else option.type.__name__
    kind, _, optional = expected.partition(" | ")
    if value is None and optional:
        return None
    if kind.startswith("tuple"):
        return _class_names(option.name, value)
    if kind == "str" and isinstance(value, os.PathLike):
        value = os.fspath(value)
    if not _has_type(value, kind):
        wanted = _IN_WORDS.get(kind, "a mapping")
        raise ConfigurationError(f"option {option.name!r} must be {wanted}, got {type(value).__name__} {value!r}")
    check = option.metadata["check"]
    problem = check(value) if check else None
    if problem:
        raise ConfigurationError(f"option {option.name!r} {problem}, got {value!r}")
    return float(value) if kind == "float" else value


def _class_names(option: str, value: Any) -> tuple[str, ...]:
    """Take exception classes or their names, one or several."""
    given = value if isinstance(value, list | tuple | set | frozenset) else [value]
    names = []
    for one in given:
        if isinstance(one, type) and issubclass(one, BaseException):
            names.append(full_name(one))
        elif isinstance(one, str) and one:
            names.append(one)
        else:
            raise ConfigurationError(
                f"option {option!r} takes exception classes or their names, such as 'ConnectionError', got {one!r}"
            )
    return tuple(names)


def _has_type(value: Any, expected: str) -> bool:
    if expected == "bool":
        return isinstance(value, bool)
    if expected == "int":
        return isinstance(value, int) and not isinstance(value, bool)
    if expected == "float":
        return isinstance(value, int | float) and not isinstance(value, bool)
    if expected == "str":
        return isinstance(value, str)
    return isinstance(value, Mapping)
