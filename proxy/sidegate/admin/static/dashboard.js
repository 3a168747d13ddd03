// The dashboard: draws what /events sends each second; requests buckets, explanations and the fleet from the admin API.
// No library, no other host.
"use strict";

const KEPT_S = 900;
// Workers report once a second, and the parent passes reports on within another.
const SILENT_S = 5;
const FLEET_EVERY_MS = 5000;
// An event comes each second. A sidecar that hangs closes no connection.
const LOST_AFTER_MS = 4000;
const REFUSALS = ["refused", "local_refused"];
const CLASSES = ["2xx", "4xx", "429", "5xx"];
// Upper bounds of the latency counts, in ms; telemetry/histogram has the same.
const BOUNDS_MS = [0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000, 30000];

const at = (id) => document.getElementById(id);

let seconds = [];
let state = null;
let policies = [];
let shownHash = "";
let lastEvent_ms = 0;
let lostSince = null; // ISO 8601, while this page has no connection
let events = new AbortController();

// -- building pieces of the page; text is always set as text ---------------------------------------------------------

function make(name, properties = {}, ...children) {
  const element = document.createElement(name);
  Object.assign(element, properties);
  element.append(...children);
  return element;
}

function number(value) {
  return value >= 100 || Number.isInteger(value) ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(2)));
}

// Whole percents, one decimal below 10 and above 99; 0 and 100 only where it is exactly that.
function percent(share) {
  if (share === null || share === undefined) return "–";
  const value = share * 100;
  if (value <= 0 || value >= 100) return `${Math.round(value)} %`;
  if (value < 10) return `${Math.max(value, 0.1).toFixed(1)} %`;
  return `${value > 99 ? Math.min(value, 99.9).toFixed(1) : Math.round(value)} %`;
}

function milliseconds(value) {
  if (value === null || value === undefined) return "–";
  if (value >= 1000) return `${(value / 1000).toFixed(1)} s`;
  return `${value >= 10 ? Math.round(value) : Number(value.toPrecision(2))} ms`;
}

function duration(s) {
  if (s < 1) return `${Math.round(s * 1000)} ms`;
  if (s < 120) return `${Math.round(s)} s`;
  if (s < 7200) return `${Math.round(s / 60)} min`;
  return s < 172800 ? `${Math.round(s / 3600)} h` : `${Math.round(s / 86400)} days`;
}

const age = (time) => duration(Math.max(0, Date.now() / 1000 - Date.parse(time) / 1000));

function moment(time) {
  const date = new Date(time), today = date.toDateString() === new Date().toDateString();
  return `${today ? "" : `${date.toLocaleDateString("en-GB")} `}${clock(date / 1000)}`;
}

const since = (time) => `${moment(time)} (${age(time)})`;

function cell(content, kind = "") {
  return make("td", { className: kind }, content);
}

// -- requests to the sidecar -------------------------------------------------------------------------------------------

function authorization() {
  const token = sessionStorage.getItem("token");
  return token ? { Authorization: `Bearer ${token}` } : {};
}

class Rejected extends Error {}

async function call(path, options = {}) {
  const response = await fetch(path, { ...options, headers: { ...authorization(), ...options.headers } });
  if (response.status === 401) {
    askForToken();
    throw new Rejected("The token is required.");
  }
  const content = await response.json();
  if (!response.ok) throw new Rejected(content.detail || `answered ${response.status}`);
  return content;
}

function askForToken() {
  if (sessionStorage.getItem("token")) at("token-fault").textContent = "The token is wrong.";
  sessionStorage.removeItem("token");
  at("main").hidden = true;
  at("token-form").hidden = false;
  at("token").focus();
}

