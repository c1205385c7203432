/**
 * The target: where to connect, and with which query. It checks what it is given before anything is connected.
 *
 * A query comes from the URL, the options and `params`; a key that is given twice is an error. What was signed is kept
 * apart and goes out unchanged, because any change would break the signature. `since` is kept apart too: it only counts
 * until there is a cursor. The target also remembers which filters the next connection begins with (`wanted`).
 *
 * There may be several servers that share a log: the first one in `#urls` is where to connect now. With a token, or with `id: null`,
 * the server says who this client is, so the query doesn't.
 */

import { randomId } from "./event.js";
import { messageOf } from "./errors.js";
import { FILTER_KEY, NOTHING, asArray, asFilters, inQuery } from "./filters.js";

/**
 * @typedef {import("../trionotify.d.ts").Filter} Filter
 * @typedef {import("../trionotify.d.ts").Options} Options
 */

/** Filters that make a URL longer than this, in characters, are sent in a message, because a proxy may refuse the URL. */
const LONG_URL = 4000;
/** Keys of the query that give defaults to what is published. */
const DEFAULTS = ["type", "subject", "source", "datacontenttype", "to"];
/** Keys of the query that say where to start. */
const START = ["since", "last_event_id", "lastEventId"];
/** Keys of a signed query that its signature doesn't cover. */
const UNSIGNED = [...START, "lag", "format", "echo", "narrow"];

/** Where to connect, and with which query. */
export class Target {
  #id = "";
  /** The server says who this client is. */
  #isNamed;
  /** Where servers are, without a query. */
  #urls;
  /** @type {URLSearchParams} */
  #query;
  /** The query of the URL, or of `params`, if it was signed. It goes out unchanged. @type {Record<string, string>} */
  #signed = {};
  /** The role that was asked for. @type {string | undefined} */
  #role;
  /** How long the address of a WebSocket may be, in characters, unless it has no filters. */
  longest = LONG_URL;

