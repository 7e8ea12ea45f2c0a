"use strict";
/* Draws one page out of the two JSON texts above it. Everything that came from a server goes through
 * textContent: a label or an error text is never markup. */

const file = JSON.parse(document.getElementById("file").textContent);
const view = JSON.parse(document.getElementById("view").textContent);
const page = document.getElementById("page");
const COLORS = 8;
const LATENCIES = [
  ["ttft", "Time to first token"], ["tpot", "Time per output token"],
  ["itl", "Gap between messages"], ["e2e", "Time to the end of the answer"],
];

// Elements.

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function shape(name, attributes = {}, text) {
  const made = document.createElementNS("http:" + "//www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

function number(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "-";
  const size = Math.abs(value);
  if (size !== 0 && size < 0.001) return value.toExponential(1);
  const digits = size >= 100 || Number.isInteger(value) ? 0 : size >= 10 ? 1 : size >= 1 ? 2 : 3;
  return value.toLocaleString("en", { minimumFractionDigits: 0, maximumFractionDigits: digits });
}

function section(title) {
  page.append(element("h2", {}, title));
}

/* A cell is a text, an element or [text, class]; `texts` says which columns are left-aligned. */
function table(heads, rows, texts = [0]) {
  const cell = (kind, content, column) => {
    const [inner, name] = Array.isArray(content) ? content : [content, ""];
    return element(kind, { class: `${texts.includes(column) ? "text" : ""} ${name}`.trim() }, inner);
  };
  const made = element("table");
  made.append(element("thead", {}, element("tr", {}, ...heads.map((head, i) => cell("th", head, i)))));
  made.append(element("tbody", {},
    ...rows.map((row) => element("tr", {}, ...row.map((content, i) => cell("td", content, i))))));
  return element("div", { class: "scroll" }, made);
}

// Runs of one label at one load are repetitions of one experiment: one colour, and one row.

function sideOf(index) {
  return view.sides === null ? "" : index < view.sides[0] ? "A: " : "B: ";
}

function loadOf(run) {
  return run.setup.rate_per_s > 0 ? `${number(run.setup.rate_per_s)} req/s` : `${run.setup.concurrency} streams`;
}

/* A search tries rates in its own order; people read them in order. */
function byLoad() {
  const entries = file.runs.map((run, index) => ({ run, index }));
  const first = new Map();
  entries.forEach(({ run, index }) => {
    const label = sideOf(index) + run.setup.label;
    if (!first.has(label)) first.set(label, index);
  });
  const place = ({ run, index }) => first.get(sideOf(index) + run.setup.label);
  const load = ({ run }) => run.setup.rate_per_s || run.setup.concurrency;
  return entries.sort((a, b) => place(a) - place(b) || load(a) - load(b) || a.index - b.index);
}

function makeGroups() {
  const groups = new Map();
  const loads = new Map();
  byLoad().forEach(({ run, index }) => {
    const label = sideOf(index) + (run.setup.label || run.setup.target || "run");
    const key = `${label}, ${loadOf(run)}`;
    if (!groups.has(key)) {
      groups.set(key, { name: key, label, runs: [], color: `var(--s${groups.size % COLORS})` });
      loads.set(label, (loads.get(label) || 0) + 1);
    }
    groups.get(key).runs.push(run);
  });
  for (const group of groups.values()) {
    if (loads.get(group.label) === 1) {
      group.name = group.label;
    } else if (loads.size === 1) {
      group.name = loadOf(group.runs[0]); // the title has the label
    }
  }
  return [...groups.values()];
}

const groups = makeGroups();

function median(values) {
  const sorted = values.filter((value) => value !== null).sort((a, b) => a - b);
  if (sorted.length === 0) return null;
  return (sorted[(sorted.length - 1) >> 1] + sorted[sorted.length >> 1]) / 2;
}

function named(group) {
  return element("span", {}, element("span", { class: "swatch", style: `background:${group.color}` }),
    group.name);
}

function legend() {
  return element("div", { class: "legend" }, ...groups.map(named));
}

function hasSlo(run) {
  return run.slo.ttft_ms > 0 || run.slo.tpot_ms > 0 || run.slo.e2e_ms > 0;
}

// Charts.

const WIDTH = 540;
const HEIGHT = 250;
const EDGE = { left: 52, right: 22, top: 12, bottom: 36 };

function ticksOf(low, high, log) {
  const ticks = [];
  if (log) {
    const decades = Math.log10(high / low);
    const digits = decades > 3 ? [1] : decades > 1 ? [1, 2, 5] : [1, 1.5, 2, 3, 4, 5, 7];
    for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++) {
      for (const digit of digits) {
        const tick = digit * 10 ** power;
        if (tick >= low * 0.999 && tick <= high * 1.001) ticks.push(tick);
      }
    }
    return ticks;
  }
  const rough = (high - low) / 5;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((digit) => digit * power >= rough);
  for (let tick = Math.ceil(low / step) * step; tick <= high + step / 1e6; tick += step) {
    ticks.push(Math.abs(tick) < step / 1e6 ? 0 : tick);
  }
  return ticks;
}

function scaleOf(values, log, from, to) {
  let low = Infinity;
  let high = -Infinity;
  for (const value of values) {
    if (log && !(value > 0)) continue;
    low = Math.min(low, value);
    high = Math.max(high, value);
  }
  if (!Number.isFinite(low)) [low, high] = log ? [1, 10] : [0, 1];
  if (!log) low = Math.min(0, low);
  if (low === high) [low, high] = log ? [low / 2, high * 2] : [low, low + 1];
  const position = log ? Math.log : (value) => value;
  const factor = (to - from) / (position(high) - position(low));
  return {
    low, high, log,
    at: (value) => from + (position(Math.max(value, low)) - position(low)) * factor,
    back: (place) => (log ? Math.exp : (value) => value)(position(low) + (place - from) / factor),
  };
}

function drawAxes(svg, chart, x, y) {
  for (const tick of ticksOf(y.low, y.high, y.log)) {
    svg.append(shape("line", { class: "grid", x1: EDGE.left, x2: WIDTH - EDGE.right, y1: y.at(tick), y2: y.at(tick) }));
    svg.append(shape("text", { x: EDGE.left - 6, y: y.at(tick) + 4, "text-anchor": "end" }, number(tick)));
  }
  const bottom = HEIGHT - EDGE.bottom;
  svg.append(shape("line", { class: "axis", x1: EDGE.left, x2: WIDTH - EDGE.right, y1: bottom, y2: bottom }));
  for (const tick of ticksOf(x.low, x.high, x.log)) {
    svg.append(shape("line", { class: "axis", x1: x.at(tick), x2: x.at(tick), y1: bottom, y2: bottom + 4 }));
    svg.append(shape("text", { x: x.at(tick), y: bottom + 16, "text-anchor": "middle" }, number(tick)));
  }
  svg.append(shape("text", { x: (WIDTH + EDGE.left) / 2, y: HEIGHT - 4, "text-anchor": "middle" }, chart.x));
}

function drawSeries(svg, series, x, y) {
  if (series.dots) {
    for (const [px, py] of series.points) {
      svg.append(shape("circle", { cx: x.at(px).toFixed(1), cy: y.at(py).toFixed(1), r: 1.8,
        style: `fill:${series.color}`, "fill-opacity": 0.5 }));
    }
    return;
  }
  const path = series.points.map(([px, py], i) =>
    `${i === 0 ? "M" : "L"}${x.at(px).toFixed(1)} ${y.at(py).toFixed(1)}`).join("");
  svg.append(shape("path", { d: path, fill: "none", style: `stroke:${series.color}`,
    "stroke-width": series.thin ? 1 : 1.8, "stroke-opacity": series.thin ? 0.55 : 1,
    "stroke-dasharray": series.dashed ? "5 4" : "none" }));
  if (series.marked) {
    for (const [px, py] of series.points) {
      svg.append(shape("circle", { cx: x.at(px), cy: y.at(py), r: 3, style: `fill:${series.color}` }));
    }
  }
}

function nearest(points, wanted) {
  let best = null;
  for (const point of points) {
    if (best === null || Math.abs(point[0] - wanted) < Math.abs(best[0] - wanted)) best = point;
  }
  return best;
}

function followPointer(svg, chart, x, readout) {
  const hover = shape("line", { class: "hover", y1: EDGE.top, y2: HEIGHT - EDGE.bottom, visibility: "hidden" });
  svg.append(hover);
  svg.addEventListener("pointerleave", () => {
    hover.setAttribute("visibility", "hidden");
    readout.textContent = "";
  });
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const place = ((event.clientX - box.left) / box.width) * WIDTH;
    if (place < EDGE.left || place > WIDTH - EDGE.right) return;
    hover.setAttribute("visibility", "visible");
    hover.setAttribute("x1", place);
    hover.setAttribute("x2", place);
    const said = chart.series.filter((series) => !series.dots && series.points.length > 0).slice(0, 8)
      .map((series) => `${series.name} ${number(nearest(series.points, x.back(place))[1])}`);
    readout.textContent = `${chart.x} ${number(x.back(place))}: ${said.join("  ·  ")}`;
  });
}

