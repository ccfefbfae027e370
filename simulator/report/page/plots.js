// Plots over the report's one time axis, with one crosshair for all of them.

const grid = report.grid;
const PHASES = ["requested", "pending", "starting", "loading", "ready", "draining", "stopping", "unknown"];
const COLOURS = {
  requested: "--pending", pending: "--pending", starting: "--starting", loading: "--c7", ready: "--c0",
  draining: "--draining", stopping: "--c4", unknown: "--unknown",
};
const SVG = "http://www.w3.org/2000/svg";
const LEFT = 60, RIGHT = 8, TOP = 6, BOTTOM = 20;

const several = new Set(report.series.filter((one) => one.name === "load").map((one) => one.labels.model)).size > 1;
const state = { bin: null, plots: [] };

function drawn(tag, attributes, text) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

function seriesOf(name, labels) {
  return report.series.filter(
    (one) => one.name === name && Object.entries(labels).every(([key, value]) => one.labels[key] === value));
}

const binEnd = () => Math.min(grid.begin_s + grid.bins * grid.bin_s, Math.max(run.duration_s, grid.bin_s));
const timeOf = (bin) => grid.begin_s + bin * grid.bin_s;
const binOf = (t) => Math.max(0, Math.min(grid.bins - 1, Math.floor((t - grid.begin_s) / grid.bin_s)));

function niceStep(span, wanted) {
  const raw = span / wanted, size = 10 ** Math.floor(Math.log10(raw));
  return [1, 2, 5, 10].map((factor) => factor * size).find((step) => step >= raw * 0.999);
}

// On a log scale: 10000 s as such, since "2h 46m 40s" is no round number and too long for the axis.
function wholePower(value) {
  return value < 1 ? seconds(value) : value < 1e6 ? `${digits(value)} s` : `${digits(value / 86400, 2)} d`;
}

function timeStep(span, wanted) {
  const steps = [1, 5, 10, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 172800, 604800, 1209600, 2419200];
  return steps.find((step) => span / step <= wanted) || niceStep(span, wanted);
}

function tickWords(t, step) {
  if (!run.dated) return `+${elapsed(t)}`;
  const text = new Date((run.started_at + t) * 1000).toISOString();
  if (step >= 86400) return text.slice(5, 10);
  const time = text.slice(11, step < 60 ? 19 : 16);
  return time.startsWith("00:00") ? text.slice(5, 10) : time;
}

// lines: {name, values, low, high, colour, stacked}; limits: {value, words}.
class Plot {
  constructor(title, { lines, limits = [], write = digits, logged = false, whole = false, height = 150, least = 0, most = null, marks = [] }) {
    Object.assign(this, { lines, limits, write, logged, whole, height, least, most, marks });
    this.legend = element("span", { class: "legend" });
    this.readouts = lines.map((line) => {
      const key = element("i", { style: `background: var(${line.colour})` });
      const value = element("b", {}, "");
      this.legend.append(element("span", {}, key, `${line.name} `, value));
      return value;
    });
    // Beside the title and not in the plot, where a curve may go through the words.
    this.limitWords = limits.map(() => element("span", {}));
    this.legend.append(...this.limitWords);
    this.svg = drawn("svg", { role: "img", "aria-label": title });
    this.box = element("figure", { class: "plot", style: "margin: 0" }, element("h3", {}, title), this.legend, this.svg);
    for (const event of ["pointermove", "pointerdown"]) {
      this.svg.addEventListener(event, (at) => show(binOf(this.time(at.clientX))));
    }
    this.svg.addEventListener("pointerleave", (at) => { if (at.pointerType === "mouse") show(null); });
  }

  get logScale() { return this.logged && document.getElementById("log").checked; }

  time(clientX) {
    const box = this.svg.getBoundingClientRect();
    return grid.begin_s + ((clientX - box.left - LEFT) / (box.width - LEFT - RIGHT)) * (binEnd() - grid.begin_s);
  }

  x(t) { return LEFT + ((t - grid.begin_s) / (binEnd() - grid.begin_s)) * (this.width - LEFT - RIGHT); }

  y(value) {
    const span = this.height - TOP - BOTTOM;
    if (this.logScale) {
      const share = Math.log(Math.max(value, this.low) / this.low) / Math.log(this.high / this.low);
      return TOP + span * (1 - share);
    }
    return TOP + span * (1 - (value - this.low) / (this.high - this.low));
  }

