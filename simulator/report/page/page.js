// Puts the page together. The part after # may say t (seconds, where the crosshair stands), theme, model, split and log.

function tiles() {
  const find = (name) => report.figures.find((one) => one.name === name && !one.model_id);
  const row = (kind) => report.attainment.find((one) => one.kind === kind);
  const latency = (what) => report.latencies.find((one) => one.what === what && (!one.model_id || run.models.length === 1 || report.latencies.filter((other) => other.what === what).length === 1));
  const ttft = latency("ttft"), tpot = latency("tpot"), worst = row("worst hour") || row("worst five minutes"), oracle = report.oracle;
  const kept = find("attainment"), total = report.gpu_hours.find((row) => row.kind === "asked");
  const others = report.gpu_hours.filter((row) => row.kind === "model" && row.total && run.models.some((one) => one.model_id === row.model_id && !one.requests));
  const words = [
    ["In time", percent(kept && kept.value), kept && kept.interval.low !== null ? interval(kept.interval, percent) : `${digits(report.requests.sent)} arrivals`],
    ...(worst ? [[worst.kind.replace("w", "W"), percent(worst.value), `from ${instant(worst.begin_s, false)}, ${digits(worst.arrivals)} arrivals`]] : []),
    ["First token P95", seconds(ttft && ttft.latency.p95_s), ttft ? `P50 ${seconds(ttft.latency.p50_s)}, P99 ${seconds(ttft.latency.p99_s)}` : ""],
    ["Per output token P95", seconds(tpot && tpot.latency.p95_s), tpot ? `P50 ${seconds(tpot.latency.p50_s)}, P99 ${seconds(tpot.latency.p99_s)}` : ""],
    ["GPU-hours", digits(total.total), [total.total ? `${digits((total.busy / total.total) * 100, 2)} % busy` : "", ...others.map((row) => `not asked: ${row.model_id}, ${digits(row.total)} more`)].filter(Boolean).join("; ")],
    oracle.clairvoyant && oracle.clairvoyant.gpu_hours_gap < 0
      ? ["Against the lower bound", moreOrLess(oracle.gap), dearerPlan(oracle.clairvoyant)]
      : oracle.clairvoyant
      ? ["Against hindsight", moreOrLess(oracle.clairvoyant.gpu_hours_gap), `lower bound: ${moreOrLess(oracle.gap)}`]
      : ["Against the lower bound", moreOrLess(oracle.gap), oracle.left_out || "GPU-hours, same misses"],
  ];
  for (const [name, value, more] of words) {
    document.getElementById("tiles").append(element("dl", { class: "tile", style: "margin: 0" }, element("dt", {}, name), element("dd", {}, value), element("dd", {}, more)));
  }
}

function headline() {
  const trace = run.trace ? run.trace.file.name : run.scenario ? run.scenario.name : run.cluster;
  const when = run.dated ? `${instant(0)}, ` : "";
  const policies = [...new Set(run.models.filter((one) => one.requests).map((one) => one.policy))].join(", ");
  document.getElementById("headline").textContent =
    `${trace}: ${when}${elapsed(run.duration_s)}, ${digits(report.requests.sent)} requests, policy ${policies || "none"}`;
}

function asked() {
  return Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
}

function choices(wanted) {
  const select = document.getElementById("model"), models = [...new Set(report.series.filter((one) => one.name === "load").map((one) => one.labels.model))];
  for (const model of models) select.append(element("option", { value: model }, model || "all"));
  document.getElementById("model-choice").hidden = models.length < 2;
  if (models.includes(wanted.model)) select.value = wanted.model;
  if (wanted.split) document.getElementById("split").value = wanted.split;
  document.getElementById("log").checked = wanted.log === "1";
  const codes = [...new Set(report.decisions.map((one) => one.code))].sort();
  const code = document.getElementById("code");
  if (!report.decision_counts.changes) document.getElementById("changes").checked = false;
  code.append(element("option", { value: "" }, "any"), ...codes.map((one) => element("option", { value: one }, one)));
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
}

function keys(event) {
  const step = (event.shiftKey ? 10 : 1) * { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (event.key === "Escape") show(null);
  else if (event.key === "Home") show(0);
  else if (event.key === "End") show(grid.bins - 1);
  else if (step) show(state.bin === null ? (step > 0 ? 0 : grid.bins - 1) : Math.max(0, Math.min(grid.bins - 1, state.bin + step)));
  else return;
  event.preventDefault();
}

function start() {
  const wanted = asked(), dark = matchMedia("(prefers-color-scheme: dark)");
  setTheme(wanted.theme || (dark.matches ? "dark" : "light"));
  dark.addEventListener("change", () => setTheme(dark.matches ? "dark" : "light"));
  document.getElementById("theme").addEventListener("click", () =>
    setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"));
  headline();
  tiles();
  const notes = document.getElementById("notes");
  for (const words of report.problems || []) notes.append(element("p", { class: "note problem" }, `No success: ${words}.`));
  for (const words of report.notes) notes.append(element("p", { class: "note" }, words));
  choices(wanted);
  buildPlots();
  if (wanted.t !== undefined) show(binOf(Number(wanted.t)));
  const cards = [attainmentCard(), tellFigures(), oracleCard(), requestCard(), latencyCard(), gpuCard()];
  if (Object.keys(report.queues).length) cards.push(queueCard());
  if (report.batch) cards.push(harmCard());
  document.getElementById("tables").append(...cards);
  provenance();
  filterDecisions();
  for (const id of ["model", "split", "log"]) document.getElementById(id).addEventListener("change", () => { buildPlots(); tellFigures(); filterDecisions(); });
  for (const id of ["find", "code", "changes"]) document.getElementById(id).addEventListener("input", filterDecisions);
  document.getElementById("more").addEventListener("click", () => { list.most += 5 * PAGE; tellDecisions(); });
  document.getElementById("plots").addEventListener("keydown", keys);
  let width = innerWidth;
  addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth; for (const plot of state.plots) plot.draw(); } });
}

start();
