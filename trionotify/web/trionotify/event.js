/**
 * Events as they are on the wire, in the JSON format of CloudEvents 1.0: read, recognized, and made from what an
 * application publishes.
 *
 * The server's own events have types that start with `trionotify.`; `kindOf` gives the rest of the type. An event is known
 * by its source and id together (`keyOf`): this pair is what makes publishing again safe.
 */

import { asArray } from "./filters.js";

/**
 * @typedef {import("../trionotify.d.ts").Filter} Filter
 * @typedef {import("../trionotify.d.ts").Receipt} Receipt
 *
 * As it is on the wire.
 * @typedef {Record<string, any>} CloudEvent
 */

/** Types of the server's own events start with this. */
export const OURS = "trionotify.";

/** The most characters of an attribute. An id that is longer isn't repeated in the server's answer. */
const LONGEST_TEXT = 4096;
/** The most attributes of an event, its data included. */
const MOST = 100;

/** 96 random bits. (`crypto.randomUUID` is for secure contexts only.) */
export function randomId() {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** The event in a message; undefined if there is none. @param {unknown} text */
export function eventOf(text) {
  try {
    const event = JSON.parse(/** @type {string} */ (text));
    return typeof event?.type === "string" ? /** @type {CloudEvent} */ (event) : undefined;
  } catch {
    return undefined;
  }
}

/** The type of one of the server's own events, without the prefix; null for other events. @param {CloudEvent} event */
export function kindOf({ type }) {
  return type.startsWith(OURS) ? type.slice(OURS.length) : null;
}

/** The key by which an event is recognized. @param {CloudEvent} event */
export function keyOf({ source, id }) {
  return JSON.stringify([source, id]);
}

/** How long a text is on the wire. @param {string} text */
export function bytesOf(text) {
  return new TextEncoder().encode(text).length;
}

/** @param {Record<string, any>} data @returns {Receipt} */
export function receiptOf({ cursor, wanted = 0, written = 0, behind = 0, node, durability, reply, reply_base64 }) {
  const bytes = typeof reply_base64 === "string" && Uint8Array.from(atob(reply_base64), (one) => one.charCodeAt(0));
  const replied = bytes ? { reply: bytes } : reply !== undefined && { reply };
  const shared = node !== undefined && { node, durability };
  return { cursor, wanted, written, behind, ...shared, ...replied };
}

/**
 * The event to publish. What the server would refuse without the event's id is refused here, because that answer would name no event.
 * @param {unknown} data
 * @param {Record<string, unknown>} attributes
 */
export function eventFor(data, attributes) {
  /** @type {CloudEvent} */
  const event = { specversion: "1.0" };
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || name === "specversion" || name === "cursor") continue;
    if (!/^[a-z0-9]+$/.test(name) || name === "data") {
      throw new TypeError(`attribute name '${name}': must consist of lower-case letters a to z and digits`);
    }
    event[name] = attribute(name, value);
  }
  for (const name of ["id", "source", "type"]) {
    if (typeof event[name] !== "string") throw new TypeError(`${name}: must be a string, not ${typeof event[name]}`);
    if (event[name] === "") throw new TypeError(`${name}: must not be empty`);
  }
  if ([...event.id].length > LONGEST_TEXT) throw new RangeError(`id: must have at most ${LONGEST_TEXT} characters`);
  if (event.type.startsWith(OURS)) throw new TypeError(`type: types that start with ${OURS} are reserved`);
  if (data instanceof ArrayBuffer || ArrayBuffer.isView(data)) {
    event.datacontenttype ??= "application/octet-stream";
    event.data_base64 = base64Of(data);
  } else if (data !== undefined) {
    event.datacontenttype ??= typeof data === "string" ? "text/plain" : "application/json";
    checkJson("data", data);
    event.data = data;
  }
  const count = Object.keys(event).length;
  if (count > MOST) throw new RangeError(`attributes: an event may have at most ${MOST}, its data included, not ${count}`);
  return event;
}

/**
 * JSON of a value. A TypeError if JSON has no such value, or if the server can't read it.
 * @param {string} name
 * @param {unknown} value
 */
export function checkJson(name, value) {
  const text = JSON.stringify(value);
  // JSON writes NaN and invalid dates as null, and leaves functions and symbols out.
  if (text === undefined || (text === "null" && value !== null)) {
    const what = typeof value === "function" ? "a function" : String(value);
    throw new TypeError(`${name}: ${what} can't be written as JSON`);
  }
  // Halves of surrogate pairs, and nothing else of \ud…, are written as escapes.
  if (/(?:^|[^\\])(?:\\\\)*\\ud[89a-f]/.test(text)) throw new TypeError(`${name}: ${HALF}`);
  return text;
}

const HALF = "must not contain half of a surrogate pair; was a text cut within a character, as an emoji?";

/** @param {string} name @param {unknown} value */
function attribute(name, value) {
  if (value instanceof Date) {
    if (Number.isNaN(value.getTime())) throw new TypeError(`${name}: must be a valid date`);
    return value.toISOString();
  }
  if (name === "audience" && typeof value === "object") {
    return JSON.stringify(asArray(/** @type {Filter} */ (value)));
  }
  if (typeof value === "string" && /[\ud800-\udfff]/u.test(value)) throw new TypeError(`${name}: ${HALF}`);
  if (typeof value === "string" || typeof value === "boolean" || Number.isInteger(value)) return value;
  throw new TypeError(`${name}: must be a string, an integer or a boolean, not ${typeof value}`);
}

/** @param {ArrayBuffer | ArrayBufferView} data */
function base64Of(data) {
  const bytes = "buffer" in data ? new Uint8Array(data.buffer, data.byteOffset, data.byteLength) : new Uint8Array(data);
  let text = "";
  for (const byte of bytes) text += String.fromCharCode(byte);
  return btoa(text);
}