async function follow() {
  for (let pause_ms = 500; ; pause_ms = Math.min(pause_ms * 2, 5000)) {
    try {
      events = new AbortController();
      lastEvent_ms = Date.now();
      const response = await fetch("/events", { headers: authorization(), signal: events.signal });
      if (response.status === 401) {
        connection("waiting", "token needed");
        askForToken();
        return;
      }
      if (!response.ok) throw new Error(`answered ${response.status}`);
      pause_ms = 500;
      await readEvents(response.body.getReader());
    } catch (error) {
      if (!(error instanceof TypeError) && error.name !== "AbortError") connection("lost", error.message);
    }
    connection("lost", "no connection, trying again");
    await new Promise((resolve) => setTimeout(resolve, pause_ms));
  }
}

async function readEvents(reader) {
  const decoder = new TextDecoder();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    text += decoder.decode(value, { stream: true });
    for (let end = text.indexOf("\n\n"); end >= 0; end = text.indexOf("\n\n")) {
      take(text.slice(0, end));
      text = text.slice(end + 2);
    }
  }
}

function take(event) {
  const name = /^event: (.*)$/m.exec(event);
  const data = /^data: (.*)$/m.exec(event);
  if (!name || !data) return;
  const content = JSON.parse(data[1]);
  lastEvent_ms = Date.now();
  lostSince = null;
  connection("live", "live");
  if (name[1] === "history") {
    // A sidecar that restarted has no history: what this page has seen before stays, with a gap.
    const begin = content.seconds.length ? content.seconds[0].time : content.state ? Date.now() / 1000 : 0;
    seconds = [...seconds.filter((each) => each.time < begin), ...content.seconds];
    loadPolicies();
  } else {
    seconds.push(content.second);
  }
  const newest = seconds.length ? seconds[seconds.length - 1].time : 0;
  seconds = seconds.filter((each) => each.time > newest - KEPT_S);
  state = content.state;
  draw();
}

function connection(kind, words) {
  const pill = at("connection");
  if (pill.dataset.state === kind && pill.textContent === words) return;
  pill.dataset.state = kind;
  pill.textContent = words;
  if (kind === "lost") lostSince ||= new Date().toISOString();
  at("main").classList.toggle("outdated", kind === "lost");
  if (state) drawProblems();
}

function watchConnection() {
  if (lostSince && state) drawProblems(); // its age
  if (Date.now() - lastEvent_ms <= LOST_AFTER_MS) return;
  if (at("connection").dataset.state === "live") connection("lost", "no data, trying again");
  events.abort(); // `follow` tries again
}

// -- drawing ---------------------------------------------------------------------------------------------------------

const perSecond = (slot, read) => slot.reduce((sum, each) => sum + read(each), 0) / slot.length;
const other = (each) => (each.responses["1xx"] || 0) + (each.responses["3xx"] || 0);

const requestsChart = new Chart(at("requests-chart"), at("requests-readout"), {
  stacked: true,
  series: [{ name: "2xx", kind: "r2xx" }, { name: "1xx, 3xx", kind: "r3xx" }, { name: "4xx", kind: "r4xx" }, { name: "429", kind: "r429" }, { name: "5xx", kind: "r5xx" }],
  read: (slot) => [
    perSecond(slot, (each) => each.responses["2xx"] || 0), perSecond(slot, other),
    ...["4xx", "429", "5xx"].map((name) => perSecond(slot, (each) => each.responses[name] || 0)),
  ],
  format: (value) => (value === null ? "–" : `${number(value)}/s`),
});
const latencyChart = new Chart(at("latency-chart"), at("latency-readout"), {
  stacked: false,
  series: [{ name: "p50", kind: "p50" }, { name: "p99", kind: "p99" }],
  read: (slot) => [quantile(slot, 0.5), quantile(slot, 0.99)],
  format: milliseconds,
});

// As the sidecar estimates it: linear within a bucket.
function quantile(slot, q) {
  const counts = BOUNDS_MS.map(() => 0);
  let all = 0;
  for (const second of slot)
    second.latency.forEach((count, index) => {
      if (index < counts.length) counts[index] += count;
      all += count;
    });
  if (!all) return null;
  let below = 0;
  for (const [index, count] of counts.entries()) {
    const lower = index ? BOUNDS_MS[index - 1] : 0;
    if (count && below + count >= q * all) return lower + ((BOUNDS_MS[index] - lower) * (q * all - below)) / count;
    below += count;
  }
  return BOUNDS_MS[BOUNDS_MS.length - 1];
}

