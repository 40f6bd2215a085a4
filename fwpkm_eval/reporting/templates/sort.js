"use strict";
// Tables with class "sortable": a button in each heading sorts by its column, up, down, and back as it was.
(() => {
  const SCALES = {
    "µs": 1e-6, ms: 1e-3, s: 1, "%": 1, "×": 1,
    K: 2 ** 10, M: 2 ** 20, G: 2 ** 30, KiB: 2 ** 10, MiB: 2 ** 20, GiB: 2 ** 30, TiB: 2 ** 40,
  };
  // A number, what it is divided by, its interval in brackets, its unit: "1/4.05", "100% (84–100)", "2.24 (2–3) s".
  const NUMBER = new RegExp(
    String.raw`^[<>≈~±]?\s*([+−-]?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?)(?:/(\d[\d.]*))?(?:\s*\([^)]*\))?` +
      String.raw`\s*(µs|ms|s|[KMGT]iB|[KMG]|%|×)?(?!\p{L})`,
    "u",
  );

  function parse(text) {
    const match = NUMBER.exec(text);
    if (!match) return text === "" || text === "–" ? null : text;
    const number = Number(match[1].replaceAll(",", "").replace("−", "-"));
    return (number / Number(match[2] ?? 1)) * (SCALES[match[3]] ?? 1);
  }

  // Numbers before words; what is missing comes last, whichever way the column is sorted.
  function compare(a, b, direction) {
    if (a === null || b === null) return (a === null) - (b === null);
    if (typeof a !== typeof b) return direction * (typeof a === "number" ? -1 : 1);
    return direction * (typeof a === "number" ? a - b : a < b ? -1 : a > b ? 1 : 0);
  }

  function sort(table) {
    const headings = [...table.tHead.rows[0].cells];
    const column = headings.findIndex((heading) => heading.hasAttribute("aria-sort"));
    const rows = [...table.tBodies[0].rows];
    if (rows.some((row) => !row.dataset.place)) rows.forEach((row, at) => (row.dataset.place = at));
    const place = (row) => Number(row.dataset.place);
    if (column < 0) {
      rows.sort((a, b) => place(a) - place(b));
    } else {
      const direction = headings[column].getAttribute("aria-sort") === "ascending" ? 1 : -1;
      const values = new Map(rows.map((row) => [row, parse(row.cells[column].textContent.trim())]));
      rows.sort((a, b) => compare(values.get(a), values.get(b), direction) || place(a) - place(b));
    }
    table.classList.toggle("sorted", column >= 0);
    table.tBodies[0].append(...rows);
  }

  for (const table of document.querySelectorAll("table.sortable")) {
    for (const heading of table.tHead.rows[0].cells) {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...heading.childNodes);
      heading.append(button);
      button.addEventListener("click", () => {
        const next = { ascending: "descending", descending: null }[heading.getAttribute("aria-sort")];
        for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
        if (next !== null) heading.setAttribute("aria-sort", next ?? "ascending");
        sort(table);
      });
    }
    // Whoever puts other rows in says so, and they get the order of those before.
    table.addEventListener("newrows", () => sort(table));
  }
})();
