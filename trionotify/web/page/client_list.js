/**
 * The clients that are connected, oneself first.
 *
 * The list is read while it is looked at, and not otherwise, because it costs the server a look at each client. Where the
 * server keeps it on another port, it says so.
 */

import { ask, guard, me } from "./access.js";
import { count, duration, element, find, keepFocus } from "./elements.js";
import { received } from "./words.js";

const FIRST = 50;
/** The server gives no more than this at once. */
const MOST = 1000;
/** @type {Record<string, string>} */
const BY = { websocket: "WebSocket", sse: "Server-Sent Events", ndjson: "NDJSON stream", attached: "attached" };

export class ClientList {
  #limit = FIRST;

  constructor() {
    find("more-clients").addEventListener("click", () => {
      this.#limit = Math.min(this.#limit * 2, MOST);
      void this.look();
    });
  }

  /** Read it, and draw it. Throws if the server is away. */
  async look() {
    const answer = await ask(`clients?limit=${this.#limit}`);
    find("clients-note").hidden = answer.ok;
    find("clients").parentElement.hidden = !answer.ok;
    if (!answer.ok) {
      find("clients-note").textContent =
        guard() === "token" && answer.status === 403
          ? "Your token doesn't show you the clients. It needs the scope trionotify:admin."
          : "This server shows its clients elsewhere: on the port of --admin-port, or to the holder of its secret.";
      find("more-clients").hidden = true;
      return;
    }
    this.#draw(await answer.json());
  }

  /** @param {{ clients: any[], total: number }} found */
  #draw({ clients, total }) {
    const mine = clients.filter(({ id }) => id === me.id);
    const rows = [...mine, ...clients.filter(({ id }) => id !== me.id)].map(row);
    find("clients").replaceChildren(...rows);
    const left = total - clients.length;
    keepFocus(() => (find("more-clients").hidden = left <= 0 || this.#limit === MOST), () => find("view-clients"));
    find("more-clients").textContent = `Show more of ${count(total)}`;
  }
}

/** @param {any} client */
function row(client) {
  const { id, role, transport, format, remote, since, behind } = client;
  const name = element("div", { class: "id" }, element("span", { title: id }, id));
  if (id === me.id) name.append(element("b", { class: "you" }, "you"));
  const kind = `${BY[transport] ?? transport}${format === "raw" ? ", data only" : ""}`;
  const seconds = (Date.now() - Date.parse(since)) / 1000;
  return element(
    "tr",
    {},
    element("td", {}, name, element("small", { title: `from ${remote}, role ${role}` }, kind)),
    element("td", {}, received(client)),
    element("td", { title: since }, duration(seconds)),
    element("td", { class: behind ? "warn" : "" }, count(behind)),
  );
}
