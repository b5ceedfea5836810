// Charts over the time of the run (uPlot), each with a legend that shows the values under the pointer, a description
// for screen readers, and its figures as a table.
const CHARTS = new Set(); // what a change of the theme must draw again
const STEPS = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800];
STEPS.push(...[1, 2, 3, 6, 12, 24, 48, 96, 240].map((hours) => hours * 3600));
const TABLE_ROWS = 48;
const PLOT_LEFT = 76; // pixels beside the area of a chart, also of the lanes of workers above it
const PLOT_RIGHT = 14;
const DASHES = [[], [6, 3], [2, 2], [8, 3, 2, 3]];
const POINTERS = uPlot.sync("run"); // one pointer for the charts of all stages and GPUs

// lines: {name, values, format(value), colour, state?}. With `stacked`, values add up and states fill the area with
// their pattern. `top`: the least upper end of the axis. `shaded`: shares of time that are shaded from top to bottom.
function timeChart({ title, times, lines, format, stacked = false, top = null, shaded = null, height = 150, summary }) {
  const known = lines.filter((line) => line.values.some(isNumber));
  const figure = el("figure", { class: "chart", "data-chart": title });
  figure.append(el("figcaption", {}, title));
  if (!known.length || !times.length) {
    figure.dataset.drawn = "nothing to draw";
    figure.append(note("Nothing was recorded."));
    return figure;
  }
  const values = known.map((line) => el("span", { class: "value" }));
  const legend = el(
    "ul",
    { class: "legend" },
    known.map((line, position) => el("li", {}, line.state ? swatch(line.state) : lineSwatch(position, line), line.name, values[position])),
  );
  const plot = el("div", { class: "plot", role: "img", "aria-label": `${title}. ${summary ?? describe(known, format)}` });
  figure.append(legend, plot, figuresTable(title, times, known, format));
  whenLaidOut(plot, () => draw(figure, plot, { times, known, format, stacked, top, shaded, height, values }));
  return figure;
}

function lineSwatch(position, line) {
  const dash = DASHES[position % DASHES.length].join(" ");
  const path = svg("path", { d: "M0 6 H22", "stroke-dasharray": dash, class: `line ${line.colour}` });
  return svg("svg", { class: "swatch", width: 22, height: 12, "aria-hidden": "true" }, path);
}

function describe(lines, format) {
  return lines
    .map((line) => {
      const numbers = line.values.filter(isNumber);
      const mean = numbers.reduce((sum, value) => sum + value, 0) / numbers.length;
      return `${line.name}: ${format(mean)} on average, at most ${format(maximum(numbers))}`;
    })
    .join("; ");
}

function maximum(numbers) {
  return numbers.reduce((most, value) => (isNumber(value) && value > most ? value : most), -Infinity);
}

// A chart needs the width of its place, which a closed part of the page does not have.
function whenLaidOut(node, make) {
  let chart = null;
  const observer = new ResizeObserver(() => {
    const width = Math.floor(node.clientWidth);
    if (width < 40) return;
    if (chart === null) {
      chart = make();
      CHARTS.add(chart);
    } else if (chart.width !== width) chart.setSize({ width, height: chart.height });
  });
  observer.observe(node);
}

function draw(figure, plot, { times, known, format, stacked, top, shaded, height, values }) {
  const sums = stacked ? stack(known) : known.map((line) => line.values);
  const series = known.map((line, position) => look(line, position, stacked));
  const bands = stacked ? known.slice(1).map((_, position) => ({ series: [position + 2, position + 1] })) : [];
  const axis = { stroke: () => theme("--muted"), font: `12px ${getComputedStyle(plot).fontFamily}` };
  const lines = { stroke: () => theme("--line"), width: 1 };
  const options = {
    width: Math.floor(plot.clientWidth),
    height,
    legend: { show: false },
    padding: [10, PLOT_RIGHT, 0, 0],
    cursor: { y: false, drag: { x: true, y: false }, sync: { key: POINTERS.key, setSeries: false } },
    scales: { x: { time: false }, y: { range: (_, __, most) => [0, Math.max(top ?? 0, (most || 0) * 1.05) || 1] } },
    axes: [
      { ...axis, size: 30, space: 76, incrs: STEPS, grid: { show: false }, ticks: lines, values: (_, at, __, ___, step) => at.map((t) => moment(t, step)) },
      { ...axis, size: PLOT_LEFT, grid: lines, ticks: { show: false }, values: (_, at) => at.map(format), space: 34 },
    ],
    series: [{}, ...series],
    bands,
    hooks: {
      drawClear: [(chart) => shade(chart, times, shaded)],
      draw: [() => (figure.dataset.drawn = "yes")],
      setCursor: [(chart) => readValues(chart, known, values, format)],
    },
  };
  return new uPlot(options, [times, ...sums], plot);
}

