// The live page. Texts of the stream reach the document as text only, never as HTML.
"use strict";

const MOST_POINTS = 1024; // then the history is fetched anew, which the server keeps short
const MOST_ROWS = 12;
const $ = (id) => document.getElementById(id);
const points = { history: [], recent: [] }; // rows: [time, loss, progressive, rate, lag, metrics]
const charts = {};
let latest = null; // the newest snapshot
let behind = 0; // seconds of this clock minus the server's
let fetching = false;

// ---- numbers as text

const whole = new Intl.NumberFormat("en");
const count = (n) => (n === null || n === undefined ? "–" : whole.format(n));
const real = (x) => (x === null || x === undefined ? "–" : Number(x.toPrecision(4)).toString());
const duration = (s) => (s === null || s === undefined ? "–" : s < 1 ? `${Math.round(s * 1000)} ms` : `${s.toFixed(1)} s`);
function ago(time) {
  const s = Math.max(0, Date.now() / 1000 - behind - time);
  if (s < 1.5) return "now";
  if (s < 90) return `${Math.round(s)} s ago`;
  if (s < 5400) return `${Math.round(s / 60)} min ago`;
  if (s < 129600) return `${Math.round(s / 3600)} h ago`;
  return `${Math.round(s / 86400)} d ago`;
}

// ---- charts

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const COLOURS = ["--one", "--two", "--three", "--four"];

function line(label, i, value, more = {}) {
  return { label, value, colour: COLOURS[i % COLOURS.length], data: [], borderWidth: 1.6, pointRadius: 0, spanGaps: true, ...more };
}

// as 24 hours, whatever the language
const CLOCK = { millisecond: "HH:mm:ss", second: "HH:mm:ss", minute: "HH:mm", hour: "MMM d, HH:mm", day: "MMM d" };

function chart(id, datasets, y = {}) {
  const ticks = { maxRotation: 0, autoSkipPadding: 16 };
  charts[id] = new Chart($(id), {
    type: "line",
    data: { datasets },
    options: {
      animation: false, parsing: false, normalized: true, responsive: true, maintainAspectRatio: false,
      interaction: { mode: "index", intersect: false },
      scales: { x: { type: "time", time: { tooltipFormat: "MMM d, HH:mm:ss", displayFormats: CLOCK }, ticks: { ...ticks }, grid: {} }, y: { ...y, ticks: { ...ticks }, grid: {} } },
      plugins: { legend: { display: datasets.length > 1, labels: { boxWidth: 14 } }, tooltip: {} },
    },
  });
}

function colour() {
  const ink = css("--dim"), grid = css("--line");
  for (const drawn of Object.values(charts)) {
    for (const set of drawn.data.datasets) set.borderColor = set.backgroundColor = css(set.colour);
    for (const axis of Object.values(drawn.options.scales)) {
      axis.ticks.color = ink;
      axis.grid.color = grid;
    }
    drawn.options.plugins.legend.labels.color = ink;
  }
}

function draw() {
  const rows = points[$("range").value];
  const names = Object.keys(rows.at(-1)?.[5] ?? {});
  const there = charts.metrics.data.datasets.map((set) => set.label);
  if (names.join("\n") !== there.join("\n")) {
    charts.metrics.data.datasets = names.map((name, i) => line(name, i, (row) => row[5][name] ?? null));
    charts.metrics.options.plugins.legend.display = true;
    colour();
  }
  $("metrics-figure").hidden = !names.length;
  $("lag-figure").hidden = !rows.some((row) => row[4] !== null);
  for (const drawn of Object.values(charts)) {
    if (drawn.canvas.closest("figure").hidden) continue;
    for (const set of drawn.data.datasets) set.data = rows.map((row) => ({ x: row[0] * 1000, y: set.value(row) }));
    drawn.update("none");
  }
}

// ---- tables

function cell(text, kind = "") {
  const td = document.createElement("td");
  td.textContent = text;
  td.className = kind;
  return td;
}

function fill(id, rows, otherwise) {
  const empty = rows.length ? [] : [[cell(otherwise, "empty")]];
  $(id).tBodies[0].replaceChildren(
    ...[...rows, ...empty].map((cells) => {
      const tr = document.createElement("tr");
      tr.append(...cells);
      if (!rows.length) tr.firstChild.colSpan = 9;
      return tr;
    }),
  );
}

function bar(value, largest) {
  const td = document.createElement("td"), box = document.createElement("div"), fill = document.createElement("i");
  const half = (Math.abs(value) / largest) * 50;
  box.className = "bar";
  fill.style.width = `${half}%`;
  fill.style.marginLeft = value < 0 ? `${50 - half}%` : "50%";
  fill.className = value < 0 ? "negative" : "";
  box.append(fill);
  td.append(box);
  return td;
}

