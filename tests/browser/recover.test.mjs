// What a client recovers from, and what ends it.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { createHmac, randomBytes } from "node:crypto";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { promisify } from "node:util";

import { Problem } from "../../trionotify/web/trionotify.js";
import { withResolvers } from "../../trionotify/web/trionotify/time.js";
import { FakeStreams, World, freePort, has, scripted, setBack, until } from "./world.mjs";

const by = (client, transport) => until(client, "open", () => client.state === "open" && client.transport === transport);

/** What tells a page of the network. */
function pageOf(t) {
  const page = new EventTarget();
  const names = ["addEventListener", "removeEventListener"];
  for (const name of names) globalThis[name] = page[name].bind(page);
  t.after(() => names.forEach((name) => delete globalThis[name]));
  return page;
}

/** A server with a secret, and what signs with it. */
async function locked(t, world) {
  const secret = randomBytes(16).toString("hex");
  const directory = await mkdtemp(join(tmpdir(), "trionotify-"));
  t.after(() => rm(directory, { recursive: true }));
  await writeFile(join(directory, "secret"), secret);
  const server = await world.server({ options: ["--secret", join(directory, "secret")] });
  const sign = (params) => {
    const all = { ...params, exp: String(Math.floor(Date.now() / 1000) + 600) };
    const pairs = Object.entries(all).map(([name, value]) => `${name}=${encodeURIComponent(value)}`);
    return { ...all, sig: createHmac("sha256", secret).update(pairs.sort().join("&")).digest("hex") };
  };
  return { ...server, sign };
}

// By WebSocket, or not.

test("WebSockets that are cut before they deliver anything: a stream, and later a WebSocket again", async (t) => {
  const world = new World(t);
  const { url, port } = await world.server();
  const writer = await world.open(url);
  const front = await world.front(port);
  front.brief = true;
  const client = world.client(front.url);
  await by(client, "sse");
  assert.equal(front.handshakes, 3);
  await writer.publish("by a stream");
  await has(client, 1);
  front.brief = false;
  front.cut();
  await writer.publish("meanwhile");
  await has(client, 2);
  await by(client, "websocket");
  assert.deepEqual(client.seen.data, ["by a stream", "meanwhile"]);
});

test("a stream that lasts is left for a WebSocket after a while, without a loss", async (t) => {
  const world = new World(t);
  const { url, port } = await world.server();
  const writer = await world.open(url);
  const front = await world.front(port);
  front.noSockets = true;
  const client = await world.open(front.url, { probeInterval: 100 });
  assert.equal(client.transport, "sse");
  const losses = client.seen.losses.length;
  front.noSockets = false;
  await front.until(() => front.handshakes > 0);
  await by(client, "websocket");
  await writer.publish("here");
  await has(client, 1);
  assert.deepEqual([client.seen.opens.length, client.seen.losses.length], [2, losses]);
});

test("a WebSocket lived, and no other gets through", async (t) => {
  const world = new World(t);
  const front = await world.front((await world.server()).port);
  const client = await world.open(front.url);
  front.noSockets = true;
  front.cut();
  await by(client, "sse");
});

test("a server that is away doesn't count against WebSockets", async (t) => {
  const world = new World(t);
  const first = await world.server({ port: await freePort() });
  const client = await world.open(first.url);
  await first.kill();
  await until(client, "reconnecting", () => client.seen.losses.length > 5);
  await world.server({ port: first.port });
  await until(client, "open", () => client.seen.opens.length === 2);
  assert.equal(client.transport, "websocket");
});

// Credentials that are over.

test("4401 with a function for params: it is asked once more, and the stream goes on", async (t) => {
  const world = new World(t);
  const said = [];
  const address = await scripted(world, ({ socket, say, query, count }) => {
    said.push([query.get("ticket"), query.get("since")]);
    say("welcome", { id: "x", ...(count > 1 && { recovered: true }) }, { cursor: query.get("since") ?? "e:0" });
    say("position", {}, { cursor: `e:${count}` });
    if (count < 4) socket.close(4401, "expired");
  });
  let asked = 0;
  const client = world.client(address, { params: () => ({ ticket: (asked += 1) }) });
  await until(client, "open", () => client.seen.opens.length === 4);
  assert.deepEqual(said, [["1", null], ["2", "e:1"], ["3", "e:2"], ["4", "e:3"]]);
});

