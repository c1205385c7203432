/**
 * Tiles: each figure with its value, its unit, and a sparkline of the last two minutes.
 *
 * The window of time is fixed, so a line starts where the readings start, and a gap in them is a gap in the line. Pointing at
 * a line shows its value there. For readers who don't see the line, it has its range as a text.
 */

import { bytes, clock, element, find, several, short } from "./elements.js";
import { GAP, WINDOW, clientsOf } from "./figures.js";

const WIDTH = 240;
const HEIGHT = 38;
const SVG = "http://www.w3.org/2000/svg";

/** @typedef {import("./figures.js").Figure} Figure */

/** @type {{ id: string, name: string, unit: string, key: keyof Figure, sub: (reading: any, figure?: Figure) => string }[]} */
const TILES = [
  {
    id: "clients",
    name: "Clients",
    unit: "connected",
    key: "clients",
    sub: ({ behind }) => (behind ? `${several(behind, "client")} behind` : "none behind"),
  },
  { id: "published", name: "Published", unit: "events/s", key: "published", sub: ({ published }) => `${short(published)} in total` },
  { id: "delivered", name: "Delivered", unit: "events/s", key: "delivered", sub: ({ delivered }) => `${short(delivered)} in total` },
  {
    id: "latency",
    name: "Publish to write",
    unit: "ms, 99th percentile",
    key: "p99",
    sub: (_, figure) => (figure?.p50 == null ? "no recent events" : `median ${short(figure.p50)} ms`),
  },
  { id: "entries", name: "In the log", unit: "events", key: "entries", sub: ({ log }) => bytes(log.bytes) },
];

export class Tiles {
  #place = find("tiles");
  /** @type {import("./figures.js").Figures} */
  #figures;
  #tiles;

  /** @param {import("./figures.js").Figures} figures */
  constructor(figures) {
    this.#figures = figures;
    this.#tiles = TILES.map((tile) => {
      const value = element("b", { id: `${tile.id}-now` }, "–");
      const sub = element("p", { class: "sub" }, "\u00a0");
      const svg = drawn("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" });
      const figure = element(
        "figure",
        { class: "tile panel" },
        element("figcaption", {}, tile.name),
        element("p", { class: "value" }, value, element("span", {}, tile.unit)),
        svg,
        sub,
      );
      const made = { ...tile, value, line: sub, svg, pointed: /** @type {number | null} */ (null) };
      svg.addEventListener("pointermove", (/** @type {PointerEvent} */ { offsetX }) => {
        made.pointed = offsetX / svg.clientWidth;
        this.draw();
      });
      svg.addEventListener("pointerleave", () => {
        made.pointed = null;
        this.draw();
      });
      this.#place.append(figure);
      return made;
    });
  }

  draw() {
    const { all, last } = this.#figures;
    if (!last) return;
    const end = last.taken;
    this.#place.dataset.readings = String(Number(this.#place.dataset.readings ?? 0) + 1);
    for (const tile of this.#tiles) {
      const newest = all.at(-1);
      const latest = newest && end - newest.at < 1 ? newest : undefined;
      const point = tile.pointed === null ? undefined : nearestTo(all, end - WINDOW * (1 - tile.pointed));
      const now = { clients: clientsOf(last), entries: last.log.entries };
      const value = point ? point[tile.key] : (latest?.[tile.key] ?? now[/** @type {keyof now} */ (tile.key)]);
      tile.value.textContent = short(value);
      tile.line.textContent = point ? `at ${clock(new Date(point.at * 1000))}` : tile.sub(last, latest);
      tile.line.classList.toggle("warn", tile.id === "clients" && !point && last.behind > 0);
      spark(tile.svg, all, tile.key, end, point?.at);
      tile.svg.setAttribute("aria-label", described(tile.name, all, tile.key));
    }
  }
}

/** @param {Figure[]} all @param {number} at */
function nearestTo(all, at) {
  const [best] = [...all].sort((a, b) => Math.abs(a.at - at) - Math.abs(b.at - at));
  return best && Math.abs(best.at - at) < GAP ? best : undefined;
}

/** @param {string} name @param {Figure[]} all @param {keyof Figure} key */
function described(name, all, key) {
  const values = all.flatMap((one) => one[key] ?? []);
  if (!values.length) return `${name}: no figures yet`;
  return `${name}: last ${short(values.at(-1))}, between ${short(Math.min(...values))} and ${short(Math.max(...values))} in the last two minutes`;
}

/**
 * @param {any} svg
 * @param {Figure[]} all
 * @param {keyof Figure} key
 * @param {number} end  of the window, in seconds
 * @param {number | undefined} pointed
 */
function spark(svg, all, key, end, pointed) {
  const top = Math.max(1, ...all.map((one) => one[key] ?? 0)) * 1.08;
  const x = (/** @type {number} */ at) => WIDTH * (1 - (end - at) / WINDOW);
  const y = (/** @type {number} */ value) => HEIGHT - 1 - (HEIGHT - 3) * (value / top);
  const parts = [drawn("path", { class: "spark-base", d: `M0 ${HEIGHT - 1}H${WIDTH}` })];
  for (const run of runs(all, key)) {
    const points = run.map((one) => `${x(one.at).toFixed(1)} ${y(Number(one[key])).toFixed(1)}`);
    const [first, last] = [x(run[0].at), x(run[run.length - 1].at)];
    const line = `M${points.join("L")}`;
    parts.push(drawn("path", { class: "spark-area", d: `${line}L${last.toFixed(1)} ${HEIGHT}L${first.toFixed(1)} ${HEIGHT}Z` }));
    // A single reading is a dot: a line of no length with round ends.
    parts.push(drawn("path", { class: "spark-line", d: points.length === 1 ? `${line}h0` : line }));
  }
  for (let at = 1; at < all.length; at += 1) {
    const [from, to] = [x(all[at - 1].at), x(all[at].at)];
    if (all[at].at - all[at - 1].at > GAP) parts.push(drawn("rect", { class: "spark-gap", x: from, width: to - from, y: 0, height: HEIGHT }));
  }
  if (pointed !== undefined) parts.push(drawn("path", { class: "spark-now", d: `M${x(pointed)} 0V${HEIGHT}` }));
  svg.replaceChildren(...parts);
}

/** Readings without a gap between them. @param {Figure[]} all @param {keyof Figure} key */
export function runs(all, key) {
  /** @type {Figure[][]} */
  const found = [];
  let before = -Infinity;
  for (const one of all) {
    if (one[key] === null) continue;
    if (one.at - before > GAP) found.push([]);
    found[found.length - 1].push(one);
    before = one.at;
  }
  return found;
}

/** @param {string} tag @param {Record<string, any>} attributes */
function drawn(tag, attributes) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}