  scale() {
    const values = [];
    let sums = null;
    for (const line of this.lines) {
      if (line.stacked) {
        sums = sums || new Array(grid.bins).fill(0);
        line.values.forEach((value, bin) => { sums[bin] += value || 0; });
      } else {
        for (const column of [line.values, line.high || []]) for (const value of column) if (value !== null) values.push(value);
      }
    }
    for (const value of sums || []) values.push(value);
    const greatest = values.reduce((most, value) => Math.max(most, value), 0);
    for (const limit of this.limits) values.push(limit.value);
    if (this.logScale) {
      const some = values.filter((value) => value > 0);
      this.low = 10 ** Math.floor(Math.log10(Math.min(...(some.length ? some : [0.1]))));
      this.high = 10 ** Math.ceil(Math.log10(Math.max(...(some.length ? some : [1])) * 1.0001));
      return;
    }
    // A limit far above what was measured would press the lines to the floor: it is only told beside the title.
    const near = this.limits.map((limit) => limit.value).filter((value) => value <= 4 * greatest);
    const top = this.most ?? Math.max(greatest, ...near, 0);
    const span = Math.max(top - this.least, 1e-9);
    const step = this.write === seconds && span > 90 ? timeStep(span, 4) : Math.max(niceStep(span, 3), this.whole ? 1 : 0);
    this.step = step;
    this.low = this.least;
    this.high = this.most ?? this.least + Math.max(1, Math.ceil((top * 1.02 - this.least) / step)) * step;
  }

  draw() {
    this.width = Math.max(260, this.svg.clientWidth || this.box.clientWidth || 600);
    this.svg.setAttribute("viewBox", `0 0 ${this.width} ${this.height}`);
    this.svg.setAttribute("height", this.height);
    this.svg.replaceChildren();
    this.scale();
    this.axes();
    const floor = new Array(grid.bins).fill(0);
    for (const line of this.lines) if (line.stacked) this.area(line, floor);
    for (const line of this.lines) if (!line.stacked) this.line(line);
    this.limits.forEach((limit, index) => this.limit(limit, this.limitWords[index]));
    const taken = new Set();
    for (const mark of this.marks) this.mark(mark, taken);
    this.cross = this.svg.appendChild(drawn("line", { class: "cross", y1: TOP, y2: this.height - BOTTOM, visibility: "hidden" }));
    this.read();
  }

  axes() {
    const bottom = this.height - BOTTOM;
    const write = this.logScale && this.write === seconds ? wholePower : this.write;
    const marks = this.logScale
      ? Array.from({ length: Math.round(Math.log10(this.high / this.low)) + 1 }, (_, power) => this.low * 10 ** power)
      : Array.from({ length: Math.round((this.high - this.low) / this.step) + 1 }, (_, count) => this.low + count * this.step);
    for (const value of marks) {
      const y = this.y(value);
      if (y < TOP - 1) continue;
      this.svg.append(drawn("line", { class: "grid", x1: LEFT, x2: this.width - RIGHT, y1: y, y2: y }));
      this.svg.append(drawn("text", { x: LEFT - 6, y: y + 4, "text-anchor": "end" }, write(value)));
    }
    const span = binEnd() - grid.begin_s, step = timeStep(span, Math.max(2, (this.width - LEFT) / 95));
    const offset = run.dated ? run.started_at % step : 0;
    for (let t = Math.ceil((grid.begin_s + offset) / step) * step - offset; t <= grid.begin_s + span; t += step) {
      const x = this.x(t), atEnd = x > this.width - 28;
      this.svg.append(drawn("line", { class: "axis", x1: x, x2: x, y1: bottom, y2: bottom + 4 }));
      this.svg.append(drawn("text", { x: atEnd ? this.width - 2 : x, y: this.height - 5, "text-anchor": atEnd ? "end" : "middle" }, tickWords(t, step)));
    }
    this.svg.append(drawn("line", { class: "axis", x1: LEFT, x2: this.width - RIGHT, y1: bottom, y2: bottom }));
  }

  points(values) {
    // Each bin's value at its middle; a gap where there is none.
    let path = "", open = false;
    values.forEach((value, bin) => {
      if (value === null) { open = false; return; }
      const middle = Math.min(timeOf(bin) + grid.bin_s / 2, binEnd());
      path += `${open ? "L" : "M"}${this.x(middle).toFixed(1)} ${this.y(value).toFixed(1)}`;
      if (!open && (bin + 1 === values.length || values[bin + 1] === null)) path += "h0.1";
      open = true;
    });
    return path;
  }

  line({ values, low, high, colour }) {
    if (high && high.length) {
      const upper = high.map((value, bin) => `${bin ? "L" : "M"}${this.x(timeOf(bin) + grid.bin_s / 2).toFixed(1)} ${this.y(value ?? 0).toFixed(1)}`);
      const lower = low.map((value, bin) => `L${this.x(timeOf(bin) + grid.bin_s / 2).toFixed(1)} ${this.y(value ?? 0).toFixed(1)}`).reverse();
      this.svg.append(drawn("path", { d: `${upper.join("")}${lower.join("")}Z`, fill: `var(${colour})`, opacity: 0.18 }));
    }
    this.svg.append(drawn("path", {
      d: this.points(values), fill: "none", stroke: `var(${colour})`, "stroke-width": 1.6, "stroke-linejoin": "round", "stroke-linecap": "round",
    }));
  }