const range = () => Number(document.querySelector("input[name=range]:checked").value);

function draw() {
  drawProblems();
  drawFigures();
  drawParts();
  drawCharts();
  drawPolicies();
  drawRefused();
  drawWorkers();
  drawConfig();
}

function drawProblems() {
  const { problems: present = [] } = state.overview; // the sidecar may have been replaced by an earlier version
  const problems = lostSince ? [noConnection(), ...present] : present;
  at("problems").hidden = !problems.length;
  while (at("problems").childElementCount > problems.length) at("problems").lastElementChild.remove();
  problems.forEach(({ text, since: time, runbook }, index) => {
    if (!at("problems").children[index]) at("problems").append(problemItem());
    const [sentence, begin, link] = at("problems").children[index].querySelectorAll("strong, time, a");
    setText(sentence, text);
    setText(begin, since(time));
    link.hidden = !runbook;
    link.href = runbook || "";
  });
}

function noConnection() {
  const text = "This page has no connection to the sidecar, and all that it shows is from before. See whether the sidecar runs; the page connects again by itself.";
  return { text, since: lostSince, runbook: null };
}

function problemItem() {
  const link = make("a", { target: "_blank", rel: "noopener" }, "Runbook");
  return make("li", {}, make("p", {}, make("strong")), make("p", {}, "Since ", make("time", { ariaLive: "off" }), ". ", link));
}

// Only where it changes, so that a live region is read once.
function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function drawFigures() {
  const { overview, sidecar, config } = state;
  at("about").textContent = `version ${sidecar.version} · up ${age(sidecar.started)} · configuration ${config.hash}, ${age(config.loaded)} old`;
  at("rate").textContent = number(overview.requests_per_s);
  at("in-flight").textContent = number(overview.in_flight);
  at("responses").replaceChildren(
    ...CLASSES.map((name) => make("li", { className: `r${name}` }, make("span", {}, name), ` ${percent(overview.responses[name])}`)),
  );
  const rows = ["p50", "p99"].map((name) =>
    make("tr", {}, make("th", { scope: "row" }, name), ...["total", "application", "store"].map((part) => cell(milliseconds(overview.latency_ms[part][name])))));
  at("latency").replaceChildren(...rows);
}

const GOOD = ["up", "ok"];
const WITHOUT_STORE = { denied: "answered 503", local: "decided by this sidecar's share", allowed: "forwarded unchecked" };

function drawParts() {
  const { application, store, config } = state.overview;
  part("application", application.state, application.reason, application.since);
  const without = Object.entries(store.without_store_per_s).map(([effect, rate]) => `${number(rate)}/s ${WITHOUT_STORE[effect]}`);
  part("store", store.state === "open" ? "breaker open" : store.state, [store.reason, ...without].filter(Boolean).join("; "), store.since);
  const stale = config.status !== "ok";
  const waiting = config.needs_restart ? `waits for a restart: ${config.needs_restart.join(", ")}` : "";
  part("config", state.draining ? "draining" : stale ? "edit refused" : "ok", [stale ? config.faults[0] : "", waiting].filter(Boolean).join("; "), stale ? config.since : config.loaded);
}

function part(id, word, reason, time) {
  const good = GOOD.includes(word);
  setText(at(`${id}-word`), word);
  at(`${id}-word`).className = `word ${good ? "good" : word === "slow" ? "warn" : "bad"}`;
  setText(at(`${id}-reason`), `${reason ? `${reason}; ` : ""}since ${since(time)}`);
}