function draw(chart) {
  const series = chart.series.filter((one) => one.points.length > 0);
  const caption = element("figcaption", {}, chart.title, element("span", {}, ` ${chart.note || ""}`));
  if (series.length === 0) {
    return element("figure", {}, caption, element("p", { class: "dim" }, "nothing measured"));
  }
  const limits = (chart.limits || []).filter((limit) => limit > 0);
  const x = scaleOf(series.flatMap((one) => one.points.map((point) => point[0])).concat(limits),
    chart.logX, EDGE.left, WIDTH - EDGE.right);
  const y = scaleOf(series.flatMap((one) => one.points.map((point) => point[1])),
    chart.logY, HEIGHT - EDGE.bottom, EDGE.top);
  const svg = shape("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": chart.title });
  drawAxes(svg, chart, x, y);
  for (const limit of new Set(limits)) {
    svg.append(shape("line", { class: "limit", x1: x.at(limit), x2: x.at(limit), y1: EDGE.top, y2: HEIGHT - EDGE.bottom }));
  }
  for (const one of series) drawSeries(svg, one, x, y);
  const readout = element("div", { class: "readout" });
  followPointer(svg, { ...chart, series }, x, readout);
  return element("figure", {}, caption, svg, readout);
}

function charts(...made) {
  page.append(element("div", { class: "charts" }, ...made.filter((one) => one !== null).map(draw)));
}

