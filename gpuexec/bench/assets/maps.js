// Heat maps: one figure over two of the settings, a map for each combination of the others.
const HEAT_LEVELS = 10;
const FIRST_MAPS = 6;
const LOG_FROM = 10; // a figure whose largest value is so many times its smallest is coloured by its logarithm

function settingsPart(sweep) {
  if (!sweep.axes.length || !sweep.points.some((point) => point.status)) return null;
  if (sweep.axes.length === 1) return sweep.figures.length ? section("settings", "Settings", byRungs(sweep), curves(sweep), offTheMap(sweep)) : null;
  const drawn = curves(sweep);
  const title = el("h3", {}, "Each setting by itself, with the others as in the best point");
  return section("settings", "Settings", byRungs(sweep), heatMaps(sweep), drawn ? [title, drawn] : null, offTheMap(sweep));
}

function byRungs(sweep) {
  return sweep.search === "halving" ? note("A point's figures are of the last rung of the search that it reached. Runs of later rungs are longer.") : null;
}

function heatMaps(sweep) {
  const order = sweep.axes.map((_, position) => position).sort((a, b) => sweep.axes[b].values.length - sweep.axes[a].values.length || a - b);
  const chosen = { x: order[0], y: order[1], figure: sweep.figures.find(({ key }) => key === sweep.goal)?.key ?? sweep.figures[0]?.key };
  const area = el("div", { class: "maps" });
  const selects = {};
  const names = sweep.axes.map((axis, position) => [position, axis.name]);
  if (sweep.axes.length > 2) {
    selects.x = choice("across", names, chosen.x, (value) => choose("x", Number(value)));
    selects.y = choice("down", names, chosen.y, (value) => choose("y", Number(value)));
  }
  if (sweep.figures.length > 1) selects.figure = choice("figure", sweep.figures.map(({ key, name }) => [key, name]), chosen.figure, (value) => choose("figure", value));

  function choose(which, value) {
    const other = { x: "y", y: "x" }[which];
    if (other && chosen[other] === value) {
      chosen[other] = chosen[which]; // the two change places
      selects[other].querySelector("select").value = String(chosen[other]);
    }
    chosen[which] = value;
    draw();
  }
  function draw() {
    area.replaceChildren(...mapsOf(sweep, chosen).filter(Boolean));
  }
  draw();
  return [Object.keys(selects).length ? el("div", { class: "choices" }, Object.values(selects)) : null, area];
}

function choice(label, options, now, onchange) {
  const select = el("select", { onchange: () => onchange(select.value) }, options.map(([value, text]) => el("option", { value: String(value), selected: value === now }, text)));
  return el("label", {}, `${label} `, select);
}

function mapsOf(sweep, { x, y, figure: key }) {
  const others = sweep.axes.map((_, position) => position).filter((position) => position !== x && position !== y);
  const groups = new Map();
  for (const point of mapped(sweep)) {
    const place = others.map((position) => point.at[position]).join(",");
    if (!groups.has(place)) groups.set(place, []);
    groups.get(place).push(point);
  }
  const figure = sweep.figures.find((each) => each.key === key);
  const scale = heatScale(mapped(sweep), figure);
  const maps = [...groups.values()].map((points) => {
    const title = others.map((position) => `${sweep.axes[position].short} ${settingText(sweep, points[0], position)}`).join(", ");
    return heatMap(sweep, points, { x, y, figure, scale, title: title || (figure?.name ?? "how they ended") });
  });
  return [scaleLegend(figure, scale), ...shownFirst(maps, FIRST_MAPS)];
}

// The first entries, and a button that shows the others.
function shownFirst(nodes, most) {
  nodes.slice(most).forEach((node) => (node.hidden = true));
  if (nodes.length <= most) return nodes;
  const more = el("button", { type: "button", class: "quiet" }, `Show all ${whole(nodes.length)} maps`);
  more.addEventListener("click", () => {
    nodes.forEach((node) => (node.hidden = false));
    more.remove();
  });
  return [...nodes, more];
}

// The points that maps and curves show. Today's configuration is left out where no other point has one of its values,
// but for a number on the only axis.
function mapped(sweep) {
  return sweep.points.filter((point) => !point.is_today || !isOff(sweep, point));
}