  /**
   * @param {string | URL | (string | URL)[]} url
   * @param {Options} options
   */
  constructor(url, options) {
    this.#urls = (Array.isArray(url) ? url : [url]).map(addressOf);
    if (this.#urls.length === 0) throw new TypeError("url: must be one URL or several, not none");
    const { search } = this.#urls[0];
    for (const each of this.#urls) {
      if (each.search !== "" && each.search !== search) throw new TypeError("url: must have the query of the first URL, or none");
      each.search = "";
    }
    this.#query = new URLSearchParams(search);
    this.#keepSigned(this.#query);
    const { params, filters, token } = options;
    const more = typeof params === "function" ? new URLSearchParams() : queryOf(plain(params, "params: "));
    this.#keepSigned(more);
    this.#isNamed = token !== undefined || options.id === null;
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
      ...Object.fromEntries(more),
    });
    // As the server decides it: the spelling of an EventSource that reconnects wins, unless it is empty.
    const since = this.#query.get("lastEventId") || (this.#query.get("since") ?? this.#query.get("last_event_id"));
    /** Where the stream starts at first, if that was given. */
    this.since = since ?? undefined;
    for (const key of [...START, "format"]) this.#query.delete(key);
    const credentials = [typeof params === "function", this.#isNamed, typeof token === "string" ? token : typeof token];
    /** Tabs that share have this in common. */
    this.name = `${this.#urls.join(" ")}?${this.#query} ${this.#signedFor} ${credentials.join(" ")}`;
    this.#role = this.#query.get("role") ?? undefined;
    const { role = this.#signed.sig === undefined ? "both" : "subscriber", id = this.#isNamed ? "" : randomId() } = this.#signed;
    if (!this.#query.has("role")) this.#query.set("role", role);
    this.id = this.#query.get("id") ?? id;
    try {
      asFilters(this.wanted);
    } catch (cause) {
      throw new TypeError(`filters: must be a JSON array of filters: ${messageOf(cause)}`);
    }
  }

  /** This client's id; empty until the server has said it. */
  get id() {
    return this.#id;
  }

  set id(id) {
    this.#id = id;
    if (!this.#isNamed) this.#query.set("id", id);
  }

  /** Where to connect now. */
  get url() {
    return this.#urls[0];
  }

  /** How many servers there are. */
  get count() {
    return this.#urls.length;
  }

  /** Connect to the next server from now on. */
  moveOn() {
    this.#urls.push(...this.#urls.splice(0, 1));
  }

  /** What lies beside the events. @param {string} name */
  beside(name) {
    return new URL(name, this.url);
  }

  /** Whether this client was made to only subscribe. */
  get isSubscriber() {
    return this.#role === "subscriber";
  }

  /** Only subscribe from now on, if no role was chosen. Whether that is a change. */
  askForLess() {
    if (!this.#isNamed || this.#role !== undefined || this.#query.get("role") !== "both") return false;
    this.#query.set("role", "subscriber");
    return true;
  }

  /** Take what was signed out of a query, and keep it apart. @param {URLSearchParams} query */
  #keepSigned(query) {
    if (!query.has("sig")) return;
    for (const [key, value] of [...query]) {
      if (UNSIGNED.includes(key)) continue;
      if (Object.hasOwn(this.#signed, key)) throw new TypeError(`${key}: given twice; give it once`);
      this.#signed[key] = value;
      query.delete(key);
    }
  }

  /**
   * The identity and the parameters that were signed, without expiry and signature. If there is no `id` among them, all of it is returned,
   * because only the signature tells one user from another.
   */
  get #signedFor() {
    const { exp: _, sig, ...rest } = this.#signed;
    return new URLSearchParams(sig === undefined || "id" in rest ? rest : this.#signed);
  }

  /** @param {Record<string, unknown>} given */
  #say(given) {
    for (const [key, value] of queryOf(given)) {
      if (this.#query.has(key)) throw new TypeError(`${key}: given twice; give it once`);
      this.#query.set(key, value);
    }
  }

  /** The filters in the query. */
  get wanted() {
    return [...this.#query].filter(([key]) => FILTER_KEY.test(key));
  }

  set wanted(wanted) {
    for (const key of [...this.#query.keys()]) if (FILTER_KEY.test(key)) this.#query.delete(key);
    for (const [key, value] of wanted) this.#query.set(key, value);
  }

  /**
   * The address for the next connection: `whole` has everything, and `url` is for a WebSocket. Filters that are too long for
   * it are `held`.
   * @param {string | undefined} cursor
   * @returns {Promise<{ whole: URL, url: URL, held: Filter[] | null }>}
   */
  async address(cursor) {
    const given = { ...this.#signed, ...Object.fromEntries(queryOf(plain(await this.params()))) };
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
    url.search = String(this.#query);
    const query = url.searchParams;
    const isSigned = "sig" in given;
    for (const key of [...query.keys()]) {
      if (isSigned ? !UNSIGNED.includes(key) : FILTER_KEY.test(key)) query.delete(key);
    }
    // The signed part goes out unchanged. The rest can only say how to deliver, and narrow the filters.
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

  /** The address to post events to. It has this client's identity and rights, but not its filters. */
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

  /** Attributes for events that don't have their own. */
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

/**
 * `params` as an object. What a `URLSearchParams`, a `Map` or a `Response` has would be lost.
 * @param {any} params
 * @param {string} [prefix]  of the error
 */
function plain(params, prefix = "") {
  if (params === undefined || params === null) return {};
  const kind = typeof params === "object" && Object.getPrototypeOf(params);
  // Of any window.
  if (kind === null || (kind && Object.getPrototypeOf(kind) === null)) return params;
  throw new TypeError(`${prefix}must be a plain object, not ${params.constructor?.name ?? typeof params}`);
}

/** What is given, as a query. @param {Record<string, unknown>} params */
function queryOf(params) {
  const given = Object.entries(params).filter(([, value]) => value !== undefined && value !== null);
  for (const [key, value] of given) {
    if (!/^(string|number|boolean|bigint)$/.test(typeof value)) {
      throw new TypeError(`${key}: must be a string, a number or a boolean, not ${typeof value}`);
    }
  }
  return new URLSearchParams(given.map(([key, value]) => [key, String(value)]));
}

/** Where the page is. */
function baseOf() {
  return globalThis.document?.baseURI ?? globalThis.location?.href;
}

/** Where the server is, as a URL of HTTP. @param {string | URL} url */
function addressOf(url) {
  if (!url) throw new TypeError('url: missing; write, for example, "https://example.org/events"');
  const base = baseOf();
  let address;
  try {
    address = new URL(url, base);
  } catch {
    const why = base === undefined ? "is not a complete URL, and there is no page that it could be relative to" : "is not a URL";
    throw new TypeError(`url: ${JSON.stringify(url)} ${why}; write, for example, "https://example.org/events"`);
  }
  const { protocol } = address;
  address.protocol = protocol.replace(/^ws/, "http");
  if (/^https?:$/.test(address.protocol)) {
    checkCredentials(address, base);
    // A browser never sends a fragment, so the rest of the query would be lost.
    if (address.href.includes("#")) throw new TypeError("url: a '#' must be written as %23");
    if (address.pathname.endsWith("/")) address.pathname += "events";
    return address;
  }
  const meant = /^[\w.-]+:\d/.test(String(url)) ? `; did you mean "http://${url}"?` : "";
  throw new TypeError(`url: must start with http, https, ws or wss, not ${protocol}${meant}`);
}

/**
 * A browser fetches no URL that has a user or a password. Those of the page it sends anyway, so a URL that has them from there loses them.
 * @param {URL} address
 * @param {string | undefined} page
 */
function checkCredentials(address, page) {
  const { host, username, password } = address;
  if (username === "" && password === "") return;
  const own = page === undefined ? null : new URL(page);
  if (own?.host !== host || own.username !== username || own.password !== password) {
    throw new TypeError("url: must not have a user or a password, because browsers fetch no such URL; use token or params instead");
  }
  address.username = address.password = "";
}
