// One part per stage, a table of all, and where their time went.
function openStage(index) {
  document.getElementById(`stage-${index}`)?.gpuexecOpen?.();
}

function perItem(stage) {
  const joulesUsed = record(stage.energy).joules;
  return isNumber(joulesUsed) && stage.items > 0 ? joulesUsed / stage.items : null;
}

function activeSeconds(stage) {
  return isNumber(stage.tasks_per_s) && stage.tasks_per_s > 0 ? stage.tasks_in / stage.tasks_per_s : null;
}

function perSecond(stage, name) {
  const active = activeSeconds(stage);
  return active && isNumber(stage[name]) ? stage[name] / active : null;
}

function gpuMemoryText(stage) {
  const memory = record(stage.gpu_memory);
  if (!isNumber(memory.peak_bytes)) return isNumber(memory.asked_bytes) ? `${UNKNOWN} of ${bytes(memory.asked_bytes)}` : UNKNOWN;
  return isNumber(memory.asked_bytes) ? `${bytes(memory.peak_bytes)} of ${bytes(memory.asked_bytes)}` : bytes(memory.peak_bytes);
}

const ON_GPUS = [
  { name: "GPU memory, peak", key: (s) => record(s.gpu_memory).peak_bytes, text: gpuMemoryText },
  { name: "J/item, attributed", key: perItem, text: (s) => short(perItem(s)), hint: "the GPUs' energy, divided among stages by busy time" },
];

function stagesPart(report) {
  const stages = listed(report.stages);
  if (!stages.length) return null;
  const service = (stage) => record(stage.service_time);
  const columns = [
    { name: "stage", text: (s) => oneLine(s.name, 48) },
    { name: "workers", key: (s) => workerCount(report, s), text: (s) => (isFused(s) ? "fused" : whole(workerCount(report, s))) },
    { name: "batches", key: (s) => s.batches, text: (s) => whole(s.batches) },
    { name: "tasks in", key: (s) => s.tasks_in, text: (s) => whole(s.tasks_in) },
    { name: "tasks out", key: (s) => s.tasks_out, text: (s) => whole(s.tasks_out) },
    { name: "tasks/s", key: (s) => s.tasks_per_s, text: (s) => short(s.tasks_per_s), hint: "input tasks, from the first batch's begin to the last one's end" },
    { name: "items/s", key: (s) => perSecond(s, "items"), text: (s) => short(perSecond(s, "items")) },
    { name: "in, bytes/s", key: (s) => perSecond(s, "input_bytes"), text: (s) => bytes(perSecond(s, "input_bytes")) },
    { name: "out, bytes/s", key: (s) => perSecond(s, "output_bytes"), text: (s) => bytes(perSecond(s, "output_bytes")) },
    { name: "p50", key: (s) => service(s).p50_s, text: (s) => seconds(service(s).p50_s), hint: "service time of a batch" },
    { name: "p99", key: (s) => service(s).p99_s, text: (s) => seconds(service(s).p99_s), hint: "service time of a batch" },
    ...(stages.some(onGpu) ? ON_GPUS : []),
    { name: "failed attempts", key: (s) => s.failed_attempts, text: (s) => whole(s.failed_attempts) },
  ];
  const bars = el(
    "ol",
    { class: "bars" },
    stages.filter((stage) => !isFused(stage)).map((stage) =>
      el("li", {}, el("span", { class: "name", title: String(stage.name) }, oneLine(stage.name, 40)), timeBar(stage.time, 18), el("span", { class: "share" }, percent(share(stage, "busy")))),
    ),
  );
  const limit = limitingStage(report);
  const parts = stages.map((stage) => stageDetails(report, stages, stage));
  const opened = stages.length === 1 ? 0 : stages.findIndex((stage) => stage.index === limit);
  if (opened >= 0) queueMicrotask(() => parts[opened].gpuexecOpen());
  return section(
    "stages",
    "Stages",
    el("h3", {}, "Where the workers' time went"),
    note("Each bar is the whole time of a stage's workers; the figure at its end is the busy part."),
    bars,
    stateLegend(statesOf(totalTime(stages))),
    el("h3", {}, "Figures"),
    table("Figures of every stage", columns, stages, { most: 60 }),
    el("h3", {}, "Each stage"),
    parts,
  );
}

function stageDetails(report, stages, stage) {
  const busy = percent(share(stage, "busy"));
  const right = isFused(stage) ? "fused" : `busy ${busy}`;
  const title = [el("span", { class: "name" }, oneLine(stage.name, 80)), " ", el("span", { class: "sub" }, `${rate(stage.tasks_per_s, "tasks")} · ${right}`)];
  return lazyDetails({ id: `stage-${stage.index}`, class: "part" }, title, () => stageContent(report, stages, stage));
}

