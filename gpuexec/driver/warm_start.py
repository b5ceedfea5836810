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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpuexec import events
from gpuexec.core.stage import StageSpec
from gpuexec.errors import TemplateLost
from gpuexec.processes import kept_templates
from gpuexec.processes.guardian import Guardian
from gpuexec.processes.kept_templates import key_of
from gpuexec.processes.output_lines import OutputItem
from gpuexec.processes.template import Key, Template
from gpuexec.processes.watch import Watch

_unfit: dict[tuple[Key, tuple[str, ...]], _Unfit] = {}  # what earlier runs of this program have found


@dataclass(frozen=True)
class _Unfit:
    """Why a stage cannot be forked for. ``sources``: the files at fault and when they were written, as far as known."""

    why: str
    sources: Mapping[str, int | None]

    @property
    def holds(self) -> bool:
        return all(_written(path) == at for path, at in self.sources.items())


@dataclass(eq=False)
class _Use:
    """A template in this run. ``stages``: those it imports; ``ready``: it has, and may be forked for them."""

    template: Template
    env: Mapping[str, str]
    own: Sequence[str]
    stages: list[StageSpec]
    began: float
    kept: bool
    ready: bool = False
    is_second: bool = False
    readers: list[Any] = field(default_factory=list)


@dataclass(frozen=True)
class WarmOptions:
    """``timeout_s``: how long an import may take. ``idle_s``: how long templates are kept after the run."""

    timeout_s: float | None
    idle_s: float
    emit: Callable[[events.RunEvent], None]


class NotYet(Exception):
    """The template is still importing: ask again when something has happened."""


