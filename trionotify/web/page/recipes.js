/**
 * Recipes: programs that publish an event or receive a stream, for curl, JavaScript and Python.
 *
 * They are made from what the page shows, so they run as they are. A secret or a token is never in them: they say where it goes.
 */

/** What clients need. @typedef {"secret" | "token" | null} Guard */

/** Query keys that a plain POST takes; an event with other attributes is sent as a CloudEvent. */
const IN_QUERY = ["type", "subject", "source", "to"];

const BEARER = { secret: '-H "Authorization: Bearer $SECRET"', token: '-H "Authorization: Bearer $TOKEN"' };

/** Attributes that are keywords in Python. The names of others may be words of the language, such as `from`. */
const KEYWORDS = ["id", "type", "subject", "source", "time", "datacontenttype", "to", "expirytime"];

/** @param {string} text  for a shell */
const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

/**
 * @param {any} value  of JSON
 * @returns {string}  the same in Python
 */
function inPython(value) {
  if (Array.isArray(value)) return `[${value.map(inPython).join(", ")}]`;
  if (value === null || value === undefined) return "None";
  if (typeof value === "object") {
    return `{${Object.entries(value).map(([name, one]) => `${JSON.stringify(name)}: ${inPython(one)}`).join(", ")}}`;
  }
  return typeof value === "boolean" ? (value ? "True" : "False") : JSON.stringify(value);
}

/** @param {string} name */
const isPlain = (name) => /^[a-z][a-z0-9]*$/.test(name);

/**
 * Publish an event.
 * @param {string} url  of the events
 * @param {{ data: any, attributes: Record<string, any>, guard: Guard }} event
 * @returns {Record<string, string>}  by language
 */
export function toPublish(url, { data, attributes, guard }) {
  const { datacontenttype, ...others } = attributes;
  const isJson = typeof data !== "string" || /^application\/json\b|\+json\b/i.test(datacontenttype ?? "");
  const kind = datacontenttype ?? (isJson ? "application/json" : "text/plain");
  /** All that is to be said if that is the usual content type. @param {string} usual */
  const said = (usual) => Object.entries({ ...others, ...(kind !== usual && { datacontenttype: kind }) });
  const javascript = said(typeof data === "string" ? "text/plain" : "application/json")
    .map(([name, value]) => `${isPlain(name) ? name : JSON.stringify(name)}: ${JSON.stringify(value)}`);
  const named = said(isJson ? "application/json" : "text/plain");
  const python = named.filter(([name]) => KEYWORDS.includes(name)).map(([name, value]) => `, ${name}=${inPython(value)}`);
  const own = Object.fromEntries(named.filter(([name]) => !KEYWORDS.includes(name)));
  if (Object.keys(own).length) python.push(`, extensions=${inPython(own)}`);
  return {
    curl: curl(url, isJson ? JSON.stringify(data) : data, data, { ...others, datacontenttype: kind }, guard),
    JavaScript: [
      `import { Trionotify } from "${new URL("trionotify.js", url)}";`,
      "",
      ...client(url, guard),
      `const receipt = await client.publish(${JSON.stringify(data)}, { ${javascript.join(", ")} });`,
      "console.log(receipt);",
    ].join("\n"),
    Python: program(url, guard, [
      `receipt = await client.publish(${isJson ? `json=${inPython(data)}` : JSON.stringify(data)}${python.join("")})`,
      "print(receipt)",
    ]),
  };
}

/**
 * @param {string} url
 * @param {string} body
 * @param {any} data
 * @param {Record<string, any>} attributes
 * @param {Guard} guard
 */
function curl(url, body, data, { datacontenttype, ...others }, guard) {
  const lines = [];
  const isSimple = Object.keys(others).every((name) => IN_QUERY.includes(name));
  if (isSimple) {
    const query = new URLSearchParams(others).toString();
    lines.push(`curl ${quoted(query ? `${url}?${query}` : url)}`, `-H ${quoted(`Content-Type: ${datacontenttype}`)}`);
    lines.push(`--data-raw ${quoted(body)}`);
  } else {
    const event = { specversion: "1.0", id: crypto.randomUUID?.() ?? String(Date.now()), source: "/curl", ...others, datacontenttype, data };
    lines.push(`curl ${quoted(url)}`, "-H 'Content-Type: application/cloudevents+json'", `--data-raw ${quoted(JSON.stringify(event))}`);
  }
  if (guard) lines.splice(1, 0, BEARER[guard]);
  return lines.join(" \\\n  ");
}

/**
 * Receive events.
 * @param {string} url
 * @param {{ filters: any[], guard: Guard }} wanted
 * @returns {Record<string, string>}
 */
export function toSubscribe(url, { filters, guard }) {
  const query = filters.length ? `?${new URLSearchParams({ filters: JSON.stringify(filters) })}` : "";
  const said = guard === "secret" ? "# The server has a secret: put the signed query of your backend in place of SIGNED.\n" : "";
  const signed = guard === "secret" ? `${query ? "&" : "?"}SIGNED` : "";
  const option = filters.length ? `filters: ${JSON.stringify(filters)}` : "";
  return {
    curl: `${said}curl -N ${guard === "token" ? `${BEARER.token} ` : ""}${quoted(url + query + signed)}`,
    JavaScript: [
      `import { Trionotify } from "${new URL("trionotify.js", url)}";`,
      "",
      ...client(url, guard, option),
      'client.addEventListener("notification", ({ notification }) => {',
      "  console.log(notification.type, notification.data);",
      "});",
    ].join("\n"),
    Python: program(
      url,
      guard,
      ["async for notification in client:", "    print(notification.type, notification.data)"],
      filters.length ? `, filters=${inPython(filters)}` : "",
    ),
  };
}

/** @param {string} url @param {Guard} guard @param {string} [options]  of the client, as members */
function client(url, guard, options = "") {
  const given = [...(guard === "token" ? ["token: getToken"] : []), ...(options ? [options] : [])].join(", ");
  const last = given ? `, { ${given} }` : "";
  if (guard === "token") {
    return ["// getToken() returns a token of your identity provider, or a promise of one.", `const client = new Trionotify("${url}"${last});`];
  }
  if (guard === null) return [`const client = new Trionotify("${url}"${last});`];
  return [
    "// The server has a secret: let your backend sign the query, for example with trionotify.sign().",
    `const client = new Trionotify("${url}?" + signedQuery${last});`,
  ];
}

/** @param {string} url @param {Guard} guard @param {string[]} body @param {string} [options] */
function program(url, guard, body, options = "") {
  const target = guard === "secret" ? `"${url}?" + signed` : `"${url}"`;
  const token = guard === "token" ? ', token=os.environ["TOKEN"]' : "";
  return [
    ...(guard ? ["import os"] : []),
    "import trio",
    "import trionotify",
    "",
    "",
    "async def main() -> None:",
    ...(guard === "secret" ? ['    signed = trionotify.sign({"id": "me", "role": "both"}, os.environ["SECRET"])'] : []),
    `    async with trionotify.connect(${target}${token}${options}) as client:`,
    ...body.map((line) => `        ${line}`),
    "",
    "",
    "trio.run(main)",
  ].join("\n");
}
