/**
 * The drawer: one event with everything that is known of it, its data laid out, and programs that publish it again.
 *
 * It is a modal dialog, so the browser keeps the focus in it and gives it back. The arrow keys to the left and right
 * go to the next newer and the next older event of the stream.
 */

import { eventsUrl, guard } from "./access.js";
import { CodeBlock } from "./code_block.js";
import { bytes, clock, element, find } from "./elements.js";
import { toPublish } from "./recipes.js";
import { hue } from "./stream.js";

/** Attributes that can become a filter. */
const FILTERED = ["type", "subject", "source"];
/** Attributes that the server sets again. */
const NOT_REPEATED = ["id", "time"];

export class Drawer {
  #dialog = find("drawer");
  #code = new CodeBlock(find("drawer-code"), "Publish it again");
  /** @type {any} */
  #shown = null;
  #events;
  #filter;

  /**
   * @param {() => any[]} events  those of the stream, newest first
   * @param {(filter: object) => void} filter  one was chosen
   */
  constructor(events, filter) {
    this.#events = events;
    this.#filter = filter;
    find("close").addEventListener("click", () => this.#dialog.close());
    find("newer").addEventListener("click", () => this.#step(-1));
    find("elder").addEventListener("click", () => this.#step(1));
    this.#dialog.addEventListener("click", (/** @type {Event} */ { target }) => {
      // What lies beside the dialog counts as the dialog itself.
      if (target === this.#dialog) this.#dialog.close();
    });
    this.#dialog.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
      // In code, these keys scroll.
      if (event.target instanceof HTMLPreElement) return;
      if (event.key === "ArrowLeft") this.#step(-1);
      if (event.key === "ArrowRight") this.#step(1);
    });
  }

  /** @param {any} notification */
  open(notification) {
    this.#show(notification);
    if (!this.#dialog.open) this.#dialog.showModal();
  }

  /** @param {number} by */
  #step(by) {
    const events = this.#events();
    const next = events[events.indexOf(this.#shown) + by];
    if (next) this.#show(next);
  }

  /** @param {any} notification */
  #show(notification) {
    this.#shown = notification;
    const events = this.#events();
    const at = events.indexOf(notification);
    // Disabled in earnest, they would lose the focus.
    find("newer").setAttribute("aria-disabled", String(at <= 0));
    find("elder").setAttribute("aria-disabled", String(at < 0 || at === events.length - 1));
    const { attributes, cursor, type, data } = notification;
    const title = find("drawer-title");
    title.className = `type ${hue(type)}`;
    title.textContent = title.title = type;
    const rows = Object.entries({ ...attributes, ...(cursor && { cursor }) });
    find("drawer-attributes").replaceChildren(...rows.flatMap(([name, value]) => this.#row(name, value)));
    find("drawer-data").replaceChildren(...laidOut(data));
    const repeated = Object.fromEntries(Object.entries(attributes).filter(([name]) => !NOT_REPEATED.includes(name)));
    const isBinary = data instanceof Uint8Array;
    find("drawer-code").hidden = isBinary;
    find("drawer-code").previousElementSibling.hidden = isBinary;
    if (!isBinary) this.#code.set(toPublish(eventsUrl(), { data: data === undefined ? "" : data, attributes: repeated, guard: guard() }));
    find("drawer-body").scrollTop = 0;
  }

  /** @param {string} name @param {any} value */
  #row(name, value) {
    const shown = element("dd", {}, String(value));
    if (name === "time") shown.append(` (${clock(new Date(value))})`);
    if (FILTERED.includes(name)) {
      const button = element("button", { type: "button" }, "Filter");
      button.setAttribute("aria-label", `Filter: ${name} is ${value}`);
      button.addEventListener("click", () => {
        this.#dialog.close();
        this.#filter({ exact: { [name]: String(value) } });
      });
      shown.append(button);
    }
    return [element("dt", {}, name), shown];
  }
}

/** JSON indented and coloured, text as it is, bytes in hexadecimal. @param {any} data @returns {(Node | string)[]} */
function laidOut(data) {
  if (data === undefined) return ["none"];
  if (data instanceof Uint8Array) return [hex(data)];
  if (typeof data !== "string") return coloured(JSON.stringify(data, null, 2));
  try {
    const found = JSON.parse(data);
    if (typeof found === "object" && found !== null) return coloured(JSON.stringify(found, null, 2));
  } catch {
    // It is text.
  }
  return [data];
}

/** Bytes that are shown at most. */
const SHOWN = 512;

/** @param {Uint8Array} data */
function hex(data) {
  const lines = [];
  for (let at = 0; at < Math.min(data.length, SHOWN); at += 16) {
    const line = [...data.slice(at, Math.min(at + 16, SHOWN))].map((byte) => byte.toString(16).padStart(2, "0"));
    lines.push(`${at.toString(16).padStart(4, "0")}  ${line.join(" ")}`);
  }
  return `${lines.join("\n")}${data.length > SHOWN ? "\n…" : ""}\n${bytes(data.length)}`;
}

const TOKENS = /("(?:[^"\\]|\\.)*")(\s*:)?|(-?\d[\d.eE+-]*)|\b(true|false|null)\b/g;

/** The most characters with colours. More elements than these need slow a browser down, or are too many for it. */
const COLOURED = 100_000;

/** @param {string} text  indented JSON @returns {(Node | string)[]} */
function coloured(text) {
  if (text.length > COLOURED) return [text];
  /** @type {(Node | string)[]} */
  const parts = [];
  let done = 0;
  for (const found of text.matchAll(TOKENS)) {
    const [, string, colon, number] = found;
    const kind = string ? (colon ? "key" : "string") : number ? "number" : "word";
    const token = string ?? found[0];
    parts.push(text.slice(done, found.index), element("span", { class: `json-${kind}` }, token));
    done = found.index + token.length;
  }
  return [...parts, text.slice(done)];
}
