// What workers do with their time: a name, a colour (in page.css, by theme) and a pattern for those who see no colours.
// A pattern is a path in a tile of 8 by 8; an empty path is a plain area.
const STATES = [
  ["busy", "busy", ""],
  ["transfer", "moving data", "M0 8 L8 0"],
  ["lost", "failed attempts", "M0 0 L8 8 M8 0 L0 8"],
  ["setting_up", "setting up", "M0 0 L8 8"],
  ["no_input", "no input", "M2 2 h1 M6 6 h1"],
  ["output_full", "next queue full", "M4 0 V8"],
  ["no_gpu_room", "no room on a GPU", "M0 2 H8 M0 6 H8"],
  ["retry_delay", "retry delay", "M2 2 h2 v2 h-2 z"],
  ["memory_pressure", "memory pressure", "M0 4 L4 0 L8 4 M0 8 L4 4 L8 8"],
  ["checkpoint_write", "checkpoint write", "M0 4 H8 M4 0 V8"],
  ["draining", "draining", "M0 4 H8"],
  ["caller_not_reading", "caller not reading", "M0 2 L2 0 M2 8 L8 2 M4 4 h1"],
];
const KNOWN_STATES = new Map(STATES.map(([state, name, path]) => [state, { name, path }]));
const OTHER_STATE = "other"; // states that this page does not know get one look

function stateName(state) {
  return KNOWN_STATES.get(state)?.name ?? words(state);
}

function stateLook(state) {
  return KNOWN_STATES.has(state) ? state.replace(/_/g, "-") : OTHER_STATE;
}

// The states with time, work first, in the order of the list above.
function statesOf(time) {
  const present = Object.keys(record(time)).filter((state) => isNumber(time[state]) && time[state] > 0);
  const place = (state) => (KNOWN_STATES.has(state) ? STATES.findIndex(([known]) => known === state) : STATES.length);
  return present.sort((a, b) => place(a) - place(b));
}

// The SVG patterns that bars refer to, once in the page.
function patternDefinitions() {
  const looks = [...STATES.map(([state, , path]) => [stateLook(state), path]), [OTHER_STATE, "M0 0 h8 v8"]];
  const patterns = looks.map(([look, path]) =>
    svg(
      "pattern",
      { id: `fill-${look}`, width: 8, height: 8, patternUnits: "userSpaceOnUse" },
      svg("rect", { width: 8, height: 8, class: `state-${look}` }),
      path ? svg("path", { d: path, class: "hatch" }) : null,
    ),
  );
  return svg("svg", { width: 0, height: 0, class: "definitions", "aria-hidden": "true" }, svg("defs", {}, patterns));
}

// The same pattern for a canvas.
function canvasPattern(context, state, ratio) {
  const tile = document.createElement("canvas");
  tile.width = tile.height = Math.round(8 * ratio);
  const brush = tile.getContext("2d");
  brush.scale(tile.width / 8, tile.height / 8);
  brush.fillStyle = theme(`--state-${stateLook(state)}`);
  brush.fillRect(0, 0, 8, 8);
  brush.strokeStyle = theme("--hatch");
  brush.lineWidth = 1;
  brush.stroke(new Path2D(KNOWN_STATES.get(state)?.path ?? "M0 0 h8 v8"));
  return context.createPattern(tile, "repeat");
}

function theme(variable) {
  return getComputedStyle(document.documentElement).getPropertyValue(variable).trim();
}

function swatch(state) {
  return svg(
    "svg",
    { class: "swatch", width: 18, height: 12, "aria-hidden": "true" },
    svg("rect", { width: 18, height: 12, rx: 2, fill: `url(#fill-${stateLook(state)})` }),
  );
}

// A bar with the shares of a time, read as one sentence by screen readers.
function timeBar(time, height = 14) {
  const states = statesOf(time);
  const total = states.reduce((sum, state) => sum + time[state], 0);
  let from = 0;
  const parts = states.map((state) => {
    const share = (100 * time[state]) / total;
    const part = svg(
      "rect",
      { x: `${from}%`, width: `${share}%`, height, fill: `url(#fill-${stateLook(state)})` },
      svg("title", {}, `${stateName(state)}: ${percent(time[state] / total)}, ${seconds(time[state])}`),
    );
    from += share;
    return part;
  });
  const label = total ? states.map((state) => `${stateName(state)} ${percent(time[state] / total)}`).join(", ") : "no time";
  return svg("svg", { class: "bar", height, width: "100%", role: "img", "aria-label": label }, parts);
}

function stateLegend(states) {
  return el("ul", { class: "legend" }, states.map((state) => el("li", {}, swatch(state), stateName(state))));
}
