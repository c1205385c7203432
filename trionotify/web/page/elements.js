/**
 * Elements: how the page's modules find, make and fill parts of the document, and how figures and times are written.
 *
 * Whatever comes from a server is set as text, never as HTML. No element gets an inline style, because the page's
 * Content-Security-Policy forbids it.
 */

/** @param {string} id @returns {any} the element with this id */
export const find = (id) => document.getElementById(id);

/**
 * @param {string} tag
 * @param {Record<string, any>} [properties]  `class`, an attribute with a dash, or a property of the element
 * @param {...(Node | string)} children
 * @returns {any}
 */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "class" || name.includes("-")) made.setAttribute(name, value);
    else Object.assign(made, { [name]: value });
  }
  made.append(...children);
  return made;
}

/**
 * Change the document. If that takes away what has the focus, `next` gets it, so that a keyboard goes on from there and not from the top.
 * @param {() => void} change
 * @param {() => HTMLElement | null | undefined} next
 */
export function keepFocus(change, next) {
  const before = document.activeElement;
  change();
  if (!before || before === document.body) return;
  if (!before.isConnected || before.getClientRects().length === 0) next()?.focus();
}

const whole = new Intl.NumberFormat("en");

/** A count. @param {number} value */
export const count = (value) => whole.format(value);

/** @param {number} number @param {string} one @param {string} [many] */
export const several = (number, one, many = `${one}s`) => `${count(number)} ${number === 1 ? one : many}`;

/** A measurement, to three digits; a dash if there is none. @param {number | null | undefined} value */
export function short(value) {
  if (value == null) return "–";
  if (value >= 1e6) return `${whole.format(Number((value / 1e6).toPrecision(3)))}M`;
  if (value >= 1e5) return `${whole.format(Number((value / 1e3).toPrecision(3)))}k`;
  return whole.format(Number(value.toPrecision(value >= 1000 ? 5 : 3)));
}

/** @param {number} value */
export function bytes(value) {
  const at = Math.min(3, Math.max(0, Math.floor(Math.log2(value || 1) / 10)));
  return `${short(value / 1024 ** at)} ${["bytes", "KiB", "MiB", "GiB"][at]}`;
}

/** @param {number} seconds */
export function duration(seconds) {
  const units = /** @type {const} */ ([["day", 86400], ["h", 3600], ["min", 60], ["s", 1]]);
  const at = Math.max(0, units.findIndex(([, length]) => seconds >= length));
  const [unit, length] = seconds < 1 ? units[3] : units[at];
  const number = Math.floor(Math.max(seconds, 0) / length);
  return unit === "day" ? several(number, "day") : `${number} ${unit}`;
}

/** The time of day, with the date unless it is today. @param {Date} date */
export function clock(date) {
  const time = date.toLocaleTimeString("en-GB");
  return date.toDateString() === new Date().toDateString() ? time : `${date.toLocaleDateString("en-CA")} ${time}`;
}
