// Figures as text. What is unknown is "–"; callers say why.
const UNKNOWN = "–";

function isNumber(value) {
  return typeof value === "number" && Number.isFinite(value);
}

function grouped(value, digits) {
  return value.toLocaleString("en", { maximumFractionDigits: digits, minimumFractionDigits: 0 });
}

// Three significant digits, and whole numbers from 100 on.
function short(value) {
  if (!isNumber(value)) return UNKNOWN;
  const size = Math.abs(value);
  if (size === 0) return "0";
  if (size >= 99.95) return grouped(value, 0);
  if (size >= 9.995) return grouped(value, 1);
  if (size >= 0.0995) return grouped(value, 2);
  return Number(value.toPrecision(2)).toString();
}

function whole(value) {
  return isNumber(value) ? grouped(Math.round(value), 0) : UNKNOWN;
}

function percent(share) {
  if (!isNumber(share)) return UNKNOWN;
  const value = share * 100;
  if (value > 0 && value < 0.1) return "< 0.1 %";
  return Math.abs(value) < 3 && value !== 0 ? `${grouped(value, 1)} %` : `${grouped(value, 0)} %`;
}

function seconds(value) {
  if (!isNumber(value)) return UNKNOWN;
  const size = Math.abs(value);
  if (size === 0) return "0 s";
  if (size < 0.001) return `${short(value * 1e6)} µs`;
  if (size < 0.9995) return `${short(value * 1e3)} ms`;
  if (size < 99.5) return `${short(value)} s`;
  const all = Math.round(value);
  if (all < 3600) return `${Math.floor(all / 60)} min ${all % 60} s`;
  const minutes = Math.round(value / 60);
  return `${grouped(Math.floor(minutes / 60), 0)} h ${minutes % 60} min`;
}

// A moment of the run, for axes: "0", "40 s", "12 min", "1 h 30".
function moment(value, step) {
  if (value === 0) return "0";
  if (step < 1) return `${short(value)} s`;
  if (Math.abs(value) < 120 && step < 60) return `${grouped(value, 0)} s`;
  if (step < 60) return `${Math.floor(value / 60)}:${String(Math.round(value % 60)).padStart(2, "0")} min`;
  const minutes = Math.round(value / 60);
  if (minutes < 60) return `${minutes} min`;
  return minutes % 60 ? `${Math.floor(minutes / 60)} h ${minutes % 60}` : `${minutes / 60} h`;
}

function bytes(value) {
  if (!isNumber(value)) return UNKNOWN;
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  let unit = 0;
  let size = value;
  while (Math.abs(size) >= 1024 && unit < units.length - 1) {
    size /= 1024;
    unit += 1;
  }
  return `${unit ? short(size) : grouped(size, 0)} ${units[unit]}`;
}

function rate(value, noun) {
  if (!isNumber(value)) return UNKNOWN;
  if (value === 0) return `0 ${noun}/s`;
  if (value >= 1) return `${short(value)} ${noun}/s`;
  if (value * 60 >= 1) return `${short(value * 60)} ${noun}/min`;
  return `${short(value * 3600)} ${noun}/h`;
}

function joules(value) {
  if (!isNumber(value)) return UNKNOWN;
  if (value >= 3.6e6) return `${short(value / 3.6e6)} kWh`;
  return value >= 1e3 ? `${short(value / 1e3)} kJ` : `${short(value)} J`;
}

function counted(count, noun) {
  const plural = /(ch|s)$/.test(noun) ? `${noun}es` : `${noun}s`;
  return `${whole(count)} ${Math.round(count) === 1 ? noun : plural}`;
}

function oneLine(text, most = 80) {
  const line = [...String(text ?? "").replace(/\s+/g, " ").trim()];
  return line.length > most ? `${line.slice(0, most - 1).join("")}…` : line.join("") || "(no name)";
}

// A figure of a verdict: its name ends with its unit.
function figure(name, value) {
  const units = [
    ["_share", percent],
    ["_per_s", (v) => `${short(v)} /s`],
    ["_mhz", (v) => `${whole(v)} MHz`],
    ["_bytes", bytes],
    ["_gb", (v) => `${short(v)} GiB`],
    ["_s", seconds],
  ];
  for (const [ending, format] of units) {
    if (name.endsWith(ending)) return [words(name.slice(0, -ending.length)), format(value)];
  }
  return name.startsWith("joules") ? [words(name), joules(value)] : [words(name), short(value)];
}

function words(name) {
  return String(name).replace(/_/g, " ").replace(/\bgpu(s?)\b/g, "GPU$1").replace(/\bsm\b/, "SM");
}

// A word of a POSIX shell.
function shellWord(text) {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${String(text).replace(/'/g, `'"'"'`)}'`;
}

function when(posix) {
  if (!isNumber(posix)) return UNKNOWN;
  const date = new Date(posix * 1000);
  return Number.isNaN(date.getTime()) ? UNKNOWN : `${date.toISOString().slice(0, 19).replace("T", " ")} UTC`;
}