test("401 with a function for params: once is no end, twice is", async (t) => {
  const world = new World(t);
  const fake = await new FakeStreams().listen(world);
  let asked = 0;
  const client = world.client(fake.url, { transport: "sse", params: () => ({ ticket: (asked += 1) }) });
  fake.answers.push([401, { detail: "exp: over" }]);
  await until(client, "open", () => client.seen.opens.length === 1);
  assert.equal(asked, 2);
  // So with what it publishes.
  fake.answers.push([401, { detail: "exp: over" }]);
  await client.publish("with a new one");
  fake.answers.push([401, { detail: "exp: over" }], [401, { detail: "exp: over, too" }]);
  await assert.rejects(client.publish("x"), (error) => error instanceof Problem && error.detail === "exp: over, too");
  assert.equal(client.state, "open");
  fake.answers.push([401, { detail: "exp: over" }], [401, { detail: "exp: over, too" }]);
  for (const { response } of fake.streams) response.end();
  await until(client, "close", () => client.state === "closed");
  assert.equal(client.seen.closes[0].error.detail, "exp: over, too");
});

test("401 without a function is the end", async (t) => {
  const world = new World(t);
  const { url } = await locked(t, world);
  const client = world.client(url, { params: { ticket: 1 } });
  await until(client, "close", () => client.state === "closed");
  assert.equal(client.seen.closes[0].error.status, 401);
  // Whoever only iterates now hears of it, too.
  await assert.rejects(client[Symbol.asyncIterator]().next(), (error) => error instanceof Problem && error.status === 401);
});

test("what params fails with is told, and so is that it doesn't answer", async (t) => {
  const world = new World(t);
  const { url } = await world.server();
  const answers = [
    () => Promise.reject(new Error("no ticket today")),
    () => new Promise(() => {}),
    () => Promise.reject("a string"),
    () => new URLSearchParams("team=ops"),
    () => new Response("{}"),
    () => ({ lag: undefined }),
  ];
  const client = world.client(url, { params: () => answers.shift()(), connectTimeout: 5000 });
  await until(client, "open", () => client.state === "open");
  assert.deepEqual(
    client.seen.losses.map(({ error }) => error.message),
    [
      "params: no ticket today",
      "params: no answer within 5000 ms",
      "params: a string",
      "params: must be a plain object, not URLSearchParams",
      "params: must be a plain object, not Response",
    ],
  );
});

// Filters that are too long for a URL.

/** Wants `a` and `b`; long in each dialect. */
const LONG = [
  { any: Array.from({ length: 60 }, (_, n) => ({ prefix: { type: n < 2 ? "ab"[n] : `${"äöü".repeat(8)}${n}` } })) },
  { sql: `type <> '${"x".repeat(1000)}'` },
];

for (const signed of [false, true]) {
  test(`long filters that were agreed on hold over reconnects, nothing more and nothing less comes (signed: ${signed})`, async (t) => {
    const world = new World(t);
    const { url, port, sign } = await locked(t, world);
    const front = await world.front(port);
    const params = () => sign({ id: "al", role: "both", ...(signed && { "prefix.source": "/" }) });
    const writer = await world.open(url, { params: () => sign({ id: "bo", role: "publisher" }) });
    const client = await world.open(front.url, { params });
    const say = (...types) => Promise.all(types.map((type) => writer.publish(type, { type })));
    await client.setFilters(LONG);
    await say("a1", "c1", "b1");
    await has(client, 2);
    for (let round = 0; round < 5; round += 1) {
      front.cut();
      await say("c2", `a${round}`, "c3", `b${round}`);
      await has(client, 4 + 2 * round);
    }
    await client.setFilters({ exact: { type: "c" } });
    await say("a", "c");
    await has(client, 13);
    const rounds = [0, 1, 2, 3, 4].flatMap((n) => [`a${n}`, `b${n}`]);
    assert.deepEqual(client.seen.data, ["a1", "b1", ...rounds, "c"]);
    assert.deepEqual([client.seen.gaps.length, client.transport], [0, "websocket"]);
  });
}

test("long filters from the beginning, with a place to start", async (t) => {
  const world = new World(t);
  const { url } = await world.server();
  const writer = await world.open(url);
  for (const type of ["a", "c", "b"]) await writer.publish(type, { type });
  const client = await world.open(url, { filters: LONG, since: "start" });
  await has(client, 2);
  const chosen = client.setFilters([...LONG, { exact: { type: "a" } }]);
  await chosen;
  for (const type of ["b", "a"]) await writer.publish(type, { type });
  await has(client, 3);
  assert.deepEqual(client.seen.data, ["a", "b", "a"]);
});