function look(line, position, stacked) {
  if (!stacked) {
    const stroke = () => theme(`--${line.colour}`);
    return { stroke, width: 1.75, dash: DASHES[position % DASHES.length], points: { show: false }, spanGaps: false };
  }
  const filled = (chart) => canvasPattern(chart.ctx, line.state, uPlot.pxRatio);
  return { stroke: () => theme("--surface"), width: 0.75, fill: filled, points: { show: false } };
}

// The first state lies at the bottom: each line is the sum of its own values and of those below it.
function stack(lines) {
  const sums = [];
  let below = lines[0].values.map(() => 0);
  for (const line of lines) {
    below = below.map((value, position) => value + (line.values[position] ?? 0));
    sums.push(below);
  }
  return sums;
}

function shade(chart, times, shares) {
  if (!shares) return;
  const { left, top, width, height } = chart.bbox;
  const step = times.length > 1 ? times[1] - times[0] : chart.scales.x.max - chart.scales.x.min;
  chart.ctx.save();
  chart.ctx.beginPath();
  chart.ctx.rect(left, top, width, height);
  chart.ctx.clip();
  shares.forEach((share, position) => {
    if (!isNumber(share) || share <= 0) return;
    const from = chart.valToPos(times[position] - step / 2, "x", true);
    const to = chart.valToPos(times[position] + step / 2, "x", true);
    chart.ctx.globalAlpha = Math.min(1, 0.25 + 0.75 * share);
    chart.ctx.fillStyle = canvasPattern(chart.ctx, "throttle", uPlot.pxRatio);
    chart.ctx.fillRect(from, top, to - from + 1, height);
  });
  chart.ctx.restore();
}

function readValues(chart, lines, values, format) {
  const at = chart.cursor.idx;
  lines.forEach((line, position) => {
    const known = at !== null && at !== undefined;
    const value = known ? line.values[at] : null;
    values[position].textContent = known ? (isNumber(value) ? format(value) : "not known") : "";
  });
}

function figuresTable(title, times, lines, format) {
  return lazyDetails({ class: "figures" }, "Figures as a table", () => {
    const factor = Math.max(1, Math.ceil(times.length / TABLE_ROWS));
    const step = times.length > 1 ? times[1] - times[0] : 0;
    const rows = [];
    for (let begin = 0; begin < times.length; begin += factor) rows.push(begin);
    const mean = (values, begin) => {
      const numbers = values.slice(begin, begin + factor).filter(isNumber);
      return numbers.length ? format(numbers.reduce((sum, value) => sum + value, 0) / numbers.length) : UNKNOWN;
    };
    const columns = [{ name: "from", text: (begin) => seconds(Math.max(0, times[begin] - step / 2)) }];
    columns.push(...lines.map((line) => ({ name: line.name, text: (begin) => mean(line.values, begin) })));
    return table(factor > 1 ? `${title}, means` : title, columns, rows, { most: TABLE_ROWS });
  });
}

// Sizes for a chart: in the unit that suits the largest, so that the axis has round figures.
function inByteUnits(lines, top = 0) {
  const most = Math.max(top ?? 0, ...lines.map((line) => maximum(line.values)));
  const power = Math.max(0, Math.min(5, Math.floor(Math.log2(Math.max(1, most)) / 10)));
  const scale = (value) => (isNumber(value) ? value / 1024 ** power : value);
  const unit = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"][power];
  return { lines: lines.map((line) => ({ ...line, values: line.values.map(scale) })), top: scale(top), unit };
}

// The middle of each bin, in seconds since the run's start.
function binTimes(binS, count) {
  return Array.from({ length: count }, (_, position) => (position + 0.5) * binS);
}

function redrawCharts() {
  for (const chart of CHARTS) chart.redraw(false, false);
}

