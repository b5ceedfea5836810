"""Makes our classes virtual subclasses of NeMo Curator's, whichever of the two libraries is imported first.

Also makes ``checkpoint_path`` of Curator's ``Pipeline.run`` reach our executors, and Curator's id generator do without
Ray (see ``id_generator``).

Importing Curator costs 1.4 s and edits ``os.environ``, so it is never imported for this. Instead, the classes are
registered as soon as Curator's own modules have been executed.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

from gpuexec.channel.perf_identity import PERF_IDENTITY
from gpuexec.contract import composite, executor, sentinels, stage, task
from gpuexec.contract.pipeline_name import pipeline_named
from gpuexec.curator import ray_only
from gpuexec.curator.origin import STAGE_MODULE
from gpuexec.errors import ConfigurationError

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec


def install() -> None:
    """Register with the modules that are imported already, and with the others when they are imported.

    Safe to repeat.
    """
    if any(isinstance(finder, _AfterImport) for finder in sys.meta_path):
        return
    for name, register in _REGISTRATIONS.items():
        module = sys.modules.get(name)
        if module is not None:
            register(module)
    sys.meta_path.insert(0, _AfterImport())


def after_import(name: str, action: Callable[[Any], None]) -> None:
    """Call ``action`` with a module: now if it is imported already, else when it is. Calls `install`."""
    install()
    module = sys.modules.get(name)
    if module is not None:
        action(module)
    else:
        _REGISTRATIONS[name] = action


def _register_executor(module: Any) -> None:
    module.BaseExecutor.register(executor.BaseExecutor)


def _register_stages(module: Any) -> None:
    module.ProcessingStage.register(stage.ProcessingStage)
    module.CompositeStage.register(composite.CompositeStage)


def _register_task(module: Any) -> None:
    module.Task.register(task.Task)


def _register_sentinels(module: Any) -> None:
    for name in ("EmptyTask", "NoneTask", "FailedTask"):
        getattr(module, name).register(getattr(sentinels, name))
    sentinels.register_sentinels(module.NoneTask, module.FailedTask)


def _register_pipeline(module: Any) -> None:
    """Make Curator's ``Pipeline.run(checkpoint_path=…)`` use our journal when the executor is ours.

    Curator keeps its own checkpoints in an actor of a Ray cluster, which only its own executors report to: with ours it
    would demand a cluster and then record nothing.
    """
    pipeline = module.Pipeline
    if hasattr(pipeline, _RUN_WITH_CHECKPOINT):
        setattr(pipeline, _RUN_WITH_CHECKPOINT, _with_our_journal(getattr(pipeline, _RUN_WITH_CHECKPOINT)))
    elif "checkpoint_path" in inspect.signature(pipeline.run).parameters:
        pipeline.run = _refusing_checkpoint_path(pipeline.run)
    pipeline.run = _naming_the_pipeline(pipeline.run)


def _naming_the_pipeline(run: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(run)
    def run_named(self: Any, *args: Any, **kwargs: Any) -> Any:
        with pipeline_named(str(getattr(self, "name", "pipeline"))):
            return run(self, *args, **kwargs)

    return run_named


def _with_our_journal(run: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(run)
    def run_with_checkpoint(self: Any, runner: Any, initial_tasks: Any, checkpoint_path: Any) -> Any:
        if not isinstance(runner, executor.BaseExecutor):
            return run(self, runner, initial_tasks, checkpoint_path)
        # Curator itself never compares the pipeline with that of the run before: a difference is a warning.
        return executor.execute_with_checkpoint(
            runner, self.stages, initial_tasks, checkpoint_path, accept_changed_pipeline=True
        )

    return run_with_checkpoint


def _refusing_checkpoint_path(run: Callable[..., Any]) -> Callable[..., Any]:
    signature = inspect.signature(run)

    @functools.wraps(run)
    def run_without_checkpoint(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind(*args, **kwargs).arguments
        runner, path = given.get("executor"), given.get("checkpoint_path")
        if path is not None and isinstance(runner, executor.BaseExecutor):
            raise ConfigurationError(
                f"checkpoint_path={str(path)!r}: this version of NeMo Curator does not pass it on to "
                f"{type(runner).__name__}; use LocalExecutor(checkpoint={str(path)!r}) instead"
            )
        return run(*args, **kwargs)

    return run_without_checkpoint


def _register_perf(module: Any) -> None:
    PERF_IDENTITY.add_class(module.StagePerfStats)


def _register_id_generator(module: Any) -> None:
    from gpuexec.curator import id_generator  # only who numbers documents pays for it

    id_generator.take_over(module)


_RUN_WITH_CHECKPOINT = "_run_with_resumability"  # (executor, initial_tasks, checkpoint_path)
_REGISTRATIONS: dict[str, Callable[[Any], None]] = {
    "nemo_curator.backends.base": _register_executor,
    STAGE_MODULE: _register_stages,
    "nemo_curator.tasks.tasks": _register_task,
    "nemo_curator.tasks.sentinels": _register_sentinels,
    "nemo_curator.utils.performance_utils": _register_perf,
    "nemo_curator.pipeline.pipeline": _register_pipeline,
    "nemo_curator.stages.deduplication.id_generator": _register_id_generator,
    **ray_only.WORKFLOWS,
}


class _AfterImport:
    """A finder that leaves finding a module to the others, and registers our classes once the module is executed."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        register = _REGISTRATIONS.get(fullname)
        if register is None:
            return None
        for finder in sys.meta_path:
            find = getattr(finder, "find_spec", None)
            spec = find(fullname, path, target) if find is not None and finder is not self else None
            if spec is not None and spec.loader is not None:
                _run_after_exec(spec.loader, register)
                return spec  # type: ignore[no-any-return]
        return None


def _run_after_exec(loader: Any, register: Callable[[Any], None]) -> None:
    exec_module = loader.exec_module

    def exec_and_register(module: ModuleType) -> None:
        exec_module(module)
        register(module)

    loader.exec_module = exec_and_register
