/**
 * Time: a clock for durations, timers that can't overflow, and promises that something else settles.
 */

/** No timer is set for more milliseconds than this, whatever an option or a server says. */
export const LONGEST = 3_600_000;

/** A clock for durations, in milliseconds. Setting the time of day doesn't change it. */
export function now() {
  return performance.now();
}

/**
 * Call back after this many milliseconds, `LONGEST` at most, because a browser treats 2^31 as 0. Returns a function that stops it.
 * @param {number} ms
 * @param {() => void} callback
 */
export function later(ms, callback) {
  const timer = setTimeout(callback, Math.min(ms, LONGEST));
  return () => clearTimeout(timer);
}

/**
 * A promise, and the functions that settle it. (`Promise.withResolvers` is too new.)
 */
export function withResolvers() {
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
