/**
 * The client of a trionotify server for browsers, and for Node from 20 on. No dependencies, no build step.
 *
 *     import { Trionotify } from "/trionotify.js";
 *     const client = new Trionotify("/events", { filters: [{ prefix: { type: "order." } }] });
 *     client.addEventListener("notification", ({ notification }) => console.log(notification.data));
 *     const receipt = await client.publish({ amount: 12.5 }, { type: "order.paid", subject: "17" });
 *
 * What is where:
 *
 *     Trionotify            what an application sees: its place in the stream, events, iterators
 *     └── Connection        stays connected, resumes, repeats what has no answer yet
 *         ├── SocketLink    one WebSocket
 *         └── StreamLink    one response of Server-Sent Events
 *
 * With `share`, a `Tabs` stands between the first two: it has a `Connection` in one tab of those that
 * share, and hands on in the others.
 *
 * There are two cursors. Behind the connection's, the next connection begins. Behind the application's is
 * what was not handed out yet. They differ while an iterator is full, or while a tab was asleep: then what
 * comes is ignored, and the connection is wound back (`rewind`) to where the application is. So the log
 * is the only buffer that matters, and everything comes once, in order.
 *
 * What always holds: at most one link is alive, and nothing is heard of one that was left; what comes
 * in one turn of the event loop is handed out in that turn; a promise that was given is settled, at the
 * latest by `close()`.
 *
 * @module trionotify
 */

const SUBPROTOCOL = "cloudevents.json";
/** What begins so is said by the server. */
const OURS = "trionotify.";
/** So many WebSockets may be of no use before Server-Sent Events take over. */
const USELESS = 3;
/** A connection that has lasted for so many milliseconds was a good one. */
const LASTING = 10_000;
/** How many times as long as a handshake a request that publishes may take: it has a body. */
const POST_TIMES = 3;
/** No timer is set for more milliseconds than this, whatever an option or a server says. */
const LONGEST = 3_600_000;
/** After so many `maxDelay` on Server-Sent Events, a WebSocket is tried again. */
const RETURN = 10;
/** With filters that make a URL longer than this, it may be too long for a server or a proxy: they are sent in a message. */
const LONG_URL = 4000;
/** Statuses of a URL that is too long. */
const TOO_LONG = new Set([414, 431]);
/** What lets nothing through, until the filters are there that were too long for the URL. */
const NOTHING = [{ sql: "FALSE" }];
/** What the credentials were no good for: there may be new ones. */
const UNAUTHORIZED = 401;
const EXPIRED = 4401;
/** Attributes of events whose place is elsewhere. */
const NOT_ATTRIBUTES = new Set(["data", "data_base64", "specversion", "cursor"]);
/** Keys of the query that give defaults to what is published. */
const DEFAULTS = ["type", "subject", "source", "datacontenttype", "to"];
/** Keys of the query that say where to start. */
const START = ["since", "last_event_id", "lastEventId"];
/** Keys of a signed query that its signature doesn't cover. */
const UNSIGNED = [...START, "lag", "format", "echo", "narrow"];
const FILTER_KEY = /^(?:(?:exact|prefix|suffix)\.|(?:filters|sql)$)/;
/** Of the close codes below 3000 (and our own), those after which the same client meets the same end. */
const FINAL_CODES = new Set([1000, 1002, 1003, 1007, 1008, 1009, 1011]);
const PASSING_CODES = new Set([4429]);
const TOO_BIG = 1009;
/** Statuses that pass by themselves, besides 5xx. */
const PASSING_STATUSES = new Set([408, 426, 429]);

/**
 * @typedef {import("./trionotify.d.ts").Filter} Filter
 * @typedef {import("./trionotify.d.ts").Options} Options
 * @typedef {import("./trionotify.d.ts").Attributes} Attributes
 * @typedef {import("./trionotify.d.ts").Receipt} Receipt
 * @typedef {import("./trionotify.d.ts").Loss} Loss
 * @typedef {import("./trionotify.d.ts").Transport} Transport
 * @typedef {import("./trionotify.d.ts").State} State
 *
 * @typedef {Record<string, any>} CloudEvent  as it is on the wire
 *
 * How a link ended. `again`: come back, after at least `after` milliseconds; at once and without a word
 * if `quiet`.
 * @typedef {{ again: boolean, error: Error, after?: number, quiet?: boolean, opened?: boolean }} Ending
 *
 * What a connection tells.
 * @typedef {object} Hooks
 * @property {(event: CloudEvent, transport: Transport) => void} hear  it was in the stream
 * @property {(error: Error, delay: number) => void} lost  trying again in so many milliseconds
 * @property {(error: Error) => void} over  it will not come back
 * @property {(error: Error) => void} failed  something that ends nothing went wrong
 *
 * What an application asks of it.
 * @typedef {object} Connected
 * @property {(event: CloudEvent) => Promise<Receipt>} publish
 * @property {(filters: Filter[]) => Promise<string>} choose
 * @property {(cursor: string, always?: boolean) => void} rewind
 * @property {() => void} close
 */

/** What the server refuses: a handshake, an event, filters. Its RFC 9457 problem document says why. */
export class Problem extends Error {
  /** @param {Record<string, any>} document */
  constructor(document) {
    super(`${document.status}: ${document.detail ?? document.title ?? "refused"}`);
    this.name = "Problem";
    /** The HTTP status. */
    this.status = Number(document.status);
    /** What is wrong, for the person who reads it; it begins with the thing at fault. */
    this.detail = String(document.detail ?? document.title ?? "");
    /** All of it. */
    this.document = document;
  }
}

/** The connection is over, and coming back would lead to the same end; or `close()` was called. */
export class Closed extends Error {
  /**
   * @param {number} code  a WebSocket close code
   * @param {string} [reason]
   */
  constructor(code, reason = "") {
    super(`closed: ${code} ${reason}`.trimEnd());
    this.name = "Closed";
    this.code = code;
    this.reason = reason;
  }
}

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

/** Something that happened, as the server tells it: data and attributes. Made by the client. */
export class Notification {
  #event;
  /** @type {unknown} */
  #bytes;

  /**
   * @param {CloudEvent} event
   * @param {Loss | null} [gap]
   */
  constructor(event, gap = null) {
    this.#event = event;
    /** What was lost just in front of this one; null if nothing was. */
    this.gap = gap;
  }

  /** JSON is parsed, text is a string, bytes are a Uint8Array; undefined if there is none. */
  get data() {
    const { data, data_base64: base64 } = this.#event;
    if (base64 === undefined) return data;
    return (this.#bytes ??= Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0)));
  }

  /** The data, parsed if it is text: for JSON that came as plain text. Throws a SyntaxError. */
  json() {
    const { data } = this;
    if (data instanceof Uint8Array) return JSON.parse(new TextDecoder().decode(data));
    return typeof data === "string" && !this.#isJson() ? JSON.parse(data) : data;
  }

  #isJson() {
    return /^application\/json|\+json/i.test(this.datacontenttype ?? "application/json");
  }