  area({ values, colour }, floor) {
    const upper = [], lower = [];
    values.forEach((value, bin) => {
      const left = this.x(timeOf(bin)).toFixed(1), right = this.x(Math.min(timeOf(bin + 1), binEnd())).toFixed(1);
      const top = floor[bin] + (value || 0);
      const above = this.y(top).toFixed(1), below = this.y(floor[bin]).toFixed(1);
      upper.push(`${left} ${above}L${right} ${above}`);
      lower.unshift(`${right} ${below}L${left} ${below}`);
      floor[bin] = top;
    });
    this.svg.append(drawn("path", { d: `M${upper.join("L")}L${lower.join("L")}Z`, fill: `var(${colour})` }));
  }

  limit({ value, words }, told) {
    const beyond = value > this.high, y = this.y(value);
    if (!beyond) this.svg.append(drawn("line", { class: "limit-line", x1: LEFT, x2: this.width - RIGHT, y1: y, y2: y }));
    told.replaceChildren(element("i", { class: "limit" }), beyond ? `${words} (above)` : words);
  }

  // Where many targets change one mark stands for those beside it.
  mark({ t, up }, taken) {
    const x = this.x(t), y = TOP + 3, place = `${Math.round(x / 5)} ${up}`;
    if (taken.has(place)) return;
    taken.add(place);
    const points = up ? `${x - 4},${y + 7} ${x + 4},${y + 7} ${x},${y}` : `${x - 4},${y} ${x + 4},${y} ${x},${y + 7}`;
    this.svg.append(drawn("polygon", { points, fill: up ? "var(--c1)" : "var(--c2)" }));
  }

  read() {
    const bin = state.bin;
    this.readouts.forEach((value, index) => {
      const line = this.lines[index];
      let words = bin === null ? "" : this.write(line.values[bin]);
      if (bin !== null && line.high && line.high.length && line.high[bin] !== line.low[bin]) {
        words += ` (${this.write(line.low[bin])} to ${this.write(line.high[bin])})`;
      }
      value.textContent = words;
    });
    if (bin === null) { this.cross.setAttribute("visibility", "hidden"); return; }
    const x = this.x(Math.min(timeOf(bin) + grid.bin_s / 2, binEnd()));
    this.cross.setAttribute("x1", x);
    this.cross.setAttribute("x2", x);
    this.cross.setAttribute("visibility", "visible");
  }
}

function show(bin) {
  state.bin = bin;
  const cursor = document.getElementById("cursor");
  cursor.replaceChildren();
  if (bin === null) cursor.append("Point at a plot, or use the arrow keys, to read values.");
  else cursor.append(element("b", {}, both(timeOf(bin))), ` and the ${elapsed(grid.bin_s)} after it`);
  for (const plot of state.plots) plot.read();
  tellWhy(bin);
}

function chosenModel() {
  return document.getElementById("model").value;
}

function lineOf(name, labels, words, colour) {
  const found = seriesOf(name, labels)[0];
  return found ? [{ name: words, colour, values: found.values, low: found.low, high: found.high }] : [];
}

function objectiveOf(model) {
  const found = run.models.find((one) => one.model_id === model) || (run.models.length === 1 ? run.models[0] : null);
  return found ? found.objective : null;
}

function serviceLimits(model) {
  const objective = objectiveOf(model);
  if (!objective) return { ttft: [], tpot: [] };
  const longer = objective.longer_prompts.map((one) => ({ value: one.first_token_s, words: `limit ${seconds(one.first_token_s)}, prompts over ${digits(one.over_tokens)} tokens` }));
  return {
    ttft: [{ value: objective.first_token_s, words: `limit ${seconds(objective.first_token_s)}` }, ...longer],
    tpot: [{ value: objective.per_token_s, words: `limit ${seconds(objective.per_token_s)}` }],
  };
}

// Sums of the replicas' series by one label, in a steady order of colours.
function stacksBy(label, model) {
  const groups = new Map();
  for (const one of seriesOf("replicas", model ? { model } : {})) {
    const key = one.labels[label];
    const sums = groups.get(key) || new Array(grid.bins).fill(0);
    one.values.forEach((value, bin) => { sums[bin] += value || 0; });
    groups.set(key, sums);
  }
  const names = [...groups.keys()].sort((a, b) => (label === "phase" ? order(a) - order(b) : a < b ? -1 : 1));
  return names.map((name, index) => ({
    name, values: groups.get(name), stacked: true, colour: (label === "phase" && COLOURS[name]) || `--c${index % 8}`,
  }));
}

