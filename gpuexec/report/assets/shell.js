// What a page is around its parts: the order of making it, the navigation, themes, links to what can be opened.

// Shows the data in the page. head(data) and verdict's function make the top. parts: [id, title, make(data), count?(data)];
// a part that makes nothing is left out. count: what its link in the navigation counts, if anything.
function showPage({ head, verdict: [verdictTitle, makeVerdict], parts, foot }) {
  const data = JSON.parse(document.getElementById("report").textContent);
  document.body.prepend(patternDefinitions());
  document.getElementById("head").append(...[part("head", () => head(data))].flat(9));
  document.getElementById("verdict").replaceChildren(...[part("verdict", () => makeVerdict(data))].flat(9));
  const body = document.getElementById("body");
  const links = [["verdict", verdictTitle]];
  for (const [id, title, make, count] of parts) {
    const made = part(id, () => make(data));
    if (!made) continue;
    body.append(made);
    const counted = count ? count(data) : 0;
    links.push([id, counted ? `${title} (${whole(counted)})` : title]);
  }
  document.getElementById("foot").textContent = foot(data);
  navigation(links);
  themes();
  openNamed();
  window.addEventListener("hashchange", openNamed);
  window.addEventListener("beforeprint", () => document.querySelectorAll("details.part").forEach((node) => node.gpuexecOpen?.()));
  document.documentElement.dataset.ready = String(Math.round(performance.now())); // ms since the page was asked for
}

// A part that fails says so in its place, and the others are shown all the same.
function part(name, make) {
  try {
    return make();
  } catch (error) {
    console.error(`the part "${name}" of the page could not be shown`, error);
    return el("section", { id: name }, el("h2", {}, name), note(`This part could not be shown: ${error.message}.`));
  }
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
