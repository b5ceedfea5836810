"""Templates that wait for a run: one run leaves its own here, the next one takes it.

A template is taken only for workers that would begin as those did for whom it was started: its key says how they begin.
Whether source files have changed in the meantime, the template itself looks.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import resource
import sys
from collections.abc import Mapping, Sequence

from gpuexec.contract.allocation import Allocation
from gpuexec.curator.ray_actors import ID_GENERATOR_VARIABLE
from gpuexec.errors import TemplateLost
from gpuexec.hardware.mps import MPS_LOGS, MPS_PIPES
from gpuexec.processes.template import Key, Template
from gpuexec.processes.variables import PORT_VARIABLE

_MOST = 4  # templates; each may hold hundreds of megabytes

DEVICES = "CUDA_VISIBLE_DEVICES"

_kept: list[Template] = []  # the one that was used last at the end


def own_variables(allocation: Allocation) -> tuple[str, ...]:
    """Return the variables of which each worker forked from one template has its own value.

    Workers that see no GPU have a template of their own, without these: what a library finds out when it is imported
    must hold for them.
    """
    # A run that starts MPS has folders of its own for it, which CUDA reads when it is initialised.
    everywhere = (PORT_VARIABLE, ID_GENERATOR_VARIABLE)
    return (*everywhere, DEVICES, MPS_PIPES, MPS_LOGS) if allocation.cuda_visible_devices else everywhere


def key_of(env: Mapping[str, str], own: Sequence[str], log: Sequence[object], folder: str | None) -> Key:
    """Return what workers must have in common to be forked from one template: all that a process inherits.

    ``own``: the variables of `own_variables`. ``log``: how they log. ``folder``: their working directory.
    """
    limits = tuple(resource.getrlimit(number) for name, number in _LIMITS if hasattr(resource, name))
    shared = frozenset((name, value) for name, value in env.items() if name not in own)
    return (shared, *own, search_path(), _identity(folder), limits, frozenset(os.sched_getaffinity(0)), repr(log))


_LIMITS = [(name, getattr(resource, name)) for name in dir(resource) if name.startswith("RLIMIT_")]


def search_path() -> tuple[str, ...]:
    """Return the entries of ``sys.path`` that are paths."""
    return tuple(os.fspath(entry) for entry in sys.path if isinstance(entry, str | os.PathLike))


def _identity(folder: str | None) -> tuple[str, int, int] | None:
    try:
        found = os.stat(folder or ".")  # noqa: PTH116 - a folder that was removed has no path
    except OSError:
        return None
    return folder or "", found.st_dev, found.st_ino


def take(key: Key) -> Template | None:
    """Return a template that was kept, if there is one with this key. It is the caller's then."""
    for template in reversed(_kept.copy()):
        if template.key == key or not template.is_alive:
            try:
                _kept.remove(template)
            except ValueError:  # another run has just taken it
                continue
            if template.is_alive:
                return template
            template.close()
    return None


def keep(template: Template, seconds: float) -> None:
    """Keep a template that has no workers, for this long."""
    try:
        template.rest(seconds)
    except TemplateLost:
        template.close()
        return
    _kept.append(template)
    while len(_kept) > _MOST:
        _kept.pop(0).close()


def offer(template: Template) -> None:
    """Let a run take a template that was started before the run was planned; `withdraw` it when there is none."""
    _kept.append(template)


def withdraw(template: Template) -> None:
    """End an offered template unless a run has taken it."""
    with contextlib.suppress(ValueError):  # it was taken, and may have been kept since
        if not template.was_used:
            _kept.remove(template)
            template.close(kill=True)


def kept() -> tuple[Template, ...]:
    """Return the templates that are kept now."""
    return tuple(_kept)


def end_all() -> None:
    """End the templates that are kept."""
    while _kept:
        _kept.pop().close()


def _forget_all() -> None:
    while _kept:
        _kept.pop().forget()


atexit.register(end_all)
os.register_at_fork(after_in_child=_forget_all)
