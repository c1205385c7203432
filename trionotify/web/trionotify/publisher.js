/**
 * The publisher: what was published and has no answer yet, in order, and the loop that posts it where there is no WebSocket.
 *
 * An event stays here until it is acknowledged or refused, over any number of connections; each new connection is told
 * everything that waits. Telling the server twice is harmless, because it knows an event by its source and id. Over a
 * WebSocket the connection sends the texts itself. Over Server-Sent Events they are posted one after the other, so that their
 * order holds.
 */

import { keyOf } from "./event.js";
import { Backoff } from "./retry.js";
import { withResolvers } from "./time.js";

/**
 * @typedef {import("./event.js").CloudEvent} CloudEvent
 * @typedef {import("./options.js").Settings} Settings
 * @typedef {import("./requests.js").Requests} Requests
 * @typedef {import("./retry.js").Waits} Waits
 * @typedef {import("./target.js").Target} Target
 * @typedef {import("./token.js").Token} Token
 * @typedef {import("../trionotify.d.ts").Receipt} Receipt
 *
 * @typedef {object} Waiting  an event without an answer
 * @property {CloudEvent} event
 * @property {string} text  its JSON
 * @property {Promise<Receipt>} promise
 * @property {(receipt: Receipt) => void} resolve
 * @property {(error: Error) => void} reject
 */

export class Publisher {
  /** @type {Map<string, Waiting>} */
  #waiting = new Map();
  #isPosting = false;
  #isStopped = false;
  #target;
  #token;
  #requests;
  #options;
  #waits;

  /**
   * @param {Target} target
   * @param {Token} token
   * @param {Requests} requests
   * @param {Settings} options
   * @param {Waits} waits
   */
  constructor(target, token, requests, options, waits) {
    this.#target = target;
    this.#token = token;
    this.#requests = requests;
    this.#options = options;
    this.#waits = waits;
  }

  /** The JSON of each event that waits. */
  texts() {
    return [...this.#waiting.values()].map(({ text }) => text);
  }

  /**
   * Let an event wait. One that waits already gets the same promise.
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
   * Whether there was such an event.
   * @param {unknown} id  a problem document names no source
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
   * The server closed because something was too big, and didn't say what. Whether there was anything.
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

  /** Post nothing more. */
  stop() {
    this.#isStopped = true;
  }

  /** Post everything that waits, one after the other. Credentials that are refused are asked for once more. */
  async postAll() {
    if (this.#isPosting) return;
    this.#isPosting = true;
    const backoff = new Backoff(this.#options.firstDelay, this.#options.maxDelay);
    let wasDenied = false;
    for (let first; !this.#isStopped && (first = this.#first()); ) {
      // That of the stream, unless it was refused.
      const token = async () => (wasDenied ? undefined : this.#token.last) ?? this.#token.fresh();
      const answer = await this.#requests.post(() => this.#target.postAddress(), token, first.text);
      const renews = this.#target.renews || this.#token.renews;
      /** @type {boolean} */
      const isDenied = "error" in answer && Boolean(answer.isDenied) && renews && !wasDenied;
      if (!("error" in answer)) this.answer(first.event, answer);
      else if (answer.again || isDenied) await this.#waits.wait((answer.after ?? 0) + backoff.next(), true);
      else this.refuse(first.event.id, answer.error);
      wasDenied = isDenied;
    }
    this.#isPosting = false;
  }

  #first() {
    const [found] = this.#waiting.values();
    return found;
  }

  /** @param {string} key */
  #take(key) {
    const found = this.#waiting.get(key);
    this.#waiting.delete(key);
    return found;
  }
}
