/**
 * The options of a client that aren't part of the query: checked, and completed with their defaults.
 *
 * A misspelled option is an error that names the one that was probably meant, because an option that is silently ignored
 * is found much later.
 */

import { LONGEST } from "./time.js";

/**
 * @typedef {import("../trionotify.d.ts").Options} Options
 * @typedef {import("../trionotify.d.ts").Transport} Transport
 * @typedef {import("../trionotify.d.ts").Filter} Filter
 * @typedef {import("../trionotify.d.ts").Receipt} Receipt
 * @typedef {import("./event.js").CloudEvent} CloudEvent
 *
 * What an application asks of a connection, its own or one that tabs share.
 * @typedef {object} Connected
 * @property {(event: CloudEvent) => Promise<Receipt>} publish
 * @property {(filters: Filter[]) => Promise<string>} choose
 * @property {(cursor: string, always?: boolean) => void} rewind
 * @property {() => void} retry
 * @property {() => void} close
 */

/**
 * Options with their defaults, checked.
 * @typedef {ReturnType<typeof settingsOf>} Settings
 * @param {Options} options
 */
export function settingsOf(options) {
  const { id, role, filters, sql, since, lag, echo, params, share, ...given } = options;
  const others = ["id", "role", "filters", "sql", "since", "lag", "echo", "params", "share"];
  const settings = {
    transport: /** @type {"auto" | Transport} */ ("auto"),
    credentials: /** @type {RequestCredentials} */ ("same-origin"),
    WebSocket: globalThis.WebSocket,
    fetch: globalThis.fetch?.bind(globalThis),
    token: /** @type {Options["token"]} */ (undefined),
    maxBuffered: 1000,
    maxUnacknowledged: 1000,
    firstDelay: 500,
    maxDelay: 30_000,
    connectTimeout: 10_000,
    probeInterval: 25_000,
    probeTimeout: 10_000,
    streamTimeout: 75_000,
  };
  for (const [name, value] of Object.entries(given)) {
    if (!Object.hasOwn(settings, name)) {
      const meant = nearest(name, [...others, ...Object.keys(settings)]);
      throw new TypeError(`${name}: unknown option${meant ? `; did you mean ${meant}?` : ""}`);
    }
    if (value === undefined) continue;
    const key = /** @type {keyof typeof settings} */ (name);
    const isNumber = typeof settings[key] === "number";
    if (isNumber && !(typeof value === "number" && value > 0)) {
      throw new TypeError(`${name}: must be a number greater than 0, not ${JSON.stringify(value)}`);
    }
    Object.assign(settings, { [name]: /(Delay|Interval|Timeout)$/.test(name) ? Math.min(Number(value), LONGEST) : value });
  }
  if (role !== undefined && !["subscriber", "publisher", "both"].includes(role)) {
    throw new TypeError(`role: must be one of subscriber, publisher, both, not ${JSON.stringify(role)}`);
  }
  if (!["undefined", "string", "function"].includes(typeof settings.token)) {
    throw new TypeError(`token: must be a string or a function, not ${typeof settings.token}`);
  }
  if (!["auto", "websocket", "sse"].includes(settings.transport)) {
    throw new TypeError(`transport: must be one of auto, websocket, sse, not ${JSON.stringify(settings.transport)}`);
  }
  if (!["omit", "same-origin", "include"].includes(settings.credentials)) {
    throw new TypeError(`credentials: must be one of omit, same-origin, include, not ${JSON.stringify(settings.credentials)}`);
  }
  if (settings.transport !== "sse" && settings.WebSocket === undefined) {
    throw new TypeError('WebSocket: missing here; write { WebSocket: ws.WebSocket } with the package ws, or { transport: "sse" }');
  }
  const tick = Math.min(5000, settings.probeInterval / 2, settings.probeTimeout / 2);
  return { ...settings, tick };
}

/** The known word that is most like this one, if any is. @param {string} word @param {string[]} words */
function nearest(word, words) {
  const [best] = words.map((known) => ({ known, far: distance(word.toLowerCase(), known.toLowerCase()) })).sort((a, b) => a.far - b.far);
  return best && best.far <= Math.max(1, word.length / 3) ? best.known : undefined;
}

/** How many letters differ (Levenshtein). @param {string} one @param {string} other */
function distance(one, other) {
  let row = Array.from({ length: other.length + 1 }, (_, n) => n);
  for (const [y, letter] of [...one].entries()) {
    const above = row;
    row = [y + 1];
    for (let x = 0; x < other.length; x += 1) {
      row.push(Math.min(row[x] + 1, above[x + 1] + 1, above[x] + Number(letter !== other[x])));
    }
  }
  return row[other.length];
}
