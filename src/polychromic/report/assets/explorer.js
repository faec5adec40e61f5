"use strict";
// Generated text only ever becomes a text node.
(() => {
  const byId = id => document.getElementById(id);
  const node = (tag, text, name) => { const made = document.createElement(tag); made.textContent = text; if (name) made.className = name; return made; };
  const colors = JSON.parse(byId("colors").textContent);
  const threshold = Number(byId("samples").dataset.threshold);
  // Beyond so many groups the colours begin again; their numbers do not.
  const HUES = ["0072B2", "D55E00", "009E73", "CC79A7", "E69F00", "56B4E9"].map(hex => `var(--c-${hex},#${hex})`).concat("#8a6d3b", "#9a5bb0");
  const openings = [];
  const packedParts = document.querySelectorAll("script.part"), parts = [];
  let data = { metrics: [], prompts: [], openings: [], baseline: "", untrained: null, seeds: {}, per_part: 1 };
  let shown = [], wanted = null, everything = null, searches = 0;

  async function unpack(text) {
    const letters = atob(text.trim()), bytes = new Uint8Array(letters.length);
    for (let i = 0; i < letters.length; i++) bytes[i] = letters.charCodeAt(i);  // many times faster than Uint8Array.from
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return JSON.parse(await new Response(stream).text());
  }

  // Answers are unpacked a part at a time, when one of its prompts is looked at.
  const part = index => parts[index] ??= unpack(packedParts[index].textContent);
  const partOf = sample => Math.floor(sample.at / data.per_part), inPart = sample => sample.at % data.per_part;
  const armsOf = async sample => (await part(partOf(sample)))[inPart(sample)];

  const passes = wording => wording[2] !== null && wording[2] >= threshold;
  const count = wordings => wordings.reduce((sum, one) => sum + one[1], 0);
  const passing = group => group.wordings.filter(passes);
  const judged = wordings => count(wordings.filter(wording => wording[2] !== null));  // the checker failed on the others
  const plural = (n, noun) => `${n} ${noun}${n === 1 ? "" : "s"}`;

  // Only when somebody searches: lower-case copies of everything would double what the page holds.
  function searchText(sample) {
    const answers = Object.values(everything[partOf(sample)][inPart(sample)]).flatMap(groups => groups.flatMap(group => group.wordings.map(one => one[0])));
    return [sample.prompt, sample.text, ...answers].join("\n").toLowerCase();
  }

  // The largest difference of any judged arm to the baseline in a metric, so oriented that more is better.
  function gain(sample, index) {
    const base = sample.values[data.baseline]?.[index][0] ?? null;
    const others = Object.entries(sample.values).filter(([arm]) => arm !== data.baseline && arm !== data.untrained).map(([, values]) => values[index][0]);
    const differences = others.filter(value => value !== null && base !== null).map(value => data.metrics[index].sign * (value - base));
    return differences.length ? Math.max(...differences) : null;
  }

  function inOrder(samples, order) {
    if (order === "file") return samples;
    const [direction, index] = order.split(":");
    const sign = direction === "gain" ? -1 : 1;
    const ranked = samples.map(sample => [gain(sample, Number(index)), sample]);
    // Prompts without a value stand last.
    ranked.sort((a, b) => (a[0] === null) - (b[0] === null) || sign * (a[0] - b[0]));
    return ranked.map(([, sample]) => sample);
  }

  function answerItem(group, anyJudged) {
    const item = node("li", ""), n = count(group.wordings), passed = count(passing(group)), nJudged = judged(group.wordings);
    item.style.setProperty("--group", HUES[group.group % HUES.length]);
    item.dataset.group = group.group;
    const mark = node("span", passed ? "✓" : anyJudged && !nJudged ? "?" : "", "mark"), body = node("div", "", "body"), id = node("span", `no. ${group.group + 1}`, "id");
    if (mark.textContent) { mark.setAttribute("role", "img"); mark.setAttribute("aria-label", !passed ? "not judged" : passed === n ? "passes" : `${passed} of ${nJudged} pass`); }
    body.append(node("div", group.wordings[0][0] || "(empty)"));
    if (group.wordings.length > 1) {
      const more = document.createElement("details"), list = node("ul", "");
      list.append(...group.wordings.slice(1).map(one => node("li", `${one[1]}× ${passes(one) ? "✓ " : ""}${one[0] || "(empty)"}`)));
      more.append(node("summary", `${plural(group.wordings.length - 1, "more wording")}`), list);
      body.append(more);
    }
    item.append(node("span", n + "×", "count"), mark, body, id);
    return item;
  }

  function armColumn(arm, groups) {
    const column = document.createElement("section"), title = node("h3", arm), list = node("ul", "", "answers");
    const wordings = groups.flatMap(group => group.wordings), n = count(wordings), nJudged = judged(wordings), passed = count(groups.flatMap(passing));
    title.style.borderColor = colors[arm];
    list.append(...groups.map(group => answerItem(group, nJudged > 0)));
    const unjudged = nJudged < n ? ` (${n - nJudged} not judged)` : "";
    const facts = nJudged ? `${passed} of ${nJudged} pass${unjudged}; ${groups.length} different, ${groups.filter(group => passing(group).length).length} of them pass` : `${plural(n, "answer")}, ${groups.length} different`;
    column.append(title, node("p", facts, "figures"), list);
    return column;
  }

  // All seeds, where the answers below are one seed's.
  function valueCell(arm, values) {
    const cell = node("td", ""), [mean, ...seeds] = values.map(value => value === null ? "–" : String(value));
    if (!seeds.length) { cell.textContent = mean; return cell; }
    const number = node("span", mean, "number");
    number.tabIndex = 0;
    number.setAttribute("role", "button");
    number.dataset.detail = `Mean of ${plural(seeds.length, "training seed")}: ${seeds.map((value, index) => `seed ${data.seeds[arm]?.[index]} ${value}`).join(", ")}. Over the prompt's answers of each seed.`;
    cell.append(number);
    return cell;
  }

  function valueTable(sample) {
    const arms = Object.entries(sample.values);
    if (!data.metrics.length || !arms.length) return [];
    const table = document.createElement("table"), head = table.createTHead().insertRow(), body = table.createTBody();
    const scroll = node("div", "", "scroll"), n_seeds = Math.max(...arms.map(([arm]) => data.seeds[arm]?.length ?? 1));
    for (const name of [n_seeds > 1 ? `mean of ${n_seeds} seeds` : "arm", ...data.metrics.map(metric => metric.name)]) { const cell = node("th", name); cell.scope = "col"; head.append(cell); }
    for (const [arm, values] of arms) {
      const row = body.insertRow(), name = node("th", arm);
      name.scope = "row";
      row.append(name, ...values.map(value => valueCell(arm, value)));
    }
    scroll.tabIndex = 0;
    scroll.setAttribute("role", "region");
    scroll.setAttribute("aria-label", "The prompt's measures");
    scroll.append(table);
    return [scroll];
  }

  async function show(sample) {
    wanted = sample;
    byId("asked").textContent = sample.text;
    byId("asked").hidden = !sample.text;
    byId("values").replaceChildren(...valueTable(sample));
    const arms = await armsOf(sample);
    if (wanted === sample) byId("arms").replaceChildren(...Object.entries(arms).map(([arm, groups]) => armColumn(arm, groups)));
  }

  function label(sample) {
    const text = sample.text.replace(/\s+/g, " ").trim();
    return text ? `${sample.prompt}: ${text.length > 80 ? text.slice(0, 79) + "…" : text}` : sample.prompt;
  }

  async function list() {
    const words = byId("search").value.toLowerCase(), search = ++searches;
    if (words && !everything) {
      byId("found").textContent = "searching…";
      const unpacked = await Promise.all(Array.from(packedParts, (_, index) => part(index)));
      everything ??= unpacked;
      if (search !== searches) return;  // more has been typed meanwhile
    }
    shown = inOrder(data.prompts.filter(sample => !words || (sample.search ??= searchText(sample)).includes(words)), byId("order").value);
    byId("prompt").replaceChildren(...shown.map((sample, index) => new Option(label(sample), index)));
    byId("found").textContent = `${shown.length} of ${data.prompts.length} prompts`;
    follow();
  }

  function follow() {
    let linked = "";
    try { linked = decodeURIComponent(location.hash.replace(/^#prompt=/, "")); } catch { /* a broken link leads where the page opens */ }
    const at = prompt => shown.findIndex(sample => sample.prompt === prompt);
    // Without a link, a search or an order: the prompt that the stated rule has chosen.
    const opening = byId("search").value || byId("order").value !== "file" ? undefined : data.openings[0]?.prompt;
    const index = Math.max(0, at(linked) >= 0 ? at(linked) : at(opening));
    byId("prompt").value = index;
    for (const button of openings) button.setAttribute("aria-pressed", shown[index]?.prompt === button.dataset.prompt);
    if (shown.length) return show(shown[index]);
    wanted = null;
    for (const id of ["arms", "values", "asked"]) byId(id).replaceChildren();
  }

  function choose(index) {
    if (index < 0 || index >= shown.length) return;
    byId("prompt").value = index;  // at once: the hash is followed later, and keys may come faster
    location.hash = "prompt=" + encodeURIComponent(shown[index].prompt);
  }

  // Everything under its name, so that what is pasted elsewhere explains itself.
  function asJson(sample, answers) {
    const arms = Object.entries(answers).map(([arm, groups]) => [arm, {
      measures: Object.fromEntries((sample.values[arm] ?? []).map(([mean, ...seeds], index) => [data.metrics[index].key, seeds.length ? { mean, seeds } : mean])),
      answers: groups.flatMap(group => group.wordings.map(([text, count, reward]) => ({ group: group.group + 1, text, count, reward }))),
    }]);
    return JSON.stringify({ prompt: sample.prompt, text: sample.text, arms: Object.fromEntries(arms) }, null, 2);
  }

  async function copy() {
    const sample = shown[Number(byId("prompt").value)];
    if (!sample) return;
    try {
      await navigator.clipboard.writeText(asJson(sample, await armsOf(sample)));
      byId("found").textContent = "copied";
    } catch {
      byId("found").textContent = "the browser does not let this page copy";
    }
  }

  // One group in every arm, while it is pointed at.
  function mark(event) {
    const item = event.target instanceof Element ? event.target.closest(".answers > li") : null;
    for (const other of document.querySelectorAll(".answers > li")) other.classList.toggle("same", item !== null && other.dataset.group === item.dataset.group);
  }

  // A button for each prompt that the page's rule has chosen.
  function offer(opening) {
    const button = node("button", opening.why);
    button.type = "button";
    button.dataset.prompt = opening.prompt;
    button.addEventListener("click", () => {
      byId("search").value = "";
      byId("order").value = "file";
      list().then(() => choose(shown.findIndex(sample => sample.prompt === opening.prompt)));
    });
    openings.push(button);
    byId("openings").append(button);
    byId("openings").hidden = false;
  }

  function listen() {
    byId("prompt").addEventListener("change", event => choose(Number(event.target.value)));
    byId("search").addEventListener("input", list);
    byId("order").addEventListener("change", () => { history.replaceState(null, "", location.pathname + location.search); list(); });
    byId("copy").addEventListener("click", copy);
    for (const kind of ["pointerover", "pointerleave", "focusin"]) byId("arms").addEventListener(kind, mark);
    document.addEventListener("keydown", event => {
      // In a field or a table that scrolls, the keys are the browser's.
      if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea, .scroll")) return;
      if (event.key === "ArrowRight") choose(Number(byId("prompt").value) + 1);
      if (event.key === "ArrowLeft") choose(Number(byId("prompt").value) - 1);
      if (event.key === "/") { event.preventDefault(); byId("search").focus(); }
    });
    // A link to another part of the page leaves the prompt that is looked at.
    window.addEventListener("hashchange", () => { if (!location.hash || location.hash.startsWith("#prompt=")) follow(); });
  }

  unpack(byId("samples").textContent).then(found => {
    data = found;
    data.prompts.forEach((sample, index) => { sample.at = index; });
    data.metrics.forEach((metric, index) => {
      if (metric.stated) byId("order").append(new Option(`largest gain in ${metric.name}`, `gain:${index}`), new Option(`largest loss in ${metric.name}`, `loss:${index}`));
    });
    data.openings.forEach(offer);
    listen();
    list();
  });
})();
