/**
 * Errors: what an application is told when the server refuses something, or when the client is over.
 *
 * A `Problem` is the server's own answer, an RFC 9457 problem document. A `Closed` has a WebSocket close code. Everything
 * else that can go wrong passes by itself, and is an `Error` in a `reconnecting` event. Errors cross from one tab to another
 * as plain objects (`packed`, `unpacked`), because a structured clone would lose their class.
 */

/** The server refused something: a handshake, an event, filters. Its RFC 9457 problem document says why. */
export class Problem extends Error {
  /** @param {Record<string, any>} document */
  constructor(document) {
    super(`${document.status}: ${document.detail ?? document.title ?? "refused"}`);
    this.name = "Problem";
    /** The HTTP status. */
    this.status = Number(document.status);
    /** What is wrong, in words; it begins with the name of the thing at fault. */
    this.detail = String(document.detail ?? document.title ?? "");
    /** The whole document. */
    this.document = document;
  }
}

/** The connection is over, and another attempt would end in the same way; or `close()` was called. */
export class Closed extends Error {
  /**
   * @param {number} code  a WebSocket close code
   * @param {string} [reason]
   */
  constructor(code, reason = "") {
    super(`closed: ${code} ${reason}`.trimEnd());
    this.name = "Closed";
    this.code = code;
    this.reason = reason;
  }
}

/** What the server would answer to an event from a client that may only subscribe. It would also close the connection. */
export function notAllowed() {
  const detail = "role: this client may only subscribe; to publish, connect with role=both, and with a signed query or a token that allows it";
  return new Problem({ title: "Forbidden", status: 403, detail });
}

/**
 * Whether a function of the application has thrown an error of this module: so it says that this is the end.
 * @param {unknown} error
 * @returns {error is Problem | Closed}
 */
export function isFinal(error) {
  return error instanceof Problem || error instanceof Closed;
}

/** @param {unknown} error  anything may be thrown */
export function messageOf(error) {
  return error instanceof Error ? error.message : String(error);
}

/** @param {Error} error  for another tab */
export function packed(error) {
  if (error instanceof Problem) return { document: error.document };
  if (error instanceof Closed) return { code: error.code, reason: error.reason };
  return { message: error.message };
}

/** @param {Record<string, any>} error  of another tab */
export function unpacked({ document, code, reason, message }) {
  if (document) return new Problem(document);
  return code === undefined ? new Error(message) : new Closed(code, reason);
}
