// The machine before and after the run, versions, options, templates and notes.
function nodePart(report) {
  const node = record(report.node);
  const [before, after] = [record(report.host_before), record(report.host_after)];
  const change = (field, format) => (isNumber(before[field]) || isNumber(after[field]) ? `${format(before[field])} → ${format(after[field])}` : null);
  const notes = listed(report.notes);
  const templates = listed(report.templates);
  const noteColumns = [
    { name: "at", key: (n) => n.at_s, text: (n) => seconds(n.at_s) },
    { name: "level", text: (n) => n.level ?? UNKNOWN },
    { name: "note", text: (n) => String(n.text ?? ""), wide: true },
  ];
  const templateColumns = [
    { name: "pid", text: (t) => String(t.pid) },
    { name: "stages", text: (t) => listed(t.stages).map((name) => oneLine(name, 40)).join(", ") },
    { name: "imports took", key: (t) => t.import_s, text: (t) => seconds(t.import_s) },
    { name: "kept from an earlier run", text: (t) => (t.kept ? "yes" : "no") },
  ];
  return section(
    "node",
    "Machine and settings",
    el(
      "div",
      { class: "columns" },
      el("div", {}, el("h3", {}, "Machine"), facts([["host", node.hostname], ["CPUs", whole(node.cpus)], ["memory", bytes(node.memory_bytes)], ["platform", node.platform], ["kernel", node.kernel], ["load before → after", change("load_1m", short)], ["free memory before → after", change("memory_available_bytes", bytes)]])),
      el("div", {}, el("h3", {}, "Versions"), facts(Object.entries(record(report.versions)).map(([name, value]) => [words(name), String(value ?? UNKNOWN)]))),
      el("div", {}, el("h3", {}, "Options that differ from the defaults"), optionsPart(report)),
    ),
    gpuStates(report),
    notes.length ? [el("h3", {}, "Notes"), table("What the run said", noteColumns, notes, { most: 20 }), omitted(report, "notes", notes.length)] : null,
    templates.length ? [el("h3", {}, "Templates"), table("Processes that workers were forked from", templateColumns, templates)] : null,
  );
}

function optionsPart(report) {
  const options = Object.entries(record(report.options));
  if (!options.length) return note("None.");
  return facts(options.map(([name, value]) => [name, oneLine(typeof value === "string" ? value : JSON.stringify(value), 200)]));
}

function gpuStates(report) {
  const before = record(report.gpus_before);
  const after = record(report.gpus_after);
  if (!listed(before.gpus).length && !listed(after.gpus).length) return null;
  const later = new Map(listed(after.gpus).map((gpu) => [gpu.uuid, gpu]));
  const rows = listed(before.gpus).map((gpu) => ({ before: gpu, after: record(later.get(gpu.uuid)) }));
  const both = (field, format) => (row) => `${format(row.before[field], row.before)} → ${format(row.after[field], row.after)}`;
  const joined = (value) => (Array.isArray(value) ? value.join(", ") || "none" : UNKNOWN);
  const columns = [
    { name: "GPU", key: (row) => row.before.index, text: (row) => String(row.before.index) },
    { name: "SM clock", text: both("sm_clock_mhz", (value) => `${whole(value)} MHz`) },
    { name: "memory clock", text: both("memory_clock_mhz", (value) => `${whole(value)} MHz`) },
    { name: "power limit", text: both("power_limit_mw", (value) => (isNumber(value) ? `${short(value / 1000)} W` : UNKNOWN)) },
    { name: "clocks limited by", text: both("clock_reasons", joined) },
    { name: "throttled in between", text: throttledBetween },
    { name: "processes", text: both("processes", (value) => (Array.isArray(value) ? whole(value.length) : UNKNOWN)) },
  ];
  const driver = before.driver_version ? `driver ${before.driver_version}${before.cuda_version ? `, CUDA ${before.cuda_version}` : ""}` : "driver unknown";
  return [el("h3", {}, "GPUs before → after"), table(`State of the GPUs, ${driver}`, columns, rows, { most: 16 })];
}

function throttledBetween(row) {
  const begin = record(row.before.throttled_ns);
  const end = record(row.after.throttled_ns);
  const parts = Object.keys(end).filter((reason) => isNumber(end[reason]) && isNumber(begin[reason]) && end[reason] > begin[reason]);
  if (!row.after.throttled_ns || !row.before.throttled_ns) return UNKNOWN;
  return parts.map((reason) => `${reason} ${seconds((end[reason] - begin[reason]) / 1e9)}`).join(", ") || "no";
}