function drawCharts() {
  const grouped = slotsOf(seconds, range());
  requestsChart.draw(grouped, state.marks);
  latencyChart.draw(grouped, state.marks);
  at("marks-count").textContent = state.marks.length;
  if (at("marks").childElementCount !== state.marks.length || at("marks").dataset.last !== state.marks.at(-1)?.time) {
    at("marks").dataset.last = state.marks.at(-1)?.time || "";
    at("marks").replaceChildren(...[...state.marks].reverse().map((mark) => make("li", {}, `${moment(mark.time)}: ${mark.text}`)));
  }
}

function drawPolicies() {
  const counts = new Map(policies.map((each) => [each.name, {}]));
  const newest = seconds.length ? seconds[seconds.length - 1].time : 0;
  for (const second of seconds)
    if (second.time > newest - range())
      for (const [name, outcomes] of Object.entries(second.policies)) {
        if (name === "none") continue;
        const found = counts.get(name) || {};
        for (const [outcome, count] of Object.entries(outcomes)) found[outcome] = (found[outcome] || 0) + count;
        counts.set(name, found);
      }
  const rows = [...counts].map(([name, found]) => {
    const known = policies.find((each) => each.name === name);
    const matched = Object.values(found).reduce((sum, count) => sum + count, 0);
    const refused = REFUSALS.reduce((sum, outcome) => sum + (found[outcome] || 0), 0);
    return { name, known, matched, refused, shadow: found.shadow_refused || 0 };
  });
  rows.sort((a, b) => b.refused - a.refused || b.shadow - a.shadow || b.matched - a.matched);
  const cells = rows.map(({ name, known, matched, refused, shadow }) => make(
    "tr", {}, cell(`${name}${known?.shadow ? " (shadow)" : ""}${known ? "" : " (removed)"}`),
    cell(known ? (known.limit_text || "exempt") + ("under_way" in known ? `, ${number(known.under_way)} here now` : "") : "–"),
    ...(known?.exempt ? Array(4).fill("–") : [number(matched), number(refused), percent(matched ? refused / matched : null), number(shadow)])
      .map((each) => cell(each, "number"))));
  at("policy-rows").replaceChildren(...(cells.length ? cells : [make("tr", {}, make("td", { colSpan: 6 }, "None."))]));
  at("policies-range").textContent = `${range() / 60} min`;
}

function drawRefused() {
  const body = at("most-refused");
  if (body.contains(document.activeElement)) return; // do not remove a button that has the focus
  const rows = state.refused.map((entry) => {
    const known = !entry.policy || policies.some((each) => each.name === entry.policy);
    const show = make("button", { type: "button", className: "quiet" }, "Show");
    show.setAttribute("aria-label", `Show the bucket ${entry.bucket}`);
    show.addEventListener("click", () => showBucket(entry.policy, entry.key));
    const count = entry.error ? `${number(entry.count - entry.error)}–${number(entry.count)}` : number(entry.count);
    return make("tr", {}, cell(make("code", {}, entry.key)), cell(`${entry.policy}${known ? "" : " (removed)"}`), cell(count, "number"), cell(known ? show : ""));
  });
  body.replaceChildren(...(rows.length ? rows : [make("tr", {}, make("td", { colSpan: 4 }, "None."))]));
}

function storeWords(store) {
  if (!store.up) return `down (${store.reason || "unknown"})`;
  const open = store.breakers.filter((each) => each.state !== "closed");
  if (!open.length) return "up";
  return open.map((each) => `breaker ${each.node ? `of ${each.node} ` : ""}${each.state}: ${each.reason || ""}`).join("; ");
}

function drawWorkers() {
  const workers = state.workers || [];
  at("workers-panel").hidden = !workers.length;
  const rows = workers.map((each) => {
    if (each.heard_s === null) return make("tr", {}, cell(each.worker), make("td", { colSpan: 5, className: "bad" }, "not running"));
    const late = each.heard_s > SILENT_S, store = storeWords(each.store);
    const odd = each.config !== "ok" || each.hash !== state.config.hash;
    return make(
      "tr", {},
      cell(each.worker),
      cell(late ? `no report for ${duration(each.heard_s)}` : "running", late ? "bad" : ""),
      cell(store, store === "up" ? "" : "bad"),
      cell(number(each.in_flight), "number"),
      cell(number(each.connections), "number"),
      cell(make("code", { className: odd ? "bad" : "" }, `${each.hash}${each.config === "ok" ? "" : ", edit refused"}`)),
    );
  });
  at("workers").replaceChildren(...rows);
}

