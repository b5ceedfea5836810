// The points of a sweep: a table, a part for each with its stages and runs, and those that failed.
const FIGURE_TEXTS = {
  throughput: (value) => `${short(value)} items/s`,
  joules_per_item: joules,
  latency_p99_s: seconds,
  first_result_s: seconds,
};
const FIRST_POINTS = 25; // of the parts that are shown at once

function figureText(key, value) {
  return isNumber(value) ? FIGURE_TEXTS[key](value) : UNKNOWN;
}

function mean(point, key) {
  return record(point.figures[key]).mean;
}

// Half the interval of a mean as a share of it: "± 1.3 %". Nothing where there is no interval.
function around(spread) {
  const { low, high, mean: middle } = record(spread);
  if (![low, high, middle].every(isNumber) || middle === 0) return "";
  const half = ((high - low) / 2 / Math.abs(middle)) * 100;
  return `± ${grouped(half, half < 9.95 ? 1 : 0)}\u00a0%`;
}

// A figure with its interval, on one line.
function withInterval(point, key) {
  const text = figureText(key, mean(point, key));
  if (text === UNKNOWN && key === "joules_per_item" && isShort(point)) return "too short";
  return [text, around(point.figures[key])].filter(Boolean).join(" ");
}

// Whether its energy was read, but for too short a time.
function isShort(point) {
  return /less than/.test(point.joules_reason ?? "");
}

function badges(point, equal = "equally good") {
  const found = [
    point.best && ["best", "good"],
    point.equal && [equal, "good"],
    point.front && ["front", "plain"],
    point.is_today && ["today", "plain"],
    listed(point.marks).length && ["doubtful", "odd"],
    point.failed && [point.end, "bad"],
  ].filter(Boolean);
  return found.map(([text, tone]) => [" ", el("span", { class: `badge ${tone}` }, text)]);
}

function pointLink(point) {
  return el("a", { href: `#${point.id}` }, point.id);
}

// Links to the reports of a point's runs, by their repeats.
function reportLinks(point) {
  const runs = listed(point.runs).filter((run) => run.link);
  if (!runs.length) return UNKNOWN;
  return runs.flatMap((run, position) => [position ? " " : null, reportLink(run, runName(run, "short"), `Report of ${point.id}, ${runName(run)}`)]);
}

function reportLink(run, text, label) {
  return el("a", { href: run.link, "aria-label": label }, text);
}

function runName(run, size) {
  const name = run.repeat ? (size ? String(run.repeat) : `repeat ${run.repeat}`) : size ? "w" : "warm-up";
  return run.again ? `${name}${size ? "′" : ", run again"}` : name;
}

function settingText(sweep, point, position) {
  return sweep.axes[position].values[point.at[position]];
}

function pointsPart(sweep) {
  const points = listed(sweep.points);
  const measured = points.filter((point) => point.usable);
  const columns = [
    { name: "point", text: (p) => p.id, key: (p) => p.rank, node: (p) => [pointLink(p), badges(p)] },
    { name: "reports", text: () => "", node: reportLinks, hint: "of its runs: w is a warm-up, a number a repeat" },
    ...sweep.axes.map((axis, position) => ({ name: axis.short, hint: axis.name, key: (p) => p.at[position], text: (p) => settingText(sweep, p, position) })),
    ...(sweep.search === "halving" ? [{ name: "rung", key: (p) => p.rung, text: (p) => String(p.rung + 1) }] : []),
    ...sweep.figures.map(({ key, name }) => ({ name, key: (p) => mean(p, key), text: (p) => withInterval(p, key) })),
    { name: "spread", text: (p) => record(p.figures[sweep.goal]).word ?? UNKNOWN, hint: "of the goal's figure: steady under 5 %, unstable over 20 % of its mean" },
    ...(points.some((p) => isNumber(p.peak_gpu_bytes)) ? [{ name: "GPU memory, peak", key: (p) => p.peak_gpu_bytes, text: (p) => bytes(p.peak_gpu_bytes) }] : []),
    { name: "runs", key: (p) => p.n, text: (p) => String(p.n) },
  ];
  return section(
    "points",
    "Points",
    measured.length
      ? [note(`${counted(measured.length, "point")} went through, best first by ${sweep.goal_name}. ± is the t interval of the mean at 95 %.`), table("Points, best first", columns, measured)]
      : note("No point went through."),
    omitted(sweep, "points", points.length, "bench.json"),
    pointParts(sweep, points),
  );
}

function pointParts(sweep, points) {
  const parts = points.map((point, position) => {
    const summary = [point.id, badges(point), el("span", { class: "sub" }, [point.settings, withInterval(point, sweep.goal)].filter((text) => text && text !== UNKNOWN).join(" · "))];
    const node = lazyDetails({ class: "part", id: point.id, hidden: position >= FIRST_POINTS }, summary, () => pointPart(sweep, point));
    const open = node.gpuexecOpen;
    node.gpuexecOpen = () => {
      node.hidden = false;
      open();
    };
    return node;
  });
  const more = el("button", { type: "button", class: "quiet", hidden: parts.length <= FIRST_POINTS }, `Show all ${whole(parts.length)}`);
  more.addEventListener("click", () => {
    parts.forEach((part) => (part.hidden = false));
    more.hidden = true;
  });
  return [el("h3", {}, "One by one"), parts, more];
}

