/**
 * The stream: the newest events, as rows.
 *
 * It keeps at most `KEPT` events and shows `PAGE` of them, more on request. Many may come in one frame of the screen, so rows
 * are only made when it is drawn, and only those that will be seen. While it is paused, what comes is kept and counted.
 * One row at a time is in the order of the Tab key; arrow keys go to the others.
 */

import { clock, element, find, keepFocus, several } from "./elements.js";

const KEPT = 500;
/** Fewer on a phone, where the figures stand below the stream. */
const PAGE = matchMedia("(max-width: 40rem)").matches ? 15 : 50;

/** A row is an event, or a note: something that happened to the stream. @typedef {{ notification?: any, note?: string }} Row */

export class Stream {
  /** Newest first. @type {Row[]} */
  #rows = [];
  /** What came since it was drawn, oldest first. @type {Row[]} */
  #waiting = [];
  #shown = PAGE;
  #isPaused = false;
  #isDue = false;
  #list = find("stream");
  #open;
  #empty;

  /**
   * @param {(notification: any) => void} open  a row was chosen
   * @param {() => (Node | string)[]} empty  what to show in place of rows
   */
  constructor(open, empty) {
    this.#open = open;
    this.#empty = empty;
    find("pause").addEventListener("click", () => this.#pause());
    find("clear").addEventListener("click", () => this.clear());
    find("older").addEventListener("click", () => {
      const first = this.#shown;
      this.#shown += PAGE;
      this.#redraw(() => this.#list.querySelectorAll("button")[first]);
    });
    this.#list.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => this.#walk(event));
  }

  /** All events that are kept, newest first. */
  get notifications() {
    return this.#rows.flatMap(({ notification }) => notification ?? []);
  }

  /**
   * The event with this cursor, if it has come. It may not be drawn yet, for example in a pause.
   * @param {string} cursor
   */
  find(cursor) {
    return [...this.#rows, ...this.#waiting].find(({ notification }) => notification?.cursor === cursor)?.notification;
  }

  /** @param {Row} row */
  add(row) {
    this.#waiting.push(row);
    if (this.#waiting.length > KEPT) this.#waiting.shift();
    this.#plan();
  }

  clear() {
    this.#rows = [];
    this.#waiting = [];
    this.#shown = PAGE;
    this.#redraw();
  }

  /** Nothing is there: say why. */
  explain() {
    if (this.#rows.length === 0) this.#redraw();
  }

  #pause() {
    this.#isPaused = !this.#isPaused;
    this.#plan();
    this.#label();
  }

  #label() {
    const more = this.#waiting.length ? ` (${this.#waiting.length} new)` : "";
    find("pause").textContent = this.#isPaused ? `Resume${more}` : "Pause";
    find("pause").classList.toggle("primary", this.#isPaused);
    const events = this.notifications.length;
    find("count").textContent = events ? several(events, "event") : "";
    const left = this.#rows.length - this.#shown;
    find("older").hidden = left <= 0;
    find("older").textContent = `Show ${Math.min(left, PAGE)} older`;
  }

  #plan() {
    if (this.#isDue) return;
    this.#isDue = true;
    requestAnimationFrame(() => {
      this.#isDue = false;
      if (!this.#isPaused) this.#draw();
      this.#label();
    });
  }

  #draw() {
    const fresh = this.#waiting.splice(0).reverse();
    const isFirst = this.#rows.length === 0;
    this.#rows = [...fresh, ...this.#rows].slice(0, KEPT);
    if (isFirst) return this.#redraw();
    const made = fresh.slice(0, this.#shown).map((row) => rowOf(row, this.#open));
    for (const one of made) one.firstElementChild?.classList.add("fresh");
    this.#list.prepend(...made);
    keepFocus(
      () => {
        while (this.#list.children.length > this.#shown) this.#list.lastChild.remove();
      },
      () => [...this.#list.querySelectorAll("button")].at(-1),
    );
    this.#rove();
  }

  /** @param {() => HTMLElement | undefined} [next]  what has the focus if a row or a button had it that is gone */
  #redraw(next = () => find("tab-stream")) {
    keepFocus(() => this.#replace(), next);
    this.#rove();
  }

  #replace() {
    this.#list.replaceChildren(...this.#rows.slice(0, this.#shown).map((row) => rowOf(row, this.#open)));
    find("log").hidden = this.#rows.length === 0;
    find("empty").hidden = this.#rows.length > 0;
    if (this.#rows.length === 0) find("empty").replaceChildren(...this.#empty());
    this.#label();
  }

  /** Let one row be reached by Tab: the one that has the focus, or the first. */
  #rove() {
    const rows = [...this.#list.querySelectorAll("button")];
    const chosen = rows.includes(document.activeElement) ? document.activeElement : rows[0];
    for (const row of rows) row.tabIndex = row === chosen ? 0 : -1;
  }

  /** @param {KeyboardEvent} event */
  #walk(event) {
    const rows = [...this.#list.querySelectorAll("button")];
    const at = rows.indexOf(document.activeElement);
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: rows.length - 1 }[event.key];
    if (to === undefined || !rows[to]) return;
    event.preventDefault();
    rows[to].focus();
    this.#rove();
  }
}

/** A colour for a type, the same each time. @param {string} type */
export function hue(type) {
  let sum = 0;
  for (const letter of type) sum = (sum * 239 + letter.charCodeAt(0)) % 9973;
  return `hue-${sum % 8}`;
}

/** @param {any} data  of an event, in one line */
function inLine(data) {
  if (data === undefined) return "";
  if (data instanceof Uint8Array) return several(data.length, "byte");
  return typeof data === "string" ? data : JSON.stringify(data);
}

/** @param {Row} row @param {(notification: any) => void} open */
function rowOf({ notification, note }, open) {
  if (note !== undefined) return element("li", { class: "note" }, note);
  const { type, subject = "", time, data } = notification;
  const at = new Date(time ?? Date.now());
  const button = element(
    "button",
    { type: "button", tabIndex: -1 },
    element("time", { dateTime: time ?? "" }, clock(at)),
    element("span", { class: `type ${hue(type)}`, title: type }, type),
    element("span", { class: "subject", title: subject }, subject),
    element("span", { class: "data" }, inLine(data).slice(0, 400)),
  );
  button.addEventListener("click", () => open(notification));
  return element("li", {}, button);
}