test("long filters that are refused", async (t) => {
  const world = new World(t);
  const { url, port } = await world.server();
  const front = await world.front(port);
  const wrong = [...LONG, { sql: "type =" }];
  const first = world.client(url, { filters: wrong });
  await until(first, "close", () => first.state === "closed");
  assert.match(first.seen.closes[0].error.detail, /filters\[2\]\.sql/);
  const client = await world.open(front.url, { filters: { exact: { type: "a" } } });
  front.cut();
  // While there is no connection: it begins with them.
  await assert.rejects(client.setFilters(wrong), (error) => error instanceof Problem && error.status === 400);
  await until(client, "open", () => client.state === "open");
  for (const type of ["b", "a"]) await client.publish(type, { type });
  await has(client, 1);
  assert.deepEqual(client.seen.data, ["a"]);
});

test("a proxy takes shorter URLs than the server", async (t) => {
  const world = new World(t);
  const { port } = await world.server();
  const front = await world.front(port);
  front.longest = 500;
  const filters = [{ sql: `type = 'a' OR type = '${"b".repeat(600)}'` }];
  const client = await world.open(front.url, { filters });
  for (const type of ["c", "a"]) await client.publish(type, { type });
  await has(client, 1);
  assert.deepEqual([client.seen.data, client.transport], [["a"], "websocket"]);
  // Nor is there a stream for them.
  front.noSockets = true;
  const stream = await world.open(front.url, { transport: "sse", filters: { exact: { type: "a" } } });
  await assert.rejects(stream.setFilters(filters), (error) => error instanceof Problem && error.status === 414);
  await until(stream, "open", () => stream.state === "open");
});

test("where the stream stood is gone when the filters come: the gap is told", async (t) => {
  const world = new World(t);
  const address = await scripted(world, ({ socket, say }) => {
    say("welcome", { id: "x" }, { cursor: "e:3" });
    socket.on("message", (text) => {
      const { id, data } = JSON.parse(text);
      // What is none of it, and what the stream has come to: neither counts.
      socket.send(JSON.stringify({ type: "t", id: "4", source: "/s", cursor: "e:4", data: 4 }));
      say("position", {}, { cursor: "e:5" });
      say("ack", { id, filters: data.filters }, { cursor: "e:9" });
      socket.send(JSON.stringify({ type: "t", id: "10", source: "/s", cursor: "e:10", data: data.since }));
    });
  });
  const client = world.client(address, { filters: LONG });
  await has(client, 1);
  assert.deepEqual(client.seen.data, ["e:3"]);
  assert.deepEqual(client.seen.gaps.map(({ from, to }) => [from, to]), [["e:3", "e:9"]]);
});

// Publishing that is refused.

for (const transport of ["websocket", "sse"]) {
  test(`who may only subscribe is told so, and goes on (${transport})`, async (t) => {
    const world = new World(t);
    const { url, sign } = await locked(t, world);
    const client = world.client(url, { transport, params: () => sign({ id: "al" }) });
    const allowed = await world.open(url, { params: () => sign({ id: "bo", role: "both" }) });
    const isRefused = (error) => error instanceof Problem && error.status === 403 && /^role: /.test(error.detail);
    // Before it is connected, and after.
    await assert.rejects(client.publish("x"), isRefused);
    await until(client, "open", () => client.state === "open");
    await assert.rejects(client.publish("y"), isRefused);
    await allowed.publish("z");
    await has(client, 1);
    assert.deepEqual([client.seen.data, client.seen.losses.length], [["z"], 0]);
  });
}

test("a 403 over HTTP is an error of what was published", async (t) => {
  const world = new World(t);
  const fake = await new FakeStreams().listen(world);
  const client = await world.open(fake.url, { transport: "sse" });
  fake.answers.push([403, { detail: "role: no" }]);
  const answers = await Promise.allSettled([client.publish("a"), client.publish("b")]);
  assert.deepEqual(answers.map(({ status }) => status), ["rejected", "fulfilled"]);
  await has(client, 1);
  assert.deepEqual([client.seen.data, client.state], [["b"], "open"]);
});

// How long it waits.

const fromNow = (ms) => new Date(Date.now() + ms).toUTCString();
for (const [what, said, least, most] of [
  ["a month", () => "2592000", 3_600_000, 3_600_000],
  ["seconds", () => "7", 7_000, 7_100],
  ["a date", () => fromNow(90_000), 1_000, 91_000],
  ["a date that is over", () => fromNow(-90_000), 0, 100],
  ["something else", () => "soon", 0, 100],
]) {
  test(`Retry-After: ${what}`, async (t) => {
    const world = new World(t);
    const fake = await new FakeStreams().listen(world);
    fake.answers.push([503, {}, { "Retry-After": said() }]);
    const client = world.client(fake.url, { transport: "sse" });
    await until(client, "reconnecting", () => client.seen.losses.length === 1);
    const [{ delay }] = client.seen.losses;
    assert.ok(least <= delay && delay <= most, `${delay}`);
  });
}