function stageContent(report, stages, stage) {
  const lead = isFused(stage) ? stages[stage.lead_index] : null;
  return [
    String(stage.name) === oneLine(stage.name, 80) ? null : el("p", { class: "long-name" }, String(stage.name)),
    facts([
      ["class", stage.class_name],
      ["plan", stage.plan_reason],
      ["batch size", isNumber(stage.batch_size) ? whole(stage.batch_size) : null],
      ["asked for", resources(stage)],
      ["workers fixed at", isNumber(stage.num_workers) ? whole(stage.num_workers) : null],
      ["quarantined", stage.quarantined ? counted(stage.quarantined, "task") : null],
      ["waited on disk", stage.spilled_bytes ? bytes(stage.spilled_bytes) : null],
      ["wait in the queue", stage.tasks_in ? `${seconds(stage.queued_s / stage.tasks_in)} a task` : null],
      ["host memory, peak", isNumber(stage.rss_peak_bytes) ? bytes(stage.rss_peak_bytes) : null],
      ["CPU time", isNumber(stage.cpu_s) ? seconds(stage.cpu_s) : null],
      ["setup_on_node", isNumber(stage.node_setup_s) ? seconds(stage.node_setup_s) : null],
    ]),
    gpuMemoryPart(stage),
    energyPart(stage),
    el(
      "div",
      { class: "charts" },
      histogram("Service time of a batch", record(stage.service_time)),
      lead ? note(`Its time is in that of ${oneLine(lead.name, 60)}, whose workers run it.`) : statesChart(report, stage),
      tasksChart(report, stage),
      queueChart(report, stage),
    ),
    metricsPart(stage),
  ].filter(Boolean);
}

function resources(stage) {
  const asked = [];
  if (isNumber(stage.cpus)) asked.push(`${short(stage.cpus)} CPU`);
  if (isNumber(stage.gpus) && stage.gpus > 0) asked.push(`${short(stage.gpus)} GPU`);
  if (isNumber(stage.gpu_memory_gb) && stage.gpu_memory_gb > 0) asked.push(`gpu_memory_gb=${short(stage.gpu_memory_gb)}`);
  return asked.join(", ");
}

function gpuMemoryPart(stage) {
  const memory = record(stage.gpu_memory);
  if (!isNumber(memory.peak_bytes)) return isNumber(memory.asked_bytes) ? note(`The peak of its GPU memory is not known: ${memory.reason ?? "no reason was recorded"}.`) : null;
  const asked = isNumber(memory.asked_bytes) ? memory.asked_bytes : null;
  const scale = Math.max(memory.peak_bytes, asked ?? 0) || 1;
  const used = (100 * memory.peak_bytes) / scale;
  const words = `measured peak ${bytes(memory.peak_bytes)}${asked ? ` of ${bytes(asked)} asked for` : ""}${isNumber(memory.suggested_gb) ? `; suggested gpu_memory_gb=${short(memory.suggested_gb)}` : ""}`;
  const bar = svg(
    "svg",
    { class: "bar", height: 14, width: "100%", role: "img", "aria-label": words },
    svg("rect", { width: `${asked ? (100 * asked) / scale : 100}%`, height: 14, class: "asked" }),
    svg("rect", { width: `${used}%`, height: 14, class: "column" }),
    asked ? svg("rect", { x: `${Math.min(99.5, (100 * asked) / scale)}%`, width: 2, height: 14, class: "limit-mark" }) : null,
  );
  return el("div", { class: "meter" }, el("p", {}, el("b", {}, "GPU memory of a worker: "), words), bar);
}

function energyPart(stage) {
  const used = record(stage.energy);
  if (!isNumber(used.joules)) return onGpu(stage) ? note(`Its energy is not known: ${used.reason ?? "no reason was recorded"}.`) : null;
  const each = perItem(stage);
  return el(
    "p",
    {},
    el("b", {}, "Energy: "),
    `${joules(used.joules)}${each === null ? "" : `, ${joules(each)} an item`} `,
    el("span", { class: "badge plain" }, used.kind ?? "attributed"),
    used.kind === "measured" ? "" : " The GPUs' energy is divided among stages by busy time; a stage cannot be measured alone.",
    used.reason ? el("span", { class: "sub" }, ` ${used.reason}.`) : null,
  );
}

function metricsPart(stage) {
  // gpuexec's own figures are elsewhere on the page.
  const metrics = Object.entries(record(stage.metrics)).filter(([name]) => !name.startsWith("gpuexec."));
  if (!metrics.length) return null;
  const columns = [{ name: "figure", text: ([name]) => oneLine(name, 120) }, { name: "value", text: ([, value]) => short(value), key: ([, value]) => value }];
  return table("Figures that the stage logged", columns, metrics);
}

function stageLine(stage, name) {
  return listed(record(stage.timeline)[name]);
}

function timesOf(report) {
  const timeline = record(report.timeline);
  return isNumber(timeline.bin_s) ? binTimes(timeline.bin_s, timeline.bins ?? 0) : [];
}

// A series as long as the time line, so that all charts have the same axis.
function padded(values, count) {
  return Array.from({ length: count }, (_, position) => values[position] ?? null);
}

function statesChart(report, stage) {
  const times = timesOf(report);
  const binS = record(report.timeline).bin_s;
  const states = statesOf(stage.time).filter((state) => stageLine(stage, state).length);
  const lines = states.map((state) => ({ name: stateName(state), state, values: padded(stageLine(stage, state), times.length).map((value) => (isNumber(value) ? value / binS : 0)) }));
  const summary = states.map((state) => `${stateName(state)} ${percent(share(stage, state))}`).join(", ");
  return timeChart({ title: "What its workers did (workers)", times, lines, format: short, stacked: true, summary });
}

function tasksChart(report, stage) {
  const times = timesOf(report);
  const binS = record(report.timeline).bin_s;
  const values = padded(stageLine(stage, "tasks"), times.length).map((value) => (isNumber(value) ? value / binS : null));
  return timeChart({ title: "Tasks a second", times, lines: [{ name: "input tasks", colour: "line-1", values }], format: short });
}

function queueChart(report, stage) {
  const times = timesOf(report);
  const values = padded(stageLine(stage, "queued"), times.length);
  return timeChart({ title: "Tasks waiting before it", times, lines: [{ name: "waiting", colour: "line-2", values }], format: short });
}
