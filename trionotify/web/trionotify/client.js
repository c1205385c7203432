/**
 * The client: what an application sees. Its places in the stream, its events, its iterations.
 *
 * The next connection begins behind the connection's cursor. What was handed out is another matter: the listeners have a `Place` in the
 * stream, and so does each iteration. When one of them is behind and has room again, the connection is wound back to it.
 *
 * Always true: what comes in one turn of the event loop is handed out in that turn, and a promise that was given is settled,
 * at the latest by `close()`.
 */

import { Connection } from "./connection.js";
import { isAhead } from "./cursor.js";
import { Closed, Problem } from "./errors.js";
import { eventFor, kindOf, randomId } from "./event.js";
import { asArray } from "./filters.js";
import { settingsOf } from "./options.js";
import { Place } from "./place.js";
import { Queue } from "./queue.js";
import { Tabs } from "./tabs.js";
import { Target } from "./target.js";
import { later, withResolvers } from "./time.js";

/**
 * @typedef {import("./event.js").CloudEvent} CloudEvent
 * @typedef {import("./notification.js").Notification} Notification
 * @typedef {import("../trionotify.d.ts").Attributes} Attributes
 * @typedef {import("../trionotify.d.ts").Filter} Filter
 * @typedef {import("../trionotify.d.ts").Loss} Loss
 * @typedef {import("../trionotify.d.ts").Options} Options
 * @typedef {import("../trionotify.d.ts").Receipt} Receipt
 * @typedef {import("../trionotify.d.ts").State} State
 * @typedef {import("../trionotify.d.ts").Transport} Transport
 */

/** An event of the client itself; each type has properties of its own. */
class ClientEvent extends Event {
  /**
   * @param {string} type
   * @param {object} properties
   */
  constructor(type, properties) {
    super(type);
    Object.assign(this, properties);
  }
}

/** A client. It connects at once, and stays connected until `close()`, or until another attempt would end in the same way. */
export class Trionotify extends EventTarget {
  #target;
  #options;
  /** @type {Connection | Tabs} */
  #connection;
  #shared;
  /** @type {State} */
  #state = "connecting";
  /** @type {Transport | null} */
  #transport = null;
  /** Where the listeners are. */
  #place = new Place();
  /** @type {Set<Queue>} */
  #queues = new Set();
  /** Why it is closed. @type {Error} */
  #error = new Closed(1000, "this client is closed");
  #unacknowledged = 0;
  /** Settled when it is known who this client is, or that it is closed. */
  #identified = withResolvers();
  #prefix = randomId();
  #published = 0;