// What serves lies at the bottom, so that its edge is easy to read.
function order(phase) {
  return ["ready", "unknown", "draining", "stopping", "loading", "starting", "pending", "requested"].indexOf(phase);
}

function decisionsOf(model) {
  return report.decisions.filter((one) => !model || one.model_id === model);
}

function changesOf(model) {
  return decisionsOf(model).filter((one) => one.before !== one.target);
}

function buildPlots() {
  const model = chosenModel(), labels = { model }, limits = serviceLimits(model);
  const quantiles = (name) => ["P50", "P95", "P99"].flatMap((quantile, index) =>
    lineOf(name, { ...labels, quantile }, quantile, `--q${index}`));
  const marks = changesOf(model).map((one) => ({ t: one.t_s, up: one.target > one.before }));
  const gpus = ["busy", "idle", "starting", "draining", "withheld"].flatMap((part) =>
    lineOf("gpus", { part }, part, `--${part}`).map((line) => ({ ...line, stacked: true })));
  state.plots = [
    new Plot("Load, requests/s", { lines: lineOf("load", labels, "arrivals", "--c0"), height: 120 }),
    new Plot("Requests", {
      lines: [...lineOf("in_flight", labels, "under way", "--c0"), ...lineOf("waiting", labels, "of them waiting for a first token", "--c1")],
      whole: true,
    }),
    new Plot("Replicas", {
      lines: [...stacksBy(document.getElementById("split").value, model), ...lineOf("target", labels, "target", "--ink")],
      height: 180, marks, whole: true,
    }),
    new Plot("Queue age, the oldest without a first token", { lines: lineOf("queue_age", labels, "oldest", "--c1"), write: seconds, logged: true, height: 130 }),
    new Plot("Time to first token, by arrival", { lines: quantiles("ttft"), limits: limits.ttft, write: seconds, logged: true }),
    new Plot("Time per output token, by arrival", { lines: quantiles("tpot"), limits: limits.tpot, write: seconds, logged: true }),
    new Plot("In time, share of arrivals", { lines: lineOf("attainment", labels, "in time", "--c2"), write: percent, height: 110, most: 1 }),
    new Plot(several || run.models.length > 1 ? "GPUs, all models" : "GPUs", { lines: gpus, whole: true }),
  ];
  const box = document.getElementById("plots");
  // As high as what it ever tells, so that nothing moves under the pointer.
  const why = element("div", { class: "why", id: "why", style: `min-height: ${1.6 * Math.min(3, decisionsOf(model).length)}em` });
  box.replaceChildren(document.getElementById("cursor"), ...state.plots.map((plot) => plot.box));
  state.plots[2].box.append(why);
  for (const plot of state.plots) plot.draw();
  show(state.bin);
}

// The decisions around the crosshair, the nearest changes and what else was decided in its bin; without one the last.
function tellWhy(bin) {
  const box = document.getElementById("why"), model = chosenModel(), changes = changesOf(model);
  box.replaceChildren();
  if (bin === null) {
    const last = (changes.length ? changes : decisionsOf(model)).slice(-2);
    box.append(element("p", {}, `▲ target raised, ▼ lowered. Point at a plot to read why${last.length ? "; at the end:" : "."}`));
    box.append(...last.map(whyLine));
    return;
  }
  const begin = timeOf(bin), end = begin + grid.bin_s;
  const near = 5 * grid.bin_s;
  const found = decisionsOf(model).filter((one) => one.t_s < end + near && one.until_s >= begin - near);
  const away = (one) => Math.abs(one.t_s - (begin + end) / 2);
  const nearest = found.filter((one) => one.before !== one.target).sort((a, b) => away(a) - away(b)).slice(0, 3).sort((a, b) => a.t_s - b.t_s);
  const rest = found.filter((one) => one.before === one.target && one.t_s < end && one.until_s >= begin);
  const told = [...nearest, ...rest].slice(0, 3);
  if (!told.length) {
    const last = changes.filter((one) => one.t_s < begin).pop();
    if (!last) box.append(element("p", {}, "No decision until here."));
    else told.push(last);
  }
  box.append(...told.map(whyLine));
}

function whyLine(one) {
  const change = one.before === one.target ? `stays ${one.target}` : `${one.before} → ${one.target}`;
  const who = several ? `${one.model_id}: ` : "";
  return element("p", {}, element("time", {}, instant(one.t_s, false)), `${who}${change}, ${one.words}`);
}
