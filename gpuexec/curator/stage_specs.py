"""What a stage asks for in ``ray_stage_spec()`` and ``xenna_stage_spec()``, checked: see `spec_keys` for the keys.

Where both ask for the same option, Ray's wins. The options that the stage's user sets win over both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import field
from typing import Any

from gpuexec.contract.async_stages import is_async
from gpuexec.curator.spec_keys import RAY, REMOTE_ARGS, XENNA, Found, found_in
from gpuexec.errors import ConfigurationError
from gpuexec.records import Record

_METHODS = {"xenna_stage_spec": XENNA, "ray_stage_spec": RAY}  # the later one wins
_MAX_CONCURRENCY = REMOTE_ARGS["max_concurrency"]
_RESET = XENNA["reset_workers_on_failure"]


class StageAsks(Record):
    """What the specs of one stage come to.

    ``options``: of the executor, for this stage. ``workers_per_node`` and the three bounds of its number of workers:
    ``None`` if not set. ``honoured``: what was asked for and what it became, a text each. ``without_effect``: what has
    no equal here, with the reason.
    """

    options: dict[str, Any] = field(default_factory=dict)
    min_workers: int | None = None
    max_workers: int | None = None
    initial_workers: int | None = None
    workers_per_node: float | None = None
    honoured: tuple[str, ...] = ()
    without_effect: tuple[str, ...] = ()

    def note(self, stage_name: str) -> str | None:
        """Return the one sentence about what has no effect; ``None`` if there is nothing of the kind."""
        return (
            f"stage {stage_name!r}, without effect: {'; '.join(self.without_effect)}" if self.without_effect else None
        )


def asks_of(stage: Any) -> StageAsks:
    """Return what a stage asks for. Raises ``ConfigurationError`` if a spec is not one, or its values cannot be."""
    name = str(stage.name)
    found: list[Found | str] = []
    for method, known in _METHODS.items():
        found += found_in(spec_of(stage, method), known, f"{method}()")
    return combined(name, found, is_async=is_async(stage))


def combined(stage_name: str, found: Iterable[Found | str], *, is_async: bool) -> StageAsks:
    """Return what these keys come to, in their order. Raises ``ConfigurationError`` for values that cannot be."""
    options: dict[str, Any] = {}
    source: dict[str, str] = {}
    bounds: dict[str, Any] = {}
    honoured: list[str] = []
    without_effect: list[str] = []
    keys = list(found)
    ignores_failures = any(isinstance(one, Found) and one.key is XENNA["ignore_failures"] and one.value for one in keys)
    for one in keys:
        if isinstance(one, str):
            without_effect.append(one)
            continue
        _check(stage_name, one)
        reason = _why_without_effect(one, is_async=is_async, ignores_failures=ignores_failures)
        if reason is not None:
            without_effect.append(f"{one.place}={one.value!r}: {reason}")
            continue
        if one.key.bound is not None:
            bounds[one.key.bound] = one.value
            honoured.append(f"{one.place}={one.value!r}")
        asked = one.key.options(one.value) if one.key.options is not None else {}
        for option, value in asked.items():
            if option in options and options[option] != value:
                without_effect.append(f"{source[option]}: {one.place} asks for another {option}, which wins")
            options[option], source[option] = value, one.place
        if asked:
            became = ", ".join(f"{option}={value!r}" for option, value in asked.items())
            honoured.append(f"{one.place}={one.value!r}, which is {became}")
    asks = StageAsks(options=options, honoured=tuple(honoured), without_effect=tuple(without_effect), **bounds)
    _check_bounds(stage_name, asks)
    return asks


def spec_of(stage: Any, method: str) -> dict[str, Any]:
    """Return a spec with its keys as text: Curator's are members of an enum.

    Raises ``ConfigurationError`` if the stage's method raises, or returns anything but a mapping with texts as keys.
    """
    where = f"stage {stage.name!r}: {method}()"
    read = getattr(stage, method, None)
    if read is None:  # Curator's contract has both, that of other libraries need not
        return {}
    try:
        spec = read()
    except Exception as error:
        raise ConfigurationError(f"{where} raised {type(error).__name__}: {error}") from error
    if not isinstance(spec, Mapping):
        raise ConfigurationError(f"{where} must return a mapping, got {spec!r}")
    texts: dict[str, Any] = {}
    for key, value in spec.items():
        text = getattr(key, "value", key)
        if not isinstance(text, str):
            raise ConfigurationError(f"{where} must have texts as keys, got {key!r}")
        texts[text] = value
    return texts


def runtime_env_of(stage: Any) -> Mapping[str, Any]:
    """Return a stage's ``runtime_env``: its own, or else that of ``ray_remote_args``, as Curator does on Ray Data.

    Raises ``ConfigurationError`` if it is no mapping.
    """
    found = getattr(stage, "runtime_env", None)
    if not found and hasattr(stage, "ray_stage_spec"):
        remote = spec_of(stage, "ray_stage_spec").get("ray_remote_args")
        found = remote.get("runtime_env") if isinstance(remote, Mapping) else None
    if found is not None and not isinstance(found, Mapping):
        raise ConfigurationError(
            f"stage {stage.name!r}: runtime_env must be a mapping such as {{'env_vars': {{'NAME': 'value'}}}}, "
            f"got {found!r}"
        )
    return found or {}


def _check(stage_name: str, found: Found) -> None:
    problem = found.key.check(found.value)
    if problem is not None:
        raise ConfigurationError(f"stage {stage_name!r}: {found.place} must be {problem}, got {found.value!r}")


def _why_without_effect(found: Found, *, is_async: bool, ignores_failures: bool) -> str | None:
    if found.key is _MAX_CONCURRENCY and is_async:
        return None
    if found.key is _RESET and found.value and not ignores_failures:
        return "it counts only together with ignore_failures=True, as in Xenna"
    return found.key.no_equal(found.value) if found.key.no_equal is not None else None


def _check_bounds(stage_name: str, asks: StageAsks) -> None:
    low = asks.min_workers or 1
    bounds = (("min_workers", asks.min_workers), ("initial_workers", asks.initial_workers))
    for name, value in bounds:
        if value is not None and asks.max_workers is not None and value > asks.max_workers:
            raise ConfigurationError(
                f"stage {stage_name!r}: ray_stage_spec() asks for {name}={value}, which is more than its "
                f"max_workers={asks.max_workers}"
            )
    if asks.initial_workers is not None and asks.initial_workers < low:
        raise ConfigurationError(
            f"stage {stage_name!r}: ray_stage_spec() asks for initial_workers={asks.initial_workers}, which is fewer "
            f"than its min_workers={low}"
        )
