"use strict";
// Draws what stands in `data` (bench/html.py): no library, no network.

const colours = { "conv forward": "#2864b4", "conv grad_input": "#c77b1e", "conv grad_weight": "#7a4fb5", "conv backward": "#b5507a", step: "#1a7f5a", inference: "#2a9db0", layers: "#8a6d3b", overhead: "#888888", "op forward": "#5a8f29", "op backward": "#a3672d" };
const short = { forward: colours["conv forward"], grad_input: colours["conv grad_input"], grad_weight: colours["conv grad_weight"] };
const byId = (id) => document.getElementById(id);

function digits(value) { // three significant ones, as in the tables on the terminal
  if (value === null || value === undefined) return "-";
  if (value === 0) return "0";
  return value.toFixed(Math.min(6, Math.max(0, 2 - Math.floor(Math.log10(Math.abs(value))))));
}
const times = (value) => value === null || value === undefined ? "-" : digits(value) + "x";
const percent = (value) => value === null || value === undefined ? "-" : (100 * value).toFixed(0) + " %";

function element(name, attributes = {}, ...children) {
  const svg = ["svg", "g", "line", "polyline", "circle", "rect", "text", "title"].includes(name);
  const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  for (const child of children) made.append(child);
  return made;
}

function scale(from, to, low, high, log) {
  const f = log ? Math.log10 : (v) => v;
  return (value) => low + (f(value) - f(from)) / (f(to) - f(from) || 1) * (high - low);
}

function decades(low, high) { // 1, 2 and 5 of each power of ten
  const found = [];
  for (let e = Math.floor(Math.log10(low)); e <= Math.ceil(Math.log10(high)); e++)
    for (const m of [1, 2, 5]) if (m * 10 ** e >= low && m * 10 ** e <= high) found.push(m * 10 ** e);
  return found;
}

function mean(ratios) { return Math.exp(ratios.reduce((sum, r) => sum + Math.log(r), 0) / ratios.length); }

function tiles() {
  const ratios = data.rows.map((r) => r.ratio).filter((r) => r !== null);
  const lost = ratios.filter((r) => r < 1).length;
  const cells = [[data.rows.length, "rows"], [ratios.length ? times(mean(ratios)) : "-", "geometric mean against the best peer"], [lost, "rows lost"], [data.refused.length, "wrong results"], [data.cliffs.length, "cliffs"]];
  for (const [kind] of Object.entries(colours)) {
    const own = data.rows.filter((r) => r.kind === kind && r.ratio !== null).map((r) => r.ratio);
    if (own.length) cells.push([times(mean(own)), kind]);
  }
  for (const [value, what] of cells) byId("tiles").append(element("div", { class: "tile" }, element("b", {}, String(value)), element("span", {}, what)));
  const first = data.headers[0].header;
  byId("subtitle").textContent = [first.CPU, first.fastcnn && "fastcnn " + first.fastcnn, first.date].filter(Boolean).join(" · ");
  for (const h of data.headers) if (/DISTURBED/.test(h.header["other processes"] || ""))
    byId("warnings").append(element("p", { class: "lost" }, `${h.file}: other processes were busy during the run; it proves little.`));
  for (const line of data.refused) byId("warnings").append(element("p", { class: "lost" }, "Wrong, not timed: " + line));
}

