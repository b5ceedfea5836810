"""Reports as the schema allows them, however odd."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

STATES = ["busy", "transfer", "lost", "no_input", "output_full", "no_gpu_room", "setting_up", "retry_delay"]
STATES += ["memory_pressure", "checkpoint_write", "draining", "caller_not_reading"]

counts = st.integers(0, 10**12)
figures = st.floats(0, 1e15) | st.floats(0, 100)
maybe_figures = st.none() | figures
texts = st.text(max_size=20) | st.sampled_from(["read", "</script>", "a`b", "x" * 300, "🦜\n"])
maybe_texts = st.none() | texts
times = st.dictionaries(st.sampled_from([*STATES, "a_state_of_later_versions"]), figures, max_size=6)


def entries(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(fields)


@st.composite
def stages(draw: st.DrawFn, index: int, bins: int) -> dict[str, Any]:
    line = st.lists(figures, min_size=bins, max_size=bins)
    names = [*draw(st.sets(st.sampled_from(STATES), max_size=4)), "tasks", "queued", "workers"]
    fixed = {
        "index": index,
        "lead_index": draw(st.integers(0, index)),
        "timeline": {name: draw(line) for name in names},
    }
    service = entries(
        count=counts,
        sum_s=figures,
        min_s=figures,
        max_s=figures,
        p50_s=figures,
        p90_s=figures,
        p99_s=figures,
        bins=st.lists(st.tuples(figures, counts).map(list), max_size=4),
    )
    others = draw(
        entries(
            name=texts,
            plan_reason=texts,
            class_name=texts,
            batch_size=counts,
            cpus=figures,
            gpus=st.sampled_from([0, 0.25, 1, 2]),
            gpu_memory_gb=maybe_figures,
            num_workers=st.none() | counts,
            batches=counts,
            failed_attempts=counts,
            tasks_in=counts,
            tasks_out=counts,
            quarantined=counts,
            items=counts,
            process_s=figures,
            transfer_s=figures,
            queued_s=figures,
            input_bytes=counts,
            output_bytes=counts,
            spilled_bytes=counts,
            tasks_per_s=maybe_figures,
            time=times,
            service_time=service,
            gpu_memory=entries(
                peak_bytes=st.none() | counts,
                reason=maybe_texts,
                asked_bytes=st.none() | counts,
                suggested_gb=maybe_figures,
            ),
            rss_peak_bytes=st.none() | counts,
            cpu_s=maybe_figures,
            energy=entries(joules=maybe_figures, kind=st.just("attributed"), reason=maybe_texts),
            node_setup_s=maybe_figures,
            metrics=st.dictionaries(texts, figures, max_size=2),
        )
    )
    return {**fixed, **others}


def gpus(index: int, bins: int) -> st.SearchStrategy[dict[str, Any]]:
    readings = st.lists(maybe_figures, max_size=bins)
    names = ["memory_used", "sm_util", "memory_util", "power", "temperature", "sm_clock", "throttle", "pcie_rx"]
    series = entries(
        name=st.sampled_from(names),
        unit=st.sampled_from(["bytes", "%", "W", "°C", "MHz", "fraction", "bytes/s"]),
        source=texts,
        reason=maybe_texts,
        bin_s=figures,
        mean=readings,
        max=readings,
    )
    return entries(
        index=st.just(index),
        uuid=st.just(f"GPU-{index}"),
        name=texts,
        memory_bytes=counts,
        time=times,
        series=st.lists(series, max_size=5),
        energy=entries(
            joules=maybe_figures,
            kind=st.sampled_from(["measured", "short", None]),
            reason=maybe_texts,
            idle_watts=maybe_figures,
            idle_joules=maybe_figures,
        ),
    )


@st.composite
def reports(draw: st.DrawFn) -> dict[str, Any]:
    bins = draw(st.integers(0, 6))
    count = draw(st.integers(0, 3))
    indices = st.integers(0, max(0, count - 1))
    gpu_count = draw(st.integers(0, 2))
    fixed = {
        "schema": "gpuexec-report/1",
        "stages": [draw(stages(index, bins)) for index in range(count)],
        "timeline": {"bin_s": draw(figures), "bins": bins},
        "gpus": [draw(gpus(index, bins)) for index in range(gpu_count)],
        "processes": [],
        "gpus_before": None,
        "gpus_after": None,
        "versions": {"python": "3.11.7"},
        "templates": [],
    }
    worker = entries(
        id=texts,
        stage_index=indices,
        stage=texts,
        pid=counts,
        gpus=st.lists(st.sampled_from(["GPU-0", "GPU-1", "GPU-9"]), max_size=2),
        started_s=figures,
        ready_s=maybe_figures,
        ended_s=maybe_figures,
        setup_s=maybe_figures,
        batches=counts,
        exit_code=st.none() | st.integers(-64, 255),
        end_reason=maybe_texts,
        start_reason=texts,
        warm=st.booleans(),
        cpu_s=maybe_figures,
        max_rss_bytes=st.none() | counts,
        energy=entries(joules=maybe_figures, kind=st.just("attributed"), reason=maybe_texts),
        time=times,
    )
    failure = entries(
        at_s=figures,
        stage_index=indices,
        stage=texts,
        worker=texts,
        task_ids=st.lists(texts, max_size=3),
        elapsed_s=figures,
        error=texts,
        action=st.sampled_from(["retry", "split", "quarantine", "raise"]),
        reason=texts,
        stacks=maybe_texts,
        capsule=maybe_texts,
    )
    change = entries(
        at_s=figures,
        action=texts,
        reason=texts,
        bottleneck=st.none() | indices,
        limit=texts,
        gain_s=maybe_figures,
        stopped=st.lists(texts, max_size=1),
        started=st.lists(texts, max_size=1),
        detail=texts,
        stages=st.lists(entries(stage_index=indices, workers=counts, target=counts), max_size=2),
    )
    slow = entries(
        stage_index=indices,
        worker=texts,
        task_ids=st.lists(texts, max_size=3),
        began_s=figures,
        process_s=figures,
        tasks=counts,
    )
    others = draw(
        entries(
            run_id=texts,
            pipeline=texts,
            started_at=figures,
            wall_s=maybe_figures,
            ended=st.booleans(),
            ok=st.booleans(),
            interrupted=st.booleans(),
            error=maybe_texts,
            options=st.dictionaries(texts, texts | figures, max_size=2),
            node=entries(hostname=texts, cpus=counts, memory_bytes=counts, platform=texts, kernel=texts),
            tasks_in=counts,
            tasks_out=counts,
            throughput_per_s=maybe_figures,
            plan=st.just({"phases": [], "notes": []}),
            workers=st.lists(worker, max_size=2),
            failures=st.lists(failure, max_size=2),
            plan_changes=st.lists(change, max_size=2),
            slowest=st.lists(slow, max_size=2),
            quarantined=st.lists(entries(stage_index=indices, stage=texts, task_id=texts, error=texts), max_size=2),
            notes=st.lists(entries(at_s=figures, level=texts, text=texts), max_size=2),
        )
    )
    return {**fixed, **others}


ODD = [None, True, "text", "\x1b[31m</script>", [], {}, [None], {"a": None}, [[1, "x"]], -1, 10**400, 1e308]
ODD += [float("nan"), float("inf"), float("-inf")]


@st.composite
def damaged(draw: st.DrawFn, report: Any) -> Any:
    """A report with something odd, or nothing, in the place of one of its values, at any depth."""
    inside = isinstance(report, (dict, list)) and len(report) > 0
    if not inside or draw(st.integers(0, 3)) == 0:
        return draw(st.sampled_from(ODD))
    keys = sorted(report) if isinstance(report, dict) else range(len(report))
    key = draw(st.sampled_from(list(keys)))
    changed = report.copy()
    if draw(st.integers(0, 9)) == 0:
        del changed[key]
    else:
        changed[key] = draw(damaged(report[key]))
    return changed
