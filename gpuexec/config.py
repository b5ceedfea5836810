"""The options of the executors: validated when an executor is created, with errors that name the option."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import field
from enum import StrEnum
from typing import Any

from gpuexec.errors import ConfigurationError
from gpuexec.option_checks import (
    Check,
    above,
    at_least,
    folder,
    folder_or_auto,
    folder_or_nothing,
    fraction,
    log_level,
    one_of,
    port,
    shard,
)
from gpuexec.option_values import checked_value
from gpuexec.policies import (
    BusyGpuPolicy,
    FusionPolicy,
    GpuPinning,
    MpsPolicy,
    ShareEnforcement,
    StartMethod,
    TaskFailurePolicy,
)
from gpuexec.records import Record
from gpuexec.units import MIB


def _option(default: Any, check: Check | None, about: str, *, per_stage: bool = False, inline: bool = False) -> Any:
    return field(default=default, metadata={"check": check, "about": about, "per_stage": per_stage, "inline": inline})


def _choice(default: StrEnum, about: str, *, per_stage: bool = False, inline: bool = False) -> Any:
    """Return an option that takes the values of an enum."""
    policy = type(default)
    metadata = {"check": one_of(policy), "about": about, "per_stage": per_stage, "inline": inline, "policy": policy}
    return field(default=default.value, metadata=metadata)


class ExecutorConfig(Record):
    """Options of ``LocalExecutor`` and ``InlineExecutor``. ``metadata["about"]`` of each field documents it.

    Those with ``metadata["per_stage"]`` may be set for one stage too, through ``stage_options`` or `with_`. Those with
    ``metadata["inline"]`` have an effect in ``InlineExecutor`` too. ``metadata["policy"]``: the enum of an option that
    takes one of a few values. The types of ``gpuexec.options`` say the same to type checkers.
    """

    show_progress: bool = _option(True, None, "show progress on stderr while the run goes on", inline=True)
    progress_interval_s: float = _option(
        10.0, at_least(0.1), "seconds between progress lines when stderr is not a terminal", inline=True
    )
    sample_interval_s: float | None = _option(
        0.5,
        at_least(0.05),
        "seconds between two samples of what the GPUs do and of the memory and CPU time of driver and workers; a run "
        "that is shorter than that takes none (None: no samples)",
    )
    prometheus_port: int | None = _option(
        None,
        port,
        "port of 127.0.0.1 on which the run serves its figures to Prometheus while it goes on; 0: any that is free, "
        "which a log line names (default: none)",
        inline=True,
    )
    cpus: float | None = _option(
        None,
        above(0),
        "number of CPUs to plan with (default: as many as the affinity mask and the cgroup allow)",
        inline=True,
    )
    reserved_cpus: float = _option(0.0, at_least(0), "CPUs to leave free", inline=True)
    reserved_gpus: float = _option(0.0, at_least(0), "GPUs, or a fraction of one, to leave free", inline=True)
    busy_gpus: str = _choice(
        BusyGpuPolicy.SKIP,
        "what to do with GPUs that other processes, or other runs of yours, hold: "
        "'skip' them, 'wait' until they are free, or raise an 'error'",
        inline=True,
    )
    busy_gpu_memory_fraction: float = _option(
        0.1,
        fraction,
        "fraction of a GPU's memory that compute processes of others may use before the GPU counts as busy",
        inline=True,
    )
    busy_gpu_timeout_s: float = _option(
        600.0, at_least(0), "seconds that busy_gpus='wait' waits before it raises GpusBusy", inline=True
    )
    lease_dir: str | None = _option(
        None,
        folder("leave it out for the default"),
        "folder in which runs write down the shares of GPUs that they hold; runs see each other's if they use the same "
        "one (default: $GPUEXEC_LEASE_DIR, or else a folder of this user's)",
        inline=True,
    )
    share_enforcement: str = _choice(
        ShareEnforcement.AUTO,
        "how a worker is held to its share of a GPU's memory: 'auto' tells it to the libraries that can be told "
        "(PyTorch, JAX, TensorFlow, CuPy, RMM), 'strict' also fails a batch during which its worker held more than the "
        "share and replaces the worker, 'off' does neither",
        per_stage=True,
    )
    mps: str = _choice(
        MpsPolicy.OFF,
        "limits of NVIDIA's Multi-Process Service for workers that share a GPU: 'auto' sets them if MPS is running, "
        "'start' starts it for the run, 'off' does neither",
    )
    cpu_stages_see_gpus: bool = _option(
        False, None, "let stages that request no GPU see all GPUs (by default they see none)", inline=True
    )
    gpu_pinning: str = _choice(
        GpuPinning.UUID,
        "how CUDA_VISIBLE_DEVICES names a worker's GPUs: 'uuid', or 'index' (numbers in PCI order) for libraries that "
        "turn its entries into integers",
        inline=True,
    )
    fusion: str = _choice(
        FusionPolicy.AUTO,
        "'auto': neighbouring light stages run in the same workers, and tasks pass between them without being pickled; "
        "'off': every stage has workers of its own",
        per_stage=True,
    )
    queue_tasks: int = _option(4096, at_least(1), "maximum number of tasks waiting in front of a stage")
    queue_bytes: int = _option(
        256 * MIB,
        at_least(1),
        "maximum size of the tasks waiting in front of a stage, in bytes of memory; what waits for a later phase goes "
        "to spill_dir beyond that",
    )
    spill_dir: str | None = _option(
        None,
        folder("leave it out for the default"),
        "folder, on a disk, for what waits between two phases and is more than queue_bytes (default: $TMPDIR, /var/tmp "
        "or /tmp, the first that is not in memory)",
    )
    batch_wait_s: float | None = _option(
        1.0,
        at_least(0),
        "seconds that tasks wait for their batch to become full while a worker is idle; then it goes as it is (None: "
        "until it is full or no more tasks come)",
        per_stage=True,
    )
    start_method: str = _choice(
        StartMethod.WARM,
        "how workers start: 'warm' forks them from a process that has imported the stages' modules once, where a fork "
        "is safe, and the report says where it is not; 'spawn' has every worker import them itself",
    )
    warm_idle_s: float = _option(
        60.0,
        at_least(0),
        "seconds for which that process is kept after a run, for the next run of the same program (0: it ends with "
        "the run)",
    )
    max_parallel_setups: int = _option(
        8, at_least(1), "maximum number of workers that run setup() at the same time (and at most one per GPU)"
    )
    stop_timeout_s: float = _option(
        10.0,
        at_least(0),
        "seconds that a worker may take for teardown() after it is told to stop; then it is killed, with a warning",
        per_stage=True,
    )
    max_attempts: int = _option(
        3,
        at_least(1),
        "attempts per batch, the first included, if its worker dies or it raises one of retry_on",
        per_stage=True,
    )
    on_task_failure: str = _choice(
        TaskFailurePolicy.RAISE,
        "what to do when a batch keeps failing: 'raise' its error and end the run, or 'quarantine' the task at fault, "
        "which is left out of the results, and continue",
        per_stage=True,
    )
    max_quarantined: float | None = _option(
        0.9,
        at_least(0),
        "tasks of one stage that may be quarantined before the run ends with TooManyQuarantined: a number, or below 1 "
        "a fraction of the tasks that the stage has tried, judged from the 20th quarantined task on (None: no limit)",
        per_stage=True,
    )
    retry_delay_s: float = _option(
        0.0,
        at_least(0),
        "seconds that a failed batch waits before it is tried again, while others go on; they double with every "
        "further attempt, up to 32 times, and up to a quarter is added at random",
        per_stage=True,
    )
    retry_on: tuple[str, ...] = _option(
        (),
        None,
        "exceptions of a stage (classes or their names) after which the batch is tried again",
        per_stage=True,
    )
    retire_on: tuple[str, ...] = _option(
        (),
        None,
        "exceptions of a stage (classes or their names) after which the batch is tried again in a new worker, "
        "such as that for a lost CUDA context",
        per_stage=True,
    )
    split_on_oom: bool = _option(
        False,
        None,
        "if a batch runs out of GPU memory, halve it and run the halves one after the other",
        per_stage=True,
    )
    batch_timeout_s: float | None = _option(
        None,
        above(0),
        "seconds that a batch may take before its worker is killed (default: no limit)",
        per_stage=True,
    )
    setup_timeout_s: float | None = _option(
        None,
        above(0),
        "seconds that importing the stage, setup_on_node() and setup() may each take before the worker is killed "
        "(default: no limit)",
        per_stage=True,
    )
    max_batches_per_worker: int | None = _option(
        None,
        at_least(1),
        "number of batches after which a worker is replaced (default: never)",
        per_stage=True,
    )
    max_worker_lifetime_s: float | None = _option(
        None,
        above(0),
        "seconds after which a worker is replaced between two batches, one worker of a stage after the other (default: "
        "never)",
        per_stage=True,
    )
    max_concurrency: int | None = _option(
        None,
        at_least(1),
        "number of calls that a worker of an asynchronous stage (`async def process` or `process_batch`) has in flight "
        "at most (default: the stage's own max_concurrency, or else 16)",
        per_stage=True,
        inline=True,
    )
    worker_memory_limit_bytes: int | None = _option(
        None,
        at_least(1),
        "resident memory, in bytes, above which a worker is replaced between two batches (default: no limit)",
        per_stage=True,
    )
    memory_high_watermark: float = _option(
        0.9,
        fraction,
        "fraction of the host's (or the cgroup's) memory in use above which no new initial tasks are taken in while "
        "stages after the first have work, and what waits for a later phase goes to spill_dir (1: never)",
    )
    checkpoint: str | None = _option(
        None,
        folder("leave it out for no checkpoint"),
        "folder in which finished sources are recorded, so that a later run skips them (default: no checkpoint)",
    )
    shard: str | None = _option(
        None,
        shard,
        "which part of the sources this machine processes, 'K/N' with K from 0 to N-1, where N machines run the same "
        "pipeline; 'auto' reads it from SLURM's, NeMo Curator's or torchrun's variables, 'auto/N' only K (default: "
        "$GPUEXEC_SHARD, or else all sources)",
        inline=True,
    )
    accept_changed_pipeline: bool = _option(
        False,
        None,
        "continue from a checkpoint that a different pipeline wrote, and keep what it finished, instead of raising "
        "CheckpointMismatch",
    )
    capsules: bool = _option(True, None, "store each failed batch in a folder, a capsule, for `gpuexec replay`")
    capsule_dir: str | None = _option(
        None,
        folder_or_nothing,
        "folder for capsules (default: ~/.local/state/gpuexec/capsules; '' stores none, as capsules=False does)",
    )
    run_dir: str | None = _option(
        "auto",
        folder_or_auto,
        "folder in which every run gets a folder with its report, trace and log (default: ~/.local/state/gpuexec/runs, "
        "where the newest 200 runs, or 2 GB, are kept; None: write nothing)",
        inline=True,
    )
    task_seed: int | None = _option(
        None,
        None,
        "a number from which, with each task's id, `random`, NumPy and PyTorch are seeded before a stage gets the "
        "task, so that another attempt, another run and a replay draw the same numbers (default: no seeds)",
        inline=True,
    )
    log_level: str = _option(
        "DEBUG", log_level, "lowest loguru level, such as 'INFO', of the log records that workers send to the driver"
    )
    runtime_env: Mapping[str, Any] | None = _option(
        None,
        None,
        "runtime environment as for Ray; its env_vars are set in every worker, and what else it asks for (pip, uv, "
        "conda, working_dir, …) must be there already",
        inline=True,
    )
    stage_options: Mapping[str, Any] | None = _option(
        None,
        None,
        "options for single stages, by the stage's name, such as {'embed': {'max_attempts': 5}}; they win over those "
        "that a stage states by with_(), and both over the executor's own",
    )
    accept_unmet_requirements: bool = _option(
        False,
        None,
        "run although the environment is not what a stage's runtime_env asks for (packages that are not installed "
        "here, or not in that version; another folder or image), instead of raising ConfigurationError",
        inline=True,
    )

    @property
    def stores_capsules(self) -> bool:
        """Whether failed batches are stored."""
        return self.capsules and self.capsule_dir != ""

    @classmethod
    def create(cls, config: Mapping[str, Any] | None = None, **options: Any) -> ExecutorConfig:
        """Build the options from a mapping and from keywords, which win.

        Raises ``ConfigurationError`` for an unknown option (naming the closest known one), a value of the wrong
        type, or a value out of range.
        """
        merged = merged_options(config, options)
        known = {f.name: f for f in dataclasses.fields(cls)}
        for name in merged:
            if name not in known:
                raise ConfigurationError(unknown_option(str(name), known))
        checked = {name: checked_value(known[name], value) for name, value in merged.items()}
        if checked.get("stage_options"):
            checked["stage_options"] = {
                name: checked_stage_options(options, f"option 'stage_options': stage {name!r}")
                for name, options in checked["stage_options"].items()
            }
        return cls(**checked)

    def for_stage(self, own: Mapping[str, Any]) -> ExecutorConfig:
        """Return these options with a stage's ``own`` ones, which are checked already."""
        return dataclasses.replace(self, **own) if own else self


