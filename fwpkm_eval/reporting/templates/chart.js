"use strict";
// Charts of the explorer: values with their intervals over a few ordered settings, as SVG in the page's colours.
const Chart = (() => {
  const HEIGHT = 236, LEFT = 44, RIGHT = 12, TOP = 10, BOTTOM = 42;
  const MARKERS = [
    "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z",
    "M-3.7-3.7h7.4v7.4h-7.4z",
    "M0-4.6 4.6 3.6h-9.2z",
    "M0-5.2 5.2 0 0 5.2-5.2 0z",
    "M0 4.6-4.6-3.6h9.2z",
    "M-1.6-4.8h3.2v3.2h3.2v3.2h-3.2v3.2h-3.2v-3.2h-3.2v-3.2h3.2z",
    "M0-5 4.8-1.5 3 4.1h-6l-1.8-5.6z",
  ];

  function shape(name, attributes = {}, ...children) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }

  function marker(number) {
    return shape("path", { class: "marker", d: MARKERS[number % MARKERS.length] });
  }

  // Round steps for an axis that holds `low` to `high`.
  function steps(low, high) {
    const rough = (high - low || 1) / 4;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
    const found = [];
    for (let at = Math.floor(low / step); at <= Math.ceil(high / step); at += 1) found.push(at * step);
    return found;
  }

  function axis(series, rate) {
    if (rate) return [0, 0.25, 0.5, 0.75, 1].map((at) => [at, at === 1 ? "100%" : `${at * 100}`]);
    const seen = series.flatMap(({ points }) => points.flatMap((p) => [p.value, p.low ?? p.value, p.high ?? p.value]));
    const name = (at) => String(Number(at.toPrecision(4))).replace("-", "−");
    return steps(Math.min(...seen), Math.max(...seen)).map((at) => [at, name(at)]);
  }

  // `series`: [{ paint, number, dashed, points: [{ at, value, low, high, words }] }], `at` being a place among `ticks`;
  // `picked` is the place to point out.
  function draw({ width, ticks, series, rate, picked, title, words }) {
    const across = width - LEFT - RIGHT, band = across / ticks.length, foot = HEIGHT - BOTTOM;
    const levels = axis(series, rate);
    const bottom = levels[0][0], top = levels.at(-1)[0];
    const y = (value) => foot - ((value - bottom) / (top - bottom)) * (foot - TOP);
    const apart = Math.min(9, (band * 0.7) / series.length);
    const x = (at, number) => LEFT + band * (at + 0.5) + (number - (series.length - 1) / 2) * apart;

    const viewBox = `0 0 ${width} ${HEIGHT}`;
    const chart = shape("svg", { viewBox, width, height: HEIGHT, role: "img", "aria-label": words });
    if (picked >= 0) {
      const box = { x: LEFT + band * picked, y: TOP - 6, width: band, height: foot - TOP + 12 };
      chart.append(shape("rect", { class: "picked", ...box }));
    }
    for (const [at, name] of levels) {
      chart.append(shape("line", { class: "level", x1: LEFT, x2: width - RIGHT, y1: y(at), y2: y(at) }));
      chart.append(shape("text", { x: LEFT - 7, y: y(at) + 4, "text-anchor": "end" }, name));
    }
    ticks.forEach((tick, at) => {
      chart.append(shape("text", { x: LEFT + band * (at + 0.5), y: foot + 20, "text-anchor": "middle" }, tick));
    });
    chart.append(shape("text", { class: "axis", x: LEFT + across / 2, y: HEIGHT - 5, "text-anchor": "middle" }, title));

    series.forEach(({ paint, number, dashed, points }, order) => {
      const group = shape("g", { class: dashed ? "series dashed" : "series" });
      group.style.setProperty("--paint", paint);
      for (const { at, low, high } of points) {
        if (low === null || high === null) continue;
        const here = x(at, order);
        const d = `M${here} ${y(low)}V${y(high)}m-3 0h6M${here - 3} ${y(low)}h6`;
        group.append(shape("path", { class: "interval", d }));
      }
      const line = points.map(({ at, value }) => `${x(at, order)} ${y(value)}`);
      if (line.length > 1) group.append(shape("path", { class: "line", d: `M${line.join("L")}` }));
      for (const { at, value, words: name } of points) {
        const transform = `translate(${x(at, order)} ${y(value)})`;
        group.append(shape("g", { transform }, shape("title", {}, name), marker(number)));
      }
      chart.append(group);
    });
    return chart;
  }

  return { draw, marker, shape };
})();
