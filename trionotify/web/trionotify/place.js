/**
 * A place in the stream: how far the listeners of a client have come, or one of its iterations.
 *
 * Places differ while an iteration is full, or while a tab was asleep. A place that is *behind* ignores what comes, until the connection
 * is wound back to it. The other places then drop what they had before. So the server's log is the only buffer that matters, and
 * everything comes once to each place, in order.
 *
 * Always true: a place only moves forward, with what was handed out there or with what was told to be lost.
 */

import { isAhead, sameEpoch } from "./cursor.js";
import { Notification } from "./notification.js";

/**
 * @typedef {import("./event.js").CloudEvent} CloudEvent
 * @typedef {import("../trionotify.d.ts").Loss} Loss
 */

export class Place {
  /** Everything up to here was handed out. @type {string | undefined} */
  cursor;
  /** Nothing that comes is taken until the connection is wound back. */
  isBehind = false;
  /** What was lost since the last notification. @type {Loss | null} */
  #gap = null;

  /** @param {Place} [other]  to begin at the same place */
  constructor(other) {
    this.cursor = other?.cursor;
    this.isBehind = other?.isBehind ?? false;
  }

  /**
   * Whether an event is to be handed out here. Without a cursor it isn't in the log, and comes only once.
   * @param {CloudEvent} event
   */
  isNext({ cursor }) {
    return !this.isBehind && (cursor === undefined || isAhead(cursor, this.cursor));
  }

  /** Move past an event, and return it as what is handed out. @param {CloudEvent} event */
  take(event) {
    const notification = new Notification(event, this.#gap);
    this.#gap = null;
    this.cursor = event.cursor ?? this.cursor;
    return notification;
  }

  /**
   * A connection begins. Returns what is lost here.
   * @param {CloudEvent} welcome  `since` is where the connection was asked to begin
   * @param {string | undefined} first  where this client was to begin
   */
  begin({ cursor, data, since }, first) {
    const here = this.cursor;
    const isLost = data?.recovered === false && since === (here ?? first);
    this.isBehind = false;
    if (here === undefined ? data?.recovered === false : cursor !== here && (isLost || !sameEpoch(cursor, here))) {
      return this.lose(here ?? first, cursor);
    }
    if (here === undefined) this.cursor = cursor;
    else this.isBehind = isAhead(cursor, here);
    return null;
  }

  /**
   * Move past what is lost, and return it.
   * @param {string | undefined} from
   * @param {string | undefined} to
   * @returns {Loss}
   */
  lose(from, to = this.cursor) {
    // What was handed out isn't lost.
    const after = from !== undefined && this.cursor !== undefined && isAhead(this.cursor, from) ? this.cursor : (from ?? null);
    this.cursor = to;
    this.#gap = { from: this.#gap?.from ?? after, to: /** @type {string} */ (to) };
    return { from: after, to: this.#gap.to };
  }
}