function isOff(sweep, point) {
  const others = sweep.points.filter((other) => other !== point);
  if (sweep.axes.length === 1 && sweep.axes[0].all_numbers) return false;
  return others.length > 0 && point.at.some((place, position) => !others.some((other) => other.at[position] === place));
}

function offTheMap(sweep) {
  const today = sweep.points.find((point) => point.is_today);
  if (!today || !isOff(sweep, today)) return null;
  const figure = today.usable ? withInterval(today, sweep.goal) : today.end;
  return note(`Today's configuration has a value that no other point has, and is not in these pictures: ${today.settings}, ${figure}.`);
}

function heatScale(points, figure) {
  const values = points.filter((point) => point.usable).map((point) => (figure ? mean(point, figure.key) : null)).filter(isNumber);
  const low = Math.min(...values);
  const high = Math.max(...values);
  const isLog = low > 0 && high / low >= LOG_FROM;
  const place = (value) => (isLog ? Math.log(value / low) / Math.log(high / low) : (value - low) / (high - low));
  return {
    low,
    high,
    count: values.length,
    level(value) {
      const share = high > low ? place(value) : 1;
      return Math.min(HEAT_LEVELS - 1, Math.floor((figure.better === "lower" ? 1 - share : share) * HEAT_LEVELS));
    },
  };
}

function scaleLegend(figure, scale) {
  if (!scale.count) return null;
  const ends = figure.better === "lower" ? [scale.high, scale.low] : [scale.low, scale.high];
  const swatches = Array.from({ length: HEAT_LEVELS }, (_, level) => el("span", { class: `heat heat-${level}` }));
  const [worst, best] = ends.map((value) => figureText(figure.key, value));
  return el("p", { class: "scale" }, `${figure.name}: ${worst} `, el("span", { class: "ramp", "aria-hidden": "true" }, swatches), ` ${best}. A stronger colour is better.`);
}

function heatMap(sweep, points, { x, y, figure, scale, title }) {
  const used = (position) => [...new Set(points.map((point) => point.at[position]))].sort((a, b) => a - b);
  const columns = used(x);
  const [across, down] = [sweep.axes[x], sweep.axes[y]];
  const rows = used(y).map((row) =>
    el(
      "tr",
      {},
      el("th", { scope: "row" }, down.values[row]),
      columns.map((column) => heatCell(points.find((point) => point.at[x] === column && point.at[y] === row), figure, scale)),
    ),
  );
  const label = `${title}: ${figure?.name ?? "how they ended"}, ${across.short} across, ${down.short} down`;
  return el(
    "figure",
    { class: "chart map", "data-chart": `map: ${title}`, "data-drawn": "yes" },
    el("figcaption", {}, title),
    el(
      "div",
      { class: "scroll", tabindex: "0", role: "region", "aria-label": label },
      el(
        "table",
        {},
        el("caption", {}, label),
        el("thead", {}, el("tr", {}, el("th", { scope: "col", class: "corner" }, el("span", {}, `${oneLine(down.short, 24)} ↓`), el("span", {}, `${oneLine(across.short, 24)} →`)), columns.map((column) => el("th", { scope: "col" }, across.values[column])))),
        el("tbody", {}, rows),
      ),
    ),
  );
}

function heatCell(point, figure, scale) {
  if (!point || !point.status) return el("td", { class: "cell empty" }, point ? [pointLink(point), el("small", {}, "not measured")] : UNKNOWN);
  const title = `${point.id}: ${point.settings}`;
  if (point.failed) return el("td", { class: "cell failed", title }, el("a", { href: `#${point.id}` }, point.end));
  const value = figure ? mean(point, figure.key) : null;
  const look = isNumber(value) ? `heat heat-${scale.level(value)}` : "empty";
  const text = isNumber(value) ? figureText(figure.key, value).replace(/ items\/s$/, "") : UNKNOWN;
  return el(
    "td",
    { class: `cell ${look}${point.best ? " best" : ""}`, title },
    el("a", { href: `#${point.id}`, "aria-label": `${text}, ${point.id}` }, text),
    el("small", {}, around(point.figures[figure?.key])),
    badges(point, "equal"),
  );
}
