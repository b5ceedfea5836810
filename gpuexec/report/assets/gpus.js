// A part per GPU: who was on it, and its readings over the time of the run.

function seriesOf(gpu, name) {
  return listed(gpu.series).find((series) => series.name === name) ?? {};
}

function meanOf(values) {
  const known = listed(values).filter(isNumber);
  return known.length ? known.reduce((sum, value) => sum + value, 0) / known.length : null;
}

function peakOf(series) {
  const most = maximum([...listed(series.max), ...listed(series.mean)]);
  return Number.isFinite(most) ? most : null;
}

// Shares of the time of each bin in which heat or the power supply slowed the GPU down.
function throttledShares(gpu) {
  return listed(seriesOf(gpu, "throttle").mean).map((value) => (isNumber(value) ? Math.min(1, Math.max(0, value)) : null));
}

function busyShare(gpu) {
  const time = record(gpu.time);
  const total = Object.values(time).reduce((sum, value) => sum + (isNumber(value) ? value : 0), 0);
  return total > 0 ? (time.busy ?? 0) / total : null;
}

function utilisation(gpu) {
  const mean = meanOf(seriesOf(gpu, "sm_util").mean);
  return mean === null ? null : mean / 100;
}

function energyText(gpu) {
  const used = record(gpu.energy);
  if (!isNumber(used.joules)) return UNKNOWN;
  return `${joules(used.joules)} (${used.kind ?? "of unknown kind"})`;
}

function gpusPart(report) {
  const gpus = listed(report.gpus);
  if (!gpus.length) return section("gpus", "GPUs", note("No stage used a GPU."));
  const columns = [
    { name: "GPU", key: (g) => g.index, text: (g) => `${g.index}` },
    { name: "model", text: (g) => g.name ?? UNKNOWN },
    { name: "worker busy", key: busyShare, text: (g) => percent(busyShare(g)), hint: "the time in which a worker on it had a batch in hand" },
    { name: "SM utilisation", key: utilisation, text: (g) => percent(utilisation(g)), hint: "mean of the samples" },
    { name: "memory, peak", key: (g) => peakOf(seriesOf(g, "memory_used")), text: (g) => `${bytes(peakOf(seriesOf(g, "memory_used")))} of ${bytes(g.memory_bytes)}` },
    { name: "power, mean", key: (g) => meanOf(seriesOf(g, "power").mean), text: (g) => watts(meanOf(seriesOf(g, "power").mean)) },
    { name: "energy", key: (g) => record(g.energy).joules, text: energyText },
    { name: "throttled", key: (g) => meanOf(throttledShares(g)), text: (g) => percent(meanOf(throttledShares(g))), hint: "slowed down by heat or by the power supply; a power cap does not count" },
  ];
  const total = {};
  gpus.forEach((gpu) => Object.entries(record(gpu.time)).forEach(([state, value]) => (total[state] = (total[state] ?? 0) + (value ?? 0))));
  const bars = el(
    "ol",
    { class: "bars" },
    gpus.map((gpu) => el("li", {}, el("span", { class: "name" }, `GPU ${gpu.index}`), timeBar(gpu.time, 18), el("span", { class: "share" }, percent(busyShare(gpu))))),
  );
  const parts = gpus.map((gpu) => gpuDetails(report, gpu));
  if (gpus.length <= 2) queueMicrotask(() => parts.forEach((part) => part.gpuexecOpen()));
  const open = el("button", { type: "button", class: "quiet", onclick: () => parts.forEach((part) => part.gpuexecOpen()) }, "Open all");
  return section(
    "gpus",
    "GPUs",
    note("Energy of at least 10 s comes from the GPU's own counter and is measured. What a stage or worker used of it is attributed by busy time."),
    bars,
    stateLegend(statesOf(total)),
    table("Figures of every GPU", columns, gpus, { most: 32 }),
    gpus.length > 2 ? el("p", { class: "actions" }, open) : null,
    parts,
  );
}

function watts(value) {
  return isNumber(value) ? `${whole(value)} W` : UNKNOWN;
}

function gpuDetails(report, gpu) {
  const title = [el("span", { class: "name" }, `GPU ${gpu.index}`), " ", el("span", { class: "sub" }, `worker busy ${percent(busyShare(gpu))} · ${watts(meanOf(seriesOf(gpu, "power").mean))}`)];
  return lazyDetails({ id: `gpu-${gpu.index}`, class: "part" }, title, () => gpuContent(report, gpu));
}

function gpuContent(report, gpu) {
  const used = record(gpu.energy);
  const throttled = throttledShares(gpu);
  const mean = meanOf(throttled);
  return [
    facts([
      ["UUID", gpu.uuid],
      ["memory", bytes(gpu.memory_bytes)],
      ["energy", isNumber(used.joules) ? energyText(gpu) : `not known: ${used.reason ?? "no reason was recorded"}`],
      ["of it at idle power, or while no worker was busy", isNumber(used.idle_joules) ? `${joules(used.idle_joules)} (${isNumber(used.idle_watts) ? `${watts(used.idle_watts)}, estimated` : `idle power not known: ${used.idle_reason ?? "no reason was recorded"}`})` : null],
      ["throttled", mean === null ? `not known: ${seriesOf(gpu, "throttle").reason ?? "it was not sampled"}` : percent(mean)],
    ]),
    el(
      "div",
      { class: "charts one-column" },
      workersLanes(report, gpu),
      readings(report, gpu, "Utilisation", [["sm_util", "SMs", "line-1"], ["memory_util", "memory controller", "line-2"]], { percent: true }),
      readings(report, gpu, "Memory in use", [["memory_used", "used", "line-1"]], { inBytes: "", top: gpu.memory_bytes }),
      readings(report, gpu, mean > 0 ? "Power, hatched while throttled" : "Power", [["power", "power", "line-3"]], { format: watts, shaded: throttled }),
      readings(report, gpu, "Temperature", [["temperature", "GPU", "line-4"]], { format: (value) => `${short(value)} °C` }),
      readings(report, gpu, "SM clock", [["sm_clock", "clock", "line-2"]], { format: (value) => `${whole(value)} MHz` }),
      readings(report, gpu, "PCIe", [["pcie_rx", "to the GPU", "line-1"], ["pcie_tx", "from the GPU", "line-2"]], { inBytes: "/s" }),
    ),
    sources(gpu),
  ];
}