function drawConfig() {
  const config = state.config;
  const stale = config.status !== "ok";
  at("config-state").textContent = stale ? `the last edit was refused, ${since(config.since)}` : "active";
  at("config-age").textContent = `${age(config.loaded)} ago`;
  at("config-hash").textContent = config.hash;
  at("config-faults").replaceChildren(...(config.faults || []).map((fault) => make("li", {}, fault)));
  if (config.hash !== shownHash) {
    shownHash = config.hash;
    loadPolicies();
    if (at("config-details").open) loadConfig();
  }
}

async function loadConfig() {
  try {
    const { settings, origins } = await call("/config");
    at("config-text").textContent = JSON.stringify({ settings, origins }, null, 2);
  } catch (error) {
    at("config-text").textContent = error.message;
  }
}

async function loadPolicies() {
  try {
    policies = (await call("/policies")).policies.filter((each) => !each.removed);
    const select = at("bucket-policy");
    const chosen = select.value;
    select.replaceChildren(
      ...policies.filter((each) => !each.exempt).map((each) => make("option", { value: each.name }, each.name)),
    );
    if (chosen) select.value = chosen;
  } catch (error) {
    if (!(error instanceof Rejected)) connection("lost", "no connection, trying again");
  }
}

// -- fleet -----------------------------------------------------------------------------------------------------------

async function followFleet() {
  const peers = new URLSearchParams(location.search).get("peers") || "";
  for (;;) {
    try {
      const { sidecars } = await call(`/fleet?${new URLSearchParams({ peers })}`);
      if (sidecars.length < 2) return; // no peers are configured
      at("fleet-panel").hidden = false;
      at("fleet").replaceChildren(...sidecars.flatMap(fleetRows));
    } catch (error) {
      if (error instanceof Rejected) {
        at("fleet-panel").hidden = !peers;
        at("fleet").replaceChildren(make("tr", {}, make("td", { colSpan: 11, className: "bad" }, error.message)));
        return;
      }
    }
    await new Promise((resolve) => setTimeout(resolve, FLEET_EVERY_MS));
  }
}

function fleetRows({ sidecar, url, overview, fault }) {
  const name = url ? make("a", { href: `${url}/` }, sidecar) : `${sidecar} (this one)`;
  if (!overview) return [make("tr", {}, cell(name), make("td", { colSpan: 10, className: "bad" }, fault))];
  const { application, store, config, problems = [] } = overview; // a peer may have an earlier version
  const figures = make(
    "tr", {}, cell(name), cell(number(overview.requests_per_s), "number"),
    ...CLASSES.map((each) => cell(percent(overview.responses[each]), "number")),
    cell(milliseconds(overview.latency_ms.total.p99), "number"), cell(number(overview.in_flight), "number"),
    cell(application.state, application.state === "up" ? "good" : "bad"), cell(store.state, store.state === "up" ? "good" : "bad"),
    cell(make("code", { className: config.status === "ok" ? "" : "bad" }, `${config.hash}${config.status === "ok" ? "" : " (edit refused)"}`)),
  );
  const shown = url ? problems : []; // those of this sidecar stand at the top of the page
  return [figures, ...shown.map(({ text }) => make("tr", {}, make("td", { colSpan: 11, className: "bad" }, make("p", { className: "beside" }, text))))];
}

// -- buckets ---------------------------------------------------------------------------------------------------------

const bucketPath = (policy, key) => `/buckets/${encodeURIComponent(policy)}/${encodeURIComponent(key)}`;

