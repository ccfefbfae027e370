// How numbers, lengths of time and instants are written, and how elements are made: text is never markup.

const report = JSON.parse(document.getElementById("report").textContent).data;
const run = report.run;

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function digits(value, count = 3) {
  if (value === null || value === undefined) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 100) return value.toLocaleString("en", { maximumFractionDigits: size < 1000 ? 1 : 0 });
  return String(Number(value.toPrecision(count)));
}

function seconds(value) {
  if (value === null || value === undefined) return "–";
  if (value === 0) return "0 s";
  const size = Math.abs(value);
  if (size < 1) return `${digits(value * 1000)} ms`;
  return size < 120 ? `${digits(value)} s` : elapsed(value);
}

function elapsed(value) {
  const sign = value < 0 ? "−" : "";
  let rest = Math.round(Math.abs(value));
  const parts = [];
  for (const [unit, length] of [["d", 86400], ["h", 3600], ["m", 60], ["s", 1]]) {
    const count = Math.floor(rest / length);
    rest -= count * length;
    if (count) parts.push(`${count}${unit}`);
  }
  return sign + (parts.slice(0, 3).join(" ") || "0s");
}

function percent(value) {
  if (value === null || value === undefined) return "–";
  if (value === 1 || value === 0) return `${value * 100} %`;
  // Near either end more digits: 99.95 % must not read as 100 %.
  const away = Math.min(value, 1 - value) * 100;
  const places = Math.min(6, Math.max(1, Math.ceil(1 - Math.log10(away))));
  return `${Number((value * 100).toFixed(places))} %`;
}

function moreOrLess(share) {
  if (share === null || share === undefined) return "–";
  return `${share >= 0 ? "+" : "−"}${digits(Math.abs(share) * 100)} %`;
}

// An instant of the run: the trace's own date where it has one, else the time since second 0.
function instant(t, full = true) {
  if (!run.dated) return `+${elapsed(t)}`;
  const text = new Date((run.started_at + t) * 1000).toISOString();
  return full ? `${text.slice(0, 10)} ${text.slice(11, 19)} UTC` : text.slice(11, 19);
}

function both(t) {
  return run.dated ? `${instant(t)} (+${elapsed(t)})` : instant(t);
}

function interval(of, write) {
  if (!of || of.low === null || of.high === null) return "–";
  return `${write(of.low)} to ${write(of.high)}`;
}
