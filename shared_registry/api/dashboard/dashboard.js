"use strict";
// Shows what the router sends. Every text of others becomes a text node, never HTML.

const COLUMNS = ["key", "name", "url", "primary", "status", "admin", "inFlight", "capacity", "latency", "okAt", "since", "error",
  "adminSince", "adminReason", "adminBy", "ejectedUntil", "doubt", "suspectedAt", "prober", "flaps", "labels"];
const FLAPS = 6;
const HOUR = 3600;
const PAGE = 200;
const SILENT_SECONDS = 15;

const byId = (id) => document.getElementById(id);
const pools = new Map();
let chosen = null; // the pool that the reader has picked; without one, the worst
let shown = PAGE;
let ahead = 0; // the router's clock minus this browser's, in seconds
let heardAt = 0;
let isOpen = false;

const now = () => Date.now() / 1000 + ahead;
const steadyNow = () => performance.now() / 1000; // no clock that is set moves it

function node(name, attributes, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function duration(seconds) {
  if (seconds >= 86400) return `${Math.round(seconds / 86400)} d`;
  if (seconds >= 3600) return `${Math.round(seconds / 3600)} h`;
  if (seconds >= 60) return `${Math.round(seconds / 60)} min`;
  return `${Math.max(0, Math.round(seconds))} s`;
}

const ago = (at) => (at === null || at === undefined ? "" : `${duration(now() - at)} ago`);
const lasting = (at) => (at === null || at === undefined ? "" : ` for ${duration(now() - at)}`);
const asOf = (at) => (at === null || at === undefined ? "not read yet" : `as of ${ago(at)}`);

/** Returns a word as a POSIX shell needs it. */
const quoted = (word) => (/^[\w.:\/@%+=,-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`);

function command(pool, verb, target) {
  const space = pool.head.namespace === "default" ? "" : ` --namespace ${quoted(pool.head.namespace)}`;
  const dashes = target !== undefined && target.startsWith("-") ? " --" : ""; // what follows them is no option
  return node("code", {}, `shared-registry${space} ${verb}${dashes}${target === undefined ? "" : ` ${quoted(target)}`}`);
}

// ---- what is wrong ---------------------------------------------------------------------------------------------------

const label = (replica) => replica.name || replica.url;
const isOver = (replica) => replica.capacity > 0 && replica.inFlight > replica.capacity;

/** Returns how bad a replica's state is, and the state in words. */
function stateOf(replica) {
  const words = [];
  let badness = 0;
  const add = (points, word) => { badness = Math.max(badness, points); words.push(word); };
  if (replica.admin === "disabled") add(3, "disabled");
  else if (replica.status === "unhealthy") add(9, "unhealthy");
  else if (replica.status === "unknown") add(5, "not probed yet");
  if (replica.suspectedAt !== null) add(8, "suspected");
  if (isOver(replica)) add(7, "over capacity");
  if (replica.ejectedUntil !== null) add(7, "ejected");
  if (replica.flaps >= FLAPS) add(6, `flapping, ${replica.flaps} changes in 30 min`);
  if (replica.admin === "draining") add(4, "draining");
  return { badness, text: words.join(", ") || replica.status };
}

const colourOf = (badness) => (badness >= 8 ? "red" : badness > 0 ? "yellow" : "green");

function whyOf(replica) {
  const parts = [];
  if (replica.status === "unhealthy" && replica.error) parts.push(replica.error);
  if (replica.admin !== "active") {
    const by = replica.adminBy ? ` by ${replica.adminBy}` : "";
    const reason = replica.adminReason ? `: ${replica.adminReason}` : "";
    parts.push(`${replica.admin}${by}${lasting(replica.adminSince)}${reason}`);
  }
  if (replica.ejectedUntil !== null) parts.push(`sessions failed on it; ejected for another ${duration(replica.ejectedUntil - now())}`);
  if (replica.doubt) parts.push(replica.doubt);
  return parts.join("; ");
}

function sinceOf(replica) {
  if (replica.suspectedAt !== null) return replica.suspectedAt;
  return replica.admin !== "active" && replica.status !== "unhealthy" ? replica.adminSince : replica.since;
}

function sessionsOf(replica) {
  return replica.capacity > 0 ? `${replica.inFlight}/${replica.capacity}` : `${replica.inFlight}`;
}

function remedy(pool, replica) {
  if (replica.admin !== "active") return command(pool, "enable", label(replica));
  return command(pool, isOver(replica) || replica.status === "healthy" ? "drain" : "disable", label(replica));
}

function showTrouble(pool) {
  const { head } = pool;
  const lines = [];
  const say = (colour, text, ...more) => lines.push(node("li", {}, node("strong", { class: colour }, text), ...more));
  if (head.is_away) say("red", "Redis cannot be read. ", `All below is of ${ago(head.view_at)}. `, command(pool, "check"));
  if (head.write_failure) say("red", "Redis refuses writes: ", head.write_failure);
  if (head.is_in_trouble) say("yellow", "This router lately could not connect to replicas for reasons of its own; see its log.");
  if (head.view_at === null) say("red", "Redis has not been read since this router's start; see its log. ", command(pool, "check"));
  else if (!head.leader) say("red", "Nobody leads. ", command(pool, "routers"));
  for (const router of head.routers ? head.routers.all : []) {
    if (router.trouble) say("yellow", router.key, ` cannot connect to replicas: ${router.trouble}`);
  }
  const odd = (head.routers ? head.routers.all : []).filter((router) => router.differs).map((router) => router.key);
  if (odd.length) say("yellow", odd.join(", "), " has other settings than the leader. ", command(pool, "routers"));
  const bad = sorted(pool).filter((item) => item.state.badness > 0);
  for (const { replica, state } of bad.slice(0, 50)) {
    const why = whyOf(replica);
    say(colourOf(state.badness), label(replica),
      ` ${state.text}${lasting(sinceOf(replica))}, ${replica.inFlight} ${replica.inFlight === 1 ? "session" : "sessions"}`,
      why ? ` (${why})` : "", " ", remedy(pool, replica));
  }
  if (bad.length > 50) say("", `and ${bad.length - 50} more, below`);
  byId("trouble").replaceChildren(...(lines.length ? lines : [node("li", {}, "nothing")]));
  byId("trouble-age").textContent = asOf(head.view_at);
}

// ---- replicas --------------------------------------------------------------------------------------------------------

function sorted(pool) {
  if (!pool.sorted) {
    pool.sorted = [...pool.rows.values()].map((replica) => ({ replica, state: stateOf(replica) }));
    const load = ({ replica }) => (replica.capacity > 0 ? replica.inFlight / replica.capacity : 0);
    pool.sorted.sort((one, other) => other.state.badness - one.state.badness || load(other) - load(one)
      || label(one.replica).localeCompare(label(other.replica), undefined, { numeric: true }));
  }
  return pool.sorted;
}

function cell(name, value, attributes = {}) {
  return node("td", { "data-name": name, ...attributes }, value);
}

function showReplicas(pool) {
  const words = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const matches = ({ replica, state }) => {
    const text = `${replica.name} ${replica.url} ${state.text} ${replica.admin} ${replica.labels} ${replica.error} ${replica.prober}`;
    return words.every((word) => text.toLowerCase().includes(word));
  };
  const all = sorted(pool);
  const found = words.length ? all.filter(matches) : all;
  byId("replicas").replaceChildren(...found.slice(0, shown).map(({ replica, state }) => node("tr", {},
    node("td", {}, replica.name ? node("strong", {}, replica.name) : "", replica.name ? " " : "", replica.url,
      replica.primary ? node("span", { class: "quiet" }, " primary") : ""),
    cell("state", state.text, { class: colourOf(state.badness) }),
    cell("since", sinceOf(replica) === null ? "" : duration(now() - sinceOf(replica))),
    cell("sessions", sessionsOf(replica), { class: "number" }),
    cell("latency", replica.latency === null ? "" : `${replica.latency.toFixed(1)} ms`, { class: "number" }),
    cell("last ok", replica.okAt === null ? "never" : ago(replica.okAt)),
    cell("why", [whyOf(replica), replica.labels].filter(Boolean).join("; ")))));
  byId("found").textContent = words.length ? `${found.length} of ${all.length}` : `${all.length} in all`;
  byId("more").hidden = found.length <= shown;
  byId("replicas-age").textContent = `${asOf(pool.head.view_at)}, sessions and probes ${asOf(pool.head.loads_at)}`;
}

// ---- slots, queue, routers, events -----------------------------------------------------------------------------------

function drawn(name, attributes, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

function showSlots(pool) {
  const { counts } = pool.head;
  const [left, width, top, height] = [44, 670, 8, 146];
  const end = steadyNow();
  const samples = pool.samples.filter(([at]) => end - at <= HOUR);
  const most = Math.max(1, ...samples.map(([, taken, slots]) => Math.max(taken, slots)));
  const x = (at) => (left + width * (1 - Math.min(1, Math.max(0, end - at) / HOUR))).toFixed(1);
  const y = (value) => (top + height * (1 - value / most)).toFixed(1);
  const parts = [0, most].flatMap((value) => [
    drawn("line", { class: "grid", x1: left, x2: left + width, y1: y(value), y2: y(value) }),
    drawn("text", { x: left - 6, y: Number(y(value)) + 4, "text-anchor": "end" }, String(value))]);
  for (const [minutes, anchor] of [[60, "start"], [30, "middle"], [0, "end"]]) {
    parts.push(drawn("text", { x: x(end - minutes * 60), y: 174, "text-anchor": anchor }, minutes ? `${minutes} min ago` : "now"));
  }
  if (samples.length) {
    const line = (at) => samples.map((sample) => `${x(sample[0])},${y(sample[at])}`).join(" ");
    const first = x(samples[0][0]);
    const last = x(samples[samples.length - 1][0]);
    parts.push(drawn("polygon", { class: "taken", points: `${first},${y(0)} ${line(1)} ${last},${y(0)}` }));
    parts.push(drawn("polyline", { class: "all", points: line(2) }));
    const worst = Math.max(1, ...samples.map((sample) => sample[4]));
    for (const sample of samples.filter((one) => one[4] > 0)) {
      const tall = 6 + 40 * (sample[4] / worst);
      parts.push(drawn("rect", { class: "refused", x: x(sample[0]), y: top + height - tall, width: 2, height: tall }));
    }
  }
  byId("chart").replaceChildren(...parts);
  const refused = samples.reduce((sum, sample) => sum + sample[4], 0);
  const free = counts.has_unlimited ? "without limit" : `${Math.max(0, counts.slots - counts.taken)} of ${counts.slots} free`;
  byId("slots-now").textContent = `${counts.taken} taken, ${free}, ${counts.sessions} sessions on all replicas; `
    + `${refused} refused by this router in the last hour`;
  byId("slots-age").textContent = asOf(pool.head.loads_at);
}

function showQueue(pool) {
  const { queue, sessions, router, view_at: viewAt, counts } = pool.head;
  byId("queue").textContent = queue === null ? "not read yet"
    : queue.depth === 0 ? "nobody waits"
    : `${queue.depth} ${queue.depth === 1 ? "session waits" : "sessions wait"}`
      + (queue.since === null ? "" : `, the first for ${duration(now() - queue.since)}`);
  if (queue && queue.depth && !counts.selectable) byId("queue").append(" (no replica takes sessions)");
  if (queue && queue.depth) byId("queue").append(" ", command(pool, "queue"));
  byId("queue-age").textContent = queue ? asOf(queue.at) : "";
  byId("own").textContent = `${router}: ${sessions} ${sessions === 1 ? "session" : "sessions"} under way, `
    + `its view is ${viewAt === null ? "not loaded" : `${duration(now() - viewAt)} old`}`;
}

function showRouters(pool) {
  const { routers, leader, router: own } = pool.head;
  const all = routers ? routers.all : [];
  byId("routers").replaceChildren(...all.map((router) => node("tr", {},
    node("td", {}, node("strong", {}, router.key), router.key === own ? " (this one) " : " ", router.url || router.host),
    cell("leads", leader && leader.router === router.key ? `since ${duration(now() - leader.since)}` : ""),
    cell("sessions", router.leases === null ? "-" : String(router.leases)),
    cell("its view", router.view_age === null ? "-" : `${duration(router.view_age)} old`),
    cell("version", router.version),
    cell("settings", router.fingerprint, { class: router.differs ? "yellow" : "" }),
    cell("heartbeat", ago(router.heartbeat_at), { class: now() > router.expires_at ? "red" : "" }),
    cell("up for", duration(now() - router.started_at)),
    cell("its prober", router.trouble || "well", { class: router.trouble ? "red" : "" }))));
  byId("routers-age").textContent = asOf(routers ? routers.at : null);
}

function showEvents(pool) {
  const { events } = pool.head;
  byId("events").replaceChildren(...(events ? [...events.all].reverse() : []).map((event) => {
    const what = event.kind.replaceAll("_", " ") + (event.kind === "replica_admin" ? ` ${event.admin}` : "");
    return node("li", {}, node("span", { class: "quiet" }, `${ago(event.at)} `), node("strong", {}, what),
      event.replica ? ` ${event.replica}` : "", event.by ? ` by ${event.by}` : event.router ? ` by ${event.router}` : "",
      event.reason ? `: ${event.reason}` : "");
  }));
  byId("events-age").textContent = asOf(events ? events.at : null);
}

// ---- the page --------------------------------------------------------------------------------------------------------

const ORDER = { red: 0, yellow: 1, green: 2 };

function show() {
  const all = [...pools.values()];
  if (!all.length) return;
  const silence = now() - heardAt;
  const isLost = !isOpen || silence > SILENT_SECONDS;
  const worst = [...all].sort((one, other) => ORDER[one.head.level] - ORDER[other.head.level])[0];
  const pool = pools.get(chosen) || worst;
  const head = all.length > 1 ? worst.head : pool.head;
  const sentence = byId("sentence");
  sentence.className = `level ${isLost ? "red" : head.level}`;
  const text = isLost ? `This router does not answer; what follows is ${duration(silence)} old. ${head.text}`
    : (all.length > 1 ? `${head.pool}: ` : "") + head.text;
  if (sentence.textContent !== text) sentence.textContent = text;
  document.title = `${isLost ? "?" : head.level === "green" ? "" : "! "}${head.namespace} - shared-registry`;
  byId("source").textContent = `namespace ${pool.head.namespace}, seen by ${pool.head.router}, ${asOf(pool.head.view_at)}`;
  const nav = byId("pools");
  nav.hidden = all.length < 2;
  nav.replaceChildren(...all.map((one) => {
    const button = node("button", { type: "button", "aria-pressed": String(one === pool), class: one.head.level }, one.head.pool);
    button.title = one.head.text;
    button.addEventListener("click", () => { chosen = one.head.pool; shown = PAGE; show(); });
    return button;
  }));
  for (const part of [showTrouble, showSlots, showQueue, showRouters, showReplicas, showEvents]) part(pool);
}

function take(message, isSnapshot) {
  if (isSnapshot) pools.clear();
  heardAt = message.now;
  ahead = message.now - Date.now() / 1000;
  for (const part of message.pools) {
    const pool = pools.get(part.head.pool) || { rows: new Map(), samples: [] };
    pool.head = part.head;
    for (const row of part.rows) pool.rows.set(row[0], Object.fromEntries(COLUMNS.map((name, at) => [name, row[at]])));
    for (const key of part.gone) pool.rows.delete(key);
    const sampled = part.samples.map(([age, ...values]) => [steadyNow() - age, ...values]);
    pool.samples = [...pool.samples, ...sampled].slice(-HOUR / 10);
    pool.sorted = null;
    pools.set(part.head.pool, pool);
  }
  isOpen = true;
  show();
}

const source = new EventSource("events");
source.addEventListener("snapshot", (event) => take(JSON.parse(event.data), true));
source.addEventListener("change", (event) => take(JSON.parse(event.data), false));
source.addEventListener("error", () => { isOpen = false; show(); });
byId("search").addEventListener("input", () => { shown = PAGE; show(); });
byId("more").addEventListener("click", () => { shown += PAGE; show(); });
setInterval(show, 1000);