async function findBuckets(cursor = "") {
  const question = new URLSearchParams({ policy: at("bucket-policy").value, q: at("bucket-key").value, limit: "20" });
  if (cursor) question.set("cursor", cursor);
  at("bucket-result").replaceChildren();
  try {
    const found = await call(`/buckets?${question}`);
    const rows = found.buckets.map((each) => {
      const show = make("button", { type: "button", className: "quiet" }, "Show");
      show.setAttribute("aria-label", `Show the bucket ${each.bucket}`);
      show.addEventListener("click", () => showBucket(each.policy, each.key));
      const tokens = each.tokens_at_last_charge === null ? "no bucket" : number(each.tokens_at_last_charge);
      return make("tr", {}, cell(make("code", {}, each.key || each.bucket)), cell(tokens), cell(each.policy ? show : ""));
    });
    const head = make("tr", {}, ...["Key", "Tokens at the last charge", ""].map((text) => make("th", { scope: "col" }, text)));
    const parts = [];
    if (rows.length) parts.push(make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows)));
    else parts.push(make("p", {}, found.cursor ? "None in this part of the store." : "None."));
    if (found.cursor) {
      const more = make("button", { type: "button" }, "Continue");
      more.addEventListener("click", () => findBuckets(found.cursor));
      parts.push(more);
    }
    at("bucket-list").replaceChildren(...parts);
  } catch (error) {
    at("bucket-list").replaceChildren(make("p", { className: "fault" }, error.message));
  }
}

async function showBucket(policy, key) {
  const result = at("bucket-result");
  at("bucket-policy").value = policy;
  at("bucket-key").value = key;
  try {
    result.replaceChildren(...describeBucket(await call(bucketPath(policy, key))));
  } catch (error) {
    result.replaceChildren(make("p", { className: "fault" }, error.message));
  }
  result.scrollIntoView({ block: "nearest" });
}

function describeBucket(bucket) {
  const name = make("p", {}, make("code", {}, bucket.bucket));
  if (bucket.rule === "blocked" || bucket.rule === "exempt")
    return [name, make("p", {}, `An override ${bucket.rule === "blocked" ? "blocks" : "exempts"} this key, so it has no bucket.`)];
  const { tokens, limit } = bucket;
  const level = make("meter", { min: 0, max: limit.burst, low: 1, value: tokens });
  level.setAttribute("aria-label", `${tokens} of ${limit.burst} tokens`);
  const rate = `${number(limit.tokens)} every ${duration(limit.period_us / 1e6)}, at most ${number(limit.burst)}`;
  const more = bucket.full_s ? `; the next in ${duration(bucket.next_token_s)}, full in ${duration(bucket.full_s)}` : ", full";
  const reset = make("button", { type: "button", className: "danger", id: "bucket-reset" }, "Reset");
  reset.addEventListener("click", () => askToReset(bucket));
  return [
    name,
    make("p", {}, make("strong", {}, `${number(tokens)} of ${number(limit.burst)} tokens`), more),
    level,
    make("p", {}, `${bucket.rule === "override" ? "An override for this key: " : ""}${rate}. ` +
      (bucket.stored ? `Dropped from the store after ${duration(bucket.ttl_s || 0)} without use.` : "Not in the store.")),
    reset,
  ];
}

function askToReset(bucket) {
  const dialog = at("reset-dialog");
  at("reset-name").textContent = bucket.bucket;
  at("reset-yes").onclick = async () => {
    dialog.close();
    try {
      const done = await call(bucketPath(bucket.policy, bucket.key), { method: "DELETE" });
      await showBucket(bucket.policy, bucket.key);
      const missing = done.store_error ? "Reset here only: the store does not answer." : "The store had no such bucket.";
      at("bucket-result").prepend(make("p", { className: "good" }, done.reset ? "Reset." : missing));
    } catch (error) {
      at("bucket-result").replaceChildren(make("p", { className: "fault" }, error.message));
    }
  };
  dialog.showModal();
}