def checked_stage_options(options: Any, owner: str, also_known: Iterable[str] = ()) -> dict[str, Any]:
    """Return options for one stage, checked.

    ``owner`` begins the message of the ``ConfigurationError``, which may suggest a name that is ``also_known``.
    """
    if not isinstance(options, Mapping):
        raise ConfigurationError(
            f"{owner}: its options must be a mapping, such as {{'max_attempts': 5}}, got {options!r}"
        )
    known = {f.name: f for f in dataclasses.fields(ExecutorConfig)}
    possible = {name: option for name, option in known.items() if option.metadata["per_stage"]}
    checked = {}
    for name, value in options.items():
        if name in known and name not in possible:
            raise ConfigurationError(
                f"{owner}: option {name!r} is of the whole run: give it to the executor. A stage may have: "
                + ", ".join(sorted(possible))
            )
        if name not in known:
            raise ConfigurationError(f"{owner}: {unknown_option(str(name), [*possible, *also_known])}")
        try:
            checked[name] = checked_value(known[name], value)
        except ConfigurationError as error:
            raise ConfigurationError(f"{owner}: {error}") from None
    return checked


def merged_options(config: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a mapping and of keywords, which win. Raises ``ConfigurationError`` for no mapping."""
    if config is not None and not isinstance(config, Mapping):
        raise ConfigurationError(
            f"an executor's config must be a mapping of options, such as {{'reserved_cpus': 1}}, got {config!r}"
        )
    return {**(config or {}), **options}


def unknown_option(name: str, known: Collection[str]) -> str:
    """Return the message about an option that does not exist, with the closest of the ``known`` ones."""
    closest = next(iter(difflib.get_close_matches(name, known, n=1, cutoff=0.5)), None)
    hint = f"did you mean {closest!r}?" if closest else f"known options: {', '.join(sorted(known))}"
    return f"unknown executor option {name!r}; {hint}"
