/**
 * A notification, as an application sees it: the event that came over the wire, and what was lost in front of it.
 *
 * It keeps the parsed event and computes everything else when it is asked for, so that a notification that is not
 * looked at costs no more than its JSON.
 */

/**
 * @typedef {import("./event.js").CloudEvent} CloudEvent
 * @typedef {import("../trionotify.d.ts").Loss} Loss
 */

/** Members of an event that are no attributes, or have a place of their own. */
const NOT_ATTRIBUTES = new Set(["data", "data_base64", "specversion", "cursor"]);

/** One notification: its data and attributes. The client makes it. */
export class Notification {
  #event;
  /** @type {unknown} */
  #bytes;

  /**
   * @param {CloudEvent} event
   * @param {Loss | null} [gap]
   */
  constructor(event, gap = null) {
    this.#event = event;
    /** What was lost just before this one; null if nothing was. */
    this.gap = gap;
  }

  /** JSON is parsed, text is a string, bytes are a Uint8Array; undefined if there is none. */
  get data() {
    const { data, data_base64: base64 } = this.#event;
    if (base64 === undefined) return data;
    return (this.#bytes ??= Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0)));
  }

  /** The data, parsed if it is text. For JSON that came as plain text. Throws a SyntaxError. */
  json() {
    const { data } = this;
    if (data instanceof Uint8Array) return JSON.parse(new TextDecoder().decode(data));
    return typeof data === "string" && !this.#isJson() ? JSON.parse(data) : data;
  }

  #isJson() {
    return /^application\/json|\+json/i.test(this.datacontenttype ?? "application/json");
  }

  /** All attributes, extensions included. */
  get attributes() {
    const entries = Object.entries(this.#event);
    return Object.fromEntries(entries.filter(([name]) => !NOT_ATTRIBUTES.has(name)));
  }

  /** Resume after this one: the `since` of another client. Undefined if the log doesn't have it. */
  get cursor() {
    return /** @type {string | undefined} */ (this.#event.cursor);
  }

  get id() {
    return String(this.#event.id);
  }

  get source() {
    return String(this.#event.source);
  }

  get type() {
    return String(this.#event.type);
  }

  get subject() {
    return /** @type {string | undefined} */ (this.#event.subject);
  }

  /** When it was made, in RFC 3339. */
  get time() {
    return /** @type {string | undefined} */ (this.#event.time);
  }

  get datacontenttype() {
    return /** @type {string | undefined} */ (this.#event.datacontenttype);
  }

  /** The id of the only clients that get it. */
  get to() {
    return /** @type {string | undefined} */ (this.#event.to);
  }

  /** The whole event as JSON has it. */
  toJSON() {
    return this.#event;
  }
}
