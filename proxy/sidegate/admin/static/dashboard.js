// The dashboard: reads /events and draws it; asks the admin API for buckets and explanations. No library, no other host.
"use strict";

const KEPT_S = 900;
const BAR_S = 10;
// Workers report once a second, and are told of within another.
const SILENT_S = 5;
const ALWAYS_TOLD = ["allowed", "refused"]; // the others once they have occurred
const WITHOUT_STORE = ["local_allowed", "local_refused", "store_allowed", "store_denied"];
const OUTCOMES = [...ALWAYS_TOLD, "shadow_refused", ...WITHOUT_STORE];
const TURNED_AWAY = ["refused", "local_refused", "store_denied"];
const SVG = "http://www.w3.org/2000/svg";

const at = (id) => document.getElementById(id);
const words = (outcome) => outcome.replaceAll("_", " ");
const total = (counts, outcomes = OUTCOMES) => outcomes.reduce((sum, outcome) => sum + counts[outcome], 0);

let seconds = [];
let state = null;
let shownHash = "";

// -- building pieces of the page; text is always set as text ---------------------------------------------------------

function make(name, properties = {}, ...children) {
  const element = document.createElement(name);
  Object.assign(element, properties);
  element.append(...children);
  return element;
}

function shape(name, attributes) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

function number(value) {
  return value >= 100 || Number.isInteger(value) ? Math.round(value).toLocaleString("en") : value.toPrecision(2);
}

function duration(s) {
  if (s < 1) return `${Math.round(s * 1000)} ms`;
  if (s < 120) return `${Math.round(s)} s`;
  if (s < 7200) return `${Math.round(s / 60)} min`;
  return s < 172800 ? `${Math.round(s / 3600)} h` : `${Math.round(s / 86400)} days`;
}

function capital(text) {
  return text[0].toUpperCase() + text.slice(1);
}

function cell(content, kind = "") {
  return make("td", { className: kind }, content);
}

// -- talking to the sidecar ------------------------------------------------------------------------------------------

function authorization() {
  const token = sessionStorage.getItem("token");
  return token ? { Authorization: `Bearer ${token}` } : {};
}

class Refused extends Error {}

async function call(path, options = {}) {
  const response = await fetch(path, { ...options, headers: { ...authorization(), ...options.headers } });
  if (response.status === 401) {
    askForToken();
    throw new Refused("The token is needed.");
  }
  const content = await response.json();
  if (!response.ok) throw new Refused(content.detail || `answered ${response.status}`);
  return content;
}

function askForToken() {
  if (sessionStorage.getItem("token")) at("token-fault").textContent = "That is not the token.";
  sessionStorage.removeItem("token");
  at("main").hidden = true;
  at("token-form").hidden = false;
  at("token").focus();
}

