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
 * @typedef {import("./publisher.js").Waiting} Waiting
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

  /** @param {Waiting} waiting  an event that was published */
  send(waiting) {
    // First the filters, so that it is clear which of the two is refused.
    if (this.#changes.holding) return;
    if (!this.link?.send) return void this.#publisher.postAll();
    waiting.wasSent = true;
    this.link.send(waiting.text);
  }

  /** If events are sent one at a time, the next one's turn has come. */
  goOn() {
    if (this.isWelcome && this.#publisher.isCareful) this.#sendDue();
  }

  #sendDue() {
    for (const waiting of this.#publisher.due()) this.send(waiting);
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
    if (kind === "ack" && data.filters === undefined) {
      this.#publisher.answer(data, receiptOf(data));
      return this.goOn();
    }
    if (kind === "welcome") {
      this.#welcome(event);
    } else if (this.#changes.holding) {
      const { id, from } = this.#changes.holding;
      if (kind !== "ack" || data.id !== id) return;
      this.#changes.holding = null;
      this.#changes.settleAll(event.cursor);
      this.#sendDue();
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
    this.#publisher.posts = !this.link?.send;
    this.#liveness.welcomed();
    // A token can only be replaced over a WebSocket.
    if (this.link?.send) this.#renewal.begin(event.data?.expires_in);
    if (this.#changes.held) {
      const { newest } = this.#changes;
      this.sendOwn("subscribe", this.#changes.hold(event.cursor), { filters: newest, since: event.cursor });
    } else {
      this.#changes.settleAsked(event.cursor);
      this.#catchUpWithFilters();
    }
    if (this.isMute) this.#publisher.refuseAll(notAllowed());
    this.#sendDue();
  }

  /** Filters that were changed while this link was made. A stream can't be told. */
  #catchUpWithFilters() {
    const changes = this.#changes.later();
    if (this.link?.send) for (const { id, filters } of changes) this.sendOwn("subscribe", id, { filters });
    else if (changes.length) this.#teller.leave({ again: true, quiet: true, error: new Error("other filters") });
  }

  /** @param {Record<string, any>} document */
  #refuse(document) {
    const problem = new Problem(document);
    const { id } = document;
    if (typeof id !== "string") return this.#refuseUnnamed(problem);
    if (this.#changes.refuse(id, problem)) return;
    if (id === this.#changes.holding?.id) return this.#teller.leave({ again: false, error: problem, opened: true });
    if (this.#liveness.isRefused(id) || this.#renewal.refuse(id, problem)) return;
    const count = this.#publisher.refuse(id, problem);
    if (count > 1) return this.#refuseUnnamed(problem);
    if (count === 1) return this.goOn();
    this.#teller.failed(problem);
  }

  /**
   * The server couldn't read the id of what it refuses, or several events have it. If it isn't clear what that was, the next connection
   * begins with the filters, and is told one event at a time.
   * @param {Problem} problem
   */
  #refuseUnnamed(problem) {
    if (this.#changes.holding) return this.#teller.leave({ again: false, error: problem, opened: true });
    if (!this.#changes.isWaiting) {
      if (this.#publisher.refuseOnly(problem)) return this.goOn();
      if (this.#publisher.size === 0) return this.#teller.failed(problem);
    }
    this.#publisher.isCareful = this.#publisher.size > 0;
    this.#teller.leave({ again: true, error: problem, opened: true });
  }

  /**
   * The server closed because something was too big. It says how much is allowed, or else the longest is it. Whether that can be left out.
   * @param {Error} error
   */
  refuseTooBig(error) {
    const allowed = /(\d+) bytes/.exec(error.message)?.[1];
    const longest = Math.max(this.#publisher.longest, this.#changes.longest);
    const most = allowed === undefined ? longest - 1 : Number(allowed);
    const isChange = this.#changes.isWaiting && (this.#changes.holding !== null || this.#changes.longest > most);
    if (isChange) this.#changes.takeBack(error);
    const isEvent = !this.#changes.holding && this.#publisher.refuseLonger(most, error);
    return isChange || isEvent;
  }
}
