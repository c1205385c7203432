/**
 * A link over WebSocket: one socket, from its handshake to its end.
 *
 * It has no state of its own beyond "left". The connection hears each message, and then the end once; after `close()` it
 * hears nothing more. A browser doesn't say why a handshake failed, so the end only says what the close code allows:
 * whether connecting again makes sense.
 */

import { Closed } from "./errors.js";

/**
 * How a link ended. `again`: connect again, after at least `after` milliseconds; at once and without telling the application
 * if `quiet`. `isOwn`: the application ended it.
 * @typedef {{ again: boolean, error: Error, after?: number, quiet?: boolean, opened?: boolean, isOwn?: boolean }} Ending
 *
 * @typedef {import("../trionotify.d.ts").Transport} Transport
 */

const SUBPROTOCOL = "cloudevents.json";
/** Close codes below 3000 after which the same client would meet the same end. */
const FINAL_CODES = new Set([1000, 1002, 1003, 1007, 1008, 1009, 1011]);
const PASSING_CODES = new Set([4429]);

/** One WebSocket, from the handshake to its end. */
export class SocketLink {
  /** @type {Transport} */
  transport = "websocket";
  #socket;
  #left = false;

  /**
   * @param {typeof globalThis.WebSocket} Socket
   * @param {URL} url
   * @param {(text: unknown) => void} hear
   * @param {(ending: Ending) => void} ended
   */
  constructor(Socket, url, hear, ended) {
    const address = new URL(url);
    address.protocol = address.protocol.replace(/^http/, "ws");
    let opened = false;
    this.#socket = new Socket(address.href, SUBPROTOCOL);
    this.#socket.addEventListener("open", () => (opened = true));
    this.#socket.addEventListener("message", ({ data }) => this.#left || hear(data));
    // The close event that follows has everything that is known. (Node's `ws` throws an error that has no listener.)
    this.#socket.addEventListener("error", () => {});
    this.#socket.addEventListener("close", ({ code, reason }) => {
      if (!this.#left) ended({ ...endingOf(code, reason), opened });
    });
  }

  /** @param {string} text */
  send(text) {
    this.#socket.send(text);
  }

  /** Leave it: nothing more is heard of it. */
  close() {
    this.#left = true;
    this.#socket.close(1000);
  }
}

/** @param {number} code @param {string} reason @returns {Ending} */
function endingOf(code, reason) {
  // 1005: a close without a code; 1006: none at all; 1015: no TLS.
  if ([1005, 1006, 1015].includes(code)) return { again: true, error: new Error("the connection was lost") };
  // The meaning of an application's own code is not known here, so such a code is final.
  const again = PASSING_CODES.has(code) || (code < 3000 && !FINAL_CODES.has(code));
  return { again, error: new Closed(code, String(reason)) };
}