// -- explaining ------------------------------------------------------------------------------------------------------

const RESULTS = {
  own_page: "The sidecar answers this path itself; no limit applies.",
  exempt: "Passes: an exempt policy matches, so nothing else applies.",
  blocked: "Refused with 429: the key is blocked.",
  unlimited: "Passes: no limit applies.",
  limited: "Limited by the policies that apply.",
};
const PARTS = {
  applies: "applies", blocked: "blocks the key", exempts: "exempts the request", key_exempt: "exempts the key",
  preflight: "is not charged: a preflight of a browser", set_aside: "ignored: an exempt policy matches too", no_match: "does not match",
};

async function explainRequest() {
  const headers = {};
  for (const line of at("explain-headers").value.split("\n").filter((each) => each.trim())) {
    const colon = line.indexOf(":");
    headers[line.slice(0, Math.max(colon, 0)).trim()] = line.slice(colon + 1).trim();
  }
  const question = {
    method: at("explain-method").value, url: at("explain-url").value, peer: at("explain-peer").value.trim(),
    live: at("explain-live").checked, headers,
  };
  const result = at("explain-result");
  try {
    const answer = await call("/explain", {
      method: "POST", body: JSON.stringify(question), headers: { "Content-Type": "application/json" },
    });
    const parts = [make("p", {}, make("strong", {}, RESULTS[answer.result] || `Answered 400: ${answer.bad_request}`))];
    parts.push(make("p", {}, `Client ${answer.client}, path ${answer.paths.join(" or ") || "not readable"}`));
    if (answer.live_error) parts.push(make("p", { className: "fault" }, `The store does not answer: ${answer.live_error}`));
    parts.push(make("ul", { className: "why" }, ...answer.policies.map(explainPolicy)));
    result.replaceChildren(...parts);
  } catch (error) {
    result.replaceChildren(make("p", { className: "fault" }, error.message));
  }
}

function explainPolicy(policy) {
  const parts = [`${policy.shadow ? " (shadow)" : ""}: ${PARTS[policy.part]}`];
  if (policy.condition) parts.push(`, because ${policy.condition} is ${policy.found || "absent"}, expected ${policy.wanted.join(", ") || "present"}`);
  if (policy.key) parts.push(`; key ${policy.key}`);
  if (policy.limit) parts.push(policy.limit.in_flight ? "; takes a place until it ends" : `; costs ${policy.cost}`);
  if (policy.settle) parts.push(`; ${policy.settle}`);
  if (policy.live && policy.limit.in_flight) parts.push(`; ${number(policy.live.tokens)} of ${number(policy.limit.in_flight)} places free now`);
  else if (policy.live) parts.push(`; ${number(policy.live.tokens)} of ${number(policy.limit.burst)} tokens now` +
    (policy.live.enough ? "" : `, enough in ${duration(policy.live.retry_s)}`));
  return make("li", {}, make("strong", {}, policy.name), parts.join(""));
}

// -- start -----------------------------------------------------------------------------------------------------------

function onSubmit(id, act) {
  at(id).addEventListener("submit", (event) => {
    event.preventDefault();
    act();
  });
}

at("place").textContent = location.host;
at("range").addEventListener("change", () => state && draw());
addEventListener("resize", () => state && drawCharts());
at("config-details").addEventListener("toggle", () => at("config-details").open && loadConfig());
onSubmit("bucket-form", () => findBuckets());
at("bucket-show").addEventListener("click", () => showBucket(at("bucket-policy").value, at("bucket-key").value));
at("reset-no").addEventListener("click", () => at("reset-dialog").close());
onSubmit("explain-form", explainRequest);
onSubmit("token-form", () => {
  sessionStorage.setItem("token", at("token").value);
  at("token").value = "";
  at("token-form").hidden = true;
  at("main").hidden = false;
  follow();
  followFleet();
});
setInterval(watchConnection, 1000);
follow();
followFleet();
