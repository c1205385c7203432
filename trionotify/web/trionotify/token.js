/**
 * The token: what lets this client in, and where it comes from.
 *
 * An application gives a token, or a function that gets one, which is asked for each connection. There is one call at a time,
 * and all that ask meanwhile get its result. A call that takes longer than `connectTimeout` has failed, so one that never
 * ends doesn't stand in the way of the next one.
 */

/** What a header may have. (Errors never repeat what the function has returned.) */
const SENDABLE = /^[\x20-\x7e]+$/;

export class Token {
  /** The newest one; undefined before the first, and without the option. @type {string | undefined} */
  last;
  #given;
  #within;
  /** @type {Promise<string | undefined> | null} */
  #flight = null;

  /**
   * @param {string | (() => string | Promise<string>) | undefined} given
   * @param {<T>(promise: Promise<T>) => Promise<T>} within  what is promised, if it is kept in time
   */
  constructor(given, within) {
    this.#given = given;
    this.#within = within;
  }

  /** Whether there may be another one the next time. */
  get renews() {
    return typeof this.#given === "function";
  }

  /** A fresh one. Throws what the function throws. */
  fresh() {
    // One that comes too late doesn't replace a newer one.
    return (this.#flight ??= this.#within(this.#ask())
      .then((token) => (this.last = token))
      .finally(() => (this.#flight = null)));
  }

  async #ask() {
    const given = this.#given;
    const token = typeof given === "function" ? await given() : given;
    if (token === undefined && !this.renews) return undefined;
    if (typeof token !== "string") throw new TypeError(`the function must return a string, not ${typeof token}`);
    if (!SENDABLE.test(token)) throw new TypeError("must be printable ASCII and not empty, because it is sent in a header");
    return token;
  }
}