function sources(gpu) {
  const series = listed(gpu.series);
  if (!series.length) return null;
  const columns = [
    { name: "reading", text: (s) => words(s.name) },
    { name: "read with", text: (s) => s.source ?? UNKNOWN, wide: true },
    { name: "every", text: (s) => (isNumber(s.bin_s) ? seconds(s.bin_s) : UNKNOWN), hint: "the width of a bin, of which the mean and the maximum are kept" },
    { name: "gaps", text: gapsText, wide: true },
  ];
  return lazyDetails({ class: "figures" }, "Sources of the readings, and their gaps", () => table(`Readings of GPU ${gpu.index}`, columns, series));
}

function gapsText(series) {
  const bins = listed(series.mean);
  const missing = bins.filter((value) => !isNumber(value)).length;
  const count = bins.length ? (missing ? `${whole(missing)} of ${counted(bins.length, "bin")}` : "none") : "never read";
  return series.reason ? `${count}: ${series.reason}` : count;
}

// A chart of one or several series; those without readings are named with the reason.
function readings(report, gpu, title, wanted, { format = short, percent: shares = false, inBytes = null, top = null, shaded = null }) {
  const found = wanted.map(([name, label, colour]) => ({ series: seriesOf(gpu, name), label, colour }));
  const present = found.filter(({ series }) => listed(series.mean).some(isNumber));
  const missing = found.filter(({ series }) => !listed(series.mean).some(isNumber)).map(({ series, label }) => `${label}: ${series.reason ?? "not sampled"}`);
  const gaps = present.filter(({ series }) => series.reason).map(({ series, label }) => `${label}: ${series.reason}`);
  if (!present.length) return el("p", { class: "note" }, `${title} is not known. ${missing.join("; ")}.`);
  const first = present[0].series;
  const count = first.mean.length;
  const lines = present.map(({ series, label, colour }) => ({
    name: label,
    colour,
    values: padded(series.mean, count),
  }));
  const show = shares ? (value) => (isNumber(value) ? `${grouped(value, 0)} %` : UNKNOWN) : format;
  const options = { title, times: binTimes(first.bin_s, count), lines, format: show, top: shares ? 100 : top, shaded, height: 120 };
  if (inBytes !== null) {
    const scaled = inByteUnits(lines, top);
    Object.assign(options, { lines: scaled.lines, top: scaled.top, format: (value) => `${short(value)} ${scaled.unit}${inBytes}` });
  }
  const chart = timeChart(options);
  const words = [...missing, ...gaps].map((text) => `${text}.`).join(" ");
  if (words) chart.append(el("p", { class: "note small" }, words));
  return chart;
}

// One lane a stage, one bar a worker from its start to its end; its set-up has the pattern of setting up.
function workersLanes(report, gpu) {
  const end = isNumber(report.wall_s) ? report.wall_s : record(report.timeline).bin_s * record(report.timeline).bins;
  const workers = listed(report.workers).filter((worker) => listed(worker.gpus).includes(gpu.uuid));
  const title = "Workers on it";
  const figure = el("figure", { class: "chart", "data-chart": title }, el("figcaption", {}, title));
  figure.dataset.drawn = "yes";
  if (!workers.length || !(end > 0)) {
    figure.append(note("No worker was recorded."));
    return figure;
  }
  const stages = [...new Set(workers.map((worker) => worker.stage_index))].sort((a, b) => a - b);
  for (const index of stages) {
    const members = workers.filter((worker) => worker.stage_index === index);
    const name = oneLine(members[0].stage, 60);
    const label = `${name}: ${members.slice(0, 20).map((w) => `${oneLine(w.id, 60)} from ${seconds(w.started_s ?? 0)} to ${seconds(w.ended_s ?? end)}`).join("; ")}`;
    const bars = members.flatMap((worker) => workerBars(worker, end));
    figure.append(el("div", { class: "lane" }, el("span", { class: "lane-name", title: name }, oneLine(name, 40), ` · ${counted(members.length, "worker")}`), svg("svg", { class: "lane-bars", height: 16, width: "100%", role: "img", "aria-label": label }, bars)));
  }
  return figure;
}

function workerBars(worker, end) {
  const x = (value) => Math.min(100, Math.max(0, (100 * value) / end));
  const began = x(worker.started_s ?? 0);
  const ready = x(worker.ready_s ?? worker.ended_s ?? end);
  const ended = x(worker.ended_s ?? end);
  const words = `${oneLine(worker.id, 80)}: ${counted(worker.batches ?? 0, "batch")}, set up in ${seconds(worker.setup_s)}, ${worker.end_reason ?? "end not recorded"}`;
  const bar = (from, to, attributes) => svg("rect", { x: `${from}%`, width: `${Math.max(0.15, to - from)}%`, height: 16, ...attributes }, svg("title", {}, words));
  return [bar(began, ready, { fill: "url(#fill-setting-up)" }), bar(ready, ended, { class: "worker" })];
}
