// The report's tables. Columns: {title, number, of(row)}; what `of` gives is text or an element.

function fill(table, columns, rows) {
  const head = element("tr", {}, ...columns.map((one) => element("th", one.number ? { class: "number" } : {}, one.title)));
  const body = rows.map((row) => element("tr", {}, ...columns.map((one) =>
    element("td", one.number ? { class: "number" } : one.words ? { class: "words" } : {}, one.of(row)))));
  table.replaceChildren(element("thead", {}, head), element("tbody", {}, ...body));
  return table;
}

function card(title, columns, rows, words = [], wide = false) {
  const box = element("div", { class: wide ? "card wide" : "card" }, element("h3", {}, title));
  if (rows.length) box.append(element("div", { class: "scroll" }, fill(element("table"), columns, rows)));
  for (const sentence of words) box.append(element("p", {}, sentence));
  return box;
}

// Beside the name of a figure that rests on coefficients outside what they were measured at.
function marked(text, extrapolated) {
  if (!extrapolated) return text;
  return element("span", {}, text, " ", element("span", { class: "extrapolated" }, "extrapolated"));
}

function resampledWords() {
  const one = report.figures[0];
  if (!one) return "";
  const { level, n, blocks, resampling_seed: seed } = one.interval;
  return `n = ${n} seed (${run.seed}), ${blocks} day block${blocks === 1 ? "" : "s"}; intervals: ${digits(level * 100)} % by ` +
    `bootstrap over days, resampling seed ${seed}${blocks > 1 ? "" : "; one block has no interval"}.`;
}

function attainmentCard() {
  const name = (row) => row.begin_s === null ? [row.kind, row.name].filter(Boolean).join(": ") : `${row.kind}, from ${instant(row.begin_s)}`;
  const touched = report.figures.some((one) => one.name === "attainment" && one.extrapolated);
  return card("In time (both limits kept)", [
    { title: "Of", of: (row) => marked(name(row), touched), words: true },
    { title: "in time", number: true, of: (row) => percent(row.value) },
    { title: "interval", number: true, of: (row) => interval(row.interval, percent) },
    { title: "kept", number: true, of: (row) => digits(row.kept) },
    { title: "arrivals", number: true, of: (row) => digits(row.arrivals) },
  ], report.attainment, [resampledWords(), "Rejected, failed, cut and unfinished requests are misses. The worst stretches are the worst of many and have no interval."]);
}

// A quantile, with its interval below it where there is one.
function ranged(row, name) {
  const of = interval((row.intervals || {})[name], seconds);
  if (of === "–") return seconds(row.latency[name]);
  return element("span", {}, seconds(row.latency[name]), element("br"), element("small", {}, of));
}

function latencyCard() {
  const wide = several || report.latencies.some((row) => Object.values(row.intervals || {}).some((one) => one.low !== null));
  const names = { ttft: "first token", tpot: "per output token", end_to_end: "end to end" };
  const limits = report.latencies.filter((row) => row.limits).map((row) => `${several ? `${row.model_id}, ` : ""}${names[row.what]}: ${row.limits}`);
  return card("Latencies", [
    { title: "What", of: (row) => marked((several ? `${row.model_id || "all"}: ` : "") + names[row.what], row.extrapolated), words: true },
    { title: "P50", number: true, of: (row) => ranged(row, "p50_s") },
    { title: "P95", number: true, of: (row) => ranged(row, "p95_s") },
    { title: "P99", number: true, of: (row) => ranged(row, "p99_s") },
    { title: "max", number: true, of: (row) => seconds(row.latency.max_s) },
    { title: "mean", number: true, of: (row) => seconds(row.latency.mean_s) },
    { title: "n", number: true, of: (row) => digits(row.latency.count) },
  ], report.latencies, [`Limits: ${limits.join("; ")}.`, "Over the requests that have one; the greatest is the greatest of many and has no interval.", resampledWords()], wide);
}

function gpuCard() {
  const parts = ["busy", "idle", "starting", "draining", "withheld"];
  const share = (row, part) => (row.total ? ` (${digits((row[part] / row.total) * 100, 2)} %)` : "");
  const asked = (model) => run.models.some((one) => one.model_id === model && one.requests);
  const names = {
    all: () => "all", pool: (row) => `pool ${row.pool_id}`, none: () => "no model's (dedicated pools, beyond use)",
    model: (row) => `model ${row.model_id}${asked(row.model_id) ? "" : " (not asked)"}`, asked: () => "of models that were asked",
    warm_up: () => `the ${seconds(run.warm_up_s)} of warm-up, in no other row`,
  };
  const rows = report.gpu_hours.filter((row) => row.total || !["none", "warm_up"].includes(row.kind));
  return card("GPU-hours", [
    { title: "Of", of: (row) => names[row.kind](row), words: true },
    { title: "total", number: true, of: (row) => digits(row.total) },
    ...parts.map((part) => ({ title: part, number: true, of: (row) => digits(row[part]) + share(row, part) })),
  ], rows, [`From allocation to its end, from second 0 on, of seed ${run.seed}. Pools add up to all, and so do models and what is no model's. Figures, sweeps and comparisons count those of models that were asked.`], true);
}

