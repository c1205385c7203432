/**
 * Changes of filters: those that wait for the server's answer, and those that the server has agreed to.
 *
 * Each connection begins with the newest filters, so a change that is lost with its connection is answered by the welcome of
 * the next one. What was changed while it was made follows in messages. When the server refuses a change, the filters before
 * it hold again, unless a newer change is under way.
 *
 * Filters that are too long for the URL are *held*: the connection begins with a filter that lets nothing through, and they
 * follow in a message. Until that is answered nothing counts, not even how far the stream has gone.
 */

import { OURS, bytesOf, checkJson, randomId } from "./event.js";
import { asFilters, inQuery } from "./filters.js";
import { withResolvers } from "./time.js";

/**
 * @typedef {import("./target.js").Target} Target
 * @typedef {import("../trionotify.d.ts").Filter} Filter
 */

/**
 * @typedef {object} Change
 * @property {Filter[]} filters
 * @property {number} size  in bytes
 * @property {boolean} isAsked  the query of this connection has it, or what replaced it
 * @property {(cursor: string) => void} resolve
 * @property {(error: Error) => void} reject
 */

export class FilterChanges {
  #target;
  /** @type {Map<string, Change>} */
  #waiting = new Map();
  /** What the query of this connection has. */
  #asked;
  /** What the server agreed to last, as the query has it. */
  #agreed;
  /** What is too long for the URL of this connection. @type {Filter[] | null} */
  held = null;
  /** The message that has it, and where the stream stands meanwhile. @type {{ id: string, from: string } | null} */
  holding = null;

  /** @param {Target} target */
  constructor(target) {
    this.#target = target;
    this.#agreed = this.#asked = target.wanted;
  }

  get isWaiting() {
    return this.#waiting.size > 0;
  }

  /** How long the longest one that waits is, in bytes. */
  get longest() {
    return Math.max(0, ...[...this.#waiting.values()].map(({ size }) => size));
  }

  /** The newest filters. */
  get newest() {
    return asFilters(this.#target.wanted);
  }

  /** What was changed since this connection was asked for. */
  later() {
    return [...this.#waiting].filter(([, { isAsked }]) => !isAsked).map(([id, { filters }]) => ({ id, filters }));
  }

  /** @param {Filter[]} filters */
  begin(filters) {
    const size = bytesOf(checkJson("filters", filters));
    const id = `${OURS}filters-${randomId()}`;
    const { promise, resolve, reject } = withResolvers();
    this.#waiting.set(id, { filters, size, isAsked: false, resolve, reject });
    this.#target.wanted = inQuery(filters);
    return { id, promise };
  }

  /**
   * Hold until the answer to the message with the id that is returned.
   * @param {string} from
   */
  hold(from) {
    this.holding = { id: `${OURS}filters-${randomId()}`, from };
    return this.holding.id;
  }

  /** Another connection begins. */
  reset() {
    this.held = this.holding = null;
    this.#askForNewest();
  }

  #askForNewest() {
    this.#asked = this.#target.wanted;
    for (const change of this.#waiting.values()) change.isAsked = true;
  }

  /**
   * A connection began with the filters that it asked for. Those that they replaced never came to hold.
   * @param {string} cursor
   */
  settleAsked(cursor) {
    for (const [id, { isAsked, resolve }] of this.#waiting) {
      if (!isAsked) continue;
      this.#waiting.delete(id);
      resolve(cursor);
    }
    this.#agreed = this.#asked;
  }

  /**
   * The newest filters hold.
   * @param {string} cursor
   */
  settleAll(cursor) {
    this.#askForNewest();
    this.settleAsked(cursor);
  }

  /**
   * @param {Record<string, any>} answer
   * @param {string} cursor
   */
  settle({ id, filters }, cursor) {
    const change = this.#waiting.get(id);
    this.#waiting.delete(id);
    this.#agreed = inQuery(filters);
    change?.resolve(cursor);
  }

  /**
   * Whether there was such a change.
   * @param {unknown} id
   * @param {Error} error
   */
  refuse(id, error) {
    const change = this.#waiting.get(String(id));
    if (!change) return false;
    this.#waiting.delete(String(id));
    if (!this.isWaiting) this.#target.wanted = this.#agreed;
    change.reject(error);
    return true;
  }

  /**
   * A connection was refused, perhaps because of the filters that it asked for: go back to those before them, unless there are
   * newer ones. Whether it asked for any that the server hasn't agreed to.
   * @param {Error} error
   */
  takeBackAsked(error) {
    const asked = [...this.#waiting].filter(([, { isAsked }]) => isAsked);
    const [id, change] = asked.pop() ?? [];
    if (id === undefined) return false;
    this.#waiting.delete(id);
    change?.reject(error);
    const before = asked.at(-1)?.[1];
    const hasNewer = this.#waiting.size > asked.length;
    if (!hasNewer) this.#target.wanted = before ? inQuery(before.filters) : this.#agreed;
    return true;
  }

  /**
   * The newest filters are too big: go back to those that hold.
   * @param {Error} error
   */
  takeBack(error) {
    this.refuseAll(error);
    this.#target.wanted = this.#agreed;
  }

  /** @param {Error} error */
  refuseAll(error) {
    for (const { reject } of this.#waiting.values()) reject(error);
    this.#waiting.clear();
  }
}