function seriesOfRuns(points, extra = {}) {
  return groups.flatMap((group) => group.runs.map((run) => ({
    name: group.name, color: group.color, thin: group.runs.length > 1, points: points(run), ...extra,
  })));
}

// Sections.

function head() {
  const first = file.runs[0].setup;
  const labels = [...new Set(groups.map((group) => group.label))];
  const shared = labels.length === 1 && groups.length > 1 ? `: ${labels[0]}` : "";
  page.append(element("h1", {}, view.title + shared));
  const when = new Date(first.wall_start_ms).toISOString().replace("T", " ").slice(0, 16);
  page.append(element("p", { class: "dim" },
    [first.generator, first.machine, first.wall_start_ms > 0 ? `${when} UTC` : "",
      `${file.runs.length} ${file.runs.length === 1 ? "run" : "runs"}`].filter((text) => text !== "").join("  ·  ")));
  page.append(legend());
}

function warnings() {
  const say = (text) => page.append(element("p", { class: "warning" }, text));
  if (view.comparison !== null && view.comparison.unlike !== "") {
    say(`The runs were not asked the same: ${view.comparison.unlike}.`);
  }
  for (const group of groups) {
    const limited = group.runs.find((run) => run.generator.limited);
    if (limited) say(`${group.name}: the generator was the bottleneck: ${limited.generator.limited_why}`);
    if (group.runs.some((run) => run.run.interrupted)) say(`${group.name}: a run was interrupted.`);
    if (group.runs.some((run) => run.outcomes.ok === 0)) say(`${group.name}: a run without one answered request.`);
  }
}

function interval(one, low, high) {
  const width = 180;
  const at = (value) => ((Math.log(value) - Math.log(low)) / (Math.log(high) - Math.log(low))) * (width - 12) + 6;
  const svg = shape("svg", { viewBox: `0 0 ${width} 16`, style: `width:${width}px` });
  svg.append(shape("line", { class: "axis", x1: at(1), x2: at(1), y1: 0, y2: 16 }));
  const color = one.verdict === "better" ? "var(--good)" : one.verdict === "worse" ? "var(--bad)" : "var(--dim)";
  if (one.low !== null) {
    svg.append(shape("line", { x1: at(one.low), x2: at(one.high), y1: 8, y2: 8, style: `stroke:${color}`, "stroke-width": 2 }));
  }
  svg.append(shape("circle", { cx: at(one.ratio), cy: 8, r: 3.5, style: `fill:${color}` }));
  return svg;
}