function bars() {
  const groups = new Map(); // whole networks row by row, convolutions list by list
  for (const r of data.rows) {
    if (r.ratio === null || r.kind === "layers" || r.kind === "overhead") continue;
    const key = r.kind.startsWith("op ") ? `all of bench ops, ${r.kind}` : r.kind.startsWith("conv") ? `${r.group} ${r.dtype === "float64" ? "float64 " : ""}${r.kind}` : `${r.group} ${r.name}`;
    if (!groups.has(key)) groups.set(key, { key, kind: r.kind, ratios: [] });
    groups.get(key).ratios.push(r.ratio);
  }
  const shown = [...groups.values()].map((g) => ({ ...g, value: mean(g.ratios), low: Math.min(...g.ratios), high: Math.max(...g.ratios) })).sort((a, b) => a.value - b.value);
  if (!shown.length) { byId("bars").append(element("figcaption", {}, "No rows with a peer.")); return; }
  const left = 300, width = 960, step = 19, height = shown.length * step + 40;
  const x = scale(Math.min(0.5, ...shown.map((g) => g.low)), Math.max(2, ...shown.map((g) => g.high)), left, width - 60, true);
  const svg = element("svg", { viewBox: `0 0 ${width} ${height}`, role: "img" });
  for (const tick of decades(Math.min(0.5, ...shown.map((g) => g.low)), Math.max(2, ...shown.map((g) => g.high)))) {
    svg.append(element("line", { class: "axis", x1: x(tick), x2: x(tick), y1: 0, y2: height - 30 }));
    svg.append(element("text", { class: "tick", x: x(tick), y: height - 14, "text-anchor": "middle" }, tick + "x"));
  }
  svg.append(element("line", { x1: x(1), x2: x(1), y1: 0, y2: height - 30, stroke: "currentColor", "stroke-width": 1.5 }));
  shown.forEach((g, i) => {
    const y = i * step + 4, lost = g.value < 1;
    const bar = element("rect", { x: Math.min(x(1), x(g.value)), y, width: Math.abs(x(g.value) - x(1)), height: step - 6, rx: 2, fill: lost ? "var(--lost)" : colours[g.kind] });
    bar.append(element("title", {}, `${g.key}: ${times(g.value)}` + (g.ratios.length > 1 ? `, geometric mean of ${g.ratios.length}, ${times(g.low)} to ${times(g.high)}` : "")));
    svg.append(bar);
    if (g.ratios.length > 1) svg.append(element("line", { x1: x(g.low), x2: x(g.high), y1: y + 6.5, y2: y + 6.5, stroke: "currentColor", "stroke-opacity": 0.5 }));
    svg.append(element("text", { x: left - 8, y: y + 11, "text-anchor": "end" }, g.key));
    svg.append(element("text", { x: Math.max(x(g.value), x(g.high)) + 6, y: y + 11, class: lost ? "lost" : "" }, times(g.value)));
  });
  byId("bars").append(svg, element("figcaption", {}, "Bars of convolution lists are geometric means; the thin line reaches from the worst to the best problem."));
}

function roof() {
  const all = data.rows.filter((r) => r.kind.startsWith("conv") && r.gflops);
  const types = [...new Set(all.map((r) => r.dtype))];
  const chosen = element("select");
  for (const t of types) chosen.append(element("option", {}, t));
  byId("roofcontrols").append(element("label", {}, "numbers", chosen));
  const draw = () => {
    byId("roof").replaceChildren();
    const rows = all.filter((r) => r.dtype === chosen.value);
    if (!rows.length) { byId("roof").append(element("figcaption", {}, "No convolutions.")); return; }
    const limits = data.machines.filter((m) => m.dtype === chosen.value);
    const fma = Math.max(...limits.map((m) => m.fma / 1e9), 0), copy = Math.max(...limits.map((m) => m.copy / 1e9), 0);
    const width = 960, height = 480, lowX = Math.min(...rows.map((r) => r.intensity)) / 1.3, highX = Math.max(...rows.map((r) => r.intensity)) * 1.3;
    const lowY = Math.min(...rows.map((r) => r.gflops)) / 1.3, highY = Math.max(fma, ...rows.map((r) => r.gflops)) * 1.4;
    const x = scale(lowX, highX, 60, width - 20, true), y = scale(lowY, highY, height - 40, 10, true);
    const svg = element("svg", { viewBox: `0 0 ${width} ${height}`, role: "img" });
    for (const t of decades(lowX, highX)) svg.append(element("line", { class: "axis", x1: x(t), x2: x(t), y1: 10, y2: height - 40 }), element("text", { class: "tick", x: x(t), y: height - 24, "text-anchor": "middle" }, String(t)));
    for (const t of decades(lowY, highY)) svg.append(element("line", { class: "axis", x1: 60, x2: width - 20, y1: y(t), y2: y(t) }), element("text", { class: "tick", x: 54, y: y(t) + 4, "text-anchor": "end" }, String(t)));
    svg.append(element("text", { x: width / 2, y: height - 6, "text-anchor": "middle" }, "operations per byte"), element("text", { x: 64, y: 22 }, "GFLOP/s"));
    if (fma && copy) {
      const points = [];
      for (let i = 0; i <= 60; i++) { const v = lowX * (highX / lowX) ** (i / 60); points.push(`${x(v)},${y(Math.max(lowY, Math.min(fma, v * copy)))}`); }
      svg.append(element("polyline", { points: points.join(" "), fill: "none", stroke: "currentColor", "stroke-width": 2 }));
      svg.append(element("text", { x: width - 24, y: y(fma) - 6, "text-anchor": "end" }, `${digits(fma)} GFLOP/s, ${digits(copy)} GB/s`));
    }
    for (const r of rows) {
      const dot = element("circle", { cx: x(r.intensity), cy: y(r.gflops), r: 4, fill: colours[r.kind], "fill-opacity": 0.75 });
      dot.append(element("title", {}, `${r.group} ${r.name} ${r.kind}\n${r.shape}\n${r.implementation}: ${digits(r.gflops)} GFLOP/s, ${percent(r.share)} of the bound, ${times(r.ratio)} of ${r.peer || "-"}`));
      svg.append(dot);
    }
    Object.entries(short).forEach(([op, colour], i) => svg.append(element("circle", { cx: 150 + 110 * i, cy: 18, r: 5, fill: colour }), element("text", { x: 160 + 110 * i, y: 22 }, op)));
    byId("roof").append(svg);
  };
  chosen.addEventListener("change", draw);
  draw();
}