test("a server that goes down for a month, and durations without an end, are waited for an hour", async (t) => {
  const world = new World(t);
  const address = await scripted(world, ({ socket, say }) => {
    say("welcome", { id: "x" }, { cursor: "e:0" });
    say("drain", { retry_after_ms: 2 ** 31 });
    socket.close(1012);
  });
  const endless = { firstDelay: Infinity, maxDelay: Infinity, connectTimeout: Infinity, probeInterval: 2 ** 31 };
  const client = world.client(address, endless);
  await until(client, "reconnecting", () => client.seen.losses.length === 1);
  assert.equal(client.seen.losses[0].delay, 3_600_000);
});

test("a client that is told to retry does so at once, even where the server asked for an hour", async (t) => {
  const world = new World(t);
  const fake = await new FakeStreams().listen(world);
  for (const headers of [{ "Retry-After": "3600" }, {}]) {
    fake.answers.push([503, { detail: "soon" }, headers]);
    const client = world.client(fake.url, { transport: "sse", firstDelay: 3_600_000, maxDelay: 3_600_000 });
    await until(client, "reconnecting", () => client.seen.losses.length > 0);
    client.retry();
    await until(client, "open", () => client.state === "open");
    client.close();
    client.retry();
  }
});

test("when the network is back, what waits to be posted is posted", async (t) => {
  const world = new World(t);
  const page = pageOf(t);
  const fake = await new FakeStreams().listen(world);
  const client = await world.open(fake.url, { transport: "sse", firstDelay: 3_600_000, maxDelay: 3_600_000 });
  fake.answers.push([0]);
  const posts = () => fake.requests.filter(({ method }) => method === "POST").length;
  let isPublished = false;
  const published = client.publish("x").then(() => (isPublished = true));
  while (posts() === 0) await new Promise(setImmediate);
  while (!isPublished) {
    page.dispatchEvent(new Event("online"));
    await new Promise(setImmediate);
  }
  await published;
  assert.equal(posts(), 2);
});

test("when the network is back, a token that could not be renewed is renewed", async (t) => {
  const world = new World(t);
  const page = pageOf(t);
  const { promise, resolve } = withResolvers();
  const address = await scripted(world, ({ socket, say }) => {
    say("welcome", { id: "x", role: "both", expires_in: 1 }, { cursor: "e:0" });
    socket.on("message", (text) => {
      const { type, data } = JSON.parse(text);
      if (type === "trionotify.authenticate") resolve(data.token);
    });
  });
  const tokens = ["first", null, "next"];
  const token = async () => {
    const found = tokens.shift();
    if (found === null) throw new Error("no network");
    return found;
  };
  const fetch = async () => Response.json({ ticket: "t" });
  const client = await world.open(address, { token, fetch, firstDelay: 3_600_000, maxDelay: 3_600_000 });
  client.addEventListener("error", () => page.dispatchEvent(new Event("online")));
  assert.equal(await promise, "next");
  assert.equal(client.seen.errors.length, 1);
});

test("a time that the server asked for may pass while the machine sleeps", async (t) => {
  const world = new World(t);
  const page = pageOf(t);
  const fake = await new FakeStreams().listen(world);
  fake.answers.push([503, {}, { "Retry-After": "1800" }]);
  const client = world.client(fake.url, { transport: "sse", probeInterval: 100 });
  await until(client, "reconnecting", () => client.seen.losses.length === 1);
  page.dispatchEvent(new Event("online"));
  assert.equal(fake.requests.length, 1);
  setBack(t, Date, 1_800_001);
  await until(client, "open", () => client.state === "open");
});

test("a listener that hears of the next attempt may ask for it at once", async (t) => {
  const world = new World(t);
  const fake = await new FakeStreams().listen(world);
  fake.answers.push([503, { detail: "soon" }, { "Retry-After": "3600" }]);
  const client = world.client(fake.url, { transport: "sse" });
  client.addEventListener("reconnecting", () => client.retry());
  await until(client, "open", () => client.state === "open");
});

