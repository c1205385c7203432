/**
 * The nodes: the servers that share the log, if there is more than one. Their tab is only there then.
 *
 * The server that answers knows of all, so they are read while they aren't looked at, too: seldom, because it takes five seconds
 * until a node that is gone is left out.
 */

import { ask } from "./access.js";
import { count, duration, element, find, keepFocus, short } from "./elements.js";

/** Milliseconds between two readings. */
const RELOOK = 5000;
/** A node hears of its log every second. One that hasn't for so many seconds is behind. */
const LATE = 3;

export class NodeList {
  #readAt = -Infinity;
  #gone;

  /** @param {() => void} gone  there is one node only, and its view isn't shown any more */
  constructor(gone) {
    this.#gone = gone;
  }

  /** Read them if it is time. Throws if the server is away. */
  async look() {
    const now = performance.now();
    if (now - this.#readAt < RELOOK) return;
    this.#readAt = now;
    const answer = await ask("nodes");
    if (answer.ok) this.#draw((await answer.json()).nodes);
  }

  /** @param {any[]} nodes */
  #draw(nodes) {
    const isOne = nodes.length < 2;
    if (isOne && !find("view-nodes").hidden) this.#gone();
    keepFocus(() => (find("tab-nodes").hidden = isOne), () => find("tab-stream"));
    find("nodes-count").textContent = count(nodes.length);
    find("nodes").replaceChildren(...nodes.map(nodeRow));
  }
}

/** @param {any} node */
function nodeRow({ name, version, since, clients, tail_age: age }) {
  const seconds = (Date.now() - Date.parse(since)) / 1000;
  return element(
    "tr",
    {},
    element("td", {}, element("div", { class: "id" }, element("span", { title: name }, name)), element("small", {}, `version ${version}`)),
    element("td", { class: age > LATE ? "warn" : "" }, `${short(age)}\u00a0s ago`),
    element("td", { title: since }, duration(seconds)),
    element("td", {}, count(clients)),
  );
}