function growth() {
  const panels = new Map();
  for (const s of data.series) {
    const key = `${s.base}: ${s.axis}`;
    if (!panels.has(key)) panels.set(key, []);
    panels.get(key).push(s);
  }
  if (!panels.size) byId("growth").append(element("p", { class: "faint" }, "Not measured: python -m bench growth."));
  for (const [key, series] of panels) {
    const width = 440, height = 240, sizes = series.flatMap((s) => s.points.map((p) => p[0])), speeds = series.flatMap((s) => s.points.map((p) => p[1]));
    const x = scale(Math.min(...sizes), Math.max(...sizes), 44, width - 10, Math.max(...sizes) / Math.min(...sizes) > 8), y = scale(0, Math.max(...speeds) * 1.1, height - 30, 24, false);
    const svg = element("svg", { viewBox: `0 0 ${width} ${height}`, role: "img" });
    svg.append(element("text", { x: 44, y: 14 }, `${key} (GFLOP/s)`));
    for (let i = 0; i <= 4; i++) {
      const v = Math.max(...speeds) * i / 4;
      svg.append(element("line", { class: "axis", x1: 44, x2: width - 10, y1: y(v), y2: y(v) }), element("text", { class: "tick", x: 40, y: y(v) + 4, "text-anchor": "end" }, v.toFixed(0)));
    }
    let last = -100;
    for (const size of [...new Set(sizes)].sort((a, b) => a - b)) if (x(size) - last > 24) { last = x(size); svg.append(element("text", { class: "tick", x: x(size), y: height - 14, "text-anchor": "middle" }, String(size))); }
    for (const s of series) {
      svg.append(element("polyline", { points: s.points.map((p) => `${x(p[0])},${y(p[1])}`).join(" "), fill: "none", stroke: short[s.op], "stroke-width": 1.8 }));
      for (const p of s.points) {
        const cliff = data.cliffs.find((c) => c.base === s.base && c.axis === s.axis && c.op === s.op && c.size === p[0]);
        const dot = element("circle", { cx: x(p[0]), cy: y(p[1]), r: cliff ? 6 : 2.6, fill: cliff ? "none" : short[s.op], stroke: cliff ? "var(--lost)" : "none", "stroke-width": 2 });
        dot.append(element("title", {}, `${s.op} at ${p[0]}: ${digits(p[1])} GFLOP/s` + (cliff ? `, ${times(cliff.factor)} slower than its neighbours (${cliff.by})` : "")));
        svg.append(dot);
      }
    }
    byId("growth").append(element("figure", {}, svg));
  }
  if (data.cliffs.length) {
    const list = element("ul");
    for (const c of data.cliffs) list.append(element("li", {}, `${c.base}, ${c.axis} ${c.size}, ${c.op}: ${times(c.factor)} slower per operation than its neighbours (${c.by})`));
    byId("cliffs").append(list);
  }
}

