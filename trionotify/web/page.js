/**
 * The page at `/`: the figures of the server, its stream, its clients, and a form to publish with.
 *
 * It is a client like any other, and uses nothing that others couldn't: the stream, `/metrics`, `/clients` and `/nodes`. Its
 * modules are in the folder `page`, one noun each, and this one ties them together:
 *
 *     access        what lets the page in
 *     feed          the client, with the last events before it opened
 *     stream        the rows of events; drawer: one event; filter_bar: which events
 *     client_list   who is connected; node_list: which servers share the log
 *     publish_form  "Try it"; recipes and code_block: the same from a program
 *     figures       rates and quantiles from two readings; tiles: how they are shown
 *     outage        what is said while the server is away
 *
 * While the server is away nothing is read, and what is shown is marked as old. While the page is hidden nothing is read
 * either: the lines then have a gap.
 */

import { ask, eventsUrl, hasTyped, hindrance, reasonToStayOut, takesTokens, tryWith } from "./page/access.js";
import { ClientList } from "./page/client_list.js";
import { CodeBlock } from "./page/code_block.js";
import { Drawer } from "./page/drawer.js";
import { element, find, keepFocus } from "./page/elements.js";
import { Feed } from "./page/feed.js";
import { Figures } from "./page/figures.js";
import { FilterBar } from "./page/filter_bar.js";
import { NodeList } from "./page/node_list.js";
import { Outage } from "./page/outage.js";
import { PublishForm } from "./page/publish_form.js";
import { Stream } from "./page/stream.js";
import { Tiles } from "./page/tiles.js";
import { ViewTabs } from "./page/view_tabs.js";

/** Milliseconds between two readings, and until a start that failed is tried again. */
const INTERVAL = 1000;
const AGAIN = 3000;

/** @param {string} text @param {string} state */
function tell(text, state) {
  find("state").textContent = text;
  find("state").dataset.state = document.body.dataset.state = state;
}

/** Wait for the secret or the token that the operator types. @param {string} reason  why the last one was refused */
async function unlock(reason) {
  tell("locked", "locked");
  const field = find("secret");
  if (await takesTokens()) {
    find("secret-label").textContent = "Enter a token, or the server's secret, to open the dashboard.";
    find("token-hint").hidden = false;
  }
  const why = reason ? `The server doesn't accept it: ${reason.replace(/^token: /, "")}.` : "The server doesn't accept it. Check it and try again.";
  find("locked-error").textContent = hasTyped() ? why : "";
  if (hasTyped()) field.setAttribute("aria-invalid", "true");
  find("insecure").hidden = isSecureContext;
  find("locked").hidden = false;
  field.focus();
  field.select();
  await new Promise((/** @type {(value?: unknown) => void} */ resolve) => (submitted = resolve));
}

/** Something was typed. It counts while the server doesn't answer, too. */
let submitted = () => {};
find("unlock").addEventListener("submit", (/** @type {Event} */ event) => {
  event.preventDefault();
  tryWith(find("secret").value);
  submitted();
});

/** Return as soon as the server lets this page in. What fails is told, and tried again. */
async function enter() {
  for (;;) {
    try {
      const reason = await reasonToStayOut();
      if (reason === null) break;
      await unlock(reason);
    } catch (error) {
      tell(`not connected: ${/** @type {Error} */ (error).message}; trying again`, "reconnecting");
      await new Promise((resolve) => setTimeout(resolve, AGAIN));
    }
  }
  find("hindrance").textContent = hindrance();
  find("hindrance").hidden = hindrance() === "";
  find("content").hidden = false;
  keepFocus(() => (find("locked").hidden = true), () => find("main"));
}

await enter();

const feed = new Feed();
const figures = new Figures();
const tiles = new Tiles(figures);
const clients = new ClientList();
const nodes = new NodeList(() => tabs.choose("tab-stream"));
const outage = new Outage(() => (feed.client.state === "closed" ? location.reload() : feed.client.retry()));
const filterBar = new FilterBar(async (filters) => {
  await feed.choose(filters);
  publishForm.draw();
});
const stream = new Stream((notification) => drawer.open(notification), explanation);
const drawer = new Drawer(() => stream.notifications, (filter) => {
  tabs.choose("tab-stream");
  void filterBar.add(filter);
});
/** The cursor of the event to open as soon as it comes: a receipt may be here before the event is. */
let awaited = "";
/** @param {string} cursor */
function open(cursor) {
  const found = stream.find(cursor);
  if (found) drawer.open(found);
  awaited = found ? "" : cursor;
}
const publishForm = new PublishForm(
  (data, attributes) => feed.client.publish(data, attributes),
  () => feed.filters,
  ({ cursor }) => {
    tabs.choose("tab-stream");
    find("tab-stream").focus(); // the drawer gives it back there
    open(cursor);
  },
);
const tabs = new ViewTabs((id) => {
  if (id === "tab-clients") void read();
  if (id === "tab-try") publishForm.draw();
});

const example = element("div");
new CodeBlock(example, "Publish an event").set({ curl: `curl -d 'hello' '${eventsUrl()}?type=greeting'` });

/** What to show where no event is. */
function explanation() {
  if (feed.filters.length) {
    const button = element("button", { type: "button" }, "Remove the filters");
    button.addEventListener("click", () => void filterBar.clear());
    return [element("strong", {}, "No recent event matches the filters."), element("span", {}, "New ones appear here as they are published."), button];
  }
  const button = element("button", { type: "button" }, "Try it here");
  button.addEventListener("click", () => {
    tabs.choose("tab-try");
    find("tab-try").focus();
  });
  return [element("strong", {}, "Waiting for the first event."), element("span", {}, "Publish one from a terminal, or from this page."), example, button];
}

// What the feed tells.

/** @param {string} type @param {(event: any) => void} heard */
const on = (type, heard) => feed.addEventListener(type, heard);
on("restart", () => stream.clear());
on("notification", ({ notification }) => {
  stream.add({ notification });
  if (notification.cursor === awaited) open(awaited);
});
on("gap", ({ from, to }) => stream.add({ note: `Events were lost here: after ${from ?? "the start"}, up to ${to}.` }));
on("error", ({ error }) => stream.add({ note: error.message }));
on("open", ({ transport }) => {
  outage.back();
  tell(`connected by ${transport === "sse" ? "Server-Sent Events" : "WebSocket"}`, "open");
  stream.explain();
  void read();
});
on("reconnecting", ({ error, delay }) => {
  tell("reconnecting", "reconnecting");
  outage.lost(error, delay);
});
on("close", ({ code, reason }) => {
  tell("closed", "closed");
  outage.over(`The connection is closed: ${reason || code}.`);
});

// What is read.

/** Statuses of a server that shows its figures elsewhere, or not to this page. */
const ELSEWHERE = [401, 403, 404];
let hasFigures = true;

/** Figures and clients. */
async function read() {
  if (document.hidden || feed.client.state !== "open") return;
  try {
    const answer = hasFigures && (await ask("metrics"));
    if (answer && ELSEWHERE.includes(answer.status)) hasFigures = false;
    find("tiles").hidden = !hasFigures;
    if (answer && answer.ok) {
      const reading = await answer.json();
      find("version").textContent = reading.version ?? "";
      figures.take(reading, (performance.timeOrigin + performance.now()) / 1000);
      tiles.draw();
    }
    if (!find("view-clients").hidden) await clients.look();
    if (hasFigures) await nodes.look();
  } catch {
    // The server is away: the banner says so.
  }
}

feed.start();
setInterval(() => void read(), INTERVAL);