function comparison() {
  if (view.comparison === null) return;
  const compared = view.comparison;
  section("B beside A");
  page.append(element("p", { class: "dim" }, `A: ${compared.base_name} (${compared.base_runs} runs), ` +
    `B: ${compared.other_name} (${compared.other_runs} runs). Ratios of geometric means; ` +
    `${number(100 * compared.confidence)} % intervals on logarithms, ` +
    `${compared.method === "pairs" ? "of the ratios seed by seed" : "by Welch's method"}.`));
  const ratios = compared.figures.filter((one) => one.ratio !== null);
  const ends = ratios.flatMap((one) => [one.ratio, one.low ?? one.ratio, one.high ?? one.ratio, 1]);
  const low = Math.min(0.9, ...ends);
  const high = Math.max(1.1, ...ends);
  page.append(table(["", "A", "B", "", "B / A", "interval", "", "B is"], compared.figures.map((one) => [
    one.name, number(one.base), number(one.other), one.unit,
    one.ratio === null ? "-" : one.ratio.toFixed(3),
    one.low === null ? "-" : `${one.low.toFixed(3)} .. ${one.high.toFixed(3)}`,
    one.ratio === null ? "" : interval(one, low, high), [one.verdict, one.verdict],
  ]), [0, 3, 6, 7]));
}

function summaryTable() {
  section("Figures");
  const slo = file.runs.some(hasSlo);
  const columns = [
    ["req/s", (run) => run.rates.requests_per_s], ["out tok/s", (run) => run.rates.output_tokens_per_s],
    ...(slo ? [["good req/s", (run) => run.rates.goodput_per_s], ["good %", (run) => 100 * run.rates.good_part]] : []),
    ["failed %", (run) => 100 * run.rates.failed_part], ["streams", (run) => run.rates.concurrency_mean],
    ...["ttft", "tpot", "itl", "e2e"].flatMap((name) => [["p50_ms", "p50"], ["p99_ms", "p99"]].map(([key, text]) =>
      [`${name} ${text}`, (run) => (run.latencies[name].count > 0 ? run.latencies[name][key] : null)])),
  ];
  page.append(table(["", "runs", ...columns.map((column) => column[0])], groups.map((group) =>
    [named(group), number(group.runs.length), ...columns.map((column) => number(median(group.runs.map(column[1]))))])));
  page.append(element("p", { class: "dim" }, "Milliseconds; medians where a row has several runs. Latencies count from the intended moment."));
}

/* At most about 200 points of the part of all values that lie below. What is under a hundredth of the
 * median is left out: tokens that came with others are microseconds apart, and would be most of the axis. */
function distribution(latency) {
  const points = [];
  const step = Math.max(1, Math.floor(latency.counts.length / 200));
  let seen = 0;
  latency.counts.forEach((count, i) => {
    seen += count;
    const shown = i % step === 0 || i === latency.counts.length - 1;
    if (shown && latency.lower_ns[i] / 1e6 >= latency.p50_ms / 100) {
      points.push([Math.max(latency.lower_ns[i] / 1e6, 1e-3), seen / latency.count]);
    }
  });
  return points;
}

function distributions() {
  section("Distributions");
  charts(...LATENCIES.map(([name, title]) => ({
    title, note: "part of all at most this long", x: "ms", logX: true,
    limits: file.runs.map((run) => run.slo[`${name}_ms`]),
    series: seriesOfRuns((run) => distribution(run.latencies[name])),
  })));
}

/* Means over neighbouring steps: more than some 150 points are noise to the eye. */
function curve(run, name) {
  const values = run.timeline[name];
  const width = Math.max(1, Math.ceil(values.length / 150));
  const step = run.timeline.step_ms / 1000;
  const points = [];
  for (let start = 0; start < values.length; start += width) {
    const part = values.slice(start, start + width);
    points.push([(start + part.length / 2) * step, part.reduce((sum, value) => sum + value, 0) / part.length]);
  }
  return points;
}