// A plan that costs more than the run is no verdict on the run.
function dearerPlan(plan) {
  const more = 1 / (1 + plan.gpu_hours_gap) - 1;
  return `the plan took ${digits(more * 100, 2)} % more: it is a heuristic, the bound is what nothing can undercut`;
}

function oracleCard() {
  const oracle = report.oracle, plan = oracle.clairvoyant;
  const rows = oracle.run_gpu_hours === null ? [] : [["this run", oracle.run_gpu_hours, report.attainment[0].value, null]];
  if (plan) rows.push(["clairvoyant plan, executed", plan.gpu_hours, plan.attainment, plan.gpu_hours_gap]);
  if (oracle.bound_gpu_hours !== null) rows.push(["lower bound", oracle.bound_gpu_hours, 1 - oracle.allowance, oracle.gap]);
  const words = [];
  if (oracle.left_out) words.push(`No lower bound: ${oracle.left_out}.`);
  else words.push(`The bound allows the run's own share of misses, in steps of ${seconds(oracle.step_s)}; nothing can cost less. It keeps no minimum of replicas and divides them at will.`);
  if (rows.length) words.push("All are of the replicas of models that were asked, from second 0 on.");
  if (oracle.dedicated_gpu_hours) {
    const much = oracle.dedicated_gpu_hours > oracle.run_gpu_hours ? ", more than the replicas took: no policy can save them" : "";
    words.push(`Dedicated pools held ${digits(oracle.dedicated_gpu_hours)} GPU-hours beyond all replicas, which are in none of these rows${much}.`);
  }
  if (plan && plan.gpu_hours_gap < 0) words.push(`${dearerPlan(plan).replace("the", "The")}.`);
  if (plan && plan.gpu_hours_gap === null) words.push("The plan kept fewer in time than the run, so their costs are not compared.");
  if (plan) words.push(plan.knows);
  else if (oracle.clairvoyant_left_out) words.push(`No clairvoyant plan: ${oracle.clairvoyant_left_out}.`);
  words.push(`n = 1 seed (${run.seed}).`);
  return card("Against the oracle", [
    { title: "Plan", of: (row) => row[0] },
    { title: "GPU-hours", number: true, of: (row) => digits(row[1]) },
    { title: "in time", number: true, of: (row) => percent(row[2]) },
    { title: "the run takes", number: true, of: (row) => (row[3] === null ? "" : `${moreOrLess(row[3])}`) },
  ], rows, words);
}

const FIGURES = {
  attainment: ["In time", percent], unanswered: ["Not answered in full", percent], requests: ["Requests per second", digits],
  ttft_mean: ["Mean time to first token", seconds], tpot_mean: ["Mean time per output token", seconds],
  goodput_per_gpu: ["Goodput: in time per second and GPU", digits], gpu_s_per_request: ["GPU-seconds per request", digits],
  gpu_hours_a_day: ["GPU-hours a day", digits], busy_gpu_hours_a_day: ["busy a day", digits], idle_gpu_hours_a_day: ["idle a day", digits],
  starting_gpu_hours_a_day: ["starting a day", digits], draining_gpu_hours_a_day: ["draining a day", digits],
  withheld_gpu_hours_a_day: ["withheld a day", digits], target_changes_a_day: ["Changes of targets a day", digits],
};

function figureCard() {
  const words = (row) => (FIGURES[row.name] || [row.name])[0], write = (row) => (FIGURES[row.name] || [null, digits])[1];
  const rows = report.figures.filter((row) => row.model_id === (several ? chosenModel() : ""));
  return card("Figures by day", [
    { title: "Figure", of: (row) => marked((row.model_id ? `${row.model_id}: ` : "") + words(row), row.extrapolated), words: true },
    { title: "value", number: true, of: (row) => write(row)(row.value) },
    { title: "interval", number: true, of: (row) => interval(row.interval, write(row)) },
  ], rows, [resampledWords()]);
}