async function follow() {
  for (let pause_ms = 500; ; pause_ms = Math.min(pause_ms * 2, 5000)) {
    try {
      const response = await fetch("/events", { headers: authorization() });
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
  connection("live", "live");
  if (name[1] === "history") {
    seconds = content.seconds;
    loadPolicies();
  } else {
    seconds.push(content.second);
  }
  seconds = seconds.slice(-KEPT_S);
  state = content.state;
  draw();
}

function connection(kind, words) {
  const pill = at("connection");
  if (pill.dataset.state === kind && pill.textContent === words) return;
  pill.dataset.state = kind;
  pill.textContent = words;
}

// -- drawing ---------------------------------------------------------------------------------------------------------

function draw() {
  const all = sums(seconds);
  const shown = OUTCOMES.filter((outcome) => ALWAYS_TOLD.includes(outcome) || all[outcome]);
  drawFigures();
  drawTraffic();
  drawLegend(shown);
  drawTotals(shown);
  drawRefused();
  drawStore();
  drawWorkers();
  drawConfig();
}

function sums(list, policy = "") {
  const found = Object.fromEntries(OUTCOMES.map((outcome) => [outcome, 0]));
  for (const second of list)
    for (const [name, outcomes] of Object.entries(second.policies))
      if (!policy || name === policy)
        for (const [outcome, count] of Object.entries(outcomes)) found[outcome] += count;
  return found;
}

function drawFigures() {
  const last = sums(seconds.slice(-BAR_S));
  const all = total(last);
  at("rate").textContent = number(all / Math.min(BAR_S, seconds.length || 1));
  at("refused-share").textContent = all ? `${number((total(last, TURNED_AWAY) / all) * 100)} %` : "–";
  at("in-flight").textContent = number(state.in_flight);
  const { up } = state.store;
  const open = notClosed(state.store).length > 0;
  word("store-up", up ? (open ? "breaker open" : "up") : "down", up && !open);
  const stale = state.config.status !== "ok";
  word("config-word", state.draining ? "draining" : stale ? "edit refused" : "in force", !stale && !state.draining);
}

function word(id, text, good) {
  at(id).textContent = text;
  at(id).className = `word ${good ? "good" : "bad"}`;
}

// Bars of ten seconds; the newest second is the right edge.
function bars(read) {
  const found = [];
  for (let end = seconds.length; end > 0; end -= BAR_S) found.unshift(read(seconds.slice(Math.max(0, end - BAR_S), end)));
  return found;
}

function drawTraffic() {
  const policy = at("traffic-policy").value;
  const values = bars((list) => sums(list, policy));
  const most = Math.max(1, ...values.map((each) => total(each)));
  const rects = [];
  values.forEach((each, index) => {
    let top = 180;
    for (const outcome of OUTCOMES) {
      const height = (each[outcome] / most) * 170;
      if (!height) continue;
      top -= height;
      const x = 900 - (values.length - index) * 10;
      rects.push(shape("rect", { class: outcome, x, y: top, width: 9, height }));
    }
  });
  at("traffic").replaceChildren(...rects);
  at("traffic-most").textContent = `${number(most / BAR_S)} /s`;
  const all = sums(seconds, policy);
  const told = OUTCOMES.filter((outcome) => all[outcome]).map((outcome) => `${all[outcome]} ${words(outcome)}`);
  at("traffic").setAttribute(
    "aria-label",
    `${policy || "All policies"}, last 15 minutes: ${told.join(", ") || "nothing decided"}.`,
  );
}

function drawLegend(shown) {
  const known = at("legend").children;
  if (known.length === shown.length && shown.every((outcome, index) => known[index].className === outcome)) return;
  at("legend").replaceChildren(...shown.map((outcome) => make("li", { className: outcome }, words(outcome))));
}

function drawTotals(shown) {
  const names = new Set(seconds.flatMap((second) => Object.keys(second.policies)));
  const rows = [...names].sort().map((name) => {
    const found = sums(seconds, name);
    return make("tr", {}, cell(name), ...shown.map((outcome) => cell(number(found[outcome]), "number")));
  });
  const titles = ["policy", ...shown.map(words)];
  const head = titles.map((text, index) => make("th", { scope: "col", className: index ? "number" : "" }, capital(text)));
  at("totals-head").replaceChildren(...head);
  const none = make("tr", {}, make("td", { colSpan: titles.length }, "Nothing yet."));
  at("totals").replaceChildren(...(rows.length ? rows : [none]));
  const select = at("traffic-policy");
  const known = new Set([...select.options].map((option) => option.value));
  for (const name of [...names].sort()) if (!known.has(name)) select.append(make("option", { value: name }, name));
}

function drawRefused() {
  const body = at("most-refused");
  if (body.contains(document.activeElement)) return; // nobody's button is taken away from under the fingers
  const rows = state.refused.map((entry) => {
    const show = make("button", { type: "button", className: "quiet" }, "Show");
    show.setAttribute("aria-label", `Show the bucket ${entry.bucket}`);
    show.addEventListener("click", () => showBucket(entry.policy, entry.key));
    const count = entry.error ? `${number(entry.count - entry.error)}–${number(entry.count)}` : number(entry.count);
    return make("tr", {}, cell(make("code", {}, entry.key)), cell(entry.policy), cell(count, "number"), cell(show));
  });
  body.replaceChildren(...(rows.length ? rows : [make("tr", {}, make("td", { colSpan: 4 }, "None."))]));
}

// The breakers that keep questions from the store: one, or one a node.
const notClosed = (store) => (store.breakers || []).filter((each) => each.state !== "closed");

function breakerWords(store) {
  const open = notClosed(store);
  if (!open.length) return "closed";
  return open
    .map((each) => `${each.node ? `${each.node}: ` : ""}${each.state}${each.reason ? ` (${words(each.reason)})` : ""}`)
    .join("; ");
}

function drawStore() {
  const { store } = state;
  word("store-word", store.up ? "up" : "down", store.up);
  if (!store.up) at("store-word").textContent += store.reason ? ` (${words(store.reason)})` : "";
  word("breaker-word", breakerWords(store), !notClosed(store).length);
  const recent = seconds.slice(-BAR_S);
  const over = Math.min(BAR_S, recent.length || 1);
  const calls = recent.reduce((sum, each) => sum + each.store_calls, 0);
  at("store-calls").textContent = `${number(calls / over)} /s`;
  const last = sums(recent);
  const without = WITHOUT_STORE.filter((outcome) => last[outcome]);
  at("without-store").textContent =
    without.map((outcome) => `${number(last[outcome] / over)}\u00a0/s ${words(outcome)}`).join(", ") || "none";
  const values = bars((list) => {
    const told = list.map((each) => each.store_ms).filter((each) => each !== null);
    return told.length ? told.reduce((sum, each) => sum + each, 0) / told.length : null;
  });
  const most = Math.max(0.1, ...values.map((each) => each || 0));
  const points = values
    .map((each, index) => [900 - (values.length - index) * 10 + 5, 88 - ((each || 0) / most) * 80, each])
    .filter((each) => each[2] !== null)
    .map(([x, y]) => `${x},${y}`);
  if (points.length === 1) points.push(points[0]); // one point alone would be no line
  at("store").replaceChildren(shape("polyline", { points: points.join(" ") }));
  at("store-most").textContent = `${number(most)} ms`;
  at("store").setAttribute("aria-label", `Round trip of the store, at most ${number(most)} ms in the last 15 minutes.`);
}

function drawWorkers() {
  const workers = state.workers || [];
  at("workers-panel").hidden = !workers.length;
  const rows = workers.map((each) => {
    if (each.heard_s === null) return make("tr", {}, cell(each.worker), make("td", { colSpan: 5, className: "bad" }, "not there"));
    const late = each.heard_s > SILENT_S;
    const well = each.store.up && !notClosed(each.store).length;
    const store = each.store.up ? `up, breaker ${breakerWords(each.store)}` : `down (${words(each.store.reason || "unknown")})`;
    const odd = each.config !== "ok" || each.hash !== state.config.hash;
    return make(
      "tr", {},
      cell(each.worker),
      cell(late ? `silent for ${duration(each.heard_s)}` : "running", late ? "bad" : ""),
      cell(store, well ? "" : "bad"),
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
  at("config-state").textContent = stale ? `the last edit was refused, since ${config.since}` : "in force";
  at("config-age").textContent = `${duration(Date.now() / 1000 - Date.parse(config.loaded) / 1000)} ago`;
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
    at("config-text").textContent = JSON.stringify((await call("/config")).settings, null, 2);
  } catch (error) {
    at("config-text").textContent = error.message;
  }
}

async function loadPolicies() {
  try {
    const { policies } = await call("/policies");
    const select = at("bucket-policy");
    const chosen = select.value;
    select.replaceChildren(
      ...policies.filter((each) => !each.exempt).map((each) => make("option", { value: each.name }, each.name)),
    );
    if (chosen) select.value = chosen;
  } catch (error) {
    if (!(error instanceof Refused)) connection("lost", "no connection, trying again");
  }
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
    const head = make("tr", {}, ...["Key", "Tokens at its last charge", ""].map((text) => make("th", { scope: "col" }, text)));
    const parts = [];
    if (rows.length) parts.push(make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows)));
    else parts.push(make("p", {}, found.cursor ? "None among the names looked at so far." : "None."));
    if (found.cursor) {
      const more = make("button", { type: "button" }, "Look further");
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
    return [name, make("p", {}, `An override ${bucket.rule === "blocked" ? "blocks" : "exempts"} this key; it has no bucket.`)];
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
      const told = done.store_error ? "Reset here only: the store does not answer." : "There was none in the store.";
      at("bucket-result").prepend(make("p", { className: "good" }, done.reset ? "Reset." : told));
    } catch (error) {
      at("bucket-result").replaceChildren(make("p", { className: "fault" }, error.message));
    }
  };
  dialog.showModal();
}

// -- explaining ------------------------------------------------------------------------------------------------------

const RESULTS = {
  own_page: "The sidecar answers this page itself; no limit applies.",
  exempt: "Passes: an exempt policy matches, so nothing else applies.",
  blocked: "Refused with 429: the key is blocked.",
  unlimited: "Passes: no limit applies.",
  limited: "Limited by the policies that apply.",
};
const PARTS = {
  applies: "applies", blocked: "blocks the key", exempts: "exempts the request", key_exempt: "exempts the key",
  set_aside: "set aside: an exempt policy matches too", no_match: "does not match",
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
  const words = [`${policy.shadow ? " (shadow)" : ""}: ${PARTS[policy.part]}`];
  if (policy.condition) words.push(`, since ${policy.condition} is ${policy.found || "absent"}, wanted ${policy.wanted.join(", ") || "present"}`);
  if (policy.key) words.push(`; key ${policy.key}`);
  if (policy.limit) words.push(`; costs ${policy.cost}`);
  if (policy.live) words.push(`; ${number(policy.live.tokens)} of ${number(policy.limit.burst)} tokens now` +
    (policy.live.enough ? "" : `, enough in ${duration(policy.live.retry_s)}`));
  return make("li", {}, make("strong", {}, policy.name), words.join(""));
}

// -- begin -----------------------------------------------------------------------------------------------------------

function onSubmit(id, act) {
  at(id).addEventListener("submit", (event) => {
    event.preventDefault();
    act();
  });
}

at("place").textContent = location.host;
at("traffic-policy").addEventListener("change", () => state && drawTraffic());
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
});
follow();