// How long batches took: bars between the ends of bins, on a logarithmic axis.
function histogram(title, service) {
  const figure = el("figure", { class: "chart", "data-chart": title });
  figure.append(el("figcaption", {}, title));
  const bins = listed(service.bins).filter(([upper, count]) => isNumber(upper) && upper > 0 && isNumber(count) && count > 0);
  if (!bins.length) {
    figure.dataset.drawn = "nothing to draw";
    figure.append(note("No batch was finished."));
    return figure;
  }
  const all = bins.reduce((sum, [, count]) => sum + count, 0);
  const marks = [["p50", service.p50_s], ["p90", service.p90_s], ["p99", service.p99_s]].filter(([, value]) => isNumber(value) && value > 0);
  const label = marks.map(([name, value]) => `${name} ${seconds(value)}`).join(", ");
  const area = el("div", { class: "histogram" }, histogramBars(bins, marks, `${title} of ${counted(all, "batch")}. ${label}`));
  figure.append(area);
  figure.append(facts([...marks.map(([name, value]) => [name, seconds(value)]), ["longest", seconds(service.max_s)], ["batches", whole(service.count ?? all)]]));
  figure.append(
    lazyDetails({ class: "figures" }, "Figures as a table", () =>
      table(title, [{ name: "up to", text: ([upper]) => seconds(upper) }, { name: "batches", text: ([, count]) => whole(count) }, { name: "share", text: ([, count]) => percent(count / all) }], bins, { most: TABLE_ROWS }),
    ),
  );
  figure.dataset.drawn = "yes";
  return figure;
}

// Where the bin with this upper end begins. Bins divide an octave into four of equal width (gpuexec/histogram.py).
function lowerEnd(upper) {
  return upper - 2 ** (Math.ceil(Math.log2(upper) - 0.01) - 3); // 0.01: it has four digits
}

function histogramBars(bins, marks, label) {
  const width = 600;
  const height = 130;
  const base = 104;
  const low = Math.log(lowerEnd(bins[0][0]));
  const high = Math.max(Math.log(bins[bins.length - 1][0]), low + Math.LN2);
  const x = (value) => (width * Math.min(1, Math.max(0, (Math.log(value) - low) / (high - low))));
  const most = maximum(bins.map(([, count]) => count));
  const bars = bins.map(([upper, count]) => {
    const tall = Math.max(1.5, (base - 14) * (count / most));
    const from = x(lowerEnd(upper));
    const attributes = { x: from + 0.5, y: base - tall, width: Math.max(1, x(upper) - from - 1), height: tall, class: "column" };
    return svg("rect", attributes, svg("title", {}, `up to ${seconds(upper)}: ${counted(count, "batch")}`));
  });
  const lines = marks.map(([, value]) => svg("path", { d: `M${x(value)} 6 V${base}`, class: "mark" }));
  const apart = width / 7; // a label on a phone is nearly as wide
  const ticks = decades(Math.exp(low), Math.exp(high), ([one, other]) => x(other) - x(one) >= apart).map((value) => [
    svg("path", { d: `M${x(value)} ${base} v5`, class: "axis" }),
    svg("text", { x: x(value), y: height - 6, "text-anchor": x(value) < 40 ? "start" : x(value) > width - 40 ? "end" : "middle" }, seconds(value)),
  ]);
  const names = marks.map(([name, value], position) => {
    const left = x(value) > width - 48; // of the line, so that it is not cut off
    return svg("text", { x: x(value) + (left ? -4 : 4), y: 14 + 14 * position, class: "mark-name", "text-anchor": left ? "end" : "start" }, name);
  });
  const drawing = [svg("path", { d: `M0 ${base} H${width}`, class: "axis" }), bars, lines, ticks, names];
  return svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label }, drawing);
}

// Round values between two others: 1, 2 and 5 times the powers of ten, or fewer, until all neighbours are apart.
function decades(low, high, areApart) {
  for (const [steps, every] of [[[1, 2, 5], 1], [[1, 3], 1], [[1], 1], [[1], 2], [[1], 3], [[1], 6]]) {
    const found = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power += 1) {
      if (power % every) continue;
      found.push(...steps.map((step) => Number((step * 10 ** power).toPrecision(3))).filter((value) => value >= low && value <= high));
    }
    if (found.slice(1).every((value, position) => areApart([found[position], value]))) return found;
  }
  return [];
}
