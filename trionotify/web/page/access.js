/**
 * Access: what lets this page in. Nothing, where the server accepts everyone; what its operator types here, which is the secret
 * or a token; or the signed query with which the page was opened.
 *
 * What was typed is kept in the tab's storage for as long as the tab is open, and goes out in a header only. A WebSocket can
 * send no header, so for the stream the client exchanges a token for tickets, and with the secret the page signs a query, as
 * `trionotify.sign` does it. A browser signs in secure contexts only. Elsewhere, over plain HTTP, the stream comes as
 * Server-Sent Events, which have the secret in a header.
 */

/** Seconds for which a signed query is good. */
const DAY = 24 * 3600;
/** Milliseconds that an answer may take. */
const PATIENCE = 10_000;

/** What a header may have, and so a secret or a token. */
const SENDABLE = /^[\x20-\x7e]+$/;

/** Where this page is. Its own URL may have a user and a password: a browser fetches no URL that has them, and they aren't to be shown. */
const HERE = location.origin + location.pathname;

/** Where events are, for programs that are shown. */
export const eventsUrl = () => new URL("events", HERE).href;

/** What the tab's storage says; null where the browser forbids it. @param {(storage: Storage) => any} use */
function stored(use) {
  try {
    return use(sessionStorage);
  } catch {
    return null;
  }
}

/** @type {string | null} */
let typed = stored((storage) => storage.getItem("secret"));
const signed = new URLSearchParams(location.search).has("sig") ? location.search : "";
/** A token is three parts with dots between, of which the first is an object in JSON. */
const isToken = () => typed !== null && /^eyJ[\w-]*\.[\w-]+\.[\w-]+$/.test(typed);

/** This page's id among the clients. With a token, the server says another one. */
export const me = { id: `page-${crypto.getRandomValues(new Uint32Array(1))[0].toString(36)}` };

/** A cookie lets this page in, so the server says whose it is. */
let isNamed = false;

/** What clients of this server need, as far as this page knows. @returns {"secret" | "token" | null} */
export function guard() {
  if (isToken()) return "token";
  return typed || signed ? "secret" : null;
}

/** Why the stream can't come by WebSocket here; empty if it can. */
export const hindrance = () =>
  guard() === "secret" && !signed && !crypto.subtle
    ? "This page came over plain HTTP, so the browser doesn't let it sign a query for a WebSocket. The stream comes as Server-Sent Events instead, and your secret is sent unencrypted. Open the page over https, or on the server's own machine."
    : "";

/**
 * @param {string} path
 * @param {string} [accept]
 * @param {string} [method]
 */
export function ask(path, accept = "application/json", method = "GET") {
  const headers = { Accept: accept, ...(typed && { Authorization: `Bearer ${typed}` }) };
  const url = new URL(path, HERE);
  return fetch(url, { method, headers, cache: "no-store", signal: AbortSignal.timeout(PATIENCE) });
}

/**
 * Why the server doesn't let this page in, which is empty where it doesn't say; null if it does. Throws an Error if it doesn't
 * answer.
 */
export async function reasonToStayOut() {
  if (typed && !SENDABLE.test(typed)) return "secrets and tokens consist of ASCII characters";
  const answer = await knock(signed || (isToken() ? "" : `?id=${me.id}`));
  // Without anything typed, a 403 is about the page and not about who looks at it: unless a cookie says who that is.
  if (answer.status === 403 && !typed && !signed) isNamed = (await knock("")).ok;
  if (answer.status === 401 || (answer.status === 403 && typed)) {
    return /error_description="([^"]*)"/.exec(answer.headers.get("www-authenticate") ?? "")?.[1] ?? "";
  }
  if (typed) stored((storage) => storage.setItem("secret", String(typed)));
  return null;
}

/** @param {string} query */
async function knock(query) {
  return ask(`events${query}`, "text/event-stream", "HEAD").catch(() => {
    throw new Error("the server does not answer");
  });
}

/** Whether the server accepts tokens: then it says where they come from (RFC 9728). */
export async function takesTokens() {
  const answer = await ask(".well-known/oauth-protected-resource").catch(() => null);
  return answer?.ok ?? false;
}

/** Whether something was typed. */
export const hasTyped = () => typed !== null;

/** @param {string} text */
export function tryWith(text) {
  typed = text.trim().replace(/^Bearer +/i, "");
}

/** The URL and the options with which a client is let in. @returns {[string, object]} */
export function credentials() {
  if (signed) return [`events${signed}`, {}];
  if (isToken()) return ["events", { token: typed }];
  if (hindrance()) return ["events", { ...me, token: typed, transport: "sse" }];
  if (isNamed) return ["events", { id: null }];
  return ["events", typed ? { params: signedQuery } : { ...me }];
}

async function signedQuery() {
  const exp = Math.floor(Date.now() / 1000) + DAY;
  const text = new TextEncoder();
  const how = { name: "HMAC", hash: "SHA-256" };
  const key = await crypto.subtle.importKey("raw", text.encode(String(typed)), how, false, ["sign"]);
  const mac = await crypto.subtle.sign(how, key, text.encode(`exp=${exp}&id=${me.id}&role=both`));
  const sig = [...new Uint8Array(mac)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return { ...me, role: "both", exp, sig };
}
