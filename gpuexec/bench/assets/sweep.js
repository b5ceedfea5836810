// The page of a sweep: its top, its machine, and its parts in their order.
const FINDINGS = {
  shown: ["gain shown", "good"],
  today: ["today's configuration is best", "good"],
  noise: ["no gain shown", "plain"],
  one_repeat: ["no interval", "odd"],
  no_comparison: ["no comparison with today's", "odd"],
  none: ["no answer", "bad"],
};

function sweepHead(sweep) {
  const failed = sweep.points.filter((point) => point.failed).length;
  const repeats = sweep.search === "halving" ? "successive halving" : `${counted(sweep.repeat, "repeat")} each`;
  const state = sweep.complete ? ["Complete", "good"] : ["Not complete", "odd"];
  return [
    el("p", { class: "eyebrow" }, el("span", { class: `badge ${state[1]}` }, state[0]), ` Sweep · ${when(sweep.started_at)}`),
    el("h1", {}, oneLine(sweep.target, 300)),
    facts([
      ["points", `${whole(sweep.points.length + record(sweep.omitted).points)}${failed ? `, ${whole(failed)} failed` : ""}`],
      ["runs", repeats],
      ["best by", sweep.goal_name],
      ["seed", String(sweep.seed)],
      ["machine", machine(record(sweep.node))],
    ]),
  ];
}

function machine(node) {
  return [node.hostname ? oneLine(node.hostname, 60) : null, isNumber(node.cpus) ? `${whole(node.cpus)} CPUs` : null].filter(Boolean).join(", ");
}

function answerPart(sweep) {
  const answer = record(sweep.answer);
  const [words, tone] = FINDINGS[answer.finding] ?? [String(answer.finding), "plain"];
  const [lead, ...others] = listed(answer.sentences);
  const best = sweep.points.find((point) => point.id === answer.point_id);
  return [
    el("h2", { class: "hidden-title" }, "Answer"),
    el("p", {}, el("span", { class: `badge ${tone}` }, words)),
    el("p", { class: "lead" }, prose(lead)),
    others.map((sentence) => el("p", {}, prose(sentence))),
    answer.snippet ? el("div", { class: "snippet" }, el("pre", { tabindex: "0", "aria-label": "Settings as Python" }, answer.snippet), copyButton(answer.snippet)) : null,
    best ? el("p", { class: "sub" }, "More of ", pointLink(best), best.runs.some((run) => run.link) ? ["; reports of its runs: ", reportLinks(best)] : null) : null,
    note("What the words mean, and which statistics are used: docs/benchmarking.md."),
  ].filter(Boolean);
}

function machinePart(sweep) {
  return section(
    "machine",
    "Machine",
    el(
      "div",
      { class: "columns" },
      el("div", {}, el("h3", {}, "Machine"), valueFacts(sweep.node)),
      el("div", {}, el("h3", {}, "Versions"), valueFacts(sweep.versions)),
      el("div", {}, el("h3", {}, "Arguments that all points share"), valueFacts(sweep.fixed)),
    ),
  );
}

function valueFacts(values) {
  const entries = Object.entries(record(values));
  return entries.length ? facts(entries.map(([name, value]) => [words(name.replace(/_bytes$/, "")), valueText(name, value)])) : note("None.");
}

function valueText(name, value) {
  if (/_bytes$/.test(name) && isNumber(value)) return bytes(value);
  if (Array.isArray(value)) return value.map((entry) => valueText(name, entry)).join(", ") || "none";
  return oneLine(value && typeof value === "object" ? JSON.stringify(value) : String(value ?? UNKNOWN), 200);
}

showPage({
  head: sweepHead,
  verdict: ["Answer", answerPart],
  parts: [
    ["settings", "Settings", settingsPart],
    ["front", "Front", frontPart],
    ["points", "Points", pointsPart],
    ["failed", "Without a result", failedPart, (sweep) => sweep.points.filter((point) => !point.usable).length],
    ["runs", "Runs", runsPart],
    ["machine", "Machine", machinePart],
  ],
  foot: (sweep) => `gpuexec ${sweep.gpuexec} · ${sweep.schema}`,
});
