"""What the keys of ``ray_stage_spec()`` and ``xenna_stage_spec()`` mean here: one table, pure.

The keys are those that NeMo Curator 1.4.0 reads (``backends/utils.py``: ``RayStageSpecKeys``; ``backends/ray_data`` and
``backends/xenna/executor.py``); their meaning is Ray's and cosmos-xenna's (``PipelineConfig`` of 0.2.0).

A key becomes options of the stage or bounds of its number of workers. One that has no equal here is told, with the
reason, and one that needs nothing here is accepted in silence. ``None`` as a value means that the key is not set.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from gpuexec.naming import full_name
from gpuexec.records import Record

Check = Callable[[Any], str | None]  # returns what a value must be, or None
_ANY_EXCEPTION = ("Exception",)


class Key(Record):
    """One key. ``about``: what it means here, in words.

    ``check``: says what its value must be, if it is not that. ``options``: makes options of the stage from the value.
    ``bound``: the field of `StageAsks` that it sets. ``no_equal``: says why a value has no effect, ``None`` if it needs
    none. ``keys``: of a value that is a mapping itself.
    """

    about: str
    check: Check
    options: Callable[[Any], Mapping[str, Any]] | None = None
    bound: str | None = None
    no_equal: Callable[[Any], str | None] | None = None
    keys: Mapping[str, Key] | None = None


class Found(Record):
    """A key that a stage sets: its place, such as "ray_stage_spec()['max_workers']", its value, and what it means."""

    place: str
    value: Any
    key: Key


def _whole(low: int, *, also: int | None = None) -> Check:
    extra = "" if also is None else f", or {also}"

    def check(value: Any) -> str | None:
        is_whole = isinstance(value, int) and not isinstance(value, bool)
        return None if is_whole and (value >= low or value == also) else f"a whole number >= {low}{extra}"

    return check


def _number(low: float, *, above: bool = False, most: float = math.inf) -> Check:
    text = f"a number {'>' if above else '>='} {low:g}" + ("" if most == math.inf else f" and <= {most:g}")

    def check(value: Any) -> str | None:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return text
        return None if (value > low if above else value >= low) and value <= most else text

    return check


def _truth(value: Any) -> str | None:
    return None if isinstance(value, bool) else "true or false"


def _mapping(value: Any) -> str | None:
    return None if isinstance(value, Mapping) else "a mapping"


def _anything(_: Any) -> str | None:
    return None


def _exceptions(value: Any) -> str | None:
    classes = isinstance(value, list | tuple) and all(isinstance(c, type) and issubclass(c, Exception) for c in value)
    return None if isinstance(value, bool) or classes else "true, false or a list of exception classes"


def _no_equal(reason: str, *, unless: tuple[Any, ...] = ()) -> Callable[[Any], str | None]:
    return lambda value: None if value in unless else reason


def _attempts_after(retries: int) -> Mapping[str, Any]:
    return {} if retries < 0 else {"max_attempts": retries + 1}


def _retries(of: str) -> Key:
    return Key(
        f"`max_attempts`: one more than the retries of {of}",
        _whole(0, also=-1),
        options=_attempts_after,
        no_equal=lambda value: "attempts without end have no equal: max_attempts stays as it is" if value < 0 else None,
    )


def _retried(value: Any) -> Mapping[str, Any]:
    if isinstance(value, bool):
        return {"retry_on": _ANY_EXCEPTION if value else ()}
    return {"retry_on": tuple(full_name(cls) for cls in value)}


def _refused(instead: str) -> Check:
    return lambda _: f"left out, as in Curator: {instead}"


_LIFETIME = "gpuexec replaces one worker of a stage after the other, so it needs no interval"

REMOTE_ARGS: Mapping[str, Key] = {
    "num_cpus": Key("refused: `Resources(cpus=…)`", _refused("use Resources(cpus=…)")),
    "num_gpus": Key("refused: `Resources(gpus=…)`", _refused("use Resources(gpus=…)")),
    "max_calls": Key("refused: `max_calls_per_worker`", _refused("use ray_stage_spec()['max_calls_per_worker']")),
    "compute": Key("refused: `num_workers()`", _refused("use num_workers() or min_workers and max_workers")),
    "max_retries": _retries("a Ray task"),
    "max_task_retries": _retries("an actor's method"),
    "retry_exceptions": Key("`retry_on`: any exception, none, or these", _exceptions, options=_retried),
    "max_restarts": Key(
        "nothing: a worker that ends is always replaced",
        _whole(0, also=-1),
        no_equal=lambda value: "a worker that ends is replaced; max_attempts bounds that" if value == 0 else None,
    ),
    "runtime_env": Key("the stage's `runtime_env`, if it has none itself", _mapping),
    "max_concurrency": Key(
        "`max_concurrency` of an asynchronous stage",
        _whole(1),
        options=lambda value: {"max_concurrency": value},
        no_equal=_no_equal("the stage is not asynchronous, and a worker calls it once at a time", unless=(1,)),
    ),
    "memory": Key(
        "no equal: it only reserves",
        _number(0),
        no_equal=_no_equal("no memory is reserved here: worker_memory_limit_bytes replaces workers that hold more"),
    ),
    "scheduling_strategy": Key(
        "no equal: one node",
        _anything,
        no_equal=_no_equal("there is one node, and the planner places the workers", unless=("DEFAULT", "SPREAD")),
    ),
    "resources": Key(
        "no equal", _mapping, no_equal=_no_equal("Ray's custom resources do not exist here", unless=({},))
    ),
    "accelerator_type": Key("no equal", _anything, no_equal=_no_equal("any GPU of this node may be used")),
}

RAY: Mapping[str, Key] = {
    "is_actor_stage": Key("nothing: workers live as long as their stage", _truth),
    "is_fanout_stage": Key("nothing: what a stage makes is spread over workers as it comes", _truth),
    "is_raft_actor": Key("refused if true: it needs Curator's RayActorPoolExecutor", _anything),
    "is_lsh_stage": Key("refused if true: it needs Curator's RayActorPoolExecutor", _anything),
    "is_shuffle_stage": Key("refused if true: it needs Curator's RayActorPoolExecutor", _anything),
    "max_calls_per_worker": Key(
        "`max_batches_per_worker`", _whole(1), options=lambda value: {"max_batches_per_worker": value}
    ),
    "min_workers": Key(
        "the stage has no fewer workers, as long as there is work for them", _whole(1), bound="min_workers"
    ),
    "max_workers": Key("the stage never has more workers", _whole(1), bound="max_workers"),
    "initial_workers": Key("the stage starts with so many workers", _whole(1), bound="initial_workers"),
    "ray_num_cpus": Key(
        "nothing: it is for Ray Data's way to fuse stages; `Resources(cpus=…)` counts here", _number(0)
    ),
    "ray_remote_args": Key("see its keys below", _mapping, keys=REMOTE_ARGS),
}

XENNA: Mapping[str, Key] = {
    "num_workers": Key("refused: `num_workers()`", _refused("use num_workers()")),
    "num_workers_per_node": Key("`num_workers_per_node()`", _number(0, above=True), bound="workers_per_node"),
    "num_setup_attempts_python": Key(
        "no equal above 1",
        _whole(1),
        no_equal=_no_equal(
            "setup() is tried again only if its worker dies or it raises one of retry_on: set retry_on", unless=(1,)
        ),
    ),
    "num_run_attempts_python": Key(
        "above 1: `max_attempts`, and `retry_on` any exception",
        _whole(1),
        options=lambda value: {"max_attempts": value, "retry_on": _ANY_EXCEPTION} if value > 1 else {},
    ),
    "ignore_failures": Key(
        '`on_task_failure="quarantine"` without a `max_quarantined`; false: "raise"',
        _truth,
        options=lambda value: (
            {"on_task_failure": "quarantine", "max_quarantined": None} if value else {"on_task_failure": "raise"}
        ),
    ),
    "reset_workers_on_failure": Key(
        "with `ignore_failures`: `retire_on` any exception",
        _truth,
        options=lambda value: {"retire_on": _ANY_EXCEPTION} if value else {},
    ),
    "slots_per_actor": Key(
        "no equal",
        _whole(1),
        no_equal=_no_equal("how many batches wait at a worker follows from measured times", unless=(2,)),
    ),
    "worker_max_lifetime_m": Key(
        "`max_worker_lifetime_s`, in minutes; 0: no limit",
        _number(0),
        options=lambda value: {"max_worker_lifetime_s": value * 60.0} if value else {},
    ),
    "worker_restart_interval_m": Key("no equal", _number(0), no_equal=_no_equal(_LIFETIME, unless=(1,))),
    "max_setup_failure_percentage": Key(
        "no equal",
        _number(0, most=100),
        no_equal=_no_equal("a run ends when set-ups fail again and again; max_attempts bounds how often"),
    ),
}


def unknown_key(name: str, known: Mapping[str, Key]) -> str:
    """Return why a key that is in no table has no effect."""
    closest = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
    return f"there is no such key; did you mean {closest[0]!r}?" if closest else "it has no meaning here"


def found_in(spec: Mapping[str, Any], known: Mapping[str, Key], place: str) -> Iterator[Found | str]:
    """Yield the keys that are set in a spec, those of mappings in it included; of unknown ones, a sentence.

    ``place``: how the spec is called in messages.
    """
    for name, value in spec.items():
        if value is None:
            continue
        here = f"{place}[{name!r}]"
        key = known.get(name)
        if key is None:
            yield f"{here}: {unknown_key(name, known)}"
            continue
        yield Found(here, value, key)
        if key.keys is not None and isinstance(value, Mapping):
            yield from found_in(value, key.keys, here)