const columns = [
  ["kind", (r) => r.kind], ["group", (r) => r.group], ["row", (r) => r.name], ["shape", (r) => r.shape], ["numbers", (r) => r.dtype], ["implementation", (r) => r.implementation],
  ["ms", (r) => r.ms, digits], ["median", (r) => r.median, digits], ["spread", (r) => r.spread, percent], ["GFLOP/s", (r) => r.gflops ?? null, digits], ["% bound", (r) => r.share ?? null, percent],
  ["error", (r) => r.error, (v) => v === null || v === undefined ? "-" : v.toExponential(1)], ["best peer", (r) => r.peer || "-"], ["its ms", (r) => r["peer ms"], digits], ["ratio", (r) => r.ratio, times],
];

function table() {
  const filters = {};
  let order = 14, rising = true;
  for (const [title, index] of [["kind", 0], ["group", 1], ["numbers", 4], ["implementation", 5], ["best peer", 12]]) {
    const select = element("select");
    select.append(element("option", { value: "" }, "all"));
    for (const value of [...new Set(data.rows.map(columns[index][1]))].filter(Boolean).sort()) select.append(element("option", {}, value));
    select.addEventListener("change", () => { filters[index] = select.value; draw(); });
    byId("filters").append(element("label", {}, title, select));
  }
  const words = element("input", { type: "search", placeholder: "part of a name or shape" }), only = element("select");
  for (const [value, text] of [["", "all"], ["lost", "lost ones"], ["won", "won ones"]]) only.append(element("option", { value }, text));
  words.addEventListener("input", () => draw());
  only.addEventListener("change", () => draw());
  byId("filters").append(element("label", {}, "rows", only), element("label", {}, "search", words));
  function draw() {
    const wanted = words.value.toLowerCase();
    const rows = data.rows.filter((r) => Object.entries(filters).every(([i, v]) => !v || columns[i][1](r) === v) && (r.name + " " + r.shape).toLowerCase().includes(wanted)
      && (!only.value || (r.ratio !== null && (r.ratio < 1) === (only.value === "lost"))));
    const value = columns[order][1];
    rows.sort((a, b) => {
      const [u, v] = [value(a), value(b)];
      if (u === null || u === undefined) return 1;
      if (v === null || v === undefined) return -1;
      return (u < v ? -1 : u > v ? 1 : 0) * (rising ? 1 : -1);
    });
    const head = element("tr");
    columns.forEach(([title, , format], i) => {
      const cell = element("th", format ? { class: "n" } : {}, title + (i === order ? (rising ? " ▲" : " ▼") : ""));
      cell.addEventListener("click", () => { rising = i === order ? !rising : true; order = i; draw(); });
      head.append(cell);
    });
    const body = element("tbody");
    for (const r of rows) {
      const line = element("tr", { title: Object.entries(r.all).map(([name, ms]) => `${name}: ${digits(ms)} ms`).join("\n") });
      columns.forEach(([title, get, format]) => {
        const kind = (format ? "n" : "") + (title === "ratio" && r.ratio !== null ? (r.ratio < 1 ? " lost" : " won") : "");
        line.append(element("td", kind ? { class: kind } : {}, title === "ms" && r.refused ? "WRONG" : format ? format(get(r)) : get(r)));
      });
      body.append(line);
    }
    byId("table").replaceChildren(element("thead", {}, head), body);
    const ratios = rows.map((r) => r.ratio).filter((r) => r !== null);
    byId("count").textContent = `${rows.length} rows` + (ratios.length ? `, ${ratios.filter((r) => r < 1).length} lost, geometric mean ${times(mean(ratios))}` : "") + ". Hover over a row for every library's time; click a heading to sort.";
  }
  draw();
}

function headers() {
  for (const h of data.headers) {
    const list = element("ul");
    for (const [key, value] of Object.entries(h.header)) list.append(element("li", {}, `${key}: ${value}`));
    byId("headers").append(element("details", {}, element("summary", {}, `${h.file} (${h.kind})`), list));
  }
}

tiles(); bars(); roof(); growth(); table(); headers();
