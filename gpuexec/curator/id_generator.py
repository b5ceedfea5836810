"""Curator's id generator without Ray: the driver has it, and workers ask the driver.

Curator keeps it in a named actor of a Ray cluster. Its functions look up ``ray`` and ``IdGenerator`` in their own
module when they are called, so these two names are replaced there: the functions stay Curator's own, also where another
module has imported them already. ``ray.get``, ``ray.get_actor`` and ``ray.kill`` know our generator, too, since stages
call them themselves.

Who has a cluster (``RAY_ADDRESS``, or a connection of this process) gets Curator's actor in that cluster, as without
gpuexec, so that Ray's executors find it there.
"""

from __future__ import annotations

import functools
import json
import os
import threading
from collections.abc import Callable
from typing import Any

from gpuexec.checkpoint.id_ledger import IdLedger
from gpuexec.checkpoint.id_ranges import first_collision, merged, next_id
from gpuexec.curator import registration
from gpuexec.curator.id_service import IdService, ask
from gpuexec.curator.ray_actors import ID_GENERATOR_VARIABLE as VARIABLE
from gpuexec.curator.ray_actors import names_cluster
from gpuexec.errors import CheckpointError, ConfigurationError

ACTOR_NAME = "curator_deduplication_id_generator"
_CREATE = "create_id_generator_actor()"