function harmCard() {
  const batch = report.batch, wait = (latency) => `mean ${seconds(latency.mean_s)}, P95 ${seconds(latency.p95_s)}`;
  const rows = [...batch.harm.map((row) => ({ ...row, of: "the replicas" })), ...batch.null.map((row) => ({ ...row, of: "the null" }))];
  return card("Harm to batch jobs", [
    { title: "By", of: (row) => row.of },
    { title: "GPUs", of: (row) => row.size },
    { title: "jobs", number: true, of: (row) => digits(row.jobs) },
    { title: "lost", number: true, of: (row) => digits(row.lost) },
    { title: "delay mean", number: true, of: (row) => seconds(row.delay_mean_s) },
    { title: "P50", number: true, of: (row) => seconds(row.delay_p50_s) },
    { title: "P95", number: true, of: (row) => seconds(row.delay_p95_s) },
    { title: "P99", number: true, of: (row) => seconds(row.delay_p99_s) },
    { title: "delayed", number: true, of: (row) => percent(row.delayed_share) },
    { title: "slowdown without", number: true, of: (row) => digits(row.slowdown_before) },
    { title: "with", number: true, of: (row) => digits(row.slowdown_after) },
  ], rows, [
    `The same batch jobs with and without the replicas. The null moves submissions by up to ${seconds(batch.jitter_s)} instead: backfill is chaotic, and only what goes beyond the null is harm.`,
    `Waits beside the replicas: ${wait(batch.wait)}; without them: ${wait(batch.wait_without)}.${batch.refused ? ` ${digits(batch.refused)} jobs fit no partition.` : ""} n = 1 seed (${run.seed}).`], true);
}

// Those of the model that is chosen above.
function tellFigures() {
  const made = figureCard(), known = document.getElementById("figures");
  made.id = "figures";
  if (known) known.replaceWith(made);
  return made;
}

function queueCard() {
  const rows = Object.entries(report.queues);
  return card("Replicas' jobs in the queue", [
    { title: "Pool", of: (row) => row[0] },
    { title: "submitted", number: true, of: (row) => digits(row[1].submitted) },
    { title: "started", number: true, of: (row) => digits(row[1].started) },
    { title: "wait P50", number: true, of: (row) => seconds(row[1].queue_wait.p50_s) },
    { title: "P95", number: true, of: (row) => seconds(row[1].queue_wait.p95_s) },
    { title: "max", number: true, of: (row) => seconds(row[1].queue_wait.max_s) },
    { title: "ended or found as", words: true, of: (row) => Object.entries(row[1].states).map(([name, count]) => `${count} ${name}`).join(", ") },
  ], rows, [`n = 1 seed (${run.seed}).`], true);
}

const CUT_BY = {
  wall_time: "at their jobs' time limit", preempted: "by preemption", node_failed: "by a node's failure",
  drain_limit: "at the drain limit", cancelled: "by somebody else's cancelling", crashed: "by a crash",
};

function requestCard() {
  const requests = report.requests, trace = run.trace;
  const rows = Object.entries(requests).flatMap(([name, count]) => [[`requests ${name}`, count], ...(name === "cut" ? cutRows() : [])]);
  if (trace) rows.push(["rows of the trace's part", trace.rows], ["of them failed where recorded, not sent", trace.failed], ["malformed rows skipped, whole file", trace.bad]);
  const shown = rows.filter(([name, count]) => count || /sent|finished|failed where|malformed/.test(name));
  return card("Requests", [
    { title: "What", of: (row) => row[0] }, { title: "count", number: true, of: (row) => digits(row[1]) },
  ], shown);
}

// Why requests were cut, below their number.
function cutRows() {
  return (report.cuts || []).map((one) => {
    const whose = several ? `${one.model_id}, ` : "";
    return [`of them ${CUT_BY[one.cause]} (${whose}pool ${one.pool_id}, ${digits(one.replicas)} replica${one.replicas > 1 ? "s" : ""})`, one.requests];
  });
}

// -- decisions

const PAGE = 100;
const list = { rows: [], most: PAGE };

function filterDecisions() {
  const word = document.getElementById("find").value.toLowerCase(), code = document.getElementById("code").value;
  const only = document.getElementById("changes").checked, model = chosenModel();
  list.rows = report.decisions.filter((one) =>
    (!only || one.before !== one.target) && (!code || one.code === code) && (!model || one.model_id === model) &&
    (!word || [one.words, one.code, one.model_id, ...one.trail].some((text) => text.toLowerCase().includes(word))));
  list.most = PAGE;
  tellDecisions();
}

