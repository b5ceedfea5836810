// Puts the page together. A part that fails says so in its place, and the others are shown all the same.
function part(name, make) {
  try {
    return make();
  } catch (error) {
    console.error(`the part "${name}" of the report could not be shown`, error);
    return el("section", { id: name }, el("h2", {}, name), note(`This part could not be shown: ${error.message}.`));
  }
}

const PARTS = [
  ["pipeline", "Pipeline", pipelinePart],
  ["stages", "Stages", stagesPart],
  ["gpus", "GPUs", gpusPart],
  ["slowest", "Slowest tasks", slowestPart],
  ["failures", "Failures", failuresPart],
  ["plan", "Plan", planPart],
  ["workers", "Workers", workersPart],
  ["node", "Machine", nodePart],
];

function main() {
  const report = JSON.parse(document.getElementById("report").textContent);
  document.body.prepend(patternDefinitions());
  document.getElementById("head").append(...[part("head", () => pageHead(report))].flat());
  document.getElementById("verdict").replaceChildren(...[part("verdict", () => verdictPart(report))].flat());
  const body = document.getElementById("body");
  const links = [["verdict", "Verdict"]];
  for (const [id, title, make] of PARTS) {
    const made = part(id, () => make(report));
    if (!made) continue;
    body.append(made);
    const count = id === "failures" ? listed(report.failures).length : 0;
    links.push([id, count ? `${title} (${whole(count)})` : title]);
  }
  document.getElementById("foot").textContent = `gpuexec ${report.gpuexec ?? ""} · ${report.schema ?? ""} · run ${report.run_id ?? ""}`;
  navigation(links);
  themes();
  openNamed();
  window.addEventListener("hashchange", openNamed);
  window.addEventListener("beforeprint", () => document.querySelectorAll("details.part").forEach((node) => node.gpuexecOpen?.()));
  document.documentElement.dataset.ready = String(Math.round(performance.now())); // ms since the page was asked for
}

function navigation(links) {
  const items = new Map(links.map(([id, title]) => [id, el("a", { href: `#${id}` }, title)]));
  document.getElementById("sections").append(...[...items.values()].map((link) => el("li", {}, link)));
  const seen = new Map();
  const observer = new IntersectionObserver(
    (entries) => {
      entries.forEach((entry) => seen.set(entry.target.id, entry.isIntersecting));
      const now = links.map(([id]) => id).find((id) => seen.get(id));
      items.forEach((link, id) => (id === now ? link.setAttribute("aria-current", "true") : link.removeAttribute("aria-current")));
    },
    { rootMargin: "-64px 0px -55% 0px" },
  );
  links.forEach(([id]) => observer.observe(document.getElementById(id)));
}

// A link to a stage or a GPU opens its part.
function openNamed() {
  const node = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!node?.gpuexecOpen) return;
  node.gpuexecOpen();
  node.scrollIntoView();
}

function themes() {
  const button = document.getElementById("theme");
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  function now() {
    return document.documentElement.dataset.theme ?? (dark.matches ? "dark" : "light");
  }
  function show() {
    button.textContent = now() === "dark" ? "Light" : "Dark";
    button.setAttribute("aria-label", `Use the ${now() === "dark" ? "light" : "dark"} colours`);
    redrawCharts();
  }
  button.addEventListener("click", () => {
    document.documentElement.dataset.theme = now() === "dark" ? "light" : "dark";
    show();
  });
  dark.addEventListener("change", show);
  show();
}

main();
