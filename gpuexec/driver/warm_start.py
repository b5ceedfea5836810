"""Which workers of a run are forked from a template, and from which one.

Stages whose workers begin alike share a template, which imports the modules of all of them. Until it has, none of their
workers is started. A stage whose modules make a fork unsafe has workers that are spawned, and the others get another
template, without those modules.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Any

from gpuexec import events
from gpuexec.channel.messages import LogLine
from gpuexec.contract.allocation import Allocation
from gpuexec.core.stage import StageState
from gpuexec.errors import TemplateLost
from gpuexec.processes import kept_templates
from gpuexec.processes.guardian import Guardian
from gpuexec.processes.kept_templates import key_of, own_variables
from gpuexec.processes.output_lines import OutputItem
from gpuexec.processes.template import Key, Template
from gpuexec.processes.watch import Watch
from gpuexec.records import MutableRecord, Record

_unfit: dict[tuple[Key, tuple[str, ...]], _Unfit] = {}  # what earlier runs of this program have found


class _Unfit(Record):
    """Why a stage cannot be forked for. ``sources``: the files at fault and when they were written, as far as known."""

    why: str
    sources: Mapping[str, int | None]

    @property
    def holds(self) -> bool:
        return all(_written(path) == at for path, at in self.sources.items())


class _Use(MutableRecord):
    """A template in this run. ``stages``: those it imports; ``ready``: it has, and may be forked for them."""

    template: Template
    env: Mapping[str, str]
    own: Sequence[str]
    stages: list[Group]
    began: float
    kept: bool
    ready: bool = False
    is_second: bool = False
    readers: list[Any] = field(default_factory=list)

    @property
    def due(self) -> float | None:
        """When it must be ready."""
        limits = [group.timeout_s for group in self.stages if group.timeout_s is not None]
        return self.began + min(limits) if limits else None


class Group(Record):
    """What a worker runs: one stage or several fused ones, with the modules that it imports for them.

    ``name`` and ``index`` are those of its first stage.
    """

    index: int
    name: str
    modules: tuple[str, ...]
    indices: tuple[int, ...]
    timeout_s: float | None = None  # how long its import may take

    @classmethod
    def of(cls, lead: StageState) -> Group:
        """Return the group of a lead."""
        specs = [member.spec for member in lead.members]
        modules = dict.fromkeys(module for spec in specs for module in spec.modules)
        if len(specs) > 1:
            modules["gpuexec.worker.group_loop"] = None
        indices = tuple(spec.index for spec in specs)
        return cls(lead.spec.index, lead.spec.name, tuple(modules), indices, lead.spec.limits.setup_timeout_s)


class WarmOptions(Record):
    """``idle_s``: how long templates are kept after the run."""

    idle_s: float
    emit: Callable[[events.RunEvent], None]


class NotYet(Exception):
    """The template is still importing: ask again when something has happened."""


class WarmStart:
    """The templates of one run.

    ``log``: what its workers' `LogSink.configure` is called with. ``folder``: their working directory.
    """

    def __init__(
        self, options: WarmOptions, watch: Watch, guardian: Guardian, log: Sequence[Any], folder: str | None
    ) -> None:
        self._folder = folder
        self._watch = watch
        self._guardian = guardian
        self._log = list(log)
        self._idle_s = options.idle_s
        self._emit = options.emit
        self._uses: list[_Use] = []
        self._cold: set[tuple[int, Key]] = set()  # stages, by index, whose workers are spawned

    def begin(self, stages: Iterable[tuple[Group, Mapping[str, str], Allocation]]) -> None:
        """Start importing for stages, given with the environment and the allocation of a worker."""
        alike: dict[Key, tuple[list[Group], Mapping[str, str], Sequence[str]]] = {}
        for group, env, allocation in stages:
            own: Sequence[str] = own_variables(allocation)
            alike.setdefault(key_of(env, own, self._log, self._folder), ([], env, own))[0].append(group)
        for key, (groups, env, own) in alike.items():
            self._load(key, groups, env, own)

    def template_for(self, group: Group, env: Mapping[str, str], allocation: Allocation) -> Template | None:
        """Return the template to fork a worker from; ``None``: spawn it. Raises `NotYet`."""
        own = own_variables(allocation)
        key = key_of(env, own, self._log, self._folder)
        if (group.index, key) not in self._cold and self._use(group, key) is None:
            self._load(key, [group], env, own)
        use = self._use(group, key)
        if use is None or (group.index, key) in self._cold:
            return None
        if not use.ready:
            raise NotYet
        if use.template.cause_of_loss is not None:
            self._give_up(use)
            return None
        return use.template

    def seconds_left(self) -> float | None:
        """Return the time until `check` has something to do."""
        due = [use.due for use in self._uses if not use.ready and use.due is not None]
        return max(0.0, min(due) - time.monotonic()) if due else None

    def check(self) -> None:
        """Give up templates whose imports take too long; their workers will say where they hang."""
        now = time.monotonic()
        for use in [use for use in self._uses if not use.ready and use.due is not None and use.due <= now]:
            self._give_up(use)

    def note_losses(self) -> None:
        """Report templates that have died with their workers. The run goes on with workers that are spawned."""
        for use in list(self._uses):
            if use.template.cause_of_loss is not None:
                names = ", ".join(repr(group.name) for group in use.stages)
                self._emit(
                    events.Noticed(
                        f"the template process {use.template.pid} ended ({use.template.cause_of_loss}), and the kernel "
                        f"ended the workers of {names} with it: their batches are run again, and new workers import "
                        "their modules themselves"
                    )
                )
                self._give_up(use)

    def close(self) -> None:
        """Keep or end the templates. Every worker must be reaped."""
        for use in list(self._uses):
            self._drop(use, keep=use.ready and use.template.cause_of_loss is None and self._idle_s > 0)

    # ---- loading -----------------------------------------------------------------------------------------

    def _load(
        self, key: Key, groups: Sequence[Group], env: Mapping[str, str], own: Sequence[str], *, second: bool = False
    ) -> None:
        """Have a template import the modules of these stages, as far as they are fit for it."""
        fit = []
        for group in groups:
            known = _unfit.get((key, group.modules))
            if known is None or not known.holds:
                fit.append(group)
            else:
                self._spawn_for(group, key, known.why)
        if not fit:
            return
        try:
            template = kept_templates.take(key) or Template(key, env, self._folder)
            self._ask(template, fit, env, own, second=second)
        except OSError:  # if the system refuses processes, it will say so when it is asked for a worker
            self._cold |= {(group.index, key) for group in fit}

    def _ask(
        self,
        template: Template,
        groups: list[Group],
        env: Mapping[str, str],
        own: Sequence[str],
        *,
        second: bool = False,
    ) -> None:
        use = _Use(template, env, own, groups, time.monotonic(), template.was_used, is_second=second)
        self._uses.append(use)
        self._guardian.watch(template.pid)
        try:
            template.load(
                {
                    "sys_path": list(kept_templates.search_path()),
                    "log": self._log,
                    "own_variables": list(own),
                    "stages": [list(group.modules) for group in groups],
                }
            )
            self._listen(use)
        except BaseException:
            self._drop(use, keep=False)
            raise

    def _listen(self, use: _Use) -> None:
        output = _Descriptor(use.template.output_fd)
        for reader, on_readable in (
            (use.template.control, lambda: self._on_answer(use)),
            (output, lambda: self._on_output(use)),
        ):
            self._watch.add_reader(reader, on_readable)
            use.readers.append(reader)

    def _on_answer(self, use: _Use) -> None:
        if use not in self._uses:  # it was dropped in this very turn
            return
        key = use.template.key
        try:
            answer = use.template.answer()
        except TemplateLost:  # by what it imported: a worker that is spawned will die of the same, and tell
            self._give_up(use)
            return
        if answer["stale"]:
            self._drop(use, keep=False)
            with self._spawning_if_refused(key, use.stages):
                self._ask(Template(key, use.env, self._folder), use.stages, use.env, use.own)
            return
        loaded = answer["loaded"]
        if loaded == len(use.stages):
            use.ready = True
            now, indices = time.monotonic(), tuple(index for group in use.stages for index in group.indices)
            self._emit(events.TemplateLoaded(now, indices, use.template.pid, now - use.began, use.kept))
            self._watch.remove_reader(use.readers.pop(0))  # from now on, an answer is waited for where it is asked for
            return
        self._drop(use, keep=False)
        group, *_ = use.stages[loaded:]
        others = [other for other in use.stages if other is not group]
        self._note_unfit(group, key, answer)
        if use.is_second:
            self._cold |= {(other.index, key) for other in others}
        elif others:
            self._load(key, others, use.env, use.own, second=True)

    def _note_unfit(self, group: Group, key: Key, answer: Mapping[str, Any]) -> None:
        if answer["failed"]:  # the worker will say so too, and the next run may find it mended
            self._cold.add((group.index, key))
            return
        why = f"module {answer['module']!r} {answer['found']}"
        files = [answer["file"], *(getattr(sys.modules.get(name), "__file__", None) for name in group.modules)]
        _unfit[key, group.modules] = _Unfit(why, {path: _written(path) for path in files if path})
        self._spawn_for(group, key, why)

    def _spawn_for(self, group: Group, key: Key, why: str) -> None:
        if (group.index, key) in self._cold:
            return
        self._cold.add((group.index, key))
        self._emit(
            events.Noticed(
                f"stage {group.name!r}: each worker imports its modules itself, since a fork would not be safe: {why} "
                "when it was imported",
                "INFO",
            )
        )

    @contextlib.contextmanager
    def _spawning_if_refused(self, key: Key, groups: Sequence[Group]) -> Any:
        try:
            yield
        except OSError:
            self._cold |= {(group.index, key) for group in groups}

    # ---- templates ---------------------------------------------------------------------------------------

    def _use(self, group: Group, key: Key) -> _Use | None:
        return next((use for use in self._uses if use.template.key == key and group in use.stages), None)

    def _on_output(self, use: _Use) -> None:
        if use not in self._uses:  # as above
            return
        items, still_open = use.template.read_output()
        if not still_open:
            self._watch.remove_reader(use.readers.pop())
        self._report_output(use, items)

    def _report_output(self, use: _Use, items: Sequence[OutputItem]) -> None:
        group = use.stages[0]
        for item in items:
            source = group.index, f"{group.name}-template"
            if isinstance(item, str):
                self._emit(events.WorkerPrinted(*source, (item,)))
            elif isinstance(item, LogLine):
                self._emit(events.WorkerLogged(*source, item))

    def _give_up(self, use: _Use) -> None:
        """End a template and spawn its stages' workers from now on."""
        self._cold |= {(group.index, use.template.key) for group in use.stages}
        self._drop(use, keep=False)

    def _drop(self, use: _Use, *, keep: bool) -> None:
        self._uses.remove(use)
        for reader in use.readers:
            self._watch.remove_reader(reader)
        use.readers.clear()
        self._guardian.forget(use.template.pid)
        self._report_output(use, use.template.read_rest())
        if keep:
            kept_templates.keep(use.template, self._idle_s)
        else:
            use.template.close(kill=not use.ready)


class _Descriptor(Record):
    """A bare descriptor, as a selector takes it."""

    number: int

    def fileno(self) -> int:
        return self.number


def _written(path: str) -> int | None:
    try:
        return Path(path).stat().st_mtime_ns
    except OSError:
        return None
