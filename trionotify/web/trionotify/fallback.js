/**
 * The fallback: which transport the next attempt uses.
 *
 * WebSocket is first. After `USELESS` of them in a row that never opened, or were cut before they delivered anything, Server-Sent
 * Events take over: some proxies let nothing else through. When that stream ends, a WebSocket is tried again. With the
 * option `transport` there is no choice.
 */

import { Closed } from "./errors.js";

/**
 * @typedef {import("./socket_link.js").Ending} Ending
 * @typedef {import("../trionotify.d.ts").Transport} Transport
 */

const USELESS = 3;

export class Fallback {
  /** @type {Transport} */
  transport;
  #isFree;
  /** WebSockets of no use since the last good one. */
  #useless = 0;

  /** @param {"auto" | Transport} option */
  constructor(option) {
    this.transport = option === "sse" ? "sse" : "websocket";
    this.#isFree = option === "auto";
  }

  /**
   * A handshake failed, and the server answers over HTTP. Whether its answer, a stream, is to be used.
   */
  takesOver() {
    this.#useless += 1;
    if (!this.#isFree || this.#useless < USELESS) return false;
    this.transport = "sse";
    return true;
  }

  /**
   * A connection ended: choose for the next one.
   * @param {Ending} ending
   * @param {boolean} isUseful  it delivered something
   * @param {boolean} hasLasted
   */
  choose(ending, isUseful, hasLasted) {
    if (!this.#isFree) return;
    if (this.transport === "sse") {
      this.transport = "websocket";
    } else if (hasLasted) {
      this.#useless = 0;
    } else if (ending.opened && !isUseful && !ending.quiet && !(ending.error instanceof Closed)) {
      // It was cut without a Close frame, and so without a reason.
      if (this.takesOver()) ending.quiet = true;
    }
  }
}
