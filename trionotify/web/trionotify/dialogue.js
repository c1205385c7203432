/**
 * A dialogue: what is said on one link, in both directions.
 *
 * It is made for a link and ends with it, so nothing that it knows of this link has to be reset for the next one. The server
 * speaks first: nothing counts before its welcome, and anything else means that no trionotify server answers. What concerns
 * publishing, filters and signs of life goes to the parts of the connection; everything with a place in the stream is told.
 */

import { isAhead, sameEpoch } from "./cursor.js";
import { Closed, Problem, notAllowed } from "./errors.js";
import { OURS, eventOf, kindOf, receiptOf } from "./event.js";

/**
 * @typedef {import("./event.js").CloudEvent} CloudEvent
 * @typedef {import("./filter_changes.js").FilterChanges} FilterChanges
 * @typedef {import("./liveness.js").Liveness} Liveness
 * @typedef {import("./publisher.js").Publisher} Publisher
 * @typedef {import("./renewal.js").Renewal} Renewal
 * @typedef {import("./socket_link.js").Ending} Ending
 * @typedef {import("./target.js").Target} Target
 *
 * @typedef {object} Teller  the connection
 * @property {() => string | undefined} cursor  where it is in the stream
 * @property {(event: CloudEvent) => void} tell  it was in the stream
 * @property {(ending: Ending) => void} leave  leave this link
 * @property {(error: Error) => void} failed  something that ends nothing went wrong
 */

/** Close code: what came was no event. */
const NO_EVENT = 1002;

export class Dialogue {
  /** Where to send; unset until the link is there. @type {{ send?: (text: string) => void } | null} */
  link = null;
  /** The server said welcome. */
  isWelcome = false;
  /** Something of use came. */
  isUseful = false;
  /** The server lets this client only subscribe. */
  isMute = false;
  /** Milliseconds after which a draining server asks the client to come back. */
  retryAfter = 0;
  #target;
  #publisher;
  #changes;
  #liveness;
  #renewal;
  #teller;

  /**
   * @param {Target} target
   * @param {Publisher} publisher
   * @param {FilterChanges} changes
   * @param {Liveness} liveness
   * @param {Renewal} renewal
   * @param {Teller} teller
   */
  constructor(target, publisher, changes, liveness, renewal, teller) {
    this.#target = target;
    this.#publisher = publisher;
    this.#changes = changes;
    this.#liveness = liveness;
    this.#renewal = renewal;
    this.#teller = teller;
  }

  // What is said to the server.

  /** @param {string} text  an event that was published */
  send(text) {
    if (this.link?.send) this.link.send(text);
    else void this.#publisher.postAll();
  }

  /**
   * An event of the client's own.
   * @param {string} kind
   * @param {string} id
   * @param {object} data
   */
  sendOwn(kind, id, data) {
    const source = this.#target.defaults().source;
    const event = { specversion: "1.0", id, source, type: OURS + kind, data };
    this.link?.send?.(JSON.stringify(event));
  }

  // What the server says.

  /** @param {unknown} text  null is a sign of life */
  hear(text) {
    this.#liveness.heard();
    if (text === null) return;
    const event = eventOf(text) ?? (this.isWelcome ? this.#gapFor(text) : undefined);
    if (event === undefined || (!this.isWelcome && event.type !== `${OURS}welcome`)) {
      const { origin, pathname } = this.#target.url;
      const error = new Closed(NO_EVENT, `no trionotify server answers at ${origin}${pathname}`);
      return this.#teller.leave({ again: false, error, opened: true });
    }
    const kind = kindOf(event);
    const data = kind === null ? {} : { ...event.data };
    if (kind === "drain") this.retryAfter = Number(data.retry_after_ms) || 0;
    else if (kind !== "welcome") this.isUseful = true;
    if (kind === "error") return this.#refuse(data);
    if (kind === "ack" && this.#renewal.settle(data)) return;
    if (kind === "ack" && data.filters === undefined) return this.#publisher.answer(data, receiptOf(data));
    if (kind === "welcome") {
      this.#welcome(event);
    } else if (this.#changes.holding) {
      const { id, from } = this.#changes.holding;
      if (kind !== "ack" || data.id !== id) return;
      this.#changes.holding = null;
      this.#changes.settleAll(event.cursor);
      if (event.cursor !== from) this.#teller.tell({ type: `${OURS}gap`, data: { from }, cursor: event.cursor });
    }
    if (kind === "ack") this.#changes.settle(data, event.cursor);
    this.#teller.tell(event);
  }

  /**
   * A gap in place of a message that can't be read. Such a message must not end the client, because it would come again. Its
   * place is the first cursor in it (inside of a string, the quotation marks would be escaped).
   * @param {unknown} text
   */
  #gapFor(text) {
    const found = typeof text === "string" ? /(?:^|[^\\])"cursor"\s*:\s*"([^"\\]{1,100})"/.exec(text)?.[1] : undefined;
    const here = this.#teller.cursor();
    const isFurther = found !== undefined && here !== undefined && sameEpoch(found, here) && isAhead(found, here);
    return /** @type {CloudEvent} */ ({ type: `${OURS}gap`, data: { from: here }, ...(isFurther && { cursor: found }) });
  }

  /** @param {CloudEvent} event */
  #welcome(event) {
    this.isWelcome = true;
    this.isMute = event.data?.role === "subscriber";
    this.#liveness.welcomed();
    // A token can only be replaced over a WebSocket.
    if (this.link?.send) this.#renewal.begin(event.data?.expires_in);
    const { held } = this.#changes;
    if (held) this.sendOwn("subscribe", this.#changes.hold(event.cursor), { filters: held, since: event.cursor });
    else this.#changes.settleAll(event.cursor);
    if (this.isMute) this.#publisher.refuseAll(notAllowed());
    for (const text of this.#publisher.texts()) this.send(text);
  }

  /** @param {Record<string, any>} document */
  #refuse(document) {
    const problem = new Problem(document);
    const { id } = document;
    if (this.#changes.refuse(id, problem)) return;
    if (id === this.#changes.holding?.id) return this.#teller.leave({ again: false, error: problem, opened: true });
    if (this.#liveness.isRefused(id) || this.#renewal.refuse(id, problem) || this.#publisher.refuse(id, problem)) return;
    this.#teller.failed(problem);
  }
}
