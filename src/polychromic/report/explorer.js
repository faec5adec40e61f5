"use strict";
// Generated text only ever becomes a text node.
const byId = id => document.getElementById(id);
const node = (tag, text, name) => { const made = document.createElement(tag); made.textContent = text; if (name) made.className = name; return made; };
const colors = JSON.parse(byId("colors").textContent);
const threshold = Number(byId("samples").dataset.threshold);
const HUES = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8a6d3b", "#7b3f8c"];
let samples = [];
let shown = [];

async function unpack(text) {
  const bytes = Uint8Array.from(atob(text.trim()), letter => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

const passes = answer => answer.reward !== null && answer.reward >= threshold;
const distinct = answers => answers.filter(passes).length;
const total = answers => answers.reduce((sum, one) => sum + one.count, 0);

// How many more distinct passing answers the best other arm has than the first one, the baseline.
function gain(sample) {
  const [baseline, ...others] = Object.values(sample.arms).map(distinct);
  return others.length ? Math.max(...others) - baseline : 0;
}

function clusterColors(sample) {
  const found = new Map();
  for (const answers of Object.values(sample.arms))
    for (const one of answers)
      if (!found.has(one.cluster)) found.set(one.cluster, HUES[found.size % HUES.length]);
  return found;
}

function answerItem(one, hues) {
  const item = node("li", "");
  item.style.setProperty("--cluster", hues.get(one.cluster));
  item.append(node("span", one.count + "×", "count"), node("span", passes(one) ? "✓" : "", "mark"), node("span", one.text || "(empty)"));
  if (passes(one)) item.children[1].setAttribute("aria-label", "passes");
  return item;
}

function armColumn(arm, answers, hues) {
  const column = document.createElement("section"), title = node("h3", arm), list = node("ul", "", "answers");
  const n = total(answers), passed = total(answers.filter(passes));
  title.style.borderColor = colors[arm];
  list.append(...answers.map(one => answerItem(one, hues)));
  column.append(title, node("p", `${passed} of ${n} pass; ${answers.length} different, ${distinct(answers)} of them pass`, "figures"), list);
  return column;
}

function show(sample) {
  const hues = clusterColors(sample);
  byId("arms").replaceChildren(...Object.entries(sample.arms).map(([arm, answers]) => armColumn(arm, answers, hues)));
}

function list() {
  const words = byId("search").value.toLowerCase(), order = byId("order").value;
  const holds = sample => !words || sample.search.includes(words);
  shown = samples.filter(holds);
  if (order !== "file") shown = [...shown].sort((a, b) => order === "gain" ? gain(b) - gain(a) : gain(a) - gain(b));
  byId("prompt").replaceChildren(...shown.map((sample, index) => new Option(sample.prompt, index)));
  byId("found").textContent = `${shown.length} of ${samples.length} prompts`;
  follow();
}

function follow() {
  const wanted = decodeURIComponent(location.hash.replace(/^#prompt=/, ""));
  const index = Math.max(0, shown.findIndex(sample => sample.prompt === wanted));
  byId("prompt").value = index;
  if (shown.length) show(shown[index]); else byId("arms").replaceChildren();
}

function choose(index) {
  if (index >= 0 && index < shown.length) location.hash = "prompt=" + encodeURIComponent(shown[index].prompt);
}

function listen() {
  byId("prompt").addEventListener("change", event => choose(Number(event.target.value)));
  byId("search").addEventListener("input", list);
  byId("order").addEventListener("change", list);
  byId("copy").addEventListener("click", async () => {
    const { search, ...sample } = shown[Number(byId("prompt").value)];
    await navigator.clipboard.writeText(JSON.stringify(sample, null, 2));
    byId("found").textContent = "copied";
  });
  document.addEventListener("keydown", event => {
    if (event.target.closest("input, select, textarea")) return;
    if (event.key === "ArrowRight") choose(Number(byId("prompt").value) + 1);
    if (event.key === "ArrowLeft") choose(Number(byId("prompt").value) - 1);
  });
  window.addEventListener("hashchange", follow);
}

unpack(byId("samples").textContent).then(found => {
  samples = found.map(sample => ({ ...sample, search: JSON.stringify(sample).toLowerCase() }));
  listen();
  list();
});