function pointPart(sweep, point) {
  const shown = sweep.figures.map(({ key, name }) => [name, withInterval(point, key)]);
  const spread = record(point.figures[sweep.goal]);
  return [
    facts([
      ["settings", point.settings || "none"],
      ...shown,
      ["standard deviation", isNumber(spread.sd) ? figureText(sweep.goal, spread.sd) : null],
      ["coefficient of variation", isNumber(spread.cv) ? `${percent(spread.cv)} (${spread.word})` : null],
      ["energy", point.usable && (isShort(point) || sweep.figures.some(({ key }) => key === "joules_per_item")) ? point.joules_reason : null],
    ]),
    point.reason ? el("pre", { tabindex: "0" }, `${point.end}: ${point.reason}`) : null,
    listed(point.marks).map((mark) => note(`Doubtful: ${mark}`)),
    stagesOf(point),
    runsTable(`Runs of ${point.id}`, sweep, listed(point.runs)),
  ].filter(Boolean);
}

function stagesOf(point) {
  const stages = listed(point.stages);
  if (!stages.length) return null;
  const columns = [
    { name: "stage", text: (s) => oneLine(s.name, 60) },
    { name: "items/s", key: (s) => s.items_per_s, text: (s) => short(s.items_per_s) },
    { name: "batch, p50", key: (s) => s.service_p50_s, text: (s) => seconds(s.service_p50_s) },
    { name: "batch, p90", key: (s) => s.service_p90_s, text: (s) => seconds(s.service_p90_s) },
    { name: "batch, p99", key: (s) => s.service_p99_s, text: (s) => seconds(s.service_p99_s) },
    { name: "workers", key: (s) => s.workers, text: (s) => short(s.workers) },
    { name: "GPU memory, peak", key: (s) => s.peak_gpu_bytes, text: (s) => bytes(s.peak_gpu_bytes) },
    { name: "asked for", key: (s) => s.gpu_memory_gb, text: (s) => (isNumber(s.gpu_memory_gb) ? `${short(s.gpu_memory_gb)} GiB` : UNKNOWN) },
    { name: "energy per item", key: (s) => s.joules_per_item, text: (s) => joules(s.joules_per_item) },
  ];
  const total = {};
  stages.forEach((stage) => Object.entries(record(stage.idle)).forEach(([state, value]) => (total[state] = (total[state] ?? 0) + value)));
  const bars = stages.map((stage) => el("li", {}, el("span", { class: "name", title: String(stage.name) }, oneLine(stage.name, 60)), timeBar(stage.idle), el("span", { class: "share" }, seconds(idleSeconds(stage)))));
  return [
    table(`Stages of ${point.id}, means of its runs`, columns, stages),
    el("h4", {}, "Why its workers were idle, and for how many worker-seconds in all"),
    el("ul", { class: "bars" }, bars),
    stateLegend(statesOf(total)),
  ];
}

function idleSeconds(stage) {
  return Object.values(record(stage.idle)).reduce((sum, value) => sum + value, 0);
}

function runsTable(title, sweep, runs, pointOf = null) {
  if (!runs.length) return null;
  const columns = [
    { name: "run", key: (r) => r.number, text: (r) => String(r.number) },
    ...(pointOf ? [{ name: "point", text: () => "", node: (r) => pointLink(pointOf(r)) }] : []),
    { name: "repeat", text: (r) => runName(r) },
    ...(sweep.search === "halving" ? [{ name: "rung", key: (r) => r.rung, text: (r) => String(r.rung + 1) }] : []),
    { name: "ended", text: (r) => (r.ok ? "went through" : [r.end, r.reason].filter(Boolean).join(": ")) },
    { name: "took", key: (r) => r.seconds, text: (r) => seconds(r.seconds) },
    ...sweep.figures.map(({ key, name }) => ({ name, key: (r) => r[key], text: (r) => figureText(key, r[key]) + (key === "joules_per_item" && r.short ? " (short)" : "") })),
    { name: "doubtful", text: (r) => listed(r.marks).join("; ") || "no" },
    { name: "report", text: () => "", node: (r) => (r.link ? reportLink(r, "report", `Report of run ${r.number}`) : UNKNOWN) },
  ];
  return table(title, columns, runs);
}

function failedPart(sweep) {
  const failed = listed(sweep.points).filter((point) => !point.usable);
  if (!failed.length) return null;
  const waiting = failed.filter((point) => !point.status);
  const cards = failed
    .filter((point) => point.status)
    .map((point) => {
      const run = [...point.runs].reverse().find((each) => each.link && !each.ok);
      return el(
        "div",
        { class: "failure" },
        el("h3", {}, pointLink(point), `: ${point.end}`),
        el("p", { class: "sub" }, point.settings),
        point.reason ? el("pre", { class: "message", tabindex: "0" }, point.reason) : note("No reason is known."),
        run ? el("p", {}, reportLink(run, "Report of the run", `Report of ${point.id}, ${runName(run)}`)) : null,
      );
    });
  return section("failed", "Without a result", cards, waiting.length ? note(`Not measured yet: ${waiting.map((point) => point.id).join(", ")}.`) : null);
}

function runsPart(sweep) {
  const owners = new Map();
  for (const point of listed(sweep.points)) point.runs.forEach((run) => owners.set(run, point));
  const runs = [...owners.keys()].sort((a, b) => a.number - b.number);
  if (!runs.length) return null;
  return section("runs", "Runs", note("In the order in which they ran. A warm-up does not count; a run that was marked was repeated once."), runsTable("All runs", sweep, runs, (run) => owners.get(run)));
}
