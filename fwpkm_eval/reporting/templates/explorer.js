"use strict";
// The needle explorer: looks up what was measured under the reader's choices and shows it.
// A choice is one number per control, the place of the picked option; text from rows only ever becomes text nodes.
(() => {
  const source = document.getElementById("explorer-data");
  if (!source) return;
  const { controls, models, results, points, start, rates } = JSON.parse(source.textContent);
  const byId = (name) => document.getElementById(`explorer-${name}`);
  const at = Object.fromEntries(controls.map(({ name }, place) => [name, place]));
  const selects = controls.map(({ name }) => byId(name));
  const boxes = [...byId("models").querySelectorAll("input")];
  const AXES = [
    ["passes", "Readings", "readings"],
    ["length", "Haystack length", "tokens"],
    ["needles", "Needles", "needles"],
  ];

  const measured = new Map(); // choice → model → result
  for (const [model, ...rest] of points) {
    const [value, low, high, samples, text] = results[rest.pop()];
    const key = rest.join();
    if (!measured.has(key)) measured.set(key, new Map());
    measured.get(key).set(model, { value, low, high, samples, text });
  }
  const everything = [...measured.keys()].map((key) => key.split(",").map(Number));
  // The floor is known for more than was measured: it makes no choice worth offering.
  const isReal = (choice) => [...measured.get(choice.join()).keys()].some((model) => !models[model].floor);
  const real = everything.filter(isReal);
  const choices = real.length ? real : everything;

  let choice = [...start];

  function make(name, properties = {}, ...children) {
    const made = Object.assign(document.createElement(name), properties);
    made.append(...children);
    return made;
  }

  const title = (control, option) => controls[control].options[option].title;
  const paint = ({ colour }) => (colour ? `var(--c${colour})` : "var(--muted)");
  const shown = () => boxes.filter((box) => box.checked).map((box) => Number(box.value));
  const here = (changes = {}) => {
    const changed = choice.map((option, control) => changes[controls[control].name] ?? option);
    return measured.get(changed.join()) ?? new Map();
  };

  // The measured choice nearest to `wish`: it has `fixed` as wished, then keeps what it can, the first controls first.
  function nearest(wish, fixed = -1) {
    let best = null, rank = null;
    for (const option of choices) {
      if (fixed >= 0 && option[fixed] !== wish[fixed]) continue;
      const next = [...wish.map((value, control) => Number(option[control] !== value)),
        wish.reduce((sum, value, control) => sum + Math.abs(option[control] - value), 0)];
      const differs = rank === null ? -1 : next.findIndex((value, place) => value !== rank[place]);
      if (rank === null || (differs >= 0 && next[differs] < rank[differs])) [best, rank] = [option, next];
    }
    return best;
  }

  const changes = (from, to, except = -1) =>
    [...from.keys()].filter((control) => control !== except && to[control] !== from[control]);
  const named = (which, of) => which.map((control) => title(control, of[control])).join(", ");

  // Selects

  function showSelects() {
    selects.forEach((select, control) => {
      if (!select) return;
      for (const option of select.options) {
        const place = controls[control].options.findIndex(({ id }) => id === option.value);
        if (place < 0) continue; // measured with nothing, and disabled
        const wish = choice.with(control, place);
        const lost = measured.has(wish.join()) ? [] : changes(wish, nearest(wish, control), control);
        option.textContent = title(control, place) + (lost.length ? ` – not measured with ${named(lost, choice)}` : "");
        option.selected = place === choice[control];
      }
    });
  }

  // Models: the list is the legend, too, with what each model got under the choices

  function showModels() {
    for (const box of boxes) {
      const result = here().get(Number(box.value));
      box.parentElement.querySelector("output").textContent = result?.text ?? "not measured";
    }
  }

  // Charts

  function along(name) {
    const control = at[name];
    const places = controls[control].options.map((_, place) => place);
    return places.filter((place) => shown().some((model) => here({ [name]: place }).has(model)));
  }

  function chart([name, axis, unit], width) {
    const control = at[name], places = along(name), options = controls[control].options;
    const others = AXES.filter(([other]) => other !== name).map(([other]) => title(at[other], choice[at[other]]));
    const series = shown().map((model) => ({
      paint: paint(models[model]), number: model, dashed: models[model].floor,
      points: places.flatMap((place, tick) => {
        const result = here({ [name]: place }).get(model);
        const words = `${models[model].name}, ${options[place].title}: ${result?.text}`;
        return result ? [{ ...result, at: tick, words }] : [];
      }),
    })).filter((one) => one.points.length);
    const caption = `${axis}: ${others.join(", ")}`;
    return make("figure", {}, make("figcaption", {}, make("b", {}, axis), ` · ${others.join(", ")}`), Chart.draw({
      width, series, title: unit, rate: rates[choice[0]],
      ticks: places.map((place) => options[place].tick), picked: places.indexOf(choice[control]),
      words: `Chart. ${caption}. Its numbers are in the table below.`,
    }));
  }

  function showCharts() {
    const host = byId("charts"), drawn = AXES.filter(([name]) => along(name).length > 1);
    const single = AXES.filter(([name]) => along(name).length === 1);
    byId("single").textContent = single
      .map(([name, axis]) => `${axis}: with the other choices only ${title(at[name], along(name)[0])} measured.`)
      .join(" ");
    host.replaceChildren(...drawn.map(() => make("figure")));
    const width = host.firstElementChild?.clientWidth; // of a column: how many there are is for the style sheet to say
    if (width === 0) return; // not laid out yet: drawn as soon as there is room
    host.replaceChildren(...drawn.map((axis) => chart(axis, width)));
  }

  // Depths

  function showDepths() {
    const { options } = controls[at.depth];
    const places = [...options.keys()].filter((place) => options[place].tick);
    const rows = shown().filter((model) => places.some((depth) => here({ depth }).has(model)));
    const note = byId("depth-note"), host = byId("strip");
    host.hidden = !rows.length;
    note.textContent = rows.length
      ? "Where in the haystack the needle lay, from its start to its end. Columns: what was got, thin lines: " +
        "95% intervals, n: samples; – no needle lay there."
      : `Not measured by depth: ${named([at.metric, at.length, at.needles, at.write_chunk, at.passes], choice)}.`;
    const heads = places.map((place) => make("th", { scope: "col" }, options[place].tick));
    const table = make("table", { className: "depths" }, make("thead", {}, make("tr", {}, ...heads)));
    for (const model of rows) {
      const cells = places.map((depth) => depthCell(here({ depth }).get(model), depth === choice[at.depth]));
      const head = make("th", { scope: "rowgroup", colSpan: places.length }, models[model].name);
      const body = make("tbody", {}, make("tr", {}, head), make("tr", {}, ...cells));
      body.style.setProperty("--paint", paint(models[model]));
      table.append(body);
    }
    host.replaceChildren(table);
  }

  function depthCell(result, picked) {
    const cell = make("td", { className: picked ? "picked" : "" });
    if (!result) return cell.append("–"), cell;
    const [short, ...words] = result.text.split(" ");
    cell.title = result.text;
    if (rates[choice[0]]) {
      const bar = make("span", { className: "bar" }, make("i"));
      bar.style.setProperty("--value", result.value);
      bar.style.setProperty("--low", result.low ?? result.value);
      bar.style.setProperty("--high", result.high ?? result.value);
      cell.append(bar);
    }
    const rest = make("span", { className: "hidden" }, ` ${words.join(" ")}`);
    cell.append(make("b", {}, short), rest, make("small", {}, ` n ${result.samples ?? "–"}`));
    return cell;
  }

  // Numbers

  function showNumbers() {
    const seen = new Map();
    for (const [name] of AXES) for (const place of along(name)) {
      const there = choice.with(at[name], place);
      seen.set(there.join(), there);
    }
    const order = (a, b) => a.reduce((found, value, control) => found || value - b[control], 0);
    const listed = [...seen.values()].sort(order);
    const tick = (name, of) => controls[at[name]].options[of[at[name]]].tick || "all";
    const rows = shown().flatMap((model) => listed.flatMap((there) => {
      const result = measured.get(there.join())?.get(model);
      if (!result) return [];
      const values = ["length", "needles", "passes", "depth"].map((name) => tick(name, there));
      const texts = [...values, result.text, String(result.samples ?? "–")];
      const cells = texts.map((text) => make("td", { className: "right" }, text));
      const className = there.join() === choice.join() ? "picked" : "";
      return [make("tr", { className }, make("td", {}, models[model].name), ...cells)];
    }));
    const table = byId("numbers");
    table.tBodies[0].replaceChildren(...rows);
    table.dispatchEvent(new Event("newrows"));
  }

  // Words

  function sentence(first) {
    const told = [...choice.keys()].filter((control) => selects[control] && (control !== at.depth || choice[control]));
    const asked = named(told, choice);
    const all = shown().filter((model) => !models[model].floor), results = here();
    const found = all.filter((model) => results.has(model));
    const top = Math.max(...found.map((model) => results.get(model).value));
    const best = found.filter((model) => results.get(model).value === top);
    let said = shown().length ? "not measured for the models picked." : "pick at least one model.";
    if (best.length) {
      const last = models[best.at(-1)].name, others = best.slice(0, -1).map((model) => models[model].name);
      const names = others.length ? `${others.join(", ")} and ${last}` : last;
      said = `${found.length} of ${all.length} models measured; highest: ${names}, ${results.get(best[0]).text}.`;
    }
    return `${first}${asked[0].toUpperCase()}${asked.slice(1)}: ${said}`;
  }

  function show(first = "") {
    showSelects();
    showModels();
    showCharts();
    showDepths();
    showNumbers();
    byId("status").textContent = sentence(first);
    byId("link").href = address();
  }

  // Address: #explorer&length=4K&…, models only if not all of them are picked

  function address() {
    const named = controls.map(({ name, options }, control) => [name, options[choice[control]].id]);
    const picked = shown().length === models.length ? [] : shown().map((model) => ["model", models[model].name]);
    return `#explorer&${new URLSearchParams([...named, ...(shown().length ? picked : [["model", ""]])])}`;
  }

  function visit() {
    if (!location.hash.startsWith("#explorer&")) return false;
    const asked = new URLSearchParams(location.hash.slice("#explorer&".length));
    const unknown = [];
    const wish = controls.map(({ name, options }, control) => {
      const place = options.findIndex(({ id }) => id === asked.get(name));
      if (place < 0 && asked.has(name)) unknown.push(`${name} ${asked.get(name)}`);
      return place < 0 ? start[control] : place;
    });
    choice = nearest(wish);
    const wanted = asked.getAll("model");
    for (const box of boxes) box.checked = !wanted.length || wanted.includes(models[box.value].name);
    const lost = changes(wish, choice);
    if (unknown.length) show(`Not measured: ${unknown.join(", ")}; this is the nearest that was. `);
    else if (lost.length) show(`Not measured: ${named(lost, wish)}; this is the nearest that was. `);
    else show();
    document.getElementById("explorer").scrollIntoView();
    return true;
  }

  function changed(first) {
    show(first);
    history.replaceState(null, "", address());
  }

  selects.forEach((select, control) => select?.addEventListener("change", () => {
    const place = controls[control].options.findIndex(({ id }) => id === select.value);
    const wish = choice.with(control, place), found = nearest(wish, control), lost = changes(wish, found, control);
    choice = found;
    const moved = `${title(control, place)} was not measured with ${named(lost, wish)}: changed to ${named(lost, found)}. `;
    changed(lost.length ? moved : "");
  }));
  for (const box of boxes) {
    const model = models[box.value];
    const swatch = Chart.shape("svg", { viewBox: "-13 -8 26 16", width: 26, height: 16, "aria-hidden": "true" },
      Chart.shape("path", { class: model.floor ? "line dashed" : "line", d: "M-12 0H12" }), Chart.marker(Number(box.value)));
    swatch.style.setProperty("--paint", paint(model));
    box.after(swatch);
    box.addEventListener("change", () => changed(""));
  }
  byId("reset").addEventListener("click", () => {
    choice = [...start];
    for (const box of boxes) box.checked = true;
    changed("");
  });
  byId("form").addEventListener("submit", (event) => event.preventDefault());
  addEventListener("hashchange", visit);

  byId("off").hidden = true;
  byId("view").hidden = false;
  if (!visit()) show();
  let width = byId("charts").clientWidth;
  new ResizeObserver(() => {
    if (byId("charts").clientWidth === width) return;
    width = byId("charts").clientWidth;
    showCharts();
  }).observe(byId("charts"));
})();
