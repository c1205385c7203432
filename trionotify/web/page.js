/**
 * The page at `/`: what is connected, what comes, and a form to publish with. It is a client as any other,
 * and asks for nothing that others couldn't: the stream, `/metrics` and `/clients`.
 */

import { Trionotify } from "./trionotify.js";

/** Notifications that are shown at most. */
const MAX_SHOWN = 500;
/** Seconds of the charts, and milliseconds between two readings. */
const WINDOW = 120;
const INTERVAL = 1000;
/** Milliseconds until a start that failed is tried again. */
const AGAIN = 3000;

const find = (id) => document.getElementById(id);
const number = new Intl.NumberFormat("en");

function tell(text, state) {
  find("state").textContent = text;
  find("state").dataset.state = state;
}

// --- who may ---

/** What the tab's storage says; null where the browser forbids it. */
function stored(use) {
  try {
    return use(sessionStorage);
  } catch {
    return null;
  }
}

/** The secret of a server that has one, as its operator typed it, for as long as the tab is open. */
let secret = stored((storage) => storage.getItem("secret"));

function unlock() {
  find("locked").hidden = false;
  find("secret").focus();
  return new Promise((resolve) => {
    find("unlock").addEventListener("submit", (event) => {
      event.preventDefault();
      secret = find("secret").value.trim();
      find("locked").hidden = true;
      resolve(secret);
    }, { once: true });
  });
}

async function ask(path, accept = "application/json", method = "GET") {
  const headers = { Accept: accept, ...(secret && { Authorization: `Bearer ${secret}` }) };
  return fetch(path, { method, headers, cache: "no-store", signal: AbortSignal.timeout(10_000) });
}

const signed = new URLSearchParams(location.search).has("sig") ? location.search : "";

const id = `page-${crypto.getRandomValues(new Uint32Array(1))[0]}`;

