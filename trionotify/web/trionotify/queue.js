/**
 * The queue of one `for await`: what was handed out to it, and what it hasn't taken yet.
 *
 * It is bounded. When it is full its client takes nothing more, and the server's log is the buffer: the connection is wound
 * back to where the iteration is as soon as half of the queue is free.
 */

/** @typedef {import("./notification.js").Notification} Notification */

/**
 * What one `for await` has not taken yet. It is bounded: when it is full, its client takes no more.
 *
 * @implements {AsyncIterableIterator<Notification>}
 */
export class Queue {
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

  /** @param {Error | null} error  raised when everything was taken */
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
