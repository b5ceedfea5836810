"""The process of one trial: ``python -m gpuexec.bench.trial SPEC``. It loads the target, changes it, and runs it.

``SPEC``: a JSON file with what is to be done and where to write the answer. The same process answers what a target is
before anything is run: ``task`` is "describe" then. It ends with the process that started it.
"""

from __future__ import annotations

import copy
import json
import os
import pickle
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from gpuexec.bench.model import Trial, TrialResult, TrialStatus
from gpuexec.errors import GpuexecError
from gpuexec.worker.orphan import die_with_parent

RUNS = "runs"
SCRATCH = "{scratch}"
_SIGNALLED = {128 + signal.SIGTERM, 128 + signal.SIGHUP}


class Spec(TypedDict, total=False):
    """What a trial's process is told. ``task``: "run" or "describe".

    ``object``: a file with the pickled pipeline and initial tasks, ``None`` where ``target`` can be imported.
    ``settings``: of the point. ``scratch``: a folder that stands for ``{scratch}`` in arguments.
    """

    task: str
    parent: int
    sys_path: list[str]
    answer: str
    folder: str
    target: str
    object: str | None
    arguments: dict[str, Any]
    options: dict[str, Any]
    # to run
    trial: dict[str, Any]
    settings: dict[str, Any]
    scratch: str
    # to describe
    vary: dict[str, Sequence[Any]]
    points: Sequence[Mapping[str, Any]]
    goal: str
    plans: bool


class LoadedTarget:
    """The target in this process. ``value``: a pipeline, or the function that returns one."""

    def __init__(self, spec: Spec) -> None:
        from gpuexec.executors.target import load_target

        self._name = spec["target"]
        self._content = Path(spec["object"]).read_bytes() if spec.get("object") else None  # type: ignore[arg-type]
        self.value, self.initial_tasks = self._unpickled()
        if self.value is None:
            self.value = load_target(self._name)

    def pipeline(self, arguments: Mapping[str, Any]) -> Any:
        """Return a pipeline that nothing else uses, unless the target's function returns one that something does."""
        from gpuexec.executors.target import is_pipeline, pipeline_of

        value = self._unpickled()[0]
        if value is None:
            value = copy.deepcopy(self.value) if is_pipeline(self.value) else self.value
        return pipeline_of(value, self._name, arguments)

    def _unpickled(self) -> tuple[Any, Any]:
        return (None, None) if self._content is None else pickle.loads(self._content)


def main(arguments: Sequence[str]) -> None:
    """Do what the file says, and write the answer."""
    spec: Spec = json.loads(Path(arguments[0]).read_text())
    die_with_parent(spec["parent"])
    sys.path[:] = spec["sys_path"]
    if spec["task"] == "describe":
        from gpuexec.bench.describe import describe

        answer = describe(spec)
    else:
        from gpuexec.bench.journal import result_as_dict

        answer = result_as_dict(run(spec))
    path = Path(spec["answer"])
    unfinished = path.with_suffix(".new")
    unfinished.write_text(json.dumps(answer, allow_nan=False, default=str), encoding="utf-8", errors="backslashreplace")
    unfinished.replace(path)


def run(spec: Spec) -> TrialResult:
    """Run the point, and return the result whatever becomes of it."""
    from gpuexec.bench.arrivals import Arrivals
    from gpuexec.bench.figures import ending_of, result_of

    trial = Trial(**spec["trial"])
    started_at = time.time()
    executor = None
    arrivals = Arrivals(trial.budget_s, lambda: executor.cancel() if executor is not None else None)
    error: BaseException | None = None
    try:
        executor, pipeline, tasks = _made_ready(spec, arrivals)
        pipeline.run(executor, **({} if tasks is None else {"initial_tasks": tasks}))
    except BaseException as raised:  # noqa: BLE001 - it is the result
        error = raised
    finally:
        arrivals.close()
    report = executor.last_report if executor is not None else None
    document = report.to_dict() if report is not None and report.stages else None
    if error is not None and not arrivals.was_cut:
        _show(error)
    status, reason = ending_of(None if arrivals.was_cut else error, document)
    if isinstance(error, KeyboardInterrupt) or (isinstance(error, SystemExit) and error.code in _SIGNALLED):
        status, reason = TrialStatus.INTERRUPTED, f"its process was told to end ({type(error).__name__}: {error})"
    folder = report.folder if report is not None else None
    return result_of(
        trial,
        status,
        reason,
        started_at=started_at,
        report=document,
        arrivals=arrivals,
        run_folder=None if folder is None else os.path.relpath(folder, spec["folder"]),
    )


def _made_ready(spec: Spec, arrivals: Any) -> tuple[Any, Any, Any]:
    """Return executor, pipeline and initial tasks of a point. Raises what the target raises and refuses."""
    from gpuexec.bench.apply import apply, executor_options
    from gpuexec.bench.space import changes_of
    from gpuexec.executors.local import LocalExecutor

    changes = changes_of(spec["settings"])
    target = LoadedTarget(spec)
    arguments = {**spec["arguments"], **changes.arguments}
    pipeline = target.pipeline({name: _placed(value, spec["scratch"]) for name, value in arguments.items()})
    options = executor_options(spec["options"], changes, apply(pipeline, changes.stages))
    own = {
        "run_dir": str(Path(spec["folder"], RUNS)),
        "show_progress": False,
        "warm_idle_s": 0.0,
        "capsules": False,
    }
    return LocalExecutor({**own, **options}, observers=[arrivals]), pipeline, target.initial_tasks


def _placed(value: Any, scratch: str) -> Any:
    return value.replace(SCRATCH, scratch) if isinstance(value, str) else value


def _show(error: BaseException) -> None:
    """Print the error, for the file with the output of this process."""
    import traceback

    if isinstance(error, GpuexecError):
        print(f"error: {error}", file=sys.stderr)
    else:
        traceback.print_exception(error)


if __name__ == "__main__":
    main(sys.argv[1:])