class WarmStart:
    """The templates of one run. ``log``: what its workers' `LogSink.configure` is called with."""

    def __init__(self, options: WarmOptions, watch: Watch, guardian: Guardian, log: Sequence[Any]) -> None:
        self._watch = watch
        self._guardian = guardian
        self._log = list(log)
        self._timeout_s = options.timeout_s
        self._idle_s = options.idle_s
        self._emit = options.emit
        self._uses: list[_Use] = []
        self._cold: set[tuple[int, Key]] = set()  # stages, by index, whose workers are spawned

    def begin(self, stages: Iterable[tuple[StageSpec, Mapping[str, str], Sequence[str]]]) -> None:
        """Start importing for stages, given with the environment of a worker and which variables are its own."""
        groups: dict[Key, tuple[list[StageSpec], Mapping[str, str], Sequence[str]]] = {}
        for spec, env, own in stages:
            groups.setdefault(key_of(env, own, self._log), ([], env, own))[0].append(spec)
        for key, (specs, env, own) in groups.items():
            self._load(key, specs, env, own)

    def template_for(self, spec: StageSpec, env: Mapping[str, str], own: Sequence[str]) -> Template | None:
        """Return the template to fork a worker from; ``None``: spawn it. Raises `NotYet`."""
        key = key_of(env, own, self._log)
        if (spec.index, key) not in self._cold and self._use(spec, key) is None:
            self._load(key, [spec], env, own)
        use = self._use(spec, key)
        if use is None or (spec.index, key) in self._cold:
            return None
        if not use.ready:
            raise NotYet
        if use.template.cause_of_loss is not None:
            self._give_up(use)
            return None
        return use.template

    def seconds_left(self) -> float | None:
        """Return the time until `check` has something to do."""
        if self._timeout_s is None:
            return None
        began = [use.began for use in self._uses if not use.ready]
        return max(0.0, min(began) + self._timeout_s - time.monotonic()) if began else None

    def check(self) -> None:
        """Give up templates whose imports take too long; their workers will say where they hang."""
        if self.seconds_left() == 0.0:
            assert self._timeout_s is not None
            for use in [u for u in self._uses if not u.ready and time.monotonic() - u.began >= self._timeout_s]:
                self._give_up(use)

    def note_losses(self) -> None:
        """Report templates that have died with their workers. The run goes on with workers that are spawned."""
        for use in list(self._uses):
            if use.template.cause_of_loss is not None:
                names = ", ".join(repr(spec.name) for spec in use.stages)
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
        self, key: Key, specs: Sequence[StageSpec], env: Mapping[str, str], own: Sequence[str], *, second: bool = False
    ) -> None:
        """Have a template import the modules of these stages, as far as they are fit for it."""
        fit = []
        for spec in specs:
            known = _unfit.get((key, spec.modules))
            if known is None or not known.holds:
                fit.append(spec)
            else:
                self._spawn_for(spec, key, known.why)
        if not fit:
            return
        try:
            kept = kept_templates.take(key)
            self._ask(kept or Template(key, env), fit, env, own, kept=kept is not None, second=second)
        except OSError:  # if the system refuses processes, it will say so when it is asked for a worker
            self._cold |= {(spec.index, key) for spec in fit}

    def _ask(
        self,
        template: Template,
        specs: list[StageSpec],
        env: Mapping[str, str],
        own: Sequence[str],
        *,
        kept: bool = False,
        second: bool = False,
    ) -> None:
        use = _Use(template, env, own, specs, time.monotonic(), kept, is_second=second)
        self._uses.append(use)
        self._guardian.watch(template.pid)
        try:
            template.load(
                {
                    "sys_path": list(kept_templates.search_path()),
                    "log": self._log,
                    "own_variables": list(own),
                    "stages": [list(spec.modules) for spec in specs],
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
                self._ask(Template(key, use.env), use.stages, use.env, use.own)
            return
        loaded = answer["loaded"]
        if loaded == len(use.stages):
            use.ready = True
            now, indices = time.monotonic(), tuple(spec.index for spec in use.stages)
            self._emit(events.TemplateLoaded(now, indices, use.template.pid, now - use.began, use.kept))
            self._watch.remove_reader(use.readers.pop(0))  # from now on, an answer is waited for where it is asked for
            return
        self._drop(use, keep=False)
        spec, *_ = use.stages[loaded:]
        others = [other for other in use.stages if other is not spec]
        self._note_unfit(spec, key, answer)
        if use.is_second:
            self._cold |= {(other.index, key) for other in others}
        elif others:
            self._load(key, others, use.env, use.own, second=True)

    def _note_unfit(self, spec: StageSpec, key: Key, answer: Mapping[str, Any]) -> None:
        if answer["failed"]:  # the worker will say so too, and the next run may find it mended
            self._cold.add((spec.index, key))
            return
        why = f"module {answer['module']!r} {answer['found']}"
        files = [answer["file"], *(getattr(sys.modules.get(name), "__file__", None) for name in spec.modules)]
        _unfit[key, spec.modules] = _Unfit(why, {path: _written(path) for path in files if path})
        self._spawn_for(spec, key, why)

    def _spawn_for(self, spec: StageSpec, key: Key, why: str) -> None:
        if (spec.index, key) in self._cold:
            return
        self._cold.add((spec.index, key))
        self._emit(
            events.Noticed(
                f"stage {spec.name!r}: each worker imports its modules itself, since a fork would not be safe: {why} "
                "when it was imported",
                "INFO",
            )
        )

    @contextlib.contextmanager
    def _spawning_if_refused(self, key: Key, specs: Sequence[StageSpec]) -> Any:
        try:
            yield
        except OSError:
            self._cold |= {(spec.index, key) for spec in specs}

    # ---- templates ---------------------------------------------------------------------------------------

    def _use(self, spec: StageSpec, key: Key) -> _Use | None:
        return next((use for use in self._uses if use.template.key == key and spec in use.stages), None)

    def _on_output(self, use: _Use) -> None:
        if use not in self._uses:  # as above
            return
        items, still_open = use.template.read_output()
        if not still_open:
            self._watch.remove_reader(use.readers.pop())
        self._report_output(use, items)

    def _report_output(self, use: _Use, items: Sequence[OutputItem]) -> None:
        spec = use.stages[0]
        for item in items:
            source = spec.index, f"{spec.name}-template"
            if isinstance(item, str):
                self._emit(events.WorkerPrinted(*source, (item,)))
            else:
                self._emit(events.WorkerLogged(*source, item))

    def _give_up(self, use: _Use) -> None:
        """End a template and spawn its stages' workers from now on."""
        self._cold |= {(spec.index, use.template.key) for spec in use.stages}
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


@dataclass(frozen=True)
class _Descriptor:
    """A bare descriptor, as a selector takes it."""

    number: int

    def fileno(self) -> int:
        return self.number


def _written(path: str) -> int | None:
    try:
        return Path(path).stat().st_mtime_ns
    except OSError:
        return None
