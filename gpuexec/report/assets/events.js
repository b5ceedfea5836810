// What happened on the way: changes of the plan, slow tasks, failures, and the workers.
function stageNameAt(report, index) {
  const stage = listed(report.stages)[index];
  return stage ? oneLine(stage.name, 48) : UNKNOWN;
}

function planPart(report) {
  const changes = listed(report.plan_changes);
  const plan = record(report.plan);
  const phases = listed(plan.phases);
  const planned = phases.flatMap((phase, number) => listed(phase.stages).map((stage) => ({ ...stage, phase: number + 1 })));
  const planColumns = [
    { name: "stage", text: (s) => [s.stage_index, ...listed(s.fused)].map((index) => stageNameAt(report, index)).join(" + ") },
    ...(phases.length > 1 ? [{ name: "phase", key: (s) => s.phase, text: (s) => whole(s.phase) }] : []),
    { name: "workers, at most", key: (s) => (Array.isArray(s.workers) ? s.workers.length : s.workers), text: (s) => whole(Array.isArray(s.workers) ? s.workers.length : s.workers) },
    { name: "why", text: (s) => s.reason || UNKNOWN, wide: true },
  ];
  const columns = [
    { name: "at", key: (c) => c.at_s, text: (c) => seconds(c.at_s) },
    { name: "what", text: (c) => words(c.action ?? "") || UNKNOWN },
    { name: "why", wide: true, text: (c) => [c.reason, c.detail].filter(Boolean).map(String).join(". ") || UNKNOWN },
    { name: "workers, now → wanted", text: (c) => listed(c.stages).filter((s) => s.workers !== s.target).map((s) => `${stageNameAt(report, s.stage_index)} ${s.workers} → ${s.target}`).join(", ") || "no change" },
    { name: "slowest stage", text: (c) => (isNumber(c.bottleneck) ? stageNameAt(report, c.bottleneck) : UNKNOWN) },
    { name: "limit", text: (c) => c.limit || UNKNOWN },
    { name: "expected gain", key: (c) => c.gain_s, text: (c) => seconds(c.gain_s) },
  ];
  return section(
    "plan",
    "Plan",
    listed(plan.notes).length ? el("ul", { class: "plain" }, listed(plan.notes).map((text) => el("li", {}, text))) : null,
    planned.length ? table("The plan at the start", planColumns, planned, { most: 60 }) : null,
    el("h3", {}, "What was decided while it ran"),
    changes.length ? table("Decisions about the counts of workers", columns, changes, { most: 20 }) : note("Nothing: the counts of workers stayed as planned."),
    omitted(report, "plan_changes", changes.length),
  );
}

function slowestPart(report) {
  const batches = listed(report.slowest);
  const usual = (batch) => record(listed(report.stages)[batch.stage_index]?.service_time).p50_s;
  const times = (batch) => (usual(batch) > 0 ? batch.process_s / usual(batch) : null);
  const columns = [
    { name: "tasks", text: (b) => `${listed(b.task_ids).map((id) => oneLine(id, 60)).join(", ") || UNKNOWN}${b.tasks > listed(b.task_ids).length ? ` and ${whole(b.tasks - listed(b.task_ids).length)} more` : ""}` },
    { name: "stage", text: (b) => stageNameAt(report, b.stage_index) },
    { name: "took", key: (b) => b.process_s, text: (b) => seconds(b.process_s) },
    { name: "× median", key: times, text: (b) => (times(b) === null ? UNKNOWN : short(times(b))), hint: "its time divided by that of half of its stage's batches" },
    { name: "began", key: (b) => b.began_s, text: (b) => seconds(b.began_s) },
    { name: "worker", text: (b) => oneLine(b.worker, 60) },
  ];
  return section("slowest", "Slowest tasks", batches.length ? table("The longest batches, by the ids of their tasks", columns, batches, { most: 20 }) : note("No batch was finished."));
}

function failuresPart(report) {
  const failures = listed(report.failures);
  const quarantined = listed(report.quarantined);
  const columns = [
    { name: "task", text: (q) => oneLine(q.task_id, 80) },
    { name: "stage", text: (q) => oneLine(q.stage, 48) },
    { name: "error", text: (q) => oneLine(q.error, 300), wide: true },
  ];
  const newest = failures.slice().reverse();
  const shown = newest.slice(0, 20).map((failure) => failureCard(failure));
  const rest = newest.slice(20);
  return section(
    "failures",
    "Failures",
    failures.length ? shown : note("No attempt failed."),
    rest.length ? lazyDetails({ class: "part" }, `${counted(rest.length, "earlier failure")}`, () => rest.map((failure) => failureCard(failure))) : null,
    omitted(report, "failures", failures.length),
    quarantined.length ? [el("h3", {}, "In quarantine"), table("Tasks that the run went on without", columns, quarantined)] : null,
    omitted(report, "quarantined", quarantined.length),
  );
}

