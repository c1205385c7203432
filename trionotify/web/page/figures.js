/**
 * Figures: what two readings of `/metrics` say of the time between them.
 *
 * Rates come from counters, quantiles from histograms. A reading that is missing leaves a gap, and so does a server that
 * was restarted: nothing is invented for the time in between.
 */

/** Seconds of which figures are kept. */
export const WINDOW = 120;
/** Seconds without a reading after which there is a gap. */
export const GAP = 3.5;
/** Two readings in fewer seconds say nothing of a rate. */
const LEAST = 0.5;

/** @typedef {{ at: number, clients: number, behind: number, published: number, delivered: number, p50: number | null, p99: number | null, entries: number }} Figure */

export class Figures {
  /** Oldest first. @type {Figure[]} */
  all = [];
  /** @type {any} */
  last = null;

  /** @param {any} reading  as the server gives it @param {number} at  when, in seconds */
  take(reading, at) {
    const before = this.last;
    if (before && at - before.taken < LEAST) return;
    this.last = { ...reading, taken: at };
    if (before && reading.published >= before.published && at - before.taken < GAP) {
      const seconds = at - before.taken;
      this.all.push({
        at,
        clients: clientsOf(reading),
        behind: reading.behind,
        published: (reading.published - before.published) / seconds,
        delivered: (reading.delivered - before.delivered) / seconds,
        p50: quantile(0.5, reading.latency, before.latency),
        p99: quantile(0.99, reading.latency, before.latency),
        entries: reading.log.entries,
      });
    }
    this.all = this.all.filter((one) => one.at > at - WINDOW - GAP);
  }
}

/** @param {any} reading */
export function clientsOf({ clients }) {
  return clients.reduce((/** @type {number} */ sum, /** @type {any} */ { count }) => sum + count, 0);
}

/**
 * Milliseconds below which `share` of what a histogram counted between two readings lies; null if it counted nothing.
 * @param {number} share @param {any} now @param {any} then
 */
export function quantile(share, now, then) {
  const counts = now.counts.map((/** @type {number} */ count, /** @type {number} */ at) => count - then.counts[at]);
  let left = counts.reduce((/** @type {number} */ sum, /** @type {number} */ count) => sum + count, 0) * share;
  if (left <= 0) return null;
  const at = counts.findIndex((/** @type {number} */ count) => (left -= count) <= 0);
  const low = at > 0 ? now.bounds[at - 1] : 0;
  const high = now.bounds[at] ?? low;
  return (low + (high - low) * (1 + left / (counts[at] || 1))) * 1000;
}
