// Throughput against energy per item: the points on the front are those that no other one beats in both.
const FRONT_HEIGHT = 320;
const MARGIN = { left: 76, right: 24, top: 16, bottom: 46 };
const NAME_ROOM = 16; // pixels that the name of a point takes

function frontPart(sweep) {
  const points = sweep.points.filter((point) => point.usable && isNumber(mean(point, "throughput")) && isNumber(mean(point, "joules_per_item")));
  if (!points.length) return null;
  const front = points.filter((point) => point.front).sort((a, b) => mean(a, "throughput") - mean(b, "throughput"));
  const told = front.map((point) => `${point.id}: ${withInterval(point, "throughput")}, ${withInterval(point, "joules_per_item")} per item`).join("; ");
  const plot = el("div", { class: "plot" });
  const figure = el("figure", { class: "chart", "data-chart": "The front" }, el("figcaption", {}, "Throughput and energy per item"), plot);
  const columns = [
    { name: "point", text: (p) => p.id, key: (p) => p.rank, node: (p) => [pointLink(p), badges(p)] },
    { name: "settings", text: (p) => p.settings },
    ...["throughput", "joules_per_item"].map((key) => ({ name: { throughput: "throughput", joules_per_item: "energy per item" }[key], key: (p) => mean(p, key), text: (p) => withInterval(p, key) })),
  ];
  whenLaidOut(plot, () => scatter(figure, plot, points, front, `The front: ${told}`));
  const someShort = sweep.points.some(isShort);
  return section(
    "front",
    "Front",
    note("Right is faster, down is more economical. Filled points, joined by the line, are on the front: no other point has both more throughput and fewer joules per item. Lines through a point are its 95 % intervals."),
    figure,
    table("The front", columns, front),
    someShort ? note("Points whose energy was measured for less than 10 s are not in this picture.") : null,
  );
}

// What `whenLaidOut` takes for a chart: it is drawn anew for another width; colours come from the style sheet.
function scatter(figure, plot, points, front, label) {
  const chart = {
    width: 0,
    height: FRONT_HEIGHT,
    redraw() {},
    setSize({ width }) {
      chart.width = width;
      plot.replaceChildren(scatterDrawing(width, points, front, label));
      figure.dataset.drawn = "yes";
    },
  };
  chart.setSize({ width: Math.floor(plot.clientWidth) });
  return chart;
}

function scatterDrawing(width, points, front, label) {
  const x = axisScale(points, "throughput", MARGIN.left, width - MARGIN.right);
  const y = axisScale(points, "joules_per_item", FRONT_HEIGHT - MARGIN.bottom, MARGIN.top);
  const at = (point) => [x.place(mean(point, "throughput")), y.place(mean(point, "joules_per_item"))];
  const base = FRONT_HEIGHT - MARGIN.bottom;
  const step = front.map((point, position) => (position ? `H${at(point)[0]} V${at(point)[1]}` : `M${at(point).join(" ")}`)).join(" ");
  const taken = [];
  return svg(
    "svg",
    { width, height: FRONT_HEIGHT, role: "group", "aria-label": label },
    svg("path", { class: "axis", d: `M${MARGIN.left} ${MARGIN.top} V${base} H${width - MARGIN.right}` }),
    x.ticks.map((value) => svg("text", { x: x.place(value), y: base + 18, "text-anchor": "middle" }, short(value))),
    y.ticks.map((value) => svg("text", { x: MARGIN.left - 8, y: y.place(value) + 4, "text-anchor": "end" }, joules(value))),
    svg("text", { x: width - MARGIN.right, y: FRONT_HEIGHT - 8, "text-anchor": "end" }, "items/s →"),
    front.length > 1 ? svg("path", { class: "line line-1 step", d: step }) : null,
    points.map((point) => crossOf(point, x, y)),
    [...points].sort((a, b) => Number(a.front) - Number(b.front)).map((point) => dotOf(point, at(point), taken, width)),
  );
}

function crossOf(point, x, y) {
  const [speed, energy] = [record(point.figures.throughput), record(point.figures.joules_per_item)];
  if (![speed.low, speed.high, energy.low, energy.high].every(isNumber)) return null;
  const path = `M${x.place(speed.low)} ${y.place(energy.mean)} H${x.place(speed.high)} M${x.place(speed.mean)} ${y.place(energy.low)} V${y.place(energy.high)}`;
  return svg("path", { class: "cross", d: path });
}

function dotOf(point, [x, y], taken, width) {
  const text = `${point.id}: ${withInterval(point, "throughput")}, ${withInterval(point, "joules_per_item")} per item (${point.settings})`;
  const look = point.front ? "dot on-front" : "dot";
  const shape = point.is_today ? svg("rect", { class: look, x: x - 5, y: y - 5, width: 10, height: 10 }) : svg("circle", { class: look, cx: x, cy: y, r: point.front ? 6 : 4.5 });
  const isNamed = (point.front || point.is_today) && !taken.some((place) => Math.hypot(place[0] - x, place[1] - y) < NAME_ROOM);
  if (isNamed) taken.push([x, y]);
  const side = x > width - 110 ? { x: x - 10, "text-anchor": "end" } : { x: x + 10 };
  const name = isNamed ? svg("text", { ...side, y: y - 8, class: "mark-name" }, point.id + (point.is_today ? " today" : "")) : null;
  return svg("a", { href: `#${point.id}`, "aria-label": text }, svg("title", {}, text), shape, name);
}

// From a little below the smallest to a little above the largest value, with ticks at round ones.
function axisScale(points, key, from, to) {
  const values = points.map((point) => mean(point, key));
  const [least, most] = [Math.min(...values), Math.max(...values)];
  const room = (most - least || most || 1) * 0.08;
  const low = Math.max(0, least - room);
  const high = most + room;
  const place = (value) => from + ((Math.min(high, Math.max(low, value)) - low) / (high - low)) * (to - from);
  const step = niceStep((high - low) / 5);
  const ticks = [];
  for (let value = Math.ceil(low / step) * step; value <= high; value += step) ticks.push(value);
  return { place, ticks };
}

function niceStep(wanted) {
  const power = 10 ** Math.floor(Math.log10(wanted));
  return [1, 2, 5, 10].map((factor) => factor * power).find((step) => step >= wanted);
}