const ACTIONS = { retry: "Tried again", split: "Halved", quarantine: "Set aside", raise: "Ended the run" };

function failureCard(failure) {
  const ids = listed(failure.task_ids).map((id) => oneLine(id, 60));
  const tasks = ids.length ? `${ids.slice(0, 8).join(", ")}${ids.length > 8 ? ` and ${ids.length - 8} more` : ""}` : "setting up a worker";
  const error = String(failure.error ?? "");
  const lines = error.split("\n").filter((line) => line.trim());
  const command = failure.capsule ? `gpuexec replay ${shellWord(failure.capsule)}` : null;
  return el(
    "article",
    { class: "failure" },
    el("h3", {}, el("span", { class: `badge ${failure.action === "raise" ? "bad" : "odd"}` }, ACTIONS[failure.action] ?? failure.action ?? "Failed"), " ", oneLine(failure.stage, 80)),
    el("p", { class: "message" }, oneLine(lines[0] ?? UNKNOWN, 400)),
    facts([
      ["tasks", tasks],
      ["at", isNumber(failure.at_s) ? seconds(failure.at_s) : null],
      ["after", isNumber(failure.elapsed_s) ? seconds(failure.elapsed_s) : null],
      ["worker", oneLine(failure.worker, 80)],
      ["why this", failure.reason],
    ]),
    command
      ? [el("p", { class: "command" }, el("code", {}, command), copyButton(command)), el("p", { class: "note small" }, "The capsule has the stage and the tasks as pickles: replay it only if you trust its origin.")]
      : note("There is no capsule: they are kept of batches that end the run or go into quarantine."),
    lines.length > 1 || error.length > 400 ? lazyDetails({ class: "figures" }, "The whole error", () => el("pre", { tabindex: "0" }, error)) : null,
    failure.stacks ? lazyDetails({ class: "figures" }, "Stacks of the worker's threads", () => el("pre", { tabindex: "0" }, String(failure.stacks))) : null,
  );
}

function workersPart(report) {
  const workers = listed(report.workers);
  const busy = (worker) => record(worker.time).busy ?? null;
  const lived = (worker) => (isNumber(worker.started_s) && isNumber(worker.ended_s) ? worker.ended_s - worker.started_s : null);
  const energy = { name: "energy, attributed", key: (w) => record(w.energy).joules, text: (w) => joules(record(w.energy).joules), hint: "its share by busy time of the GPUs' energy, without what they use at idle power" };
  const columns = [
    { name: "worker", text: (w) => oneLine(w.id, 60) },
    ...(workers.some((w) => listed(w.gpus).length) ? [{ name: "GPUs", text: (w) => listed(w.gpus).map((uuid) => gpuNumber(report, uuid)).join(", ") || UNKNOWN }] : []),
    { name: "started", key: (w) => w.started_s, text: (w) => `${seconds(w.started_s)}${w.warm ? ", warm" : ""}` },
    { name: "setup", key: (w) => w.setup_s, text: (w) => seconds(w.setup_s) },
    { name: "lived", key: lived, text: (w) => seconds(lived(w)) },
    { name: "busy", key: busy, text: (w) => seconds(busy(w)) },
    { name: "batches", key: (w) => w.batches, text: (w) => whole(w.batches) },
    ...(listed(report.gpus).length ? [energy] : []),
    { name: "host memory, peak", key: (w) => w.max_rss_bytes, text: (w) => bytes(w.max_rss_bytes) },
    { name: "CPU time", key: (w) => w.cpu_s, text: (w) => seconds(w.cpu_s) },
    { name: "exit", key: (w) => w.exit_code, text: (w) => (isNumber(w.exit_code) ? String(w.exit_code) : UNKNOWN) },
    { name: "started because", text: (w) => w.start_reason || UNKNOWN, wide: true },
    { name: "ended because", text: (w) => w.end_reason || UNKNOWN, wide: true },
  ];
  const content = workers.length ? table("Every worker process", columns, workers, { most: 15 }) : note("No worker process was started.");
  return section("workers", "Workers", content, omitted(report, "workers", workers.length));
}

function gpuNumber(report, uuid) {
  const gpu = listed(report.gpus).find((found) => found.uuid === uuid);
  return gpu ? `${gpu.index}` : oneLine(uuid, 14);
}