function tables(shown) {
  const weights = (shown.weights ?? []).slice(0, MOST_ROWS);
  $("weights-panel").hidden = shown.weights === null;
  const largest = Math.max(...weights.map(([, w]) => Math.abs(w)), 1e-300);
  fill("weights", weights.map(([name, w]) => [cell(name), bar(w, largest), cell(real(w), "number")]), "all are 0");
  const partitions = [...new Set([...Object.keys(shown.position), ...Object.keys(shown.lag ?? {})])];
  fill("partitions", partitions.map((p) => [cell(p), cell(count(shown.position[p])), cell(count(shown.lag?.[p]))]), "none");
  fill("checkpoints", shown.checkpoints.slice(0, MOST_ROWS).map((c) => [cell(count(c.number)), cell(count(c.n_samples)), cell(duration(c.seconds)), cell(ago(c.time))]), "none yet");
  const place = (bad) => (bad.source === null ? "–" : `${bad.source}:${bad.partition}:${bad.offset}`);
  fill("bad", shown.bad.slice(0, MOST_ROWS).map((bad) => [cell(place(bad)), cell(bad.feature ?? "–"), cell(bad.reason), cell(ago(bad.time))]), "none");
}

function numbers(shown) {
  const lag = shown.lag === null ? null : Object.values(shown.lag).reduce((a, b) => a + b, 0);
  const saved = shown.checkpoints[0];
  const all = [
    ["samples", count(shown.n_samples)],
    ["samples/s", count(Math.round(shown.samples_per_second))],
    ["updates", count(shown.n_updates)],
    ["pending", count(shown.n_pending)],
    ["recent loss", real(shown.recent_loss)],
    ["progressive loss", real(shown.progressive_loss)],
    ...Object.entries(shown.metrics).map(([name, x]) => [name, real(x)]),
    ["lag", count(lag)],
    ["bad samples", count(shown.n_bad), shown.n_bad > 0],
    ["refused updates", count(shown.n_refused), shown.n_refused > 0],
    ["last checkpoint", saved ? ago(saved.time) : "–"],
  ];
  $("numbers").replaceChildren(
    ...all.map(([name, text, alarm]) => {
      const box = document.createElement("div"), dt = document.createElement("dt"), dd = document.createElement("dd");
      dt.textContent = name;
      dd.textContent = text;
      dd.className = alarm ? "alarm" : "";
      box.dataset.name = name;
      box.append(dt, dd);
      return box;
    }),
  );
}

function status(text) {
  $("status").textContent = text === "lost" ? "connection lost" : text;
  $("status").dataset.status = text;
}

function show() {
  if (latest === null) return;
  $("model").textContent = latest.model;
  document.title = `${latest.model || "streamfit"}: ${latest.status}`;
  numbers(latest);
  tables(latest);
}

// ---- what comes from the server

async function fetchHistory() {
  if (fetching) return;
  fetching = true;
  try {
    const answer = await fetch("history");
    if (answer.ok) {
      const got = await answer.json();
      [points.history, points.recent, points.number] = [got.history, got.recent, got.number];
      draw();
    }
  } finally {
    fetching = false;
  }
}

function take(shown) {
  latest = shown;
  behind = Date.now() / 1000 - shown.now;
  status(shown.status);
  if (document.hidden) return;
  show();
  const missed = shown.number !== points.number + 1;
  if (shown.number === points.number) return;
  if (missed || shown.point === null || points.history.length >= MOST_POINTS) {
    fetchHistory().catch(() => {}); // the next event tries again
    return;
  }
  points.number = shown.number;
  points.history.push(shown.point);
  points.recent.push(shown.point);
  if (points.recent.length > 600) points.recent.shift();
  draw();
}

function begin() {
  chart("loss", [line("since the last point", 0, (row) => row[1]), line("progressive", 1, (row) => row[2])]);
  chart("metrics", []);
  chart("rate", [line("samples/s", 0, (row) => row[3])], { min: 0 });
  chart("lag", [line("lag", 2, (row) => row[4])], { min: 0 });
  colour();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { colour(); draw(); });
  $("range").addEventListener("change", draw);
  document.addEventListener("visibilitychange", () => { if (!document.hidden && latest !== null) take(latest); });
  const events = new EventSource("events");
  events.onmessage = (event) => take(JSON.parse(event.data));
  events.onerror = () => {
    if (latest !== null && ["finished", "stopped", "failed"].includes(latest.status)) events.close(); // it ended
    else status("lost"); // the browser connects again by itself
  };
  setInterval(() => { $("updated").textContent = latest === null ? "" : `updated ${ago(latest.time)}`; }, 1000);
}

begin();
