/**
 * Retrying: how long to wait before the next attempt, and what may end a wait early.
 *
 * A delay is random between nothing and a bound that doubles, so that the clients of a server that restarts don't all come
 * back in one moment. A wait ends by itself, when the application or the machine says that trying now makes sense
 * (`cut`), or when the client is closed (`end`).
 */

import { later } from "./time.js";

/** The delays between attempts, in milliseconds. */
export class Backoff {
  #bound;

  /**
   * @param {number} first  the first bound
   * @param {number} cap  the last one
   */
  constructor(first, cap) {
    this.first = first;
    this.cap = cap;
    this.#bound = first;
  }

  /** The next delay. Each call counts as one more failure. */
  next() {
    const bound = this.#bound;
    this.#bound = Math.min(bound * 2, this.cap);
    return bound * Math.random();
  }

  /** The attempt succeeded. */
  reset() {
    this.#bound = this.first;
  }
}

/** All waits of one connection. */
export class Waits {
  /** A function that ends each of them, and whether the server asked for the wait. @type {Map<() => void, boolean>} */
  #waits = new Map();

  /**
   * @param {number} delay  in milliseconds
   * @param {boolean} [isAsked]  the server asked for it, so only the application may cut it short
   */
  wait(delay, isAsked = false) {
    return new Promise((/** @type {(value?: unknown) => void} */ resolve) => {
      const done = () => {
        stop();
        this.#waits.delete(done);
        resolve();
      };
      const stop = later(delay, done);
      this.#waits.set(done, isAsked);
    });
  }

  /**
   * Try now.
   * @param {boolean} [all]  also where the server asked for more time
   */
  cut(all = false) {
    for (const [done, isAsked] of [...this.#waits]) if (all || !isAsked) done();
  }
}
