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

/** @param {Record<string, any>} data @returns {Receipt} */
export function receiptOf({ cursor, wanted = 0, written = 0, behind = 0, node, durability, reply, reply_base64 }) {
  const bytes = typeof reply_base64 === "string" && Uint8Array.from(atob(reply_base64), (one) => one.charCodeAt(0));
  const replied = bytes ? { reply: bytes } : reply !== undefined && { reply };
  const shared = node !== undefined && { node, durability };
  return { cursor, wanted, written, behind, ...shared, ...replied };
}

/**
 * The event to publish.
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
  if (event.type.startsWith(OURS)) throw new TypeError(`type: types that start with ${OURS} are reserved`);
  if (data instanceof ArrayBuffer || ArrayBuffer.isView(data)) {
    event.datacontenttype ??= "application/octet-stream";
    event.data_base64 = base64Of(data);
  } else if (data !== undefined) {
    event.datacontenttype ??= typeof data === "string" ? "text/plain" : "application/json";
    event.data = data;
  }
  return event;
}

/** @param {string} name @param {unknown} value */
function attribute(name, value) {
  if (value instanceof Date) return value.toISOString();
  if (name === "audience" && typeof value === "object") {
    return JSON.stringify(asArray(/** @type {Filter} */ (value)));
  }
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
