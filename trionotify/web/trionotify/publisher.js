/**
 * The publisher: what was published and has no answer yet, in order, and the loop that posts it where there is no WebSocket.
 *
 * An event stays here until it is acknowledged or refused, over any number of connections; each new connection is told
 * everything that waits. Telling the server twice is harmless, because it knows an event by its source and id. When the server
 * refuses something and can't say what, the next connection is told one event at a time, so that it is clear what is refused. Over a
 * WebSocket the dialogue sends the texts itself. Over Server-Sent Events they are posted one after the other, so that their
 * order holds.
 */

import { bytesOf, keyOf } from "./event.js";
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
 * @property {boolean} wasSent
 * @property {Promise<Receipt>} promise
 * @property {(receipt: Receipt) => void} resolve
 * @property {(error: Error) => void} reject
 */

export class Publisher {
  /** One event at a time, until all that wait have their answer. */
  isCareful = false;
  /** The last connection was Server-Sent Events, so events are posted. */
  posts = false;
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

  /** How many events wait. */
  get size() {
    return this.#waiting.size;
  }

  /** How long the longest one that waits is, in bytes. */
  get longest() {
    return [...this.#waiting.values()].reduce((most, { text }) => Math.max(most, bytesOf(text)), 0);
  }

  /** The events that may be on their way. */
  due() {
    const all = [...this.#waiting.values()];
    return this.isCareful ? all.slice(0, 1) : all;
  }

  /**
   * Let an event wait, and say whether it is due to be sent. One that waits already gets the same promise.
   * @param {CloudEvent} event
   */
  put(event) {
    const key = keyOf(event);
    const known = this.#waiting.get(key);
    if (known) return { isDue: false, waiting: known };
    /** @type {Waiting} */
    const waiting = { event, text: JSON.stringify(event), wasSent: false, ...withResolvers() };
    this.#waiting.set(key, waiting);
    return { isDue: !this.isCareful, waiting };
  }

  /**
   * @param {CloudEvent} event  of which `source` and `id` count
   * @param {Receipt} receipt
   */
  answer(event, receipt) {
    this.#take(keyOf(event))?.resolve(receipt);
  }

  /**
   * How many of the events that are on their way have this id. Only if it is one, it is refused, because a problem document names
   * no source.
   * @param {unknown} id
   * @param {Error} error
   */
  refuse(id, error) {
    const found = this.due().filter(({ event }) => event.id === id);
    if (found.length === 1) this.#take(keyOf(found[0].event))?.reject(error);
    return found.length;
  }

  /**
   * The server refused something, and couldn't say what. If only one event is on its way, it is that one. Whether it was.
   * @param {Error} error
   */
  refuseOnly(error) {
    const [only, another] = this.due();
    if (!only || another) return false;
    this.#take(keyOf(only.event))?.reject(error);
    return true;
  }

  /**
   * Refuse the events of more bytes than that. Whether there were any.
   * @param {number} most
   * @param {Error} error
   */
  refuseLonger(most, error) {
    const longer = [...this.#waiting].filter(([, { text }]) => bytesOf(text) > most);
    for (const [key] of longer) this.#take(key)?.reject(error);
    return longer.length > 0;
  }

  /**
   * Its time is over: don't send it any more. Returns the error.
   * @param {CloudEvent} event
   * @param {(wasSent: boolean) => Error} errorOf
   */
  withdraw(event, errorOf) {
    const found = this.#take(keyOf(event));
    const error = errorOf(found?.wasSent ?? false);
    found?.reject(error);
    return error;
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
    for (let first; this.posts && !this.#isStopped && (first = this.#first()); ) {
      first.wasSent = true;
      // That of the stream, unless it was refused.
      const token = async () => (wasDenied ? undefined : this.#token.last) ?? this.#token.fresh();
      const answer = await this.#requests.post(() => this.#target.postAddress(), token, first.text);
      if (this.#isStopped) break;
      const renews = this.#target.renews || this.#token.renews;
      /** @type {boolean} */
      const isDenied = "error" in answer && Boolean(answer.isDenied) && renews && !wasDenied;
      if (!("error" in answer)) this.answer(first.event, answer);
      else if (answer.again || isDenied) await this.#waits.wait((answer.after ?? 0) + backoff.next(), answer.after);
      else this.#take(keyOf(first.event))?.reject(answer.error);
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
    if (this.#waiting.size === 0) this.isCareful = false;
    return found;
  }
}
