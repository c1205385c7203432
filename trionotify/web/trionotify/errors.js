/**
 * Errors: what an application is told when the server refuses something, or when the client is over.
 *
 * A `Problem` is the server's own answer, an RFC 9457 problem document. A `Closed` has a WebSocket close code. Everything
 * else that can go wrong passes by itself, and is an `Error` in a `reconnecting` event. Errors cross from one tab to another
 * as plain objects (`packed`, `unpacked`), because a structured clone would lose their class and what they have of their own.
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

/** Classes that errors keep in another tab, the more special ones first. @type {Record<string, any>} */
const CLASSES = { Problem, Closed, DOMException, TypeError, RangeError, SyntaxError, ReferenceError, URIError, Error };
/** The most errors that are packed together, each the cause of the one before. */
const DEEPEST = 5;

/**
 * @typedef {object} Packed  an error for another tab
 * @property {string} kind  the name of its class
 * @property {string} name
 * @property {string} message
 * @property {Record<string, any>} fields  its own, as far as JSON has them
 * @property {{ error: Packed } | { value: any }} [cause]
 */

/** @param {Error} error @returns {Packed} */
export function packed(error, depth = DEEPEST) {
  const { name, message, cause } = error;
  const kind = Object.keys(CLASSES).find((one) => error instanceof CLASSES[one]) ?? "Error";
  const fields = Object.fromEntries(Object.entries(error).map(([key, value]) => [key, inJson(value)]));
  const isDeeper = cause instanceof Error && depth > 1;
  return { kind, name, message, fields, cause: isDeeper ? { error: packed(cause, depth - 1) } : { value: inJson(cause) } };
}

/** @param {Packed} error  of another tab @returns {Error} */
export function unpacked({ kind, name, message, fields, cause = { value: undefined } }) {
  const error = made(kind, name, message, fields);
  const why = "error" in cause ? unpacked(cause.error) : cause.value;
  const hidden = { name, message, ...(why !== undefined && { cause: why }) };
  for (const [key, value] of Object.entries({ ...hidden, ...fields })) {
    const enumerable = key in fields;
    Object.defineProperty(error, key, { value, enumerable, writable: true, configurable: true });
  }
  return error;
}

/** @param {string} kind @param {string} name @param {string} message @param {Record<string, any>} fields @returns {Error} */
function made(kind, name, message, { document, code, reason }) {
  if (kind === "Problem") return new Problem(document ?? {});
  if (kind === "Closed") return new Closed(code, reason);
  if (kind === "DOMException") return new DOMException(message, name);
  return new (CLASSES[kind] ?? Error)(message);
}

/** A copy of a value, as far as JSON has it. @param {unknown} value @returns {any} */
function inJson(value) {
  try {
    return JSON.parse(JSON.stringify(value));
  } catch {
    return undefined;
  }
}