function overTime() {
  section("Over time");
  const failed = file.runs.some((run) => run.timeline.failed_per_s.some((value) => value > 0));
  const samples = (pick) => seriesOfRuns((run) => run.samples.map(pick).filter((point) => point[1] !== null), { dots: true });
  charts(
    { title: "Output tokens a second", x: "s", series: seriesOfRuns((run) => curve(run, "output_tokens_per_s")) },
    { title: "Open streams", note: "dashed: without a token so far", x: "s",
      series: seriesOfRuns((run) => curve(run, "running"))
        .concat(seriesOfRuns((run) => curve(run, "waiting"), { dashed: true, thin: true })) },
    { title: "Time to first token", note: "ms, each request at its intended moment", x: "s", logY: true,
      series: samples((sample) => [sample[0] / 1000, sample[1]]) },
    { title: "Time to first token", note: "ms, by the prompt's length", x: "prompt tokens", logY: true,
      series: samples((sample) => [sample[4], sample[1]]) },
    failed ? { title: "Failures a second", x: "s", series: seriesOfRuns((run) => curve(run, "failed_per_s")) } : null,
  );
}

/* Runs of one label at several rates: what the latency costs at which load. */
function sweep() {
  const labels = [...new Set(groups.map((group) => group.label))].map((label, index) => {
    const points = groups.filter((group) => group.label === label && group.runs[0].setup.rate_per_s > 0)
      .sort((a, b) => a.runs[0].setup.rate_per_s - b.runs[0].setup.rate_per_s);
    return { label, points, color: `var(--s${index % COLORS})` };
  }).filter((one) => one.points.length > 2);
  if (labels.length === 0) return;
  section("By rate");
  const series = (value, dashed = false) => labels.map((one) => ({
    name: one.label, color: one.color, marked: true, dashed,
    points: one.points.map((group) => [group.runs[0].setup.rate_per_s, median(group.runs.map(value))])
      .filter((point) => point[1] !== null),
  }));
  const part = (name, key) => (run) => (run.latencies[name].count > 0 ? run.latencies[name][key] : null);
  const both = (name) => [...series(part(name, "p50_ms")), ...series(part(name, "p99_ms"), true)];
  const x = "requests a second";
  charts(
    { title: "Time to first token", note: "p50, dashed p99; ms", x, logY: true, series: both("ttft") },
    { title: "Time per output token", note: "p50, dashed p99; ms", x, series: both("tpot") },
    { title: "Output tokens a second", x, series: series((run) => run.rates.output_tokens_per_s) },
    file.runs.some(hasSlo) ? { title: "Within the SLO", note: "part of all requests", x,
      series: series((run) => run.rates.good_part) } : null,
  );
}

function errors() {
  const rows = groups.flatMap((group) => group.runs.flatMap((run) =>
    Object.entries(run.errors).map(([kind, error]) => [named(group), kind, number(error.count), [error.first, "wrap"]])));
  if (rows.length === 0) return;
  section("Errors");
  page.append(table(["", "kind", "count", "the first said"], rows, [0, 1, 3]));
}

function metrics() {
  groups.filter((group) => group.runs.some((run) => run.metrics.length > 0)).forEach((group) => {
    const run = group.runs.find((one) => one.metrics.length > 0);
    const filter = element("input", { placeholder: "filter by name" });
    const changed = run.metrics.map(([name, before, after]) =>
      [name, number(before), number(after), before === null || after === null ? "-" : number(after - before)]);
    const holder = element("div");
    const fill = () => holder.replaceChildren(table(["", "before", "after", "change"],
      changed.filter((row) => row[0].includes(filter.value)).slice(0, 500)));
    filter.addEventListener("input", fill);
    fill();
    page.append(element("details", {}, element("summary", {}, `/metrics: ${group.name}`), filter, holder));
  });
}

function setups() {
  section("Set-up");
  const keys = Object.keys(file.runs[0].setup);
  groups.forEach((group) => {
    const rows = keys.map((key) => [key, [[...new Set(group.runs.map((run) => String(run.setup[key])))].join(", "), "wrap"]]);
    page.append(element("details", {}, element("summary", {}, group.name), table(["", ""], rows, [0, 1])));
  });
}

if (file.runs.length === 0) {
  page.append(element("h1", {}, view.title), element("p", {}, "no runs"));
} else {
  for (const part of [head, warnings, comparison, summaryTable, sweep, distributions, overTime, errors, setups, metrics]) {
    part();
  }
}
document.body.dataset.drawn = "true";