test("a request that publishes and is never answered is repeated", async (t) => {
  const world = new World(t);
  const fake = await new FakeStreams().listen(world);
  const client = await world.open(fake.url, { transport: "sse", connectTimeout: 200 });
  fake.answers.push([null]);
  await client.publish("once");
  await has(client, 1);
  assert.equal(fake.log.length, 1);
  // More than two, if an answer took that long.
  assert.ok(fake.requests.filter(({ method }) => method === "POST").length >= 2);
});

// Closed by a listener, or meanwhile.

for (const [when, script] of [
  ["it hears of the next attempt", `
    const client = new Trionotify(url, { transport: "sse", fetch: async () => new Response("", later) });
    client.addEventListener("reconnecting", () => client.close());
  `],
  ["an event is posted", `
    const fetch = async (_, { method }) => {
      if (method !== "POST") return new Response("data: " + welcome + "\\n\\n", { headers: { "Content-Type": "text/event-stream" } });
      client.close();
      return new Response("", later);
    };
    const client = new Trionotify(url, { transport: "sse", fetch });
    client.publish("x").catch(() => {});
  `],
  ["it hears that its token wasn't renewed", `
    class Socket extends EventTarget {
      constructor() {
        super();
        queueMicrotask(() => this.dispatchEvent(Object.assign(new Event("message"), { data: welcome })));
      }
      send() {}
      close() {}
    }
    let calls = 0;
    const token = () => {
      if ((calls += 1) > 1) throw new Error("no token today");
      return "token";
    };
    const client = new Trionotify(url, { WebSocket: Socket, token, fetch: async () => Response.json({ ticket: "t" }) });
    client.addEventListener("error", () => client.close());
  `],
]) {
  test(`a client that is closed while ${when} doesn't keep the program alive`, async () => {
    const before = `
      import { Trionotify } from "${new URL("../../trionotify/web/trionotify.js", import.meta.url)}";
      const url = "https://example.org/events";
      const welcome = '{"type":"trionotify.welcome","cursor":"e:0","data":{"id":"x","expires_in":1}}';
      const later = { status: 503, headers: { "Retry-After": "3600" } };
    `;
    await promisify(execFile)(process.execPath, ["--input-type=module", "--eval", before + script], { timeout: 120_000 });
  });
}

test("a client that is closed when it hears of a gap stays closed", async (t) => {
  const world = new World(t);
  const address = await scripted(world, ({ say }) => say("welcome", { id: "x", recovered: false }, { cursor: "e:5" }));
  const client = world.client(address, { since: "e:1" });
  client.addEventListener("gap", () => client.close());
  await until(client, "close", () => client.seen.closes.length === 1);
  await assert.rejects(client.publish("x"), /this client is closed/);
  for await (const _ of client) assert.fail("it is closed");
  assert.deepEqual([client.state, client.seen.opens.length], ["closed", 0]);
});

// Requests.

test("a request outlives its connection, and gets its own reply", async (t) => {
  const world = new World(t);
  const heard = [];
  const address = await scripted(world, ({ socket, say, count }) => {
    say("welcome", { id: "x", role: "both" }, { cursor: "e:0" });
    socket.on("message", (text) => {
      const { id, source, request, data } = JSON.parse(text);
      heard.push([request, data]);
      if (count === 1) return socket.terminate();
      if (data === "bytes") say("ack", { id, source, reply_base64: "AAE=" });
      else if (data === "bad") say("error", { id, status: 404, detail: "no such thing" });
      else if (data === "none") say("ack", { id, source });
      else if (data !== "never") say("ack", { id, source, reply: data.a === 1 ? { b: 2 } : null });
    });
  });
  const client = await world.open(address);
  assert.deepEqual(await client.request({ a: 1 }), { b: 2 });
  assert.deepEqual(heard, [[true, { a: 1 }], [true, { a: 1 }]]);
  assert.deepEqual(await client.request("bytes", { type: "order" }), new Uint8Array([0, 1]));
  assert.equal(await client.request({}), null);
  await assert.rejects(client.request("bad"), (error) => error instanceof Problem && error.status === 404);
  await assert.rejects(client.request("none"), (error) => error instanceof Problem && error.status === 501);
  await assert.rejects(client.request("never", { timeout: 50 }), /no reply within 50 ms/);
});

test("a server without a session refuses a request, over each transport", async (t) => {
  const world = new World(t);
  const { url } = await world.server();
  for (const transport of ["websocket", "sse"]) {
    const client = await world.open(url, { transport });
    await assert.rejects(client.request("x"), (error) => error instanceof Problem && error.status === 501);
    assert.ok(await client.publish("y"));
  }
});
