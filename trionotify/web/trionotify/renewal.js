/**
 * Renewal: a fresh token for a live connection, before the old one has expired.
 *
 * The server says how much time is left when it welcomes a client, and again when it accepts a token
 * (`trionotify.authenticate`). After most of that time the next token is sent. If the function fails, it is called again after
 * a delay, as for a connection. If the server refuses the token, or the time is over, the server ends the connection, and the next
 * one begins with a fresh token. A renewal only spares the application that interruption.
 *
 * While a machine sleeps, timers stand still, and so does one of the clocks. So both clocks are compared, every `tick`.
 */

import { Problem, messageOf } from "./errors.js";
import { OURS, randomId } from "./event.js";
import { passes } from "./requests.js";
import { Backoff } from "./retry.js";
import { later, now } from "./time.js";

/**
 * @typedef {import("./options.js").Settings} Settings
 * @typedef {import("./retry.js").Waits} Waits
 * @typedef {import("./token.js").Token} Token
 */

/** After so much of a token's time it is renewed, and not sooner than after so many milliseconds. */
const RENEWED = 0.8;
const SOONEST = 1000;

export class Renewal {
  #token;
  #tick;
  #backoff;
  #waits;
  #say;
  #failed;
  /** The message that has the next token. @type {string | null} */
  #id = null;
  #stop = () => {};

  /**
   * @param {Token} token
   * @param {Settings} options
   * @param {Waits} waits
   * @param {(id: string, data: object) => void} say  to the server
   * @param {(error: Error) => void} failed
   */
  constructor(token, options, waits, say, failed) {
    this.#token = token;
    this.#tick = options.tick;
    this.#backoff = new Backoff(options.firstDelay, options.maxDelay);
    this.#waits = waits;
    this.#say = say;
    this.#failed = failed;
  }

  /** The server has accepted a token. @param {unknown} left  the seconds that it is good for */
  begin(left) {
    this.end();
    if (!this.#token.renews || typeof left !== "number") return;
    this.#backoff.reset();
    this.#after(Math.max(left * 1000 * RENEWED, SOONEST));
  }

  /** Whether this acknowledges a token. @param {Record<string, any>} data */
  settle({ id, expires_in: left }) {
    const isOurs = id === this.#id;
    if (isOurs) this.begin(left);
    return isOurs;
  }

  /** Whether it was a token that was refused. @param {unknown} id @param {Problem} problem */
  refuse(id, problem) {
    const isOurs = id === this.#id;
    if (isOurs) this.#fail(problem, passes(problem.status));
    return isOurs;
  }

  /** The connection ended. */
  end() {
    this.#id = null;
    this.#stop();
    this.#stop = () => {};
  }

  /** @param {number} ms */
  #after(ms) {
    const [at, on] = [now(), Date.now()];
    const look = () => {
      const rest = ms - Math.max(now() - at, Date.now() - on);
      if (rest > 0) this.#stop = later(Math.min(rest, this.#tick), look);
      else void this.#renew();
    };
    look();
  }

  async #renew() {
    const id = (this.#id = `${OURS}token-${randomId()}`);
    try {
      const token = await this.#token.fresh();
      if (id === this.#id) this.#say(id, { token });
    } catch (cause) {
      if (id === this.#id) this.#fail(cause, true);
    }
  }

  async #retry() {
    let isOver = false;
    this.#stop = () => (isOver = true);
    await this.#waits.wait(this.#backoff.next());
    if (!isOver) await this.#renew();
  }

  /** @param {unknown} cause @param {boolean} again */
  #fail(cause, again) {
    this.#id = null;
    if (again) void this.#retry();
    this.#failed(new Error(`token: not renewed: ${messageOf(cause)}`, { cause })); // a listener may close the client
  }
}
