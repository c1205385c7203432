/**
 * The feed: the client behind this page, with its filters and the last events before it opened.
 *
 * A client that connects without `since` only gets what comes. So the feed asks where the stream is, and connects again a
 * little before that: history and live events come in one stream, in order, nothing lost and nothing twice. Changed
 * filters are first given to the client that there is, because a refusal must not end anything. When the server has agreed,
 * the same happens again, further back, because a filter lets fewer events through.
 */

import { credentials, me } from "./access.js";
import { Trionotify } from "../trionotify.js";

/** How many events before the present are asked for: without filters, and with some. */
const BACK = 50;
const BACK_FILTERED = 1000;

/** What is told: `notification`, `gap`, `error`, `reconnecting`, `close` as a client tells it, `open`, and `restart`. */
export class Feed extends EventTarget {
  /** @type {any[]} */
  filters = [];
  /** @type {any} */
  client = null;

  /** Begin. The first client finds out where the stream is. */
  start() {
    this.#connect(undefined, ({ cursor }) => this.#restart(cursor));
  }

  /**
   * Replace the filters. Rejects with the server's `Problem`, and then nothing has changed.
   * @param {any[]} filters
   * @returns {Promise<void>}
   */
  async choose(filters) {
    const { client } = this;
    /** @type {string} */
    let cursor;
    try {
      cursor = await client.setFilters(filters);
    } catch (error) {
      if (client === this.client) throw error;
      return this.choose(filters); // another client has taken its place
    }
    this.filters = filters;
    this.#restart(cursor);
  }

  /** @param {string} cursor  where the stream is now */
  #restart(cursor) {
    const [, epoch, offset] = /^(.+):(\d+)(?::x[0-9a-f]+)?$/.exec(cursor) ?? [];
    const first = Math.max(0, Number(offset) - (this.filters.length ? BACK_FILTERED : BACK));
    this.#leave();
    this.dispatchEvent(new Event("restart"));
    if (epoch === undefined) return this.#connect(cursor);
    this.#connect(`${epoch}:${first}`, ({ recovered }) => {
      // The log doesn't go back as far. Everything that it has is less than what was asked for.
      if (recovered) return false;
      this.#leave();
      this.#connect("start");
      return true;
    });
  }

  /** Nothing that the client tells from now on counts, its end included. */
  #leave() {
    const { client } = this;
    this.client = null;
    client.close();
  }

  /**
   * @param {string | undefined} since
   * @param {(event: any) => unknown} [first]  told of the first welcome; true if that was all that it was for
   */
  #connect(since, first) {
    const [url, options] = credentials();
    const client = new Trionotify(url, { ...options, since, filters: this.filters.length ? this.filters : undefined });
    this.client = client;
    let isOpen = first === undefined;
    for (const type of ["open", "notification", "gap", "error", "reconnecting", "close"]) {
      client.addEventListener(/** @type {any} */ (type), (/** @type {any} */ event) => {
        if (client !== this.client) return;
        if (type === "gap" && !isOpen) return;
        if (type === "open") me.id = client.id;
        if (type === "open" && !isOpen) {
          isOpen = true;
          if (first?.(event)) return;
        }
        if (client === this.client) this.#tell(type, event);
      });
    }
  }

  /** @param {string} type @param {any} source */
  #tell(type, { notification, from, to, error, delay, code, reason, transport }) {
    this.dispatchEvent(Object.assign(new Event(type), { notification, from, to, error, delay, code, reason, transport }));
  }
}
