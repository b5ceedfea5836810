// The top of the page: what the run was, the verdict, and the pipeline as a graph.
const OUTCOMES = {
  ok: ["Finished", "good"],
  failed: ["Failed", "bad"],
  interrupted: ["Ended early", "odd"],
  open: ["Not ended", "odd"],
};

function outcomeOf(report) {
  if (!report.ended) return "open";
  if (report.interrupted) return "interrupted";
  return report.error || report.ok === false ? "failed" : "ok";
}

function pageHead(report) {
  const [words, tone] = OUTCOMES[outcomeOf(report)];
  const node = record(report.node);
  const gpus = listed(report.gpus);
  const aside = listed(report.stages).reduce((sum, stage) => sum + (isNumber(stage.quarantined) ? stage.quarantined : 0), 0);
  const models = [...new Set(gpus.map((gpu) => gpu.name).filter(Boolean))];
  return [
    el("p", { class: "eyebrow" }, el("span", { class: `badge ${tone}` }, words), ` Run ${report.run_id ?? UNKNOWN} · ${when(report.started_at)}`),
    el("h1", {}, oneLine(report.pipeline, 300)),
    facts([
      ["duration", isNumber(report.wall_s) ? seconds(report.wall_s) : "still running"],
      ["tasks in", whole(report.tasks_in)],
      ["tasks out", whole(report.tasks_out)],
      ["in quarantine", aside ? whole(aside) : null],
      ["throughput", rate(report.throughput_per_s, "tasks")],
      ["GPUs", gpus.length ? `${gpus.length} × ${models.join(", ") || "unknown model"}` : "none used"],
      ["machine", [node.hostname ? oneLine(node.hostname, 60) : null, isNumber(node.cpus) ? `${whole(node.cpus)} CPUs` : null].filter(Boolean).join(", ") || UNKNOWN],
    ]),
    report.error ? el("div", { class: "error" }, el("h2", {}, "Error"), el("pre", { tabindex: "0" }, String(report.error))) : null,
  ].filter(Boolean);
}

function verdictPart(report) {
  const sentences = listed(report.verdict);
  if (!sentences.length) return [note("There is no verdict: nothing was recorded.")];
  const first = sentences[0];
  return [
    el("h2", { class: "hidden-title" }, "Verdict"),
    el("p", { class: "lead" }, prose(first.text)),
    figureList(first),
    sentences.length > 1
      ? el("ul", { class: "findings" }, sentences.slice(1).map((found) => el("li", {}, el("p", {}, prose(found.text)), figureList(found))))
      : null,
    note("A share is a part of the workers' time, unless the sentence says otherwise. How the verdict is found: docs/reading-a-report.md."),
  ].filter(Boolean);
}

function figureList(found) {
  const entries = Object.entries(record(found.figures));
  if (!entries.length) return null;
  return el(
    "p",
    { class: "evidence" },
    entries.map(([name, value]) => {
      const [label, text] = figure(name, value);
      return el("span", {}, label, " ", el("b", {}, text));
    }),
  );
}

function limitingStage(report) {
  const found = listed(report.verdict).find((sentence) => isNumber(sentence.stage_index));
  return found ? found.stage_index : null;
}

function pipelinePart(report) {
  const stages = listed(report.stages);
  if (!stages.length) return null;
  const limit = limitingStage(report);
  const steps = stages.map((stage, position) => {
    const before = position ? stages[position - 1] : null;
    return el("li", {}, edge(report, before, stage), stageCard(report, stages, stage, limit));
  });
  const last = stages[stages.length - 1];
  steps.push(el("li", { class: "end" }, edge(report, last, null), el("div", { class: "terminal" }, `${counted(report.tasks_out ?? 0, "task")} out`)));
  const begin = el("li", { class: "end" }, el("div", { class: "terminal" }, `${counted(report.tasks_in ?? 0, "task")} in`));
  return section(
    "pipeline",
    "Pipeline",
    note("A card is a stage: how many input tasks a second, and how its workers spent their time. An arrow carries what a stage sends on, with the tasks that waited before the next stage."),
    el("ol", { class: "pipeline" }, begin, steps),
    stateLegend(statesOf(totalTime(stages))),
  );
}

function totalTime(stages) {
  const total = {};
  for (const stage of stages) {
    for (const [state, value] of Object.entries(record(stage.time))) total[state] = (total[state] ?? 0) + (isNumber(value) ? value : 0);
  }
  return total;
}

function edge(report, before, stage) {
  const parts = [];
  const span = isNumber(report.wall_s) && report.wall_s > 0 ? report.wall_s : null;
  if (stage && isFused(stage)) parts.push("in one process");
  else if (before && span && isNumber(before.output_bytes)) parts.push(`${bytes(before.output_bytes / span)}/s`);
  const queued = stage ? listed(record(stage.timeline).queued).filter(isNumber) : [];
  if (queued.length && !isFused(stage)) {
    const mean = queued.reduce((sum, value) => sum + value, 0) / queued.length;
    parts.push(`${grouped(mean, mean < 9.95 ? 1 : 0)} waiting,`, `at most ${grouped(maximum(queued), 0)}`);
  }
  return el("div", { class: "edge" }, el("span", { class: "arrow", "aria-hidden": "true" }), el("small", {}, parts.map((part) => el("span", {}, part))));
}

function isFused(stage) {
  return isNumber(stage.lead_index) && stage.lead_index !== stage.index;
}

// A stage asks for GPUs, or for memory of one.
function onGpu(stage) {
  return stage.gpus > 0 || stage.gpu_memory_gb > 0;
}

function workerCount(report, stage) {
  const counts = listed(record(stage.timeline).workers).filter(isNumber);
  const most = Math.round(maximum(counts));
  if (most > 0) return most;
  return listed(report.workers).filter((worker) => worker.stage_index === stage.index).length;
}

function share(stage, state) {
  const time = record(stage.time);
  const total = Object.values(time).reduce((sum, value) => sum + (isNumber(value) ? value : 0), 0);
  return total > 0 ? (time[state] ?? 0) / total : null;
}

function stageCard(report, stages, stage, limit) {
  const limits = stage.index === limit;
  const lead = isFused(stage) ? stages[stage.lead_index] : null;
  const workers = workerCount(report, stage);
  const gpus = onGpu(stage) ? ` · ${stage.gpus > 0 ? `${short(stage.gpus)} GPU` : `${short(stage.gpu_memory_gb)} GiB of a GPU`} each` : "";
  const link = el("a", { href: `#stage-${stage.index}`, title: String(stage.name), onclick: () => openStage(stage.index) }, oneLine(stage.name, 48));
  return el(
    "div",
    { class: `card${limits ? " limit" : ""}${lead ? " fused" : ""}` },
    limits ? el("span", { class: "badge bad" }, "limits the run") : null,
    el("h3", {}, link),
    el("p", { class: "rate" }, rate(stage.tasks_per_s, "tasks")),
    lead ? el("p", { class: "sub" }, "in the workers of ", el("code", {}, oneLine(lead.name, 30))) : el("p", { class: "sub" }, `${counted(workers, "worker")}${gpus}`),
    lead ? null : [timeBar(stage.time, 10), el("p", { class: "sub" }, `busy ${percent(share(stage, "busy"))}`)],
  );
}