  /** All attributes, extensions included. */
  get attributes() {
    const entries = Object.entries(this.#event);
    return Object.fromEntries(entries.filter(([name]) => !NOT_ATTRIBUTES.has(name)));
  }

  /** Resume behind this one: the `since` of another client. Undefined where the log doesn't have it. */
  get cursor() {
    return /** @type {string | undefined} */ (this.#event.cursor);
  }

  get id() {
    return String(this.#event.id);
  }

  get source() {
    return String(this.#event.source);
  }

  get type() {
    return String(this.#event.type);
  }

  get subject() {
    return /** @type {string | undefined} */ (this.#event.subject);
  }

  /** When it was made, as RFC 3339 has it. */
  get time() {
    return /** @type {string | undefined} */ (this.#event.time);
  }

  get datacontenttype() {
    return /** @type {string | undefined} */ (this.#event.datacontenttype);
  }

  /** The id of the only clients that it is for. */
  get to() {
    return /** @type {string | undefined} */ (this.#event.to);
  }

  /** The whole event as JSON has it. */
  toJSON() {
    return this.#event;
  }
}

/** How long to wait before the next attempt: all of it is random, up to a bound that doubles. */
class Backoff {
  #bound;

  /**
   * @param {number} first
   * @param {number} cap
   */
  constructor(first, cap) {
    this.first = first;
    this.cap = cap;
    this.#bound = first;
  }

  /** In milliseconds. Each call is one more failure. */
  next() {
    const bound = this.#bound;
    this.#bound = Math.min(bound * 2, this.cap);
    return bound * Math.random();
  }

  /** It worked. */
  reset() {
    this.#bound = this.first;
  }
}

/** What was published and has no answer yet, in order. */
class Outbox {
  /** @type {Map<string, { event: CloudEvent, text: string, promise: Promise<Receipt>, resolve: (receipt: Receipt) => void, reject: (error: Error) => void }>} */
  #waiting = new Map();

  get size() {
    return this.#waiting.size;
  }

  /** Their JSON. */
  texts() {
    return [...this.#waiting.values()].map(({ text }) => text);
  }

  /** The first that waits. */
  first() {
    const [found] = this.#waiting.values();
    return found;
  }

  /**
   * The answer to an event; the same promise for one that waits already.
   * @param {CloudEvent} event
   */
  put(event) {
    const key = keyOf(event);
    const known = this.#waiting.get(key);
    if (known) return { isNew: false, ...known };
    const text = JSON.stringify(event);
    const { promise, resolve, reject } = withResolvers();
    this.#waiting.set(key, { event, text, promise, resolve, reject });
    return { isNew: true, text, promise };
  }

  /**
   * @param {CloudEvent} event  of which `source` and `id` count
   * @param {Receipt} receipt
   */
  answer(event, receipt) {
    this.#take(keyOf(event))?.resolve(receipt);
  }

  /**
   * Whether there was one.
   * @param {unknown} id  all that a problem document tells
   * @param {Error} error
   */
  refuse(id, error) {
    for (const [key, { event }] of this.#waiting) {
      if (event.id === id) {
        this.#take(key)?.reject(error);
        return true;
      }
    }
    return false;
  }

  /**
   * Whether there was one.
   * @param {Error} error
   */
  refuseLongest(error) {
    const [longest] = [...this.#waiting.values()].sort((a, b) => b.text.length - a.text.length);
    if (longest) this.#take(keyOf(longest.event))?.reject(error);
    return longest !== undefined;
  }

  /** @param {Error} error */
  refuseAll(error) {
    for (const key of [...this.#waiting.keys()]) this.#take(key)?.reject(error);
  }

  /** @param {string} key */
  #take(key) {
    const found = this.#waiting.get(key);
    this.#waiting.delete(key);
    return found;
  }
}

/** Where to connect, and with which query. Checks what it is given. */
class Target {
  /** @type {URLSearchParams} */
  #query;
  /** The query of the URL, if it was signed: it goes out as it is. @type {Record<string, string>} */
  #signed = {};
  /** The role that was asked for. @type {string | undefined} */
  #role;
  /** How long the address of a WebSocket may be, in characters, unless it has no filters. */
  longest = LONG_URL;

  /**
   * @param {string | URL} url
   * @param {Options} options
   */
  constructor(url, options) {
    this.url = addressOf(url);
    if (this.url.pathname.endsWith("/")) this.url.pathname += "events";
    this.#query = this.url.searchParams;
    if (this.#query.has("sig")) {
      this.#signed = Object.fromEntries([...this.#query].filter(([key]) => !UNSIGNED.includes(key)));
      for (const key of Object.keys(this.#signed)) this.#query.delete(key);
    }
    const { params, filters } = options;
    /** Whether there may be other credentials the next time. */
    this.renews = typeof params === "function";
    this.params = typeof params === "function" ? params : () => ({});
    this.#say({
      id: options.id,
      role: options.role,
      sql: options.sql,
      lag: options.lag,
      since: options.since,
      echo: options.echo === undefined ? undefined : Number(options.echo),
      filters: filters === undefined ? undefined : JSON.stringify(asArray(filters)),
      ...(typeof params === "function" ? {} : params),
    });
    // What the server would take: that of an EventSource that comes back wins, unless it is empty.
    const since = this.#query.get("lastEventId") || (this.#query.get("since") ?? this.#query.get("last_event_id"));
    /** Where the stream starts at first, if that was said. */
    this.since = since ?? undefined;
    for (const key of [...START, "format"]) this.#query.delete(key);
    /** What sharing tabs have in common. */
    this.name = this.url.href;
    this.#role = this.#query.get("role") ?? undefined;
    const { role = this.#signed.sig === undefined ? "both" : "subscriber", id = randomId() } = this.#signed;
    if (!this.#query.has("role")) this.#query.set("role", role);
    if (!this.#query.has("id")) this.#query.set("id", id);
    try {
      asFilters(this.wanted);
    } catch (cause) {
      throw new TypeError(`filters: a JSON array of filters is needed: ${messageOf(cause)}`);
    }
  }

  get id() {
    return this.#query.get("id") ?? "";
  }

  set id(id) {
    this.#query.set("id", id);
  }

  /** @param {Record<string, unknown>} given */
  #say(given) {
    for (const [key, value] of Object.entries(given)) {
      if (value === undefined || value === null) continue;
      if (this.#query.has(key)) throw new TypeError(`${key}: given twice; once is allowed`);
      this.#query.set(key, String(value));
    }
  }

  /** What the query says of filters. */
  get wanted() {
    return [...this.#query].filter(([key]) => FILTER_KEY.test(key));
  }

  set wanted(wanted) {
    for (const key of [...this.#query.keys()]) if (FILTER_KEY.test(key)) this.#query.delete(key);
    for (const [key, value] of wanted) this.#query.set(key, value);
  }

  /**
   * The address for the next connection: all of it in `whole`, and in `url` what a WebSocket is opened with. If there are `held`
   * filters, they are too long for that.
   * @param {string | undefined} cursor
   * @returns {Promise<{ whole: URL, url: URL, held: Filter[] | null }>}
   */
  async address(cursor) {
    const given = { ...this.#signed, ...(await this.params()) };
    const { wanted } = this;
    const whole = this.#address(given, cursor, wanted);
    if (!wanted.length || whole.href.length <= this.longest) return { whole, url: whole, held: null };
    return { whole, url: this.#address(given, cursor, inQuery(NOTHING)), held: asFilters(wanted) };
  }

  /**
   * @param {Record<string, unknown>} given
   * @param {string | undefined} cursor
   * @param {[string, string][]} wanted
   */
  #address(given, cursor, wanted) {
    const url = new URL(this.url);
    const query = url.searchParams;
    const isSigned = "sig" in given;
    for (const key of [...query.keys()]) {
      if (isSigned ? !UNSIGNED.includes(key) : FILTER_KEY.test(key)) query.delete(key);
    }
    // What is signed goes out as it is; the rest can only say how, and narrow it.
    if (isSigned && this.#role !== undefined) query.set("role", this.#role);
    if (isSigned && wanted.length) query.set("narrow", JSON.stringify(asFilters(wanted)));
    if (!isSigned) for (const [key, value] of wanted) query.set(key, value);
    for (const [key, value] of Object.entries(given)) {
      if (key !== "role" || this.#role === undefined || !isSigned) query.set(key, String(value));
    }
    query.set("format", "cloudevents");
    const since = cursor ?? this.since;
    if (since !== undefined) {
      for (const key of START) query.delete(key);
      query.set("since", since);
    }
    return url;
  }

  /** The address to post events to: who we are and what we are allowed, but not what we want to get. */
  async postAddress() {
    const { whole: url } = await this.address(undefined);
    if (url.searchParams.has("sig")) {
      for (const key of UNSIGNED) url.searchParams.delete(key);
      return url;
    }
    const not = new Set([...DEFAULTS, "role", "lag", "echo", "format", ...START]);
    for (const key of [...url.searchParams.keys()]) {
      if (not.has(key) || FILTER_KEY.test(key)) url.searchParams.delete(key);
    }
    return url;
  }

  /** The attributes of what is published that doesn't say otherwise. */
  defaults() {
    /** @type {Record<string, string>} */
    const found = { source: `/clients/${encodeURIComponent(this.id)}`, type: "message" };
    for (const key of DEFAULTS) {
      const value = this.#query.get(key);
      if (value !== null) found[key] = value;
    }
    return found;
  }
}

/** One WebSocket, from the handshake to its end. */
class SocketLink {
  /** @type {Transport} */
  transport = "websocket";
  #socket;
  #left = false;

  /**
   * @param {typeof globalThis.WebSocket} Socket
   * @param {URL} url
   * @param {(text: unknown) => void} hear
   * @param {(ending: Ending) => void} ended
   */
  constructor(Socket, url, hear, ended) {
    const address = new URL(url);
    address.protocol = address.protocol.replace(/^http/, "ws");
    let opened = false;
    this.#socket = new Socket(address.href, SUBPROTOCOL);
    this.#socket.addEventListener("open", () => (opened = true));
    this.#socket.addEventListener("message", ({ data }) => this.#left || hear(data));
    // What is known of an error is in the close event that follows. (Node's `ws` insists on being heard.)
    this.#socket.addEventListener("error", () => {});
    this.#socket.addEventListener("close", ({ code, reason }) => {
      if (!this.#left) ended({ ...endingOf(code, reason), opened });
    });
  }

  /** @param {string} text */
  send(text) {
    this.#socket.send(text);
  }

  /** Leave it: nothing more is heard of it. */
  close() {
    this.#left = true;
    this.#socket.close(1000);
  }
}

/** One response of Server-Sent Events, from its head to its end. */
class StreamLink {
  /** @type {Transport} */
  transport = "sse";
  /** Events are posted one by one. */
  send = undefined;
  #abort;
  #left = false;

  /**
   * @param {{ body: ReadableStream<Uint8Array>, abort: () => void }} stream
   * @param {(text: string | null) => void} hear  null stands for a sign of life
   * @param {(ending: Ending) => void} ended
   */
  constructor({ body, abort }, hear, ended) {
    this.#abort = abort;
    const blocks = new Blocks();
    const decoder = new TextDecoder();
    const reader = body.getReader();
    const read = async () => {
      let error = new Error("the server ended the stream");
      try {
        for (;;) {
          const { done, value } = await reader.read();
          if (done || this.#left) break;
          hear(null);
          for (const { data, id } of blocks.feed(decoder.decode(value, { stream: true }))) {
            if (this.#left) return;
            // An id alone says where the stream is now.
            hear(data || JSON.stringify({ type: `${OURS}position`, cursor: id }));
          }
        }
      } catch (cause) {
        error = new Error("the stream was lost", { cause });
      }
      if (!this.#left) ended({ again: true, error, opened: true });
    };
    void read();
  }

  close() {
    this.#left = true;
    this.#abort();
  }
}

/** The blocks of an event stream, as the HTML standard has it; only `data` and `id` matter here. */
class Blocks {
  #rest = "";
  /** @type {string[]} */
  #data = [];
  /** @type {string | undefined} */
  #id;

  /**
   * What is whole by now.
   * @param {string} text
   */
  *feed(text) {
    // A CR at the end may be one half of a CRLF.
    const lines = (this.#rest + text).split(/\r\n|\n|\r(?!$)/);
    this.#rest = lines.pop() ?? "";
    for (const line of lines) {
      if (line === "") {
        if (this.#data.length || this.#id !== undefined) {
          yield { data: this.#data.join("\n"), id: this.#id };
        }
        this.#data = [];
        this.#id = undefined;
        continue;
      }
      const [, name, value] = /^([^:]*)(?:: ?(.*))?$/s.exec(line) ?? [];
      if (name === "data") this.#data.push(value ?? "");
      if (name === "id") this.#id = value ?? "";
    }
  }
}

/**
 * Stays connected: connects, converses, and when that ends, comes back. One loop (`#run`) for as long as it
 * lives, and one timer that looks after the link.
 *
 * @implements {Connected}
 */
class Connection {
  /** Behind this the next connection begins. @type {string | undefined} */
  cursor;
  #target;
  #options;
  #hooks;
  /** @type {Transport} */
  #transport;
  /** @type {SocketLink | StreamLink | null} */
  #link = null;
  /** Ends the conversation that there is. @type {((ending: Ending) => void) | null} */
  #end = null;
  /** The server has said welcome on this link. */
  #welcomed = false;
  /** Something of use came over this link. */
  #useful = false;
  /** WebSockets that never opened, or lived too briefly to deliver anything, since the last that lasted. */
  #useless = 0;
  /** What we were let in with is over, and there has been no welcome since. */
  #denied = false;
  /** What the server lets us do, once it has said so. @type {unknown} */
  #role;
  /** Where the stream was to start: a cursor, or what `since` says. @type {string | undefined} */
  #asked;
  /** The filters that were too long for the URL, until the server has them. @type {Filter[] | null} */
  #held = null;
  /** In which message, and where the stream stands meanwhile. @type {{ id: string, from: string } | null} */
  #holding = null;
  #retryAfter = 0;
  #closed = false;
  #outbox = new Outbox();
  #posting = false;
  /** Changes of filters that wait for their answers. @type {Map<string, ReturnType<typeof withResolvers>>} */
  #choices = new Map();
  /** The filters that the server has agreed to last, as the query has them. */
  #agreed;
  /** Ends the wait for the next attempt. @type {(() => void) | null} */
  #nudge = null;
  /** What ends each wait. @type {Set<() => void>} */
  #waits = new Set();
  #openedAt = 0;
  #heardAt = 0;
  /** When the server was asked for a sign of life, if it owes one. @type {number | null} */
  #probedAt = null;
  #probeId = "";
  #canProbe = true;
  /** It seems to be dead. What came while the page didn't run is read before that is believed. */
  #doubted = false;
  #tickedAt = now();
  #tickedOn = Date.now();
  #tick;
  /** @type {(() => void)[]} */
  #unlisten = [];

  /**
   * @param {Target} target
   * @param {Settings} options
   * @param {Hooks} hooks
   * @param {string} [cursor]
   */
  constructor(target, options, hooks, cursor) {
    this.#target = target;
    this.#options = options;
    this.#hooks = hooks;
    this.cursor = cursor;
    this.#agreed = target.wanted;
    this.#transport = options.transport === "sse" ? "sse" : "websocket";
    this.#tick = setInterval(() => this.#look(), options.tick);
    this.#listen();
    void this.#run();
  }

  // What an application asks.

  /** @param {CloudEvent} event */
  publish(event) {
    if (this.#role === "subscriber") return Promise.reject(notAllowed());
    const { isNew, text, promise } = this.#outbox.put(event);
    if (isNew && this.#welcomed) this.#send(text);
    return promise;
  }

  /** @param {Filter[]} filters */
  choose(filters) {
    const id = `${OURS}filters-${randomId()}`;
    const choice = withResolvers();
    this.#choices.set(id, choice);
    // From now on each connection begins with these: if this one is lost, the next one's welcome answers.
    this.#target.wanted = inQuery(filters);
    if (this.#welcomed && (this.#transport === "sse" || this.#holding)) this.rewind(this.cursor);
    else if (this.#welcomed) this.#sendOwn("subscribe", id, { filters });
    return choice.promise;
  }

  /**
   * Connect anew, behind `cursor`.
   * @param {string | undefined} cursor
   */
  rewind(cursor) {
    this.cursor = cursor;
    if (this.#welcomed) this.#leave({ again: true, quiet: true, error: new Error("wound back") });
  }

  close() {
    this.#stop();
    this.#leave({ again: false, error: new Closed(1000) });
    this.#refuseAll(new Closed(1000, "this client was closed"));
  }

  // The loop.

  async #run() {
    const backoff = new Backoff(this.#options.firstDelay, this.#options.maxDelay);
    while (!this.#closed) {
      const begun = now();
      this.#useful = this.#welcomed = false;
      this.#held = this.#holding = null;
      this.#role = undefined;
      this.#retryAfter = 0;
      const ending = await this.#attempt();
      const lasted = this.#welcomed && now() - begun >= LASTING;
      this.#welcomed = false;
      if (this.#closed) return;
      if (!ending.again && !this.#canChange(ending)) return this.#over(ending.error);
      if (this.#useful || lasted) backoff.reset();
      if (this.#options.transport === "auto") this.#chooseTransport(ending, lasted);
      if (ending.quiet) continue;
      const after = Math.max(ending.after ?? 0, this.#retryAfter);
      const delay = Math.min(after + backoff.next(), LONGEST);
      this.#hooks.lost(ending.error, delay);
      await this.#wait(delay, after === 0);
    }
  }

  /**
   * Whether what ended it can be changed, so that coming back makes sense.
   * @param {Ending} ending
   */
  #canChange(ending) {
    const { error } = ending;
    const code = error instanceof Problem ? error.status : error instanceof Closed ? error.code : 0;
    if ((code === UNAUTHORIZED || code === EXPIRED) && this.#target.renews && !this.#denied) {
      // The function is asked once more. If that is refused, too, it is over.
      return (this.#denied = true);
    }
    if (TOO_LONG.has(code) && this.#options.transport !== "sse" && this.#target.longest && this.#target.wanted.length) {
      this.#target.longest = 0;
      return (ending.quiet = true);
    }
    if (this.#choices.size && error instanceof Problem) {
      // It may be the new filters that are refused. Those before them were not.
      for (const { reject } of this.#choices.values()) reject(error);
      this.#choices.clear();
      this.#target.wanted = this.#agreed;
      return (ending.quiet = true);
    }
    return false;
  }

  /**
   * What comes next: after WebSockets that were of no use a stream, and after a stream a WebSocket again.
   * @param {Ending} ending
   * @param {boolean} lasted
   */
  #chooseTransport(ending, lasted) {
    if (this.#transport === "sse") {
      this.#transport = "websocket";
    } else if (lasted) {
      this.#useless = 0;
    } else if (ending.opened && !this.#useful && !ending.quiet && !(ending.error instanceof Closed)) {
      // Nobody said why it was cut.
      this.#useless += 1;
      if (this.#useless < USELESS) return;
      this.#transport = "sse";
      ending.quiet = true;
    }
  }

  /** One connection, from its beginning to its end. @returns {Promise<Ending>} */
  async #attempt() {
    this.#asked = this.cursor ?? this.#target.since;
    let address;
    try {
      address = await this.#within(this.#target.address(this.cursor));
    } catch (cause) {
      return { again: true, error: new Error(`params: ${messageOf(cause)}`, { cause }) };
    }
    if (this.#closed) return { again: false, error: new Closed(1000) };
    if (this.#transport === "sse") return this.#overStream(await this.#askWhole(address.whole));
    const { url } = address;
    this.#held = address.held;
    const ending = await this.#converse((hear, ended) => {
      return new SocketLink(this.#options.WebSocket, url, hear, ended);
    });
    if (this.#closed) return ending;
    if (!ending.opened && !this.#welcomed) return this.#refused(address, ending);
    // What was too big for the server is told, and the rest goes on.
    const tooBig = ending.error instanceof Closed && ending.error.code === TOO_BIG;
    if (tooBig && this.#outbox.refuseLongest(ending.error)) ending.again = true;
    return ending;
  }

  /**
   * A handshake failed, and nobody says why: ask over HTTP. The question is what the fallback would
   * ask, so its answer shows at once whether that works. If it doesn't, it isn't the WebSocket's fault.
   * @param {{ whole: URL, url: URL }} address
   * @param {Ending} ending
   * @returns {Promise<Ending>}
   */
  async #refused({ whole, url }, ending) {
    let answer = await this.#ask(url);
    if (this.#closed) return ending;
    if ("error" in answer) return answer;
    this.#useless += 1;
    const fallBack = this.#options.transport === "auto" && this.#useless >= USELESS;
    if (!fallBack || url !== whole) answer.abort();
    if (!fallBack) return ending;
    if (url !== whole) answer = await this.#askWhole(whole);
    this.#transport = "sse";
    this.#held = null;
    return this.#overStream(answer);
  }

  /**
   * Ask for Server-Sent Events, with all filters in the URL. Where they are too long for that, they may not be for a WebSocket.
   * @param {URL} whole
   */
  async #askWhole(whole) {
    const answer = await this.#ask(whole);
    if ("error" in answer && answer.error instanceof Problem && TOO_LONG.has(answer.error.status)) {
      answer.again = this.#options.transport === "auto" && this.#choices.size === 0;
    }
    return answer;
  }

  /**
   * Ask for Server-Sent Events.
   * @param {URL} url
   * @returns {Promise<Ending | { body: ReadableStream<Uint8Array>, abort: () => void }>}
   */
  async #ask(url) {
    const init = { headers: { Accept: "text/event-stream" }, cache: /** @type {const} */ ("no-store") };
    try {
      return await this.#request(url, init, async (response, abort) => {
        const isStream = response.headers.get("content-type")?.startsWith("text/event-stream");
        if (response.ok && response.body && isStream) return { body: response.body, abort };
        if (response.ok) {
          abort();
          return { again: true, error: new Error("what answers there is no trionotify server") };
        }
        const problem = await problemOf(response);
        return { again: passes(problem.status), error: problem, after: retryAfter(response) };
      });
    } catch (cause) {
      const isOther = globalThis.location && globalThis.location.origin !== url.origin;
      const why = `the server is away${isOther ? ", or doesn't allow this origin" : ""}`;
      return { again: true, error: new Error(`no answer over HTTP: ${why}`, { cause }) };
    }
  }

  /**
   * One request, from its beginning to the end of what `understand` reads of the answer.
   * @template T
   * @param {URL} url
   * @param {RequestInit} init
   * @param {(response: Response, abort: () => void) => Promise<T>} understand
   * @param {number} [times]  `connectTimeout` it may take
   */
  async #request(url, init, understand, times = 1) {
    const controller = new AbortController();
    const abort = () => controller.abort();
    const { fetch, credentials } = this.#options;
    const asked = fetch(url, { ...init, credentials, signal: controller.signal });
    try {
      return await this.#within(asked.then((response) => understand(response, abort)), times);
    } catch (error) {
      abort();
      throw error;
    }
  }

  /**
   * What is promised, if that is kept in time.
   * @template T
   * @param {Promise<T>} promise
   * @returns {Promise<T>}
   */
  #within(promise, times = 1) {
    const ms = times * this.#options.connectTimeout;
    return new Promise((resolve, reject) => {
      const stop = later(ms, () => reject(new Error(`no answer within ${ms} ms`)));
      promise.finally(stop).then(resolve, reject);
    });
  }

  /**
   * @param {Ending | { body: ReadableStream<Uint8Array>, abort: () => void }} answer
   * @returns {Promise<Ending>}
   */
  async #overStream(answer) {
    if ("error" in answer) return answer;
    return this.#converse((hear, ended) => new StreamLink(answer, hear, ended));
  }

  /**
   * Hear, until it ends.
   * @param {(hear: (text: unknown) => void, ended: (ending: Ending) => void) => SocketLink | StreamLink} open
   * @returns {Promise<Ending>}
   */
  #converse(open) {
    return new Promise((resolve) => {
      if (this.#closed) return resolve({ again: false, error: new Closed(1000) });
      const stop = later(this.#options.connectTimeout, () => {
        if (!this.#welcomed) this.#leave({ again: true, error: new Error("the server doesn't answer") });
      });
      this.#end = (ending) => {
        stop();
        this.#link = this.#end = this.#probedAt = null;
        resolve(ending);
      };
      this.#heardAt = this.#openedAt = now();
      try {
        this.#link = open((text) => this.#hear(text), this.#end);
      } catch (cause) {
        // For instance, the page's Content-Security-Policy doesn't allow this address.
        this.#end({ again: true, error: new Error("there can be no WebSocket", { cause }) });
      }
    });
  }

  /** @param {Ending} ending */
  #leave(ending) {
    this.#nudge?.();
    this.#link?.close();
    this.#end?.(ending);
  }

  /** @param {Error} error */
  #over(error) {
    this.#stop();
    this.#refuseAll(error);
    this.#hooks.over(error);
  }

  #stop() {
    this.#closed = true;
    clearInterval(this.#tick);
    for (const unlisten of this.#unlisten.splice(0)) unlisten();
    for (const done of [...this.#waits]) done();
  }

  /** @param {Error} error */
  #refuseAll(error) {
    this.#outbox.refuseAll(error);
    for (const { reject } of this.#choices.values()) reject(error);
    this.#choices.clear();
  }

  /**
   * Wait, at most until `close()`.
   * @param {number} delay
   * @param {boolean} [canBeCut]  by what happens to the machine
   */
  #wait(delay, canBeCut = false) {
    return new Promise((/** @type {(value?: unknown) => void} */ resolve) => {
      const done = () => {
        stop();
        this.#waits.delete(done);
        if (canBeCut) this.#nudge = null;
        resolve();
      };
      const stop = later(delay, done);
      this.#waits.add(done);
      if (canBeCut) this.#nudge = done;
    });
  }

  // What the server says.

  /** @param {unknown} text */
  #hear(text) {
    this.#heardAt = now();
    this.#probedAt = null;
    if (text === null) return;
    const event = eventOf(text) ?? (this.#welcomed ? this.#gapFor(text) : undefined);
    if (event === undefined || (!this.#welcomed && event.type !== `${OURS}welcome`)) {
      const error = new Closed(1002, "what answers there is no trionotify server");
      return this.#leave({ again: false, error, opened: true });
    }
    const kind = kindOf(event);
    const data = kind === null ? {} : { ...event.data };
    if (kind === "drain") this.#retryAfter = Number(data.retry_after_ms) || 0;
    else if (kind !== "welcome") this.#useful = true;
    if (kind === "error") return this.#refuse(data);
    if (kind === "ack" && data.filters === undefined) return this.#outbox.answer(data, receiptOf(data));
    if (kind === "welcome") {
      this.#isWelcome(event);
    } else if (this.#holding) {
      // Until the filters are there, nothing counts: not even how far the stream has gone.
      const { id, from } = this.#holding;
      if (kind !== "ack" || data.id !== id) return;
      this.#holding = null;
      this.#answerChoices(event);
      if (event.cursor !== from) this.#hooks.hear({ type: `${OURS}gap`, data: { from }, cursor: event.cursor }, this.#transport);
    }
    if (typeof event.cursor === "string") this.cursor = event.cursor;
    if (kind === "ack") this.#isAgreed(data, event);
    // A welcome says, too, what was asked for.
    this.#hooks.hear(kind === "welcome" ? { ...event, since: this.#asked } : event, this.#transport);
  }

  /**
   * What stands in for a message that can't be read: one message must not end a client, because it would come again.
   * Where it stands is the first cursor in it (in a string, the quotation marks would be escaped).
   * @param {unknown} text
   */
  #gapFor(text) {
    const found = typeof text === "string" ? /(?:^|[^\\])"cursor"\s*:\s*"([^"\\]{1,100})"/.exec(text)?.[1] : undefined;
    const here = this.cursor;
    const ahead = found !== undefined && here !== undefined && sameEpoch(found, here) && isAhead(found, here);
    return /** @type {CloudEvent} */ ({ type: `${OURS}gap`, data: { from: here }, ...(ahead && { cursor: found }) });
  }

  /** @param {CloudEvent} event */
  #isWelcome(event) {
    this.#welcomed = true;
    this.#denied = this.#doubted = false;
    this.#role = event.data?.role;
    this.#target.id = String(event.data?.id ?? this.#target.id);
    if (this.#held) {
      this.#holding = { id: `${OURS}filters-${randomId()}`, from: event.cursor };
      this.#sendOwn("subscribe", this.#holding.id, { filters: this.#held, since: event.cursor });
    } else {
      this.#answerChoices(event);
    }
    if (this.#role === "subscriber") this.#outbox.refuseAll(notAllowed());
    for (const text of this.#outbox.texts()) this.#send(text);
  }

  /**
   * This connection began with the newest filters; those that they replaced never came to hold.
   * @param {CloudEvent} event
   */
  #answerChoices({ cursor }) {
    for (const { resolve } of this.#choices.values()) resolve(cursor);
    this.#choices.clear();
    this.#agreed = this.#target.wanted;
  }

  /**
   * @param {Record<string, any>} data
   * @param {CloudEvent} event
   */
  #isAgreed(data, event) {
    const choice = this.#choices.get(data.id);
    this.#choices.delete(data.id);
    this.#agreed = inQuery(data.filters);
    choice?.resolve(event.cursor);
  }

  /** @param {Record<string, any>} document */
  #refuse(document) {
    const problem = new Problem(document);
    const choice = this.#choices.get(document.id);
    if (choice) {
      this.#choices.delete(document.id);
      // Unless newer ones are under way, those before them hold.
      if (this.#choices.size === 0) this.#target.wanted = this.#agreed;
      choice.reject(problem);
    } else if (document.id === this.#holding?.id) {
      this.#leave({ again: false, error: problem, opened: true });
    } else if (document.id === this.#probeId) {
      // A server that doesn't know the question lives, too. But it has no patience with many of them.
      this.#canProbe = false;
    } else if (!this.#outbox.refuse(document.id, problem)) {
      this.#hooks.failed(problem);
    }
  }

  // What is said to the server.

  /** @param {string} text */
  #send(text) {
    if (this.#link?.send) this.#link.send(text);
    else void this.#postAll();
  }

  /**
   * @param {string} kind
   * @param {string} id
   * @param {object} data
   */
  #sendOwn(kind, id, data) {
    const source = this.#target.defaults().source;
    const event = { specversion: "1.0", id, source, type: OURS + kind, data };
    this.#link?.send?.(JSON.stringify(event));
  }

  /** Post what is published, one after the other, for as long as there is no WebSocket. */
  async #postAll() {
    if (this.#posting) return;
    this.#posting = true;
    const backoff = new Backoff(this.#options.firstDelay, this.#options.maxDelay);
    let denied = false;
    for (let first; !this.#closed && (first = this.#outbox.first()); ) {
      const answer = await this.#post(first.text);
      if (!("error" in answer)) this.#outbox.answer(first.event, answer);
      else if (answer.again || (answer.renew && !denied)) await this.#wait((answer.after ?? 0) + backoff.next());
      else this.#outbox.refuse(first.event.id, answer.error);
      denied = "error" in answer && Boolean(answer.renew) && !denied;
    }
    this.#posting = false;
  }

  /**
   * @param {string} text
   * @returns {Promise<Receipt | Ending & { renew?: boolean }>}
   */
  async #post(text) {
    const headers = { "Content-Type": "application/cloudevents+json; charset=utf-8" };
    try {
      const url = await this.#within(this.#target.postAddress());
      return await this.#request(url, { method: "POST", headers, body: text }, async (response) => {
        if (response.ok) return receiptOf(await response.json());
        const after = retryAfter(response);
        const error = await problemOf(response);
        // A log that takes nothing is told, as on a WebSocket; what stands in front of the server passes.
        const told = response.headers.get("content-type")?.startsWith("application/problem+json");
        const renew = error.status === UNAUTHORIZED && this.#target.renews;
        return { again: passes(error.status) && (!told || after > 0), error, after, renew };
      }, POST_TIMES);
    } catch (cause) {
      return { again: true, error: new Error("the server can't be reached", { cause }) };
    }
  }

  // Whether the server is there.

  /** Every `tick`: is it time to ask, or to give up? */
  #look() {
    const { tick, probeInterval, probeTimeout, streamTimeout, maxDelay, transport } = this.#options;
    const [at, on] = [now(), Date.now()];
    const late = Math.max(at - this.#tickedAt, on - this.#tickedOn) - tick;
    this.#tickedAt = at;
    this.#tickedOn = on;
    // Timers don't run while a machine sleeps, nor does each of the clocks. (In a tab that is hidden, they run less often.)
    if (late > 2 * tick) this.#suspect(false);
    if (!this.#welcomed) return;
    const isStream = this.#transport === "sse";
    const silent = at - this.#heardAt;
    if ((this.#probedAt !== null && at - this.#probedAt > probeTimeout) || (isStream && silent > streamTimeout)) {
      if (this.#doubted) this.#leave({ again: true, error: new Error("the server doesn't answer"), opened: true });
      this.#doubted = true;
      return;
    }
    this.#doubted = false;
    if (isStream && transport === "auto" && at - this.#openedAt > RETURN * maxDelay) this.rewind(this.cursor);
    else if (this.#probedAt === null && silent >= probeInterval) this.#probe();
  }

  /** Ask for a sign of life. A page sees no ping, and a silent connection may be a dead one. */
  #probe() {
    if (this.#transport === "sse" || !this.#canProbe || this.#probedAt !== null) return;
    this.#probedAt = now();
    this.#probeId = `${OURS}probe-${randomId()}`;
    this.#sendOwn("position", this.#probeId, {});
  }

  /**
   * Something happened to the machine, or to the page.
   * @param {boolean} changed  and the connection is probably dead
   */
  #suspect(changed) {
    this.#nudge?.();
    if (!this.#welcomed) return;
    if (this.#transport === "websocket" && this.#canProbe) this.#probe();
    else if (changed) this.rewind(this.cursor);
  }

  #listen() {
    const { document } = globalThis;
    /** @type {(target: EventTarget | undefined, type: string, heard: (event: any) => void) => void} */
    const on = (target, type, heard) => {
      target?.addEventListener?.(type, heard);
      this.#unlisten.push(() => target?.removeEventListener?.(type, heard));
    };
    on(globalThis, "online", () => this.#suspect(true));
    on(globalThis, "offline", () => this.#suspect(false));
    on(globalThis, "pageshow", ({ persisted }) => persisted && this.#suspect(true));
    on(document, "resume", () => this.#suspect(true));
    on(document, "visibilitychange", () => document.visibilityState === "visible" && this.#suspect(false));
  }
}

/**
 * One connection for all tabs of an origin that ask for the same. The one that holds the lock has it, and
 * hands on over a BroadcastChannel what comes; when its tab is closed, another one gets the lock.
 *
 * Why not a SharedWorker: it needs a script of this origin and a Content-Security-Policy that allows
 * workers, and some browsers on phones have none. What a lock costs instead is that tabs don't agree on where
 * the stream is when one takes over. So each has its own place, drops what it has seen, and says so when
 * the stream went on without it (`behind`).
 *
 * @implements {Connected}
 */
class Tabs {
  #name;
  #me = randomId();
  #channel;
  #target;
  #options;
  #hooks;
  /** Whose connection it is. @type {string | null} */
  #leader = null;
  /** It is ours. @type {Connection | null} */
  #connection = null;
  /** Where the stream is, for those who come later. @type {{ event: CloudEvent, transport: Transport } | null} */
  #welcome = null;
  /** What was asked here and has no answer yet. @type {Map<string, ReturnType<typeof withResolvers> & { what: object }>} */
  #asked = new Map();
  /** There can be no lock, so this tab shares nothing. */
  #isAlone = false;
  /** Gives the lock back, or the wait for it. @type {(() => void) | null} */
  #stepDown = null;
  /** @type {(() => void)[]} */
  #unlisten = [];

  /** Whether this environment has what it takes: a lock needs a secure context. What is there may be forbidden. */
  static get possible() {
    try {
      new BroadcastChannel("trionotify").close();
      return Boolean(navigator.locks);
    } catch {
      return false;
    }
  }

  /**
   * @param {string} name
   * @param {Target} target
   * @param {Settings} options
   * @param {Hooks & { cursor: () => string | undefined, alone: () => void }} hooks
   */
  constructor(name, target, options, hooks) {
    this.#name = name;
    this.#target = target;
    this.#options = options;
    this.#hooks = hooks;
    this.#channel = new BroadcastChannel(name);
    this.#channel.addEventListener("message", ({ data }) => this.#hear(data));
    const { document } = globalThis;
    /** @type {(target: EventTarget | undefined, type: string, heard: () => void) => void} */
    const on = (target, type, heard) => {
      target?.addEventListener?.(type, heard);
      this.#unlisten.push(() => target?.removeEventListener?.(type, heard));
    };
    // A page that is put aside doesn't run, so it can't lead.
    on(globalThis, "pagehide", () => this.#resign());
    on(document, "freeze", () => this.#resign());
    on(globalThis, "pageshow", () => this.#stand());
    on(document, "resume", () => this.#stand());
    this.#stand();
  }

  /** @param {CloudEvent} event */
  publish(event) {
    return this.#ask({ event });
  }

  /** @param {Filter[]} filters */
  choose(filters) {
    return this.#ask({ filters });
  }

  /**
   * @param {string} cursor
   * @param {boolean} [always]  it is where this tab begins, which need not be a cursor
   */
  rewind(cursor, always = false) {
    if (!this.#connection) this.#say({ kind: "behind", cursor, always });
    else if (always || isAhead(this.#connection.cursor, cursor)) this.#connection.rewind(cursor);
  }

  close() {
    this.#resign();
    for (const unlisten of this.#unlisten.splice(0)) unlisten();
    this.#channel.close();
    for (const { reject } of this.#asked.values()) reject(new Closed(1000, "this client was closed"));
    this.#asked.clear();
  }

  /** Wait for the lock, unless we do. */
  #stand() {
    if (this.#stepDown) return;
    const controller = new AbortController();
    /** @type {() => void} */
    let release = () => {};
    const held = new Promise((/** @type {(value?: unknown) => void} */ resolve) => (release = resolve));
    this.#stepDown = () => {
      controller.abort();
      release();
    };
    const { signal } = controller;
    const wait = async () => {
      await navigator.locks.request(this.#name, { signal }, () => {
        if (!signal.aborted) this.#lead();
        return held;
      });
    };
    // Unless we have resigned, locks are forbidden here: as in a frame with a sandbox.
    wait().catch(() => signal.aborted || this.#goAlone());
    this.#say({ kind: "hello" });
  }

  #goAlone() {
    this.#isAlone = true;
    this.#channel.close();
    this.#hooks.alone();
    this.#lead();
  }

  #resign() {
    this.#stepDown?.();
    this.#stepDown = null;
    const connection = this.#connection;
    this.#connection = this.#leader = null;
    connection?.close();
  }

  #lead() {
    this.#leader = this.#me;
    this.#welcome = null;
    const cursor = this.#hooks.cursor();
    this.#connection = new Connection(
      this.#target,
      this.#options,
      {
        hear: (event, transport) => {
          if (kindOf(event) === "welcome") this.#welcome = { event, transport };
          this.#say({ kind: "event", event, transport });
          this.#hooks.hear(event, transport);
        },
        lost: (error, delay) => {
          this.#welcome = null;
          this.#say({ kind: "lost", error: packed(error), delay });
          this.#hooks.lost(error, delay);
        },
        over: (error) => {
          this.#say({ kind: "over", error: packed(error) });
          this.#hooks.over(error);
        },
        failed: (error) => this.#hooks.failed(error),
      },
      cursor,
    );
    this.#tell();
    for (const n of this.#asked.keys()) this.#relay(n);
  }

  /** Say who leads, and where the stream is. */
  #tell() {
    const { event, transport } = this.#welcome ?? {};
    const { cursor } = this.#connection ?? {};
    // To one who comes now, the stream begins here. Whether an older one was resumed is no concern of its.
    const welcome = event && { ...event, cursor, since: undefined, data: { ...event.data, recovered: undefined } };
    this.#say({ kind: "lead", id: this.#target.id, wanted: this.#target.wanted, welcome, transport });
  }

  /** @param {Record<string, any>} said */
  #say(said) {
    if (!this.#isAlone) this.#channel.postMessage({ from: this.#me, ...said });
  }

  /** @param {Record<string, any>} said */
  #hear(said) {
    if (this.#connection) {
      if (said.kind === "hello") this.#tell();
      else if (said.kind === "behind") this.rewind(said.cursor, said.always);
      else if (said.kind === "ask" && said.to === this.#me) this.#serve(said);
      return;
    }
    if (said.kind === "lead") this.#follow(said);
    else if (said.from !== this.#leader) return;
    else if (said.kind === "event") this.#hooks.hear(said.event, said.transport);
    else if (said.kind === "lost") this.#hooks.lost(unpacked(said.error), said.delay);
    else if (said.kind === "over") this.#hooks.over(unpacked(said.error));
    else if (said.kind === "answer") this.#settle(said);
  }

  /** @param {Record<string, any>} said */
  #follow({ from, id, wanted, welcome, transport }) {
    // Events of this client's id that were published and not acknowledged are known by it.
    this.#target.id = id;
    this.#target.wanted = wanted;
    if (this.#leader !== from) {
      this.#leader = from;
      for (const n of this.#asked.keys()) this.#relay(n);
    }
    if (welcome) this.#hooks.hear(welcome, transport);
  }

  /**
   * @param {object} what
   * @returns {Promise<any>}
   */
  #ask(what) {
    const n = randomId();
    const asked = { ...withResolvers(), what };
    this.#asked.set(n, asked);
    this.#relay(n);
    return asked.promise;
  }

  /** Ask whoever leads; if that is nobody, the next one will be asked. @param {string} n */
  #relay(n) {
    const said = { kind: "ask", from: this.#me, to: this.#leader, n, ...this.#asked.get(n)?.what };
    if (this.#connection) void this.#serve(said);
    else if (this.#leader) this.#say(said);
  }

  /** @param {Record<string, any>} said */
  async #serve({ from, n, event, filters }) {
    const connection = this.#connection;
    /** @type {Record<string, any>} */
    const answer = { kind: "answer", to: from, n };
    try {
      answer.value = await (event ? connection?.publish(event) : connection?.choose(filters));
    } catch (error) {
      answer.error = packed(/** @type {Error} */ (error));
    }
    // If we have resigned, whoever leads next is asked again.
    if (connection !== this.#connection) return;
    if (from === this.#me) this.#settle(answer);
    else this.#say(answer);
  }

  /** @param {Record<string, any>} answer */
  #settle({ n, value, error }) {
    const asked = this.#asked.get(n);
    this.#asked.delete(n);
    if (error) asked?.reject(unpacked(error));
    else asked?.resolve(value);
  }
}

/**
 * What one `for await` has not taken yet. Bounded: when it is full, its client takes no more.
 *
 * @implements {AsyncIterableIterator<Notification>}
 */
class Queue {
  /** @type {Notification[]} */
  #items = [];
  /** @type {{ resolve: (result: IteratorResult<Notification, undefined>) => void, reject: (error: Error) => void }[]} */
  #takers = [];
  #over = false;
  /** @type {Error | null} */
  #error = null;

  /**
   * @param {number} limit
   * @param {(queue: Queue) => void} taken
   * @param {(queue: Queue) => void} left
   */
  constructor(limit, taken, left) {
    this.limit = limit;
    this.taken = taken;
    this.left = left;
  }

  get isFull() {
    return this.#items.length >= this.limit;
  }

  get hasRoom() {
    return this.#items.length <= this.limit / 2;
  }

  /** @param {Notification} item */
  put(item) {
    const taker = this.#takers.shift();
    if (taker) taker.resolve({ value: item, done: false });
    else this.#items.push(item);
  }

  /** @param {Error | null} error  raised when all was taken */
  end(error) {
    this.#over = true;
    this.#error = error;
    for (const taker of this.#takers.splice(0)) this.#finish(taker);
  }

  /** @param {{ resolve: (result: IteratorResult<Notification, undefined>) => void, reject: (error: Error) => void }} taker */
  #finish({ resolve, reject }) {
    const error = this.#error;
    this.#error = null;
    if (error) reject(error);
    else resolve({ value: undefined, done: true });
  }

  /** @returns {Promise<IteratorResult<Notification, undefined>>} */
  next() {
    return new Promise((resolve, reject) => {
      const item = this.#items.shift();
      if (item !== undefined) resolve({ value: item, done: false });
      else if (this.#over) this.#finish({ resolve, reject });
      else this.#takers.push({ resolve, reject });
      this.taken(this);
    });
  }

  /** @returns {Promise<IteratorResult<Notification, undefined>>} */
  async return() {
    this.#items = [];
    this.end(null);
    this.left(this);
    return { value: undefined, done: true };
  }

  [Symbol.asyncIterator]() {
    return this;
  }
}

/** A client. It connects at once, and stays connected until `close()`, or until there is no use in it. */
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
  /** All up to here was handed out. @type {string | undefined} */
  #cursor;
  /** What comes is not taken, until the connection is wound back to `#cursor`. */
  #ignoring = false;
  /** What was lost since the last notification. @type {Loss | null} */
  #gap = null;
  /** @type {Set<Queue>} */
  #queues = new Set();
  /** Why it is closed. @type {Error} */
  #error = new Closed(1000, "this client was closed");
  #unacknowledged = 0;
  #prefix = randomId();
  #published = 0;

  /**
   * @param {string | URL} url
   * @param {Options} [options]
   */
  constructor(url, options = {}) {
    super();
    this.#options = settingsOf(options);
    const target = (this.#target = new Target(url, options));
    const hooks = {
      hear: this.#hear.bind(this),
      lost: this.#lost.bind(this),
      over: this.#over.bind(this),
      failed: (/** @type {Error} */ error) => this.#tell("error", { error }),
      cursor: () => this.#cursor,
      alone: () => (this.#shared = false),
    };
    this.#shared = Boolean(options.share) && Tabs.possible;
    const name = `trionotify ${options.share} ${target.name}`;
    this.#connection = this.#shared
      ? new Tabs(name, target, this.#options, hooks)
      : new Connection(target, this.#options, hooks);
  }

  /** Who the server says that this client is. */
  get id() {
    return this.#target.id;
  }

  /** `connecting`, `open`, `reconnecting`, `closed`. */
  get state() {
    return this.#state;
  }

  /** `websocket`, `sse`, or null before there was a connection. */
  get transport() {
    return this.#transport;
  }

  /** Whether the connection is one for all tabs. */
  get shared() {
    return this.#shared;
  }

  /** Resume behind this: the `since` of another client. Undefined before there was a connection. */
  get cursor() {
    return this.#cursor;
  }

  /**
   * Publish `data` and wait for the acknowledgement, over reconnects.
   * @param {unknown} [data]  a string is text, bytes are bytes, all else is JSON
   * @param {Attributes} [attributes]
   * @returns {Promise<Receipt>}
   */
  async publish(data, attributes = {}) {
    if (this.#state === "closed") throw this.#error;
    if (this.#target.url.searchParams.get("role") === "subscriber") {
      throw new TypeError("role: a subscriber can't publish; leave it out, or say both");
    }
    const { maxUnacknowledged } = this.#options;
    if (this.#unacknowledged >= maxUnacknowledged) {
      throw new RangeError(`maxUnacknowledged: ${maxUnacknowledged} wait for their acknowledgement already`);
    }
    const id = `${this.#prefix}-${++this.#published}`;
    const event = made(data, { id, ...this.#target.defaults(), ...attributes });
    this.#unacknowledged += 1;
    try {
      return await this.#connection.publish(event);
    } finally {
      this.#unacknowledged -= 1;
    }
  }

  /**
   * Send a request to the server's session, and wait for the reply, over reconnects.
   * @param {unknown} [data]  as in `publish`
   * @param {Attributes & { timeout?: number }} [options]  attributes, and the milliseconds that the reply may take
   * @returns {Promise<any>}
   */
  async request(data, { timeout = 30_000, ...attributes } = {}) {
    const asked = this.publish(data, { ...attributes, request: true });
    const receipt = await new Promise((resolve, reject) => {
      const stop = later(timeout, () => reject(new Error(`no reply within ${timeout} ms`)));
      asked.finally(stop).then(resolve, reject);
    });
    if ("reply" in receipt) return receipt.reply;
    throw new Problem({ status: 501, detail: "the request was acknowledged without a reply: the server's session gives none" });
  }

  /**
   * Replace all filters, those of the URL too.
   * @param {Filter | Filter[]} filters
   * @returns {Promise<string>}  the cursor behind which they hold
   */
  async setFilters(filters) {
    if (this.#state === "closed") throw this.#error;
    return this.#connection.choose(asArray(filters));
  }

  /** Say goodbye. What has no answer yet is rejected; iterations end when all was taken. */
  close() {
    if (this.#state === "closed") return;
    this.#connection.close();
    this.#closed(new Closed(1000, "this client was closed"), null);
  }

  /** @returns {AsyncIterableIterator<Notification>} */
  [Symbol.asyncIterator]() {
    const taken = () => this.#catchUp();
    const queue = new Queue(this.#options.maxBuffered, taken, (left) => {
      this.#queues.delete(left);
      this.#catchUp();
    });
    if (this.#state === "closed") queue.end(null);
    else this.#queues.add(queue);
    return queue;
  }

  /**
   * @param {CloudEvent} event
   * @param {Transport} transport
   */
  #hear(event, transport) {
    const { cursor } = event;
    const kind = kindOf(event);
    if (kind === "welcome") return this.#welcomed(event, transport);
    if (this.#ignoring || this.#state === "closed") return;
    // Who shares a connection may see it wound back for another.
    if (this.#shared && cursor !== undefined && !isAhead(cursor, this.#cursor)) return;
    if (kind === null) return this.#give(event);
    if (kind === "gap") this.#lose(event.data?.from, cursor ?? this.#cursor);
    this.#cursor = cursor ?? this.#cursor;
  }

  /**
   * @param {CloudEvent} event
   * @param {Transport} transport
   */
  #welcomed({ cursor, data, since }, transport) {
    const here = this.#cursor;
    const begin = here ?? this.#target.since;
    if (here === undefined && begin !== undefined && since !== begin) {
      // The connection is another tab's, too, and began elsewhere. What comes before it is wound back says nothing about this tab's place.
      this.#ignoring = true;
      return this.#connection.rewind(begin, true);
    }
    const isLost = data?.recovered === false && since === begin;
    if (here === undefined ? data?.recovered === false : cursor !== here && (isLost || !sameEpoch(cursor, here))) {
      this.#ignoring = false;
      this.#lose(begin, cursor);
      this.#cursor = cursor;
    } else if (here === undefined) {
      this.#ignoring = false;
      this.#cursor = cursor;
    } else {
      this.#ignoring = isAhead(cursor, here);
    }
    const isOther = this.#transport !== transport;
    this.#transport = transport;
    if (this.#state !== "open" || isOther) {
      this.#state = "open";
      this.#tell("open", { id: this.id, cursor: this.#cursor, recovered: data?.recovered, transport });
    }
    this.#catchUp();
  }

  /** @param {CloudEvent} event */
  #give(event) {
    const notification = new Notification(event, this.#gap);
    this.#gap = null;
    this.#cursor = event.cursor ?? this.#cursor;
    for (const queue of this.#queues) {
      queue.put(notification);
      this.#ignoring ||= queue.isFull;
    }
    this.#tell("notification", { notification });
  }

  /**
   * @param {string | undefined} from
   * @param {string} to
   */
  #lose(from, to) {
    this.#gap = { from: this.#gap?.from ?? from ?? null, to };
    this.#tell("gap", { from: from ?? null, to });
  }

  /** If the iterators have room again, go back to where they are. */
  #catchUp() {
    if (!this.#ignoring || this.#cursor === undefined || this.#state === "closed") return;
    if ([...this.#queues].every((queue) => queue.hasRoom)) this.#connection.rewind(this.#cursor);
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
    this.#closed(error, error instanceof Closed && error.code === 1000 ? null : error);
  }

  /**
   * @param {Error} why
   * @param {Error | null} error
   */
  #closed(why, error) {
    this.#state = "closed";
    this.#error = why;
    for (const queue of this.#queues) queue.end(error);
    this.#queues.clear();
    const { code, reason } = why instanceof Closed ? why : { code: 1006, reason: why.message };
    this.#tell("close", { code, reason, error });
  }

  /**
   * @param {string} type
   * @param {object} properties
   */
  #tell(type, properties) {
    this.dispatchEvent(new ClientEvent(type, properties));
  }
}

// Small things.

/**
 * Options with their defaults, checked.
 * @typedef {ReturnType<typeof settingsOf>} Settings
 * @param {Options} options
 */
function settingsOf(options) {
  const { id, role, filters, sql, since, lag, echo, params, share, ...given } = options;
  const others = ["id", "role", "filters", "sql", "since", "lag", "echo", "params", "share"];
  const settings = {
    transport: /** @type {"auto" | Transport} */ ("auto"),
    credentials: /** @type {RequestCredentials} */ ("same-origin"),
    WebSocket: globalThis.WebSocket,
    fetch: globalThis.fetch?.bind(globalThis),
    maxBuffered: 1000,
    maxUnacknowledged: 1000,
    firstDelay: 500,
    maxDelay: 30_000,
    connectTimeout: 10_000,
    probeInterval: 25_000,
    probeTimeout: 10_000,
    streamTimeout: 75_000,
  };
  for (const [name, value] of Object.entries(given)) {
    if (!Object.hasOwn(settings, name)) {
      const meant = nearest(name, [...others, ...Object.keys(settings)]);
      throw new TypeError(`${name}: there is no such option${meant ? `; did you mean ${meant}?` : ""}`);
    }
    if (value === undefined) continue;
    const key = /** @type {keyof typeof settings} */ (name);
    const isNumber = typeof settings[key] === "number";
    if (isNumber && !(typeof value === "number" && value > 0)) {
      throw new TypeError(`${name}: a number greater than 0 is needed`);
    }
    Object.assign(settings, { [name]: /(Delay|Interval|Timeout)$/.test(name) ? Math.min(Number(value), LONGEST) : value });
  }
  if (role !== undefined && !["subscriber", "publisher", "both"].includes(role)) {
    throw new TypeError(`role: subscriber, publisher or both is needed, not ${JSON.stringify(role)}`);
  }
  if (!["auto", "websocket", "sse"].includes(settings.transport)) {
    throw new TypeError("transport: auto, websocket or sse is needed");
  }
  if (settings.transport !== "sse" && settings.WebSocket === undefined) {
    throw new TypeError('WebSocket: there is none here; write { WebSocket: ws.WebSocket } with the package ws, or { transport: "sse" }');
  }
  const tick = Math.min(5000, settings.probeInterval / 2, settings.probeTimeout / 2);
  return { ...settings, tick };
}

/**
 * A promise, and what settles it. (`Promise.withResolvers` is too new.) Nobody has to wait for it.
 */
function withResolvers() {
  /** @type {(value: any) => void} */
  let resolve = () => {};
  /** @type {(error: Error) => void} */
  let reject = () => {};
  const promise = new Promise((/** @type {(value: any) => void} */ yes, no) => {
    resolve = yes;
    reject = no;
  });
  return { promise, resolve, reject };
}

/** The time for durations, in milliseconds: it goes on evenly, whatever the time of day is set to. */
function now() {
  return performance.now();
}

/**
 * Call back after so many milliseconds, `LONGEST` at most: a browser takes 2^31 for none. Returns what stops it.
 * @param {number} ms
 * @param {() => void} callback
 */
function later(ms, callback) {
  const timer = setTimeout(callback, Math.min(ms, LONGEST));
  return () => clearTimeout(timer);
}

/** @param {unknown} error  anything may be thrown */
function messageOf(error) {
  return error instanceof Error ? error.message : String(error);
}

/** Where the server is, as a URL of HTTP. @param {string | URL} url */
function addressOf(url) {
  if (!url) throw new TypeError('url: say where the server is, for instance "https://example.org/events"');
  const base = globalThis.document?.baseURI ?? globalThis.location?.href;
  let address;
  try {
    address = new URL(url, base);
  } catch {
    const why = base === undefined ? "is no whole URL, and there is no page that it could be relative to" : "is no URL";
    throw new TypeError(`url: ${JSON.stringify(url)} ${why}; write for instance "https://example.org/events"`);
  }
  const { protocol } = address;
  address.protocol = protocol.replace(/^ws/, "http");
  if (/^https?:$/.test(address.protocol)) {
    // A fragment is never sent, so the rest of the query would be lost.
    if (address.href.includes("#")) throw new TypeError("url: a '#' must be written as %23");
    return address;
  }
  const meant = /^[\w.-]+:\d/.test(String(url)) ? `; did you mean "http://${url}"?` : "";
  throw new TypeError(`url: http, https, ws or wss is needed, not ${protocol}${meant}`);
}

/** The word that is nearly this one, if there is one. @param {string} word @param {string[]} words */
function nearest(word, words) {
  const [best] = words.map((known) => ({ known, far: distance(word.toLowerCase(), known.toLowerCase()) })).sort((a, b) => a.far - b.far);
  return best && best.far <= Math.max(1, word.length / 3) ? best.known : undefined;
}

/** How many letters differ (Levenshtein). @param {string} one @param {string} other */
function distance(one, other) {
  let row = Array.from({ length: other.length + 1 }, (_, n) => n);
  for (const [y, letter] of [...one].entries()) {
    const above = row;
    row = [y + 1];
    for (let x = 0; x < other.length; x += 1) {
      row.push(Math.min(row[x] + 1, above[x + 1] + 1, above[x] + Number(letter !== other[x])));
    }
  }
  return row[other.length];
}

/** 96 random bits. (`crypto.randomUUID` is for secure contexts only.) */
function randomId() {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** @param {unknown} text  a message; undefined if it is no event */
function eventOf(text) {
  try {
    const event = JSON.parse(/** @type {string} */ (text));
    return typeof event?.type === "string" ? /** @type {CloudEvent} */ (event) : undefined;
  } catch {
    return undefined;
  }
}

/** Of an event of the server's own, its type behind `trionotify.`. @param {CloudEvent} event */
function kindOf({ type }) {
  return type.startsWith(OURS) ? type.slice(OURS.length) : null;
}

/** By what an event is known. @param {CloudEvent} event */
function keyOf({ source, id }) {
  return JSON.stringify([source, id]);
}

/** @param {Record<string, any>} data @returns {Receipt} */
function receiptOf({ cursor, wanted = 0, written = 0, behind = 0, reply, reply_base64 }) {
  const bytes = typeof reply_base64 === "string" && Uint8Array.from(atob(reply_base64), (one) => one.charCodeAt(0));
  const replied = bytes ? { reply: bytes } : reply !== undefined && { reply };
  return { cursor, wanted, written, behind, ...replied };
}

/** @param {Filter | Filter[]} filters */
function asArray(filters) {
  return Array.isArray(filters) ? filters : [filters];
}

/** Filters, as the query says them. @param {Filter[]} filters @returns {[string, string][]} */
function inQuery(filters) {
  return filters.length ? [["filters", JSON.stringify(filters)]] : [];
}

/**
 * What is to be published.
 * @param {unknown} data
 * @param {Record<string, unknown>} attributes
 */
function made(data, attributes) {
  /** @type {CloudEvent} */
  const event = { specversion: "1.0" };
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || name === "specversion" || name === "cursor") continue;
    if (!/^[a-z0-9]+$/.test(name) || name === "data") {
      throw new TypeError(`${name}: the name of an attribute has lower-case letters and digits`);
    }
    event[name] = attribute(name, value);
  }
  if (event.type.startsWith(OURS)) throw new TypeError(`type: what begins with ${OURS} is the server's own`);
  if (data instanceof ArrayBuffer || ArrayBuffer.isView(data)) {
    event.datacontenttype ??= "application/octet-stream";
    event.data_base64 = base64Of(data);
  } else if (data !== undefined) {
    event.datacontenttype ??= typeof data === "string" ? "text/plain" : "application/json";
    event.data = data;
  }
  return event;
}

/** @param {string} name @param {unknown} value */
function attribute(name, value) {
  if (value instanceof Date) return value.toISOString();
  if (name === "audience" && typeof value === "object") {
    return JSON.stringify(asArray(/** @type {Filter} */ (value)));
  }
  if (typeof value === "string" || typeof value === "boolean" || Number.isInteger(value)) return value;
  throw new TypeError(`${name}: a string, an integer or a boolean is needed`);
}

/** @param {ArrayBuffer | ArrayBufferView} data */
function base64Of(data) {
  const bytes = "buffer" in data ? new Uint8Array(data.buffer, data.byteOffset, data.byteLength) : new Uint8Array(data);
  let text = "";
  for (const byte of bytes) text += String.fromCharCode(byte);
  return btoa(text);
}

/** @param {number} code @param {string} reason @returns {Ending} */
function endingOf(code, reason) {
  // 1005: a close without a code; 1006: none at all; 1015: no TLS.
  if ([1005, 1006, 1015].includes(code)) return { again: true, error: new Error("the connection was lost") };
  // What an application means by a code of its own is not known here, so it is the caller's to decide.
  const again = PASSING_CODES.has(code) || (code < 3000 && !FINAL_CODES.has(code));
  return { again, error: new Closed(code, String(reason)) };
}

/** @param {number} status */
function passes(status) {
  return status >= 500 || PASSING_STATUSES.has(status);
}

/** In milliseconds, 0 if nothing is said. Either form of RFC 9110: seconds, or a date. @param {Response} response */
function retryAfter(response) {
  const text = response.headers.get("retry-after")?.trim() ?? "";
  const ms = /^\d+$/.test(text) ? Number(text) * 1000 : Date.parse(text) - Date.now();
  return ms > 0 ? ms : 0;
}

/** What the server would say of an event from one who may only subscribe; and it would close the connection. */
function notAllowed() {
  const detail = "role: this client may only subscribe; to publish, connect with role=both, and if the query is signed, sign it with that";
  return new Problem({ title: "Forbidden", status: 403, detail });
}

/** @param {Response} response */
async function problemOf(response) {
  const { status, statusText } = response;
  const document = await response.json().catch(() => ({}));
  return new Problem({ title: statusText || `the server answered ${status}`, ...document, status });
}

/** @param {Error} error  for another tab */
function packed(error) {
  if (error instanceof Problem) return { document: error.document };
  if (error instanceof Closed) return { code: error.code, reason: error.reason };
  return { message: error.message };
}

/** @param {Record<string, any>} error  of another tab */
function unpacked({ document, code, reason, message }) {
  if (document) return new Problem(document);
  return code === undefined ? new Error(message) : new Closed(code, reason);
}

/** @param {string} cursor */
function placeOf(cursor) {
  const at = cursor.lastIndexOf(":");
  return { epoch: cursor.slice(0, at), offset: cursor.slice(at + 1).split("-") };
}

/** Whether two cursors are of one life of the log. @param {string} one @param {string} other */
function sameEpoch(one, other) {
  return placeOf(one).epoch === placeOf(other).epoch;
}

/**
 * Whether one cursor is behind another, further on in the stream. So is one of another life of the log.
 * @param {string | undefined} one
 * @param {string | undefined} other
 */
function isAhead(one, other) {
  if (one === undefined || other === undefined) return one !== undefined;
  if (!sameEpoch(one, other)) return true;
  const { offset } = placeOf(one);
  const numbers = placeOf(other).offset.map(Number);
  const at = offset.findIndex((text, index) => Number(text) !== numbers[index]);
  return at >= 0 && Number(offset[at]) > (numbers[at] ?? 0);
}

/** What a query says of filters, as an array of them. @param {[string, string][]} wanted @returns {Filter[]} */
function asFilters(wanted) {
  return wanted.flatMap(([key, value]) => {
    if (key === "filters") return asArray(JSON.parse(value));
    if (key === "sql") return [{ sql: value }];
    const [dialect, attribute] = key.split(/\.(.*)/s);
    return [/** @type {Filter} */ ({ [dialect]: { [attribute]: value } })];
  });
}
