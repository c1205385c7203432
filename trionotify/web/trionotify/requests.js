/**
 * Requests over HTTP: the question why a handshake failed, the fallback to Server-Sent Events, tickets, and posts.
 *
 * Each request has a deadline that covers everything up to the end of what is read of its answer. A request never throws:
 * its result is the answer, or an `Ending` that says whether trying again makes sense.
 */

import { Problem, isFinal } from "./errors.js";
import { receiptOf } from "./event.js";
import { later } from "./time.js";

/**
 * @typedef {import("./options.js").Settings} Settings
 * @typedef {import("./socket_link.js").Ending} Ending
 * @typedef {import("../trionotify.d.ts").Receipt} Receipt
 *
 * @typedef {{ body: ReadableStream<Uint8Array>, abort: () => void }} Streaming  an answer whose body goes on
 */

/** A publishing request has a body, so it may take this many times as long as a handshake. */
const POST_TIMES = 3;
/** Statuses that pass by themselves, besides 5xx. */
const PASSING_STATUSES = new Set([408, 426, 429]);
/** The credentials were refused, and there may be new ones. */
export const UNAUTHORIZED = 401;
/** The credentials don't allow that. */
export const FORBIDDEN = 403;
/** Nothing is there, or nothing that takes a POST. */
const NOTHING_THERE = new Set([404, 405]);

export class Requests {
  #options;

  /** @param {Settings} options */
  constructor(options) {
    this.#options = options;
  }

  /**
   * What is promised, if the promise is kept in time.
   * @template T
   * @param {Promise<T>} promise
   * @param {number} [times]  how many `connectTimeout` it may take
   * @returns {Promise<T>}
   */
  within(promise, times = 1) {
    const ms = times * this.#options.connectTimeout;
    return new Promise((resolve, reject) => {
      const stop = later(ms, () => reject(new Error(`no answer within ${ms} ms`)));
      promise.finally(stop).then(resolve, reject);
    });
  }

  /**
   * Ask for Server-Sent Events.
   * @param {URL} url
   * @param {string | undefined} token
   * @returns {Promise<Ending | Streaming>}
   */
  async stream(url, token) {
    const init = { headers: { Accept: "text/event-stream", ...bearer(token) }, cache: /** @type {const} */ ("no-store") };
    try {
      return await this.#send(url, init, async (response, abort) => {
        const isStream = response.headers.get("content-type")?.startsWith("text/event-stream");
        if (response.ok && response.body && isStream) return { body: response.body, abort };
        if (response.ok) {
          abort();
          return notOurs(url);
        }
        return refusal(response);
      });
    } catch (cause) {
      return away(url, cause);
    }
  }

  /**
   * Exchange a token for a ticket, which may stand in a URL.
   * @param {URL} url
   * @param {string} token
   * @returns {Promise<Ending | { ticket: string }>}
   */
  async ticket(url, token) {
    try {
      return await this.#send(url, { method: "POST", headers: bearer(token) }, async (response) => {
        if (response.ok) {
          const document = await response.json().catch(() => null);
          return typeof document?.ticket === "string" ? { ticket: document.ticket } : notOurs(url);
        }
        if (!NOTHING_THERE.has(response.status)) return refusal(response);
        const detail = `token: there are no tickets at ${url.href}; the server accepts no tokens, or a proxy does not pass this path on`;
        return { again: false, error: new Problem({ status: response.status, detail }) };
      });
    } catch (cause) {
      return away(url, cause);
    }
  }

  /**
   * Post one event.
   * @param {() => Promise<URL>} address
   * @param {() => Promise<string | undefined>} token
   * @param {string} text  its JSON
   * @returns {Promise<Receipt | Ending & { isDenied?: boolean }>}
   */
  async post(address, token, text) {
    const type = { "Content-Type": "application/cloudevents+json; charset=utf-8" };
    try {
      const url = await this.within(address());
      const init = { method: "POST", headers: { ...type, ...bearer(await token()) }, body: text };
      return await this.#send(url, init, (response, abort) => this.#understand(response, abort), POST_TIMES);
    } catch (cause) {
      if (isFinal(cause)) return { again: false, error: cause };
      return { again: true, error: new Error("the server cannot be reached", { cause }) };
    }
  }

  /**
   * @param {Response} response
   * @param {() => void} abort
   * @returns {Promise<Receipt | Ending & { isDenied?: boolean }>}
   */
  async #understand(response, abort) {
    if (response.redirected && !response.headers.get("content-type")?.includes("json")) {
      // 301 and 302 make a GET of a POST, and what answers that may be a stream without an end.
      abort();
      const detail = `url: redirects publishing to ${response.url.split("?")[0]}; write the URL that it leads to`;
      return { again: false, error: new Problem({ status: 502, detail }) };
    }
    if (response.ok) return receiptOf(await response.json());
    const after = retryAfter(response);
    const error = await problemOf(response);
    // The server's own 503 without Retry-After says that its log takes nothing. That is reported, as over a WebSocket. What a
    // proxy in front of the server says passes.
    const isOwn = response.headers.get("content-type")?.startsWith("application/problem+json");
    return { again: passes(error.status) && (!isOwn || after > 0), error, after, isDenied: error.status === UNAUTHORIZED };
  }

  /**
   * @template T
   * @param {URL} url
   * @param {RequestInit} init
   * @param {(response: Response, abort: () => void) => Promise<T>} understand
   * @param {number} [times]
   */
  async #send(url, init, understand, times = 1) {
    const controller = new AbortController();
    const abort = () => controller.abort();
    const { fetch, credentials } = this.#options;
    const asked = fetch(url, { ...init, credentials, signal: controller.signal });
    try {
      return await this.within(asked.then((response) => understand(response, abort)), times);
    } catch (error) {
      abort();
      throw error;
    }
  }
}

/** The header that has it. @param {string | undefined} token @returns {Record<string, string>} */
function bearer(token) {
  return token === undefined ? {} : { Authorization: `Bearer ${token}` };
}

/** Whether a refusal may be over the next time. @param {number} status */
export function passes(status) {
  return status >= 500 || PASSING_STATUSES.has(status);
}

/** In milliseconds; 0 without the header. RFC 9110 allows seconds and a date. @param {Response} response */
function retryAfter(response) {
  const text = response.headers.get("retry-after")?.trim() ?? "";
  const ms = /^\d+$/.test(text) ? Number(text) * 1000 : Date.parse(text) - Date.now();
  return ms > 0 ? ms : 0;
}

/** @param {Response} response @returns {Promise<Ending>} */
async function refusal(response) {
  const problem = await problemOf(response);
  return { again: passes(problem.status), error: problem, after: retryAfter(response) };
}

/** Something else answered. @param {URL} url @returns {Ending} */
function notOurs(url) {
  return { again: true, error: new Error(`no trionotify server answers at ${url.origin}${url.pathname}`) };
}

/** There was no answer. @param {URL} url @param {unknown} cause @returns {Ending} */
function away(url, cause) {
  const isOther = globalThis.location && globalThis.location.origin !== url.origin;
  const why = `the server is away${isOther ? ", or does not allow this origin" : ""}`;
  return { again: true, error: new Error(`no answer over HTTP: ${why}`, { cause }) };
}

/** @param {Response} response */
async function problemOf(response) {
  const { status, statusText } = response;
  const document = await response.json().catch(() => ({}));
  return new Problem({ title: statusText || `the server answered ${status}`, ...document, status });
}
