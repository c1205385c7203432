/**
 * The queue of one `for await`: what was handed out to it, and what it hasn't taken yet.
 *
 * It is bounded. When something comes while it is full, its place in the stream stays behind, and the server's log is the buffer: the
 * connection is wound back to this place as soon as half of the queue is free. Nothing else waits for it meanwhile.
 */

/**
 * @typedef {import("./event.js").CloudEvent} CloudEvent
 * @typedef {import("./notification.js").Notification} Notification
 * @typedef {import("./place.js").Place} Place
 */

/**
 * What one `for await` has not taken yet.
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
   * @param {Place} place  where it is in the stream
   * @param {(queue: Queue) => void} taken
   * @param {(queue: Queue) => void} left
   */
  constructor(limit, place, taken, left) {
    this.limit = limit;
    this.place = place;
    this.taken = taken;
    this.left = left;
  }

  get hasRoom() {
    return this.#items.length <= this.limit / 2;
  }

  /** @param {CloudEvent} event */
  hear(event) {
    if (!this.place.isNext(event)) return;
    if (this.#items.length >= this.limit) this.place.isBehind = true;
    else this.#put(this.place.take(event));
  }

  /** @param {Notification} item */
  #put(item) {
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
