// Elements, tables and parts that are made when they are opened. Text goes in as text nodes only, never as markup.
const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(9).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

function el(tag, attributes, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function svg(tag, attributes, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

// Text with `names` in backticks.
function prose(text) {
  return String(text)
    .replace(/(\d) (%|(?:pp|[mµ]?s|min|h|[KMGT]iB|k?J|kWh|MHz|GPUs?)\b)/g, "$1\u00a0$2") // a figure stays with its unit
    .split("`")
    .map((part, position) => (position % 2 ? el("code", {}, part) : part));
}

function section(id, title, ...children) {
  return el("section", { id, "aria-labelledby": `${id}-title` }, el("h2", { id: `${id}-title` }, title), ...children);
}

// The function is called when the part is opened for the first time.
function lazyDetails(attributes, summary, make) {
  const node = el("details", attributes, el("summary", {}, summary));
  let made = false;
  function onOpen() {
    if (!node.open || made) return;
    made = true;
    node.append(...[make()].flat(9));
  }
  node.addEventListener("toggle", onOpen);
  node.gpuexecOpen = () => {
    node.open = true;
    onOpen();
  };
  return node;
}

function listed(value) {
  return Array.isArray(value) ? value : [];
}

function record(value) {
  return value && typeof value === "object" && !Array.isArray(value) ? value : {};
}

function note(text) {
  return el("p", { class: "note" }, prose(text));
}

function facts(pairs) {
  const shown = pairs.filter(([, value]) => value !== null && value !== undefined && value !== "");
  return el("dl", { class: "facts" }, shown.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))));
}

// columns: {name, text(row), key(row)?, node(row)?, hint?, wide?}. A column with a key sorts by it, unknown values last;
// a wide one has sentences.
// Shows the first rows, the others on demand.
function table(caption, columns, rows, { most = 25, sorted = null } = {}) {
  let order = rows;
  let shown = most;
  let by = sorted;
  const body = el("tbody", {});
  const heads = columns.map((column, position) => head(column, position));
  const more = el("button", { type: "button", class: "quiet", onclick: () => showAll() });
  const node = el(
    "div",
    { class: "table" },
    el(
      "div",
      { class: "scroll", tabindex: "0", role: "region", "aria-label": `${caption}, table` },
      el("table", {}, el("caption", {}, caption), el("thead", {}, el("tr", {}, heads)), body),
    ),
    more,
  );

  function head(column, position) {
    const attributes = { scope: "col", class: cellClass(column, position), title: column.hint };
    if (!column.key || rows.length < 2) return el("th", attributes, column.name);
    return el("th", attributes, el("button", { type: "button", class: "sort", onclick: () => sort(position) }, column.name));
  }
  function sort(position) {
    by = { position, down: by && by.position === position ? !by.down : true };
    draw();
  }
  function showAll() {
    shown = shown === most ? rows.length : most;
    draw();
  }
  function draw() {
    if (by) order = sortedRows(rows, columns[by.position].key, by.down);
    heads.forEach((cell, position) => {
      if (!columns[position].key) return;
      const now = by && by.position === position ? (by.down ? "descending" : "ascending") : "none";
      cell.setAttribute("aria-sort", now);
    });
    body.replaceChildren(...order.slice(0, shown).map((entry) => tableRow(columns, entry)));
    more.hidden = rows.length <= most;
    more.textContent = shown === most ? `Show all ${whole(rows.length)}` : `Show the first ${most}`;
  }
  draw();
  return node;
}

function cellClass(column, position) {
  if (column.wide) return "wide-cell";
  return column.key && position ? "figure" : "";
}

function tableRow(columns, entry) {
  return el(
    "tr",
    {},
    columns.map((column, position) => {
      const content = column.node ? column.node(entry) : column.text(entry);
      if (position === 0) return el("th", { scope: "row" }, content);
      return el("td", { class: cellClass(column, position) }, content);
    }),
  );
}

function sortedRows(rows, key, down) {
  const keyed = rows.map((entry, position) => ({ entry, position, key: key(entry) }));
  const missing = (value) => value === null || value === undefined || Number.isNaN(value);
  keyed.sort((a, b) => {
    if (missing(a.key) || missing(b.key)) return Number(missing(a.key)) - Number(missing(b.key)) || a.position - b.position;
    const order = a.key < b.key ? -1 : a.key > b.key ? 1 : 0;
    return (down ? -order : order) || a.position - b.position;
  });
  return keyed.map((found) => found.entry);
}

function copyButton(text) {
  const button = el("button", { type: "button", class: "quiet", onclick: copy }, "Copy");
  async function copy() {
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
    } catch {
      const range = document.createRange();
      range.selectNodeContents(button.previousElementSibling);
      const selection = window.getSelection();
      selection.removeAllRanges();
      selection.addRange(range);
      button.textContent = "Selected: press Ctrl-C";
    }
  }
  return button;
}

function omitted(report, name, shown, file = "report.json") {
  const left = record(report.omitted)[name];
  return left ? note(`${whole(shown)} are shown here, ${whole(left)} more are in ${file}.`) : null;
}