function tellDecisions() {
  const counts = report.decision_counts, rows = list.rows.slice(0, list.most);
  const table = fill(document.getElementById("decision-table"), [
    { title: "When", of: (row) => instant(row.t_s) + (row.count > 1 ? ` for ${elapsed(row.until_s - row.t_s)}` : "") },
    { title: "Model", of: (row) => row.model_id },
    { title: "Target", of: (row) => (row.before === row.target ? `${row.target}` : `${row.before} → ${row.target}`) },
    { title: "times", number: true, of: (row) => digits(row.count) },
    { title: "Reason", words: true, of: reason },
  ], rows);
  [...table.tBodies[0].rows].forEach((line, index) => line.addEventListener("click", (at) => {
    if (at.target.closest("summary")) return;
    show(binOf(rows[index].t_s));
    state.plots[2].box.scrollIntoView({ behavior: "smooth", block: "center" });
  }));
  document.getElementById("decision-count").textContent =
    `${digits(list.rows.length)} rows of ${digits(counts.shown)}; the run made ${digits(counts.decisions)} decisions, ` +
    `${digits(counts.changes)} of them changed a target. Like ones in a row are one row.`;
  document.getElementById("more").hidden = list.rows.length <= list.most;
}

function reason(row) {
  const head = element("span", {}, element("code", {}, row.code), ` ${row.words}`);
  if (!row.trail.length) return head;
  return element("details", {}, element("summary", {}, head), element("ol", {}, ...row.trail.map((step) => element("li", {}, step))));
}

// -- where the numbers come from

function facts(pairs) {
  return element("dl", { class: "facts" }, ...pairs.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]));
}

function fileWords(file) {
  return element("span", {}, file.name, " ", element("code", {}, `sha256 ${file.sha256.slice(0, 16)}…`));
}

function conditionWords(one) {
  const lost = one.metrics.loss || one.metrics.report_loss || one.metrics.delay_s || one.metrics.outage_every_s;
  const metrics = !lost ? "at once and all of them" :
    `${seconds(one.metrics.delay_s)} late in the median, ${percent(one.metrics.loss)} of scrapes and ${percent(one.metrics.report_loss)} of reports lost` +
    (one.metrics.outage_every_s ? `, nothing at all for ${seconds(one.metrics.outage_s)} each ${seconds(one.metrics.outage_every_s)} on average` : "");
  return `routing ${one.routing}; where the load does not tell, caches hold ${percent(one.cached_share)} of prompts; measurements ` +
    `each ${seconds(one.scrape_interval_s)} arrive ${metrics}; a tail of ${seconds(one.tail_s)}`;
}

function provenance() {
  const box = document.getElementById("provenance"), trace = run.trace;
  const pairs = [["Tidegate", run.version], ["Seed", String(run.seed)], ["Cluster", run.cluster], ["Second 0", run.dated ? instant(0) : "the trace has no date"], ["Length", elapsed(run.duration_s)]];
  if (trace) {
    pairs.push(["Trace", fileWords(trace.file)]);
    pairs.push(["Replayed", `${trace.window || "all of it"}, ${digits(trace.rate_scale)} times its rate${trace.rate_scale === 1 ? "" : ` (${trace.scale_method})`}`]);
  }
  if (run.conditions) pairs.push(["Under", conditionWords(run.conditions)]);
  if (run.policies) pairs.push(["Policies", fileWords(run.policies)]);
  for (const [name, file] of [["Scenario", run.scenario], ["Site", run.site], ["Cluster's file", run.cluster_file]]) {
    if (file) pairs.push([name, fileWords(file)]);
  }
  box.append(facts(pairs));
  const models = card("Models", [
    { title: "Model", of: (row) => row.model_id }, { title: "policy", of: (row) => row.policy },
    { title: "replicas", of: (row) => `${row.minimum} to ${row.maximum}, ${row.gpus} GPU${row.gpus > 1 ? "s" : ""} each` },
    { title: "pools", of: (row) => row.pools.join(", ") || "all" }, { title: "engine", of: (row) => row.profile },
    { title: "requests", number: true, of: (row) => digits(row.requests) },
    { title: "parameters", words: true, of: (row) => element("details", {}, element("summary", {}, "show"), element("code", {}, row.parameters)) },
  ], run.models);
  box.append(models);
  for (const used of run.profiles) {
    const made = card(`Engine ${used.name}`, [
      { title: "Coefficient", of: (row) => element("code", {}, row.name) }, { title: "value", number: true, of: (row) => digits(row.value) },
      { title: "how", of: (row) => row.method }, { title: "source", words: true, of: (row) => row.source },
    ], used.coefficients, [used.summary, ...used.extrapolated]);
    box.append(made);
  }
}