/** What lets the stream in, for a day: signed as `trionotify.sign` does it. */
async function ticket() {
  const exp = Math.floor(Date.now() / 1000) + 24 * 3600;
  const text = new TextEncoder();
  const how = { name: "HMAC", hash: "SHA-256" };
  const key = await crypto.subtle.importKey("raw", text.encode(secret), how, false, ["sign"]);
  const mac = await crypto.subtle.sign(how, key, text.encode(`exp=${exp}&id=${id}&role=both`));
  const sig = [...new Uint8Array(mac)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return { id, role: "both", exp, sig };
}

/** The client, as soon as it is known who may. */
async function start() {
  const knock = () => ask(`events${signed}`, "text/event-stream", "HEAD").catch(() => {
    throw new Error("the server doesn't answer");
  });
  while ((await knock()).status === 401) {
    find("locked-error").textContent = secret ? "That is not the secret." : "";
    await unlock();
  }
  if (secret) stored((storage) => storage.setItem("secret", secret));
  if (signed) return new Trionotify(`events${signed}`);
  if (!secret) return new Trionotify("events", { id });
  if (!crypto.subtle) throw new Error("with a secret, this page works over https or on localhost only");
  return new Trionotify("events", { params: ticket });
}

/** The boundary around the start: what fails is told, and tried again. */
async function begin() {
  for (;;) {
    try {
      return await start();
    } catch (error) {
      tell(`not connected: ${error.message}; trying again`, "reconnecting");
      await new Promise((resolve) => setTimeout(resolve, AGAIN));
    }
  }
}

// --- the stream ---

const client = await begin();
const stream = find("stream");
let waiting = [];
let paused = false;

find("hint").textContent = `curl -d 'hello' '${new URL("events", location.href)}?type=greeting'`;

function element(tag, className, text) {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  return made;
}

function shown(data) {
  if (data === undefined) return "";
  if (data instanceof Uint8Array) return `${number.format(data.length)} bytes`;
  return typeof data === "string" ? data : JSON.stringify(data);
}

function row(notification) {
  const item = document.createElement("li");
  const { data: _, time, type, source, subject, id, ...rest } = notification.attributes;
  const at = element("time", "", new Date(time ?? Date.now()).toLocaleTimeString("en-GB"));
  at.dateTime = time ?? "";
  const extra = Object.entries(rest).filter(([name, value]) => name !== "datacontenttype" || value !== "text/plain");
  const from = [source, subject, ...extra.map(([name, value]) => `${name}=${value}`)].filter(Boolean);
  item.append(
    at,
    element("span", "type", type),
    element("span", "data", shown(notification.data)),
    element("span", "from", from.join("  ")),
  );
  item.title = `id ${id}, cursor ${notification.cursor}`;
  return item;
}

function note(text) {
  const item = document.createElement("li");
  item.append(element("span", "note", text));
  waiting.push(item);
  draw();
}

/** Many may come in one frame of the screen: they are put there together. */
function draw() {
  if (draw.due || paused) return;
  draw.due = true;
  requestAnimationFrame(() => {
    draw.due = false;
    stream.prepend(...waiting.splice(0).slice(-MAX_SHOWN).reverse());
    while (stream.children.length > MAX_SHOWN) stream.lastChild.remove();
  });
}

client.addEventListener("notification", ({ notification }) => {
  waiting.push(row(notification));
  if (waiting.length > MAX_SHOWN) waiting.shift();
  draw();
});
client.addEventListener("gap", ({ from, to }) => note(`Something was lost: behind ${from ?? "the start"}, up to ${to}.`));
client.addEventListener("error", ({ error }) => note(error.message));

client.addEventListener("open", () => tell(`connected by ${client.transport === "sse" ? "Server-Sent Events" : "WebSocket"}`, "open"));
client.addEventListener("reconnecting", ({ error }) => tell(`reconnecting: ${error.message}`, "reconnecting"));
client.addEventListener("close", ({ reason }) => tell(`closed: ${reason}`, "closed"));

find("pause").addEventListener("click", ({ currentTarget }) => {
  paused = !paused;
  currentTarget.setAttribute("aria-pressed", String(paused));
  currentTarget.textContent = paused ? "Go on" : "Pause";
  draw();
});
find("clear").addEventListener("click", () => stream.replaceChildren());

// --- the filter ---

const EXAMPLES = {
  sql: "type LIKE 'order.%' AND EXISTS subject",
  json: '[{"any": [{"exact": {"type": "a"}}, {"prefix": {"source": "/shop"}}]}]',
  exact: "order.paid",
  prefix: "order.",
  suffix: ".paid",
};
const dialect = find("dialect");
const expression = find("expression");

dialect.addEventListener("change", () => {
  find("attribute").hidden = !["exact", "prefix", "suffix"].includes(dialect.value);
  expression.placeholder = EXAMPLES[dialect.value];
  expression.value = "";
});

function filters() {
  const text = expression.value.trim();
  if (text === "") return [];
  if (dialect.value === "sql") return [{ sql: text }];
  if (dialect.value !== "json") return [{ [dialect.value]: { [find("attribute").value.trim()]: expression.value } }];
  return JSON.parse(text);
}

find("filter").addEventListener("submit", async (event) => {
  event.preventDefault();
  const said = find("filter-error");
  said.textContent = "";
  expression.removeAttribute("aria-invalid");
  try {
    await client.setFilters(filters());
    note(expression.value.trim() ? `Filter: ${dialect.value} ${expression.value}` : "No filter: everything.");
  } catch (error) {
    said.textContent = error.detail ?? error.message;
    expression.setAttribute("aria-invalid", "true");
    expression.focus();
  }
});

// --- publishing ---

find("publish").addEventListener("submit", async (event) => {
  event.preventDefault();
  const { data, ...given } = Object.fromEntries(new FormData(event.currentTarget));
  const attributes = Object.fromEntries(Object.entries(given).filter(([, value]) => value !== ""));
  const receipt = find("receipt");
  receipt.className = "";
  receipt.textContent = "…";
  try {
    const isJson = /\bjson\b/i.test(attributes.datacontenttype ?? "");
    const { wanted, written, behind } = await client.publish(isJson ? JSON.parse(data) : data, attributes);
    receipt.textContent = `wanted by ${wanted}, written ${written}, behind ${behind}`;
  } catch (error) {
    receipt.className = "bad";
    receipt.textContent = error.detail ?? error.message;
  }
});

// --- figures ---

const times = [];
const series = { published: [], delivered: [], p50: [], p99: [], clients: [], behind: [] };
let before = null;

/** The value below which `share` of what a histogram counted between two readings lies; null if nothing. */
function quantile(share, now, then) {
  const counts = now.counts.map((count, at) => count - then.counts[at]);
  let left = counts.reduce((sum, count) => sum + count, 0) * share;
  if (left === 0) return null;
  const at = counts.findIndex((count) => (left -= count) <= 0);
  const low = at > 0 ? now.bounds[at - 1] : 0;
  const high = now.bounds[at] ?? low;
  return (low + (high - low) * (1 + left / (counts[at] || 1))) * 1000;
}

function take(now) {
  const clients = now.clients.reduce((sum, { count }) => sum + count, 0);
  find("clients-now").textContent = number.format(clients);
  find("published-now").textContent = number.format(now.published);
  find("log-now").textContent = number.format(now.log.entries);
  find("behind-now").textContent = number.format(now.behind);
  // The server's own time is for people: its clock may be set between two readings.
  now.read = (performance.timeOrigin + performance.now()) / 1000;
  if (before && now.published >= before.published) {
    const seconds = now.read - before.read;
    times.push(now.read);
    series.published.push((now.published - before.published) / seconds);
    series.delivered.push((now.delivered - before.delivered) / seconds);
    series.p50.push(quantile(0.5, now.latency, before.latency));
    series.p99.push(quantile(0.99, now.latency, before.latency));
    series.clients.push(clients);
    series.behind.push(now.behind);
    if (times.length > WINDOW) for (const values of [times, ...Object.values(series)]) values.shift();
    for (const chart of charts) chart.draw();
  }
  before = now;
}

const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const scheme = matchMedia("(prefers-color-scheme: dark)");

const short = (value) => (value == null ? "–" : number.format(Number(value.toPrecision(3))));

/** A chart of some of the series; made anew when its place or the colours change. */
class Chart {
  constructor(id, lines) {
    this.place = find(id);
    this.title = this.place.parentElement.textContent.trim();
    this.lines = lines;
    this.make();
    new ResizeObserver(() => this.plot.setSize(this.size())).observe(this.place);
    scheme.addEventListener("change", () => this.make());
  }

  size() {
    return { width: Math.max(this.place.clientWidth, 100), height: 130 };
  }

  data() {
    return [times, ...this.lines.map(([name]) => series[name])];
  }

  make() {
    this.plot?.destroy();
    const axis = { stroke: color("--soft"), grid: { stroke: color("--line"), width: 1 }, ticks: { show: false }, font: "11px system-ui" };
    const value = (_, found) => short(found);
    const options = {
      ...this.size(),
      cursor: { y: false },
      scales: { y: { range: (_, low, high) => [0, Math.max(high || 0, 1) * 1.1] } },
      axes: [{ ...axis, space: 70 }, { ...axis, size: 48, values: (_, found) => found.map((n) => number.format(n)) }],
      series: [
        { value: (_, at) => (at == null ? "–" : new Date(at * 1000).toLocaleTimeString("en-GB")), label: "at" },
        ...this.lines.map(([name, stroke]) => ({ label: name, stroke: color(stroke), width: 2, points: { show: false }, spanGaps: true, value })),
      ],
    };
    this.plot = new uPlot(options, this.data(), this.place);
  }

  draw() {
    this.plot.setData(this.data());
    // For those who don't see the lines: where they end.
    const latest = this.lines.map(([name]) => `${name} ${short(series[name].at(-1))}`);
    this.place.setAttribute("aria-label", `${this.title}: ${latest.join(", ")}`);
  }
}

const charts = [
  new Chart("rates", [["published", "--accent"], ["delivered", "--second"]]),
  new Chart("latency", [["p50", "--accent"], ["p99", "--second"]]),
  new Chart("clients-chart", [["clients", "--accent"], ["behind", "--second"]]),
];

function who({ clients, total }) {
  const rows = clients.map(({ id, role, transport, format, filters, behind }) => {
    const made = document.createElement("tr");
    const wants = filters === null ? "all" : filters.length ? JSON.stringify(filters) : "nothing";
    const by = role === "subscriber" ? transport : `${transport}, ${role}`;
    for (const text of [id, by, wants, number.format(behind)]) made.append(element("td", "", text));
    made.title = `${format}, ${role}`;
    return made;
  });
  find("clients").replaceChildren(...rows);
  find("more").textContent = total > clients.length ? `and ${number.format(total - clients.length)} more` : "";
}

async function read(path) {
  const answer = await ask(path);
  return answer.ok ? answer.json() : null;
}

/** With a port of their own, neither is to be had here. */
async function look() {
  try {
    if (!document.hidden) {
      const [figures, roster] = await Promise.all([read("metrics"), read("clients?limit=50")]);
      find("charts").hidden = find("summary").hidden = figures === null;
      find("who").hidden = roster === null;
      if (figures) take(figures);
      if (roster) who(roster);
    }
  } catch {
    // The server is away: the state says so.
  }
  setTimeout(look, INTERVAL);
}
void look();
