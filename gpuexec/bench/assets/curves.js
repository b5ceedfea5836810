// Curves: a figure over one setting, with the 95 % interval of each mean. The other settings are those of the best point.
const CAP_PX = 4; // half the width of the ends of an interval
const DOT_PX = 3.5;

function curves(sweep) {
  const figures = sweep.figures.filter(({ key }) => key !== "first_result_s");
  const drawn = sweep.axes.flatMap((axis, position) => {
    const points = alongAxis(sweep, position);
    return points.length > 1 || sweep.axes.length === 1 ? figures.slice(0, sweep.axes.length > 1 ? 1 : figures.length).map((figure) => curve(sweep, axis, position, points, figure)) : [];
  });
  return drawn.length ? el("div", { class: "charts" }, drawn) : null;
}

// The points that differ from the best one in this setting only, or from today's where there is no best.
function alongAxis(sweep, position) {
  const shown = mapped(sweep);
  const centre = shown.find((point) => point.best) ?? shown[0];
  if (!centre) return [];
  const beside = shown.filter((point) => point.at.every((place, other) => other === position || place === centre.at[other]));
  return beside.sort((a, b) => a.at[position] - b.at[position]);
}

function curve(sweep, axis, position, points, figure) {
  const title = `${figure.name} by ${axis.short}`;
  const node = el("figure", { class: "chart", "data-chart": title }, el("figcaption", {}, title));
  const known = points.filter((point) => point.usable && isNumber(mean(point, figure.key)));
  if (!known.length) {
    node.dataset.drawn = "nothing to draw";
    node.append(note("Nothing was measured."));
    return node;
  }
  const told = known.map((point) => `${settingText(sweep, point, position)}: ${withInterval(point, figure.key)}`).join("; ");
  const plot = el("div", { class: "plot", role: "img", "aria-label": `${title}. ${told}` });
  const columns = [
    { name: axis.short, text: (p) => settingText(sweep, p, position) },
    { name: "point", text: (p) => p.id, node: pointLink },
    { name: figure.name, text: (p) => (p.usable ? withInterval(p, figure.key) : p.end) },
  ];
  node.append(plot, lazyDetails({ class: "figures" }, "Figures as a table", () => table(title, columns, points)));
  const spreads = points.map((point) => (point.usable ? record(point.figures[figure.key]) : {}));
  const labels = points.map((point) => settingText(sweep, point, position));
  const failed = points.map((point) => point.failed);
  const today = sweep.points.find((point) => point.is_today && point.usable);
  const level = today ? mean(today, figure.key) : null;
  const marks = [isNumber(level) ? `dashed: today's configuration, ${figureText(figure.key, level)}` : null, failed.includes(true) ? "×: without a result" : null].filter(Boolean);
  if (marks.length) node.append(el("p", { class: "note small" }, marks.join("; ")));
  whenLaidOut(plot, () => drawCurve(node, plot, { spreads, labels, failed, numeric: axis.numeric, level, format: (value) => figureText(figure.key, value) }));
  return node;
}

function drawCurve(node, plot, { spreads, labels, failed, numeric, level, format }) {
  const tops = [...spreads.flatMap(({ mean: middle, high }) => [middle, high]), level].filter(isNumber);
  const axis = { stroke: () => theme("--muted"), font: `12px ${getComputedStyle(plot).fontFamily}` };
  const lines = { stroke: () => theme("--line"), width: 1 };
  // Intervals of few repeats can be very wide: then the axis ends at twice the largest mean.
  const most = Math.min(maximum(tops), 2 * maximum([...spreads.map((spread) => spread.mean), level]));
  const options = {
    width: Math.floor(plot.clientWidth),
    height: 220,
    legend: { show: false },
    padding: [12, 24, 0, 0],
    cursor: { show: false },
    scales: { x: { time: false, range: [-0.5, labels.length - 0.5] }, y: { range: [0, most * 1.08 || 1] } },
    axes: [
      { ...axis, size: 30, splits: labels.map((_, place) => place), grid: { show: false }, ticks: lines, values: (_, at) => at.map((place) => oneLine(labels[place], 12)), space: 20 },
      { ...axis, size: PLOT_LEFT + 12, grid: lines, ticks: { show: false }, values: (_, at) => at.map(format), space: 40 },
    ],
    series: [{}, { stroke: () => theme("--line-1"), width: numeric ? 1.75 : 0, points: { show: false }, spanGaps: false }],
    hooks: {
      draw: [
        (chart) => {
          drawLevel(chart, level);
          spreads.forEach((spread, place) => (failed[place] ? drawFailed(chart, place) : drawInterval(chart, place, spread)));
          node.dataset.drawn = "yes";
        },
      ],
    },
  };
  return new uPlot(options, [labels.map((_, place) => place), spreads.map((spread) => spread.mean ?? null)], plot);
}

function drawInterval(chart, place, { mean: middle, low, high }) {
  if (!isNumber(middle)) return;
  const { ctx, bbox } = chart;
  const x = chart.valToPos(place, "x", true);
  const y = (value) => Math.min(bbox.top + bbox.height, Math.max(bbox.top, chart.valToPos(value, "y", true)));
  ctx.save();
  ctx.strokeStyle = ctx.fillStyle = theme("--line-1");
  ctx.lineWidth = 1.5 * uPlot.pxRatio;
  if (isNumber(low) && isNumber(high)) {
    const cap = CAP_PX * uPlot.pxRatio;
    ctx.beginPath();
    ctx.moveTo(x, y(low));
    ctx.lineTo(x, y(high));
    [low, high].forEach((end) => {
      ctx.moveTo(x - cap, y(end));
      ctx.lineTo(x + cap, y(end));
    });
    ctx.stroke();
  }
  ctx.beginPath();
  ctx.arc(x, y(middle), DOT_PX * uPlot.pxRatio, 0, 2 * Math.PI);
  ctx.fill();
  ctx.restore();
}

function drawFailed(chart, place) {
  const { ctx, bbox } = chart;
  ctx.save();
  ctx.fillStyle = theme("--bad");
  ctx.textAlign = "center";
  ctx.font = `${16 * uPlot.pxRatio}px sans-serif`;
  ctx.fillText("×", chart.valToPos(place, "x", true), bbox.top + bbox.height - 5 * uPlot.pxRatio);
  ctx.restore();
}

function drawLevel(chart, level) {
  if (!isNumber(level)) return;
  const { ctx, bbox } = chart;
  const y = chart.valToPos(level, "y", true);
  ctx.save();
  ctx.strokeStyle = theme("--muted");
  ctx.setLineDash([5 * uPlot.pxRatio, 4 * uPlot.pxRatio]);
  ctx.beginPath();
  ctx.moveTo(bbox.left, y);
  ctx.lineTo(bbox.left + bbox.width, y);
  ctx.stroke();
  ctx.restore();
}