class OwnGenerator:
    """The generator of this process, which may be asked from several threads. ``base``: Curator's own object."""

    def __init__(self, base: Any) -> None:
        self.pid = os.getpid()
        self._base = base
        self._lock = threading.Lock()
        self._ledgers: list[IdLedger] = []

    def call(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a method as Ray's actor would: one call after the other."""
        with self._lock:
            if method == "wait":  # which only the actor has: it is there
                return None
            if method == "register_batch":
                return self._register(*args, **kwargs)
            try:
                return getattr(self._base, method)(*args, **kwargs)
            except KeyError as error:
                error.add_note(
                    "the id generator has no ids for these files: they must be grouped as they were when their ids "
                    "were generated (the same paths, files_per_partition and blocksize), and the generator must have "
                    "been created from the file that was written then"
                )
                raise

    def _register(self, files: str | list[str], count: int) -> int:
        """Register a batch as Curator does, and keep it in the checkpoints of runs that go on before anyone has it.

        Raises ``ValueError`` if the batch had fewer documents when it got its ids: the others would get ids that the
        next batch has.
        """
        count, key = int(count), self._base.hash_files(files)
        known = self._base.batch_registry.get(key)
        if known and known[1] - known[0] + 1 < count:
            raise ValueError(
                f"{_shown(files)}: {count} documents, but there were {known[1] - known[0] + 1} when they got their ids "
                f"({known[0]} to {known[1]}), and the ids after those belong to others. Were the files changed, or "
                "read with another filter?"
            )
        first, last = known or (self._base.next_id, self._base.next_id + count - 1)
        try:
            for ledger in self._ledgers:
                ledger.keep(key, (first, last))
        except BaseException:
            self._base.next_id = max(self._base.next_id, last + 1)  # some ledger may have them: give them to nobody
            raise
        return int(self._base.register_batch(files, count))

    def keep_in(self, ledger: IdLedger) -> None:
        """Take over the ids that earlier runs of a checkpoint have given, and keep new ones there until `leave`.

        Raises ``CheckpointError`` if this generator has given the same ids to other documents.
        """
        with self._lock:
            try:
                registry = merged(self._base.batch_registry, ledger.ids)
            except ValueError as error:
                raise CheckpointError(
                    f"checkpoint {ledger.folder!r} was written with another id generator: {error}. Go on with a new "
                    f"one, from {_CREATE}, that nothing has asked for ids yet, or with the file that "
                    "write_id_generator_to_disk() wrote after that run"
                ) from error
            self._base.batch_registry = registry
            self._base.next_id = next_id(ledger.ids.values(), at_least=self._base.next_id)
            self._ledgers.append(ledger)

    def leave(self, ledger: IdLedger) -> None:
        """Keep nothing in a checkpoint any more, and close it. Safe to repeat."""
        with self._lock:
            if ledger in self._ledgers:
                self._ledgers.remove(ledger)
                ledger.close()


class ServedIds:
    """What one run serves to its workers; `close` ends it. Raises ``CheckpointError`` and ``StartRefused``.

    ``checkpoint``: the run's folder, whose journal it has opened; ``None`` without one.
    """

    def __init__(self, generator: OwnGenerator, checkpoint: str | None) -> None:
        self._generator = generator
        self._ledger = None if checkpoint is None else IdLedger(checkpoint)
        try:
            if self._ledger is not None:
                generator.keep_in(self._ledger)
            self._service = IdService(generator.call)
        except BaseException:
            self._leave_ledger()
            raise

    @property
    def address(self) -> str:
        """The value of the variable that workers find it by."""
        return self._service.address

    def close(self) -> None:
        """Answer nobody any more. Safe to repeat."""
        self._service.close()
        self._leave_ledger()

    def _leave_ledger(self) -> None:
        if self._ledger is not None:
            self._generator.leave(self._ledger)
            self._ledger.close()


_own: OwnGenerator | None = None


def current() -> OwnGenerator | None:
    """Return this process's generator. A process that was forked from it has none: two would give the same ids."""
    return _own if _own is not None and _own.pid == os.getpid() else None


def _create(base: Any) -> None:
    global _own  # noqa: PLW0603 - a process has one generator, as a cluster has one actor of that name
    if VARIABLE in os.environ:
        raise ConfigurationError(
            f"{_CREATE} was called in a worker, and each worker would give the same ids: call it in your program, "
            "before the pipeline runs"
        )
    if current() is not None:
        raise ValueError(
            f"The name {ACTOR_NAME} is already taken: this process has an id generator. Remove it with "
            "kill_id_generator_actor(), after write_id_generator_to_disk() if its ids are still needed"
        )
    _own = OwnGenerator(base)


def _kill() -> None:
    global _own  # noqa: PLW0603 - as above
    _own = None


# ---- what stands for Ray's actor --------------------------------------------------------------------------------


class Handle:
    """Stands for the actor's handle, in any process: ``handle.register_batch.remote(files, count)``."""

    def __getattr__(self, name: str) -> _Method:
        if name.startswith("_"):
            raise AttributeError(name)
        return _Method(name)

    def __reduce__(self) -> tuple[Callable[[], Handle], tuple[()]]:
        return _unpickled_handle, ()


class _Method:
    def __init__(self, name: str) -> None:
        self._name = name

    def remote(self, *args: Any, **kwargs: Any) -> Reply:
        """Make the call and return a reference to its result, for ``ray.get``."""
        try:
            return Reply(_call(self._name, args, kwargs))
        except Exception as error:  # noqa: BLE001 - Ray raises it in ray.get, too
            return Reply(None, error)


class Reply:
    """Stands for an ``ObjectRef``. The call has been made."""

    def __init__(self, value: Any, error: Exception | None = None) -> None:
        self._value = value
        self._error = error

    def get(self) -> Any:
        """Return the result, or raise the call's exception."""
        if self._error is not None:
            raise self._error
        return self._value


def _unpickled_handle() -> Handle:
    registration.after_import("ray", know_own_generator)  # a process that a stage has spawned
    return Handle()


def _call(method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    own = current()
    if own is not None:
        return own.call(method, args, kwargs)
    address = os.environ.get(VARIABLE)
    if address:
        return ask(address, method, args, kwargs)
    raise RuntimeError("the id generator is gone: it was removed, or this process was forked from the one that has it")


# ---- in the place of Ray ----------------------------------------------------------------------------------------


def take_over(module: Any) -> None:
    """Make Curator's module of the id generator use ours where there is no cluster."""
    ray = module.ray
    know_own_generator(ray)
    module.ray = _RayUnlessNeeded(ray)
    module.IdGenerator = _ActorClass(module.IdGenerator, module.IdGeneratorBase)
    module.json = _CheckedJson()


def know_own_generator(ray: Any) -> None:
    """Make Ray's functions for named actors know our generator. Safe to repeat."""
    if getattr(ray.get, "knows_own_generator", False):
        return
    get, get_actor, kill = ray.get, ray.get_actor, ray.kill

    @functools.wraps(get)
    def get_any(refs: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(refs, Reply):
            return refs.get()
        if isinstance(refs, list) and any(isinstance(ref, Reply) for ref in refs):
            return [get_any(ref, *args, **kwargs) for ref in refs]
        return get(refs, *args, **kwargs)

    @functools.wraps(get_actor)
    def get_any_actor(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == ACTOR_NAME and (current() is not None or os.environ.get(VARIABLE)):
            return Handle()
        if name == ACTOR_NAME and not names_cluster(os.environ):
            raise ValueError(f"there is no id generator: call {_CREATE} in your program, before the pipeline runs")
        return get_actor(name, *args, **kwargs)

    @functools.wraps(kill)
    def kill_any(actor: Any, *args: Any, **kwargs: Any) -> None:
        if isinstance(actor, Handle):
            _kill()
        else:
            kill(actor, *args, **kwargs)

    get_any.knows_own_generator = True  # type: ignore[attr-defined]
    ray.get, ray.get_actor, ray.kill = get_any, get_any_actor, kill_any


class _RayUnlessNeeded:
    """Curator's module connects to Ray around the creation of its actor. Without a cluster, that would start one."""

    def __init__(self, ray: Any) -> None:
        self._ray = ray

    def init(self, *args: Any, **kwargs: Any) -> Any:
        return self._ray.init(*args, **kwargs) if names_cluster(os.environ) else None

    def shutdown(self, *args: Any, **kwargs: Any) -> None:
        if self._ray.is_initialized():
            self._ray.shutdown(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ray, name)


class _ActorClass:
    """Stands for ``IdGenerator``, the class of the actor."""

    def __init__(self, original: Any, base: type) -> None:
        self._original = original
        self._base = base

    def options(self, **options: Any) -> Any:
        """Return what makes an actor: Ray's in a cluster, else ours."""
        return self._original.options(**options) if names_cluster(os.environ) else self

    def remote(self, *args: Any, **kwargs: Any) -> Handle:
        _create(self._base(*args, **kwargs))
        return Handle()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._original, name)


class _CheckedJson:
    """``json`` for Curator's module: a generator's file that would give ids twice, or is none, is told by its name."""

    def __getattr__(self, name: str) -> Any:
        return getattr(json, name)

    def load(self, file: Any) -> Any:
        """Return a generator's state. Raises ``ConfigurationError``."""
        try:
            state = json.load(file)
            problem = _problem_of(state)
        except ValueError as error:
            problem = f"it is not JSON ({error})"
        if problem is not None:
            raise ConfigurationError(
                f"{getattr(file, 'name', 'the file')!r} is damaged, or no file of an id generator: {problem}. Give the "
                "one that write_id_generator_to_disk() wrote"
            )
        return state


def _problem_of(state: Any) -> str | None:
    if not isinstance(state, dict) or not isinstance(state.get("batch_registry"), dict):
        return "it has no batch_registry"
    registry, following = state["batch_registry"], state.get("next_id")
    for key, ids in registry.items():
        if not (isinstance(ids, list) and len(ids) == 2 and all(type(number) is int for number in ids)):
            return f"the ids of batch {key} are {ids!r}"
    collision = first_collision(registry)
    if collision is not None:
        return f"batches {collision[0]} and {collision[1]} share ids"
    if type(following) is not int or following < next_id(registry.values()):
        return f"next_id is {following!r}, and ids up to {next_id(registry.values()) - 1} are taken"
    return None


def _shown(files: str | list[str]) -> str:
    if isinstance(files, str):
        return files
    return files[0] if len(files) == 1 else f"{files[0]} and {len(files) - 1} more"