  /**
   * @param {string | URL | (string | URL)[]} url  with several, the next one's turn comes when one is away
   * @param {Options} [options]
   */
  constructor(url, options = {}) {
    super();
    this.#identified.promise.catch(() => {});
    this.#options = settingsOf(options);
    const target = (this.#target = new Target(url, options));
    const hooks = {
      hear: this.#hear.bind(this),
      lost: this.#lost.bind(this),
      over: this.#over.bind(this),
      failed: (/** @type {Error} */ error) => this.#tell("error", { error }),
      cursor: () => this.#place.cursor,
      alone: () => (this.#shared = false),
    };
    this.#shared = Boolean(options.share) && Tabs.possible;
    const name = `trionotify ${options.share} ${target.name}`;
    this.#connection = this.#shared
      ? new Tabs(name, target, this.#options, hooks)
      : new Connection(target, this.#options, hooks);
  }

  /** This client's id, as the server knows it. With a token it is empty until the server says it. */
  get id() {
    return this.#target.id;
  }

  /** `connecting`, `open`, `reconnecting`, `closed`. */
  get state() {
    return this.#state;
  }

  /** `websocket`, `sse`, or null before the first connection. */
  get transport() {
    return this.#transport;
  }

  /** Whether the connection is one for all tabs. */
  get shared() {
    return this.#shared;
  }

  /** Resume after this: the `since` of another client. All iterations have come at least this far. Undefined before the first connection. */
  get cursor() {
    return lowest(this.#places)?.cursor;
  }

  /**
   * Publish `data` and wait for the acknowledgement, across reconnects.
   * @param {unknown} [data]  a string is text, bytes are bytes, anything else is JSON
   * @param {Attributes} [attributes]
   * @returns {Promise<Receipt>}
   */
  async publish(data, attributes = {}) {
    return this.#publish(data, attributes);
  }

  /**
   * @param {unknown} data
   * @param {Attributes} attributes
   * @param {number} [timeout]  the milliseconds that the answer may take
   * @returns {Promise<Receipt>}
   */
  async #publish(data, attributes, timeout) {
    if (this.#state === "closed") throw this.#error;
    if (this.#target.isSubscriber) {
      throw new TypeError("role: a subscriber can't publish; leave the role out, or use \"both\"");
    }
    if (typeof attributes !== "object") throw new TypeError(`attributes: must be an object, such as { type: "order.paid" }, not ${typeof attributes}`);
    const { maxUnacknowledged } = this.#options;
    if (this.#unacknowledged >= maxUnacknowledged) {
      throw new RangeError(`maxUnacknowledged: ${maxUnacknowledged} events already wait for their acknowledgement; await some first, or raise the limit`);
    }
    const id = `${this.#prefix}-${++this.#published}`;
    const source = attributes?.source;
    let event = eventFor(data, { id, ...this.#target.defaults(), ...attributes }); // mistakes are told at once
    this.#unacknowledged += 1;
    const { promise: late, reject } = withResolvers();
    const stop = timeout === undefined ? null : later(timeout, () => reject(this.#tooLate(event, timeout)));
    try {
      if (this.id === "") {
        // The source says who has published it. Whatever else changes meanwhile, the event doesn't.
        event = JSON.parse(JSON.stringify(event));
        await Promise.race([this.#identified.promise, late]);
        event.source = source ?? this.#target.defaults().source;
      }
      return await Promise.race([this.#connection.publish(event), late]);
    } finally {
      stop?.();
      this.#unacknowledged -= 1;
    }
  }

  /**
   * Send a request to the server's session, and wait for the reply, across reconnects.
   * @param {unknown} [data]  as in `publish`
   * @param {Attributes & { timeout?: number }} [options]  attributes, and the milliseconds that the reply may take
   * @returns {Promise<any>}
   */
  async request(data, { timeout = 30_000, ...attributes } = {}) {
    const receipt = await this.#publish(data, { ...attributes, request: true }, timeout);
    if ("reply" in receipt) return receipt.reply;
    throw new Problem({ status: 501, detail: "request: acknowledged without a reply, because the server's session gives none" });
  }

  /**
   * Withdraw a request that has timed out, so that it isn't sent after its caller has given up. Returns the error.
   * @param {CloudEvent} event
   * @param {number} timeout
   */
  #tooLate(event, timeout) {
    const errorOf = (/** @type {boolean} */ wasSent) => {
      const outcome = wasSent ? "whether the session acted on the request is unknown" : "the request was not sent";
      return new Error(`no reply within ${timeout} ms; ${outcome}`);
    };
    // Tabs that share a connection withdraw nothing.
    return this.#connection instanceof Connection ? this.#connection.withdraw(event, errorOf) : errorOf(true);
  }

  /**
   * Replace all filters, those of the URL too.
   * @param {Filter | Filter[]} filters
   * @returns {Promise<string>}  the cursor after which they hold
   */
  async setFilters(filters) {
    if (this.#state === "closed") throw this.#error;
    return this.#connection.choose(asArray(filters));
  }

  /** Make the next attempt to connect now, if the client waits for it. */
  retry() {
    if (this.#state !== "closed") this.#connection.retry();
  }

  /** Close. Whatever has no answer yet is rejected; iterations end when everything was taken. */
  close() {
    if (this.#state === "closed") return;
    this.#connection.close();
    this.#closed(new Closed(1000, "this client is closed"));
  }

  /** @returns {AsyncIterableIterator<Notification>} */
  [Symbol.asyncIterator]() {
    const taken = (/** @type {Queue} */ { place, hasRoom }) => place.isBehind && hasRoom && this.#catchUp();
    const queue = new Queue(this.#options.maxBuffered, new Place(this.#place), taken, (left) => this.#queues.delete(left));
    if (this.#state === "closed") queue.end(this.#failure);
    else this.#queues.add(queue);
    return queue;
  }

  /** That of the listeners, and those of the iterations. */
  get #places() {
    return [this.#place, ...[...this.#queues].map(({ place }) => place)];
  }

  /**
   * @param {CloudEvent} event
   * @param {Transport} transport
   */
  #hear(event, transport) {
    if (this.#state === "closed") return;
    const kind = kindOf(event);
    if (kind === "welcome") return this.#welcomed(event, transport);
    if (kind === null) return this.#give(event);
    const places = this.#places.filter((place) => place.isNext(event));
    if (kind === "gap") return this.#lose(places.map((place) => place.lose(event.data?.from, event.cursor)));
    for (const place of places) place.cursor = event.cursor ?? place.cursor;
  }

  /**
   * @param {CloudEvent} welcome
   * @param {Transport} transport
   */
  #welcomed(welcome, transport) {
    const { data } = welcome;
    const first = this.#target.since;
    this.#target.id = String(data?.id ?? this.id);
    this.#identified.resolve(null);
    if (this.#place.cursor === undefined && first !== undefined && welcome.since !== first) {
      // The connection is another tab's, too, and began elsewhere. What comes before it is wound back means nothing for this tab's place.
      for (const place of this.#places) place.isBehind = true;
      return this.#connection.rewind(first, true);
    }
    this.#lose(this.#places.flatMap((place) => place.begin(welcome, first) ?? []));
    if (this.#state === "closed") return; // by a listener for `gap`
    const isOther = this.#transport !== transport;
    this.#transport = transport;
    if (this.#state !== "open" || isOther) {
      this.#state = "open";
      this.#tell("open", { id: this.id, cursor: this.#place.cursor, recovered: data?.recovered, transport });
    }
    this.#catchUp();
  }

  /** @param {CloudEvent} event */
  #give(event) {
    for (const queue of this.#queues) queue.hear(event);
    if (this.#place.isNext(event)) this.#tell("notification", { notification: this.#place.take(event) });
  }

  /** @param {Loss[]} losses  at one moment, that of the listeners first if there is one */
  #lose([loss]) {
    if (loss) this.#tell("gap", loss);
  }

  /** Go back to the place that is furthest behind, of those that have room. */
  #catchUp() {
    const ready = [...this.#queues].filter(({ hasRoom }) => hasRoom).map(({ place }) => place);
    const last = lowest([this.#place, ...ready].filter(({ isBehind }) => isBehind));
    if (last?.cursor !== undefined && this.#state !== "closed") this.#connection.rewind(last.cursor);
  }

  /**
   * @param {Error} error
   * @param {number} delay
   */
  #lost(error, delay) {
    this.#state = "reconnecting";
    this.#tell("reconnecting", { error, delay });
  }

  /** @param {Error} error */
  #over(error) {
    if (this.#shared) this.#connection.close();
    this.#closed(error);
  }

  /** Why it is closed, unless that is a normal end. */
  get #failure() {
    return this.#error instanceof Closed && this.#error.code === 1000 ? null : this.#error;
  }

  /** @param {Error} why */
  #closed(why) {
    this.#state = "closed";
    this.#error = why;
    this.#identified.reject(why);
    for (const queue of this.#queues) queue.end(this.#failure);
    this.#queues.clear();
    const { code, reason } = why instanceof Closed ? why : { code: 1006, reason: why.message };
    this.#tell("close", { code, reason, error: this.#failure });
  }

  /**
   * @param {string} type
   * @param {object} properties
   */
  #tell(type, properties) {
    this.dispatchEvent(new ClientEvent(type, properties));
  }
}

/** The one that is behind all others. @param {Place[]} places @returns {Place | undefined} */
function lowest([first, ...others]) {
  return first && others.reduce((one, other) => (isAhead(one.cursor, other.cursor) ? other : one), first);
}
