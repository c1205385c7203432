/**
 * Filters, in the two forms in which they travel: an array in JSON (in messages), and keys of the query (in URLs).
 *
 * The client never evaluates a filter. It only converts between the forms, because a URL may be too long for a server or a
 * proxy and a message may not.
 */

/** @typedef {import("../trionotify.d.ts").Filter} Filter */

export const FILTER_KEY = /^(?:(?:exact|prefix|suffix)\.|(?:filters|sql)$)/;

/** Lets nothing through, while the filters that were too long for the URL are on their way. */
export const NOTHING = [{ sql: "FALSE" }];

/** @param {Filter | Filter[]} filters */
export function asArray(filters) {
  return Array.isArray(filters) ? filters : [filters];
}

/**
 * Filters in the form of the query. An empty array is written as well, because a publisher without filters wants nothing.
 * @param {Filter[]} filters
 * @returns {[string, string][]}
 */
export function inQuery(filters) {
  return [["filters", JSON.stringify(filters)]];
}

/** Filters of the query as an array. @param {[string, string][]} wanted @returns {Filter[]} */
export function asFilters(wanted) {
  return wanted.flatMap(([key, value]) => {
    if (key === "filters") return asArray(JSON.parse(value));
    if (key === "sql") return [{ sql: value }];
    const [dialect, attribute] = key.split(/\.(.*)/s);
    return [/** @type {Filter} */ ({ [dialect]: { [attribute]: value } })];
  });
}
