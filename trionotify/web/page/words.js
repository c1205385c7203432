/**
 * Words: filters as a person would say them, and what the server says of a wrong one.
 *
 * The server's reasons begin with the place of the fault in the JSON that was sent. The operator typed an expression and knows nothing of
 * that JSON, so the place is taken off, and the line and column are given back for a mark.
 */

/** @type {Record<string, string>} */
const VERBS = { exact: "is", prefix: "begins with", suffix: "ends with" };

/** @param {any} filter  one filter in JSON @returns {string} */
export function inWords(filter) {
  const [[dialect, value] = ["", null]] = Object.entries(filter ?? {});
  const verb = VERBS[dialect];
  if (verb) return Object.entries(value).map(([name, text]) => `${name} ${verb} ${text}`).join(" and ");
  if (dialect === "all") return value.map(nested).join(" and ");
  if (dialect === "any") return value.map(nested).join(" or ");
  if (dialect === "not") return `not ${nested(value)}`;
  if (dialect === "sql") return `SQL: ${value}`;
  if (dialect === "callable") return `Python: ${value}`;
  return JSON.stringify(filter);
}

/** @param {any} filter */
function nested(filter) {
  const words = inWords(filter);
  return / (and|or) |^SQL/.test(words) ? `(${words})` : words;
}

/** What a client receives. @param {{ role: string, filters: any[] | null }} client */
export function received({ role, filters }) {
  if (role === "publisher") return "nothing, it only publishes";
  if (filters === null) return "everything";
  return filters.length ? filters.map(filters.length > 1 ? nested : inWords).join(" and ") : "nothing";
}

/**
 * The reason why filters were refused, taken apart.
 * @param {string} detail  for instance `filters[0].sql: line 1, column 10: a text in quotes is expected here`
 */
export function refusal(detail) {
  const found = /^filters\[\d+\]\.sql: (?:line (\d+), column (\d+): )?(.*)$/s.exec(detail);
  if (!found) return { message: detail };
  const [, line, column, message] = found;
  const place = line ? { line: Number(line), column: Number(column) } : undefined;
  return { place, message: place ? `line ${line}, column ${column}: ${message}` : message };
}
