/**
 * Retrying: how long to wait before the next attempt, and what may end a wait early.
 *
 * A delay is random between nothing and a bound that doubles, so that the clients of a server that restarts don't all come
 * back in one moment. A wait ends by itself, when the application, the machine or the server says that trying now makes sense
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
  /** A function that ends each of them, and the time of day before which only the application may. @type {Map<() => void, number>} */
  #waits = new Map();

  /**
   * @param {number} delay  in milliseconds
   * @param {number} [asked]  so much of it the server asked for
   */
  wait(delay, asked = 0) {
    return new Promise((/** @type {(value?: unknown) => void} */ resolve) => {
      const done = () => {
        stop();
        this.#waits.delete(done);
        resolve();
      };
      const stop = later(delay, done);
      // While a machine sleeps, a timer stands still, and the time of day goes on.
      this.#waits.set(done, asked > 0 ? Date.now() + Math.min(asked, delay) : 0);
    });
  }

  /**
   * Try now.
   * @param {boolean} [all]  also where the server asked for more time
   */
  cut(all = false) {
    const at = Date.now();
    for (const [done, from] of [...this.#waits]) if (all || at >= from) done();
  }
}
