// The client in Node, against a real server.
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";

import { Closed, Problem, Trionotify } from "../../trionotify/web/trionotify.js";
import { QUICK, World, freePort, has, scripted, setBack, until, ws } from "./world.mjs";

const sqlite = () => ["--store", `sqlite:${join(tmpdir(), `${randomUUID()}.db`)}`, "--durability", "normal"];
const numbers = (count, from = 0) => Array.from({ length: count }, (_, n) => n + from);
const publishAll = (client, data) => Promise.all(data.map((datum) => client.publish(datum)));

test("what is published is acknowledged, and comes as it was", async (t) => {
  const world = new World(t);
  const { url } = await world.server();
  const client = await world.open(url, { id: "al", params: { type: "a.b", team: "ops" } });
  assert.deepEqual([client.id, client.transport, client.seen.opens.length], ["al", "websocket", 1]);
  const bytes = new Uint8Array([0, 255, 7]);
  const receipt = await client.publish({ é: [1, null] }, { type: "x", subject: "s", n: 7, ok: true });
  assert.deepEqual([receipt.wanted, receipt.behind], [1, 0]);
  await client.publish("grüße 🎉");
  await client.publish(bytes.subarray(1), { audience: { exact: { team: "ops" } } });
  await client.publish(undefined, { expirytime: new Date(Date.now() + 60_000), to: "al" });
  await client.publish('{"a": 1}');
  await has(client, 5);
  const [first, second, third, fourth, fifth] = client.seen.notifications;
  assert.deepEqual(client.seen.data, [{ é: [1, null] }, "grüße 🎉", bytes.slice(1), undefined, '{"a": 1}']);
  assert.deepEqual([first.type, first.subject, first.source], ["x", "s", "/clients/al"]);
  assert.deepEqual([first.attributes.n, first.attributes.ok, first.cursor], [7, true, receipt.cursor]);
  assert.deepEqual([second.type, second.datacontenttype, third.datacontenttype], ["a.b", "text/plain", "application/octet-stream"]);
  assert.deepEqual([fourth.to, fourth.gap, first.json().é, fifth.json().a], ["al", null, [1, null], 1]);
  assert.equal(JSON.parse(JSON.stringify(first)).data.é[0], 1);
  assert.equal(client.cursor, fifth.cursor);
});

test("bad options and attributes are named, and nothing is sent", async (t) => {
  const world = new World(t);
  const { url } = await world.server();
  const say = (options, address = url) => () => new Trionotify(address, { ...QUICK, ...options });
  assert.throws(say({ filter: [] }), /^TypeError: filter: unknown option; did you mean filters\?$/);
  assert.throws(say({ maxdelay: 1 }), /did you mean maxDelay\?$/);
  assert.throws(say({ toString: 1 }), /^TypeError: toString: unknown option$/);
  assert.throws(say({ role: "admin" }), /^TypeError: role: must be one of subscriber, publisher, both, not "admin"/);
  assert.throws(say({ probeInterval: "5" }), /^TypeError: probeInterval: must be a number greater than 0/);
  assert.throws(say({ probeInterval: 0 }), /^TypeError: probeInterval: /);
  assert.throws(say({ transport: "carrier pigeon" }), /^TypeError: transport: /);
  assert.throws(say({ id: "a" }, `${url}?id=b`), /^TypeError: id: given twice/);
  assert.throws(say({ params: new URLSearchParams("team=ops") }), /^TypeError: params: must be a plain object, not URLSearchParams$/);
  assert.throws(say({ params: "team=ops" }), /^TypeError: params: must be a plain object, not String$/);
  assert.throws(say({ credentials: true }), /^TypeError: credentials: must be one of omit, same-origin, include, not true$/);
  assert.throws(say({}, `${url}?filters=[`), /^TypeError: filters: must be a JSON array of filters: /);
  assert.throws(say({}, "ftp://x/"), /^TypeError: url: must start with http, https, ws or wss, not ftp:$/);
  assert.throws(say({}, "localhost:8765/events"), /not localhost:; did you mean "http:\/\/localhost:8765\/events"\?$/);
  assert.throws(say({}, "/events"), /^TypeError: url: "\/events" is not a complete URL, and there is no page .*; write, for example, "https:/);
  assert.throws(say({}, `${url}events?exact.subject=#17`), /^TypeError: url: a '#' must be written as %23$/);
  for (const user of ["al:secret@", "al@"]) {
    for (const scheme of ["http", "wss"]) assert.throws(say({}, `${scheme}://${user}127.0.0.1:1/`), /^TypeError: url: must not have a user or a password/);
  }
  assert.throws(say({ params: { team: ["ops"] } }), /^TypeError: team: must be a string, a number or a boolean, not object$/);
  assert.throws(say({ since: new Date() }), /^TypeError: since: must be a string, a number or a boolean, not object$/);
  for (const nothing of [undefined, ""]) {
    assert.throws(() => new Trionotify(nothing, QUICK), /^TypeError: url: missing; write, for example, "https:/);
  }
  const client = await world.open(url);
  await assert.rejects(client.publish("x", "order.paid"), /^TypeError: attributes: must be an object, .*, not string$/);
  await assert.rejects(client.publish("x", { Type: "a" }), /^TypeError: attribute name 'Type': /);
  await assert.rejects(client.publish("x", { a: {} }), /^TypeError: a: /);
  await assert.rejects(client.publish("x", { type: "trionotify.ack" }), /^TypeError: type: /);
  const reader = await world.open(url, { role: "subscriber" });
  await assert.rejects(reader.publish("x"), /^TypeError: role: /);
});

test("where there is no WebSocket, as in Node 20, the error says what to pass", async (t) => {
  const world = new World(t);
  const { url } = await world.server();
  const { WebSocket: own } = globalThis;
  delete globalThis.WebSocket;
  t.after(() => Object.assign(globalThis, own && { WebSocket: own }));
  const words = 'WebSocket: missing here; write { WebSocket: ws.WebSocket } with the package ws, or { transport: "sse" }';
  for (const transport of [undefined, "auto", "websocket"]) {
    assert.throws(() => new Trionotify(url, { transport }), { name: "TypeError", message: words });
  }
  // Both of what it says will do.
  const options = [{ WebSocket: ws.WebSocket }, { WebSocket: undefined, transport: "sse" }];
  for (const each of options) {
    const client = await world.open(url, each);
    await client.publish("x");
    await has(client, 1);
  }
});

test("a server with its log in memory is killed: the gap is told, in its place, and it goes on", async (t) => {
  const world = new World(t);
  const first = await world.server({ port: await freePort() });
  const client = await world.open(first.url);
  await client.publish("before");
  await has(client, 1);
  const { cursor } = client;
  await first.kill();
  await until(client, "reconnecting", () => client.seen.losses.length > 0);
  await world.server({ port: first.port });
  await client.publish("after");
  await has(client, 2);
  assert.deepEqual(client.seen.data, ["before", "after"]);
  const { gap } = client.seen.notifications[1];
  assert.equal(gap.from, cursor);
  assert.deepEqual(client.seen.gaps.map(({ from, to }) => ({ from, to })), [gap]);
  assert.equal(client.seen.opens[1].recovered, false);
});

test("a server with its log in a file is killed: nothing is lost, nothing comes twice", async (t) => {
  const world = new World(t);
  const options = sqlite();
  const first = await world.server({ port: await freePort(), options });
  const client = await world.open(first.url);
  await publishAll(client, numbers(100));
  // Not all of it is acknowledged, or has even come, when the server dies.
  const rest = publishAll(client, numbers(200, 100));
  await first.kill();
  await world.server({ port: first.port, options });
  await rest;
  await client.publish("end");
  await has(client, 301);
  assert.deepEqual(client.seen.data, [...numbers(300), "end"]);
  assert.equal(client.seen.gaps.length, 0);
});

test("cut again and again, everything comes once and in order", async (t) => {
  const world = new World(t);
  const { port } = await world.server();
  const front = await world.front(port);
  const reader = await world.open(front.url, { role: "subscriber" });
  const writers = [await world.open(front.url, { id: "w1" }), await world.open(front.url, { id: "w2" })];
  const cut = () => (front.deafen(), front.cut());
  for (let round = 0; round < 10; round += 1) {
    const receipts = writers.map((writer, w) => publishAll(writer, numbers(20).map((n) => `${w} ${round} ${n}`)));
    cut();
    await Promise.all(receipts);
    cut();
  }
  const everyone = [reader, ...writers];
  await Promise.all(everyone.map((client) => has(client, 400)));
  for (const client of everyone) {
    assert.deepEqual(client.seen.data, reader.seen.data);
    assert.equal(client.seen.gaps.length, 0);
  }
  // No round ends without another connection of each writer.
  assert.ok(reader.seen.opens.length > 1 && writers.every((writer) => writer.seen.opens.length > 10));
  for (const w of [0, 1]) {
    const of = reader.seen.data.filter((text) => text.startsWith(`${w} `));
    assert.deepEqual(of, numbers(200).map((n) => `${w} ${Math.floor(n / 20)} ${n % 20}`));
  }
});

test("an acknowledgement is lost: published again, and once in the log", async (t) => {
  const world = new World(t);
  const { url, port } = await world.server();
  const front = await world.front(port);
  const reader = await world.open(url, { role: "subscriber" });
  const client = await world.open(front.url, { id: "al" });
  front.deafen();
  const receipt = client.publish("once");
  await has(reader, 1);
  front.cut();
  assert.equal((await receipt).cursor, reader.cursor);
  await client.publish("end");
  await has(reader, 2);
  assert.deepEqual(reader.seen.data, ["once", "end"]);
});

test("a server that goes down says when to come back", async (t) => {
  const world = new World(t);
  const options = sqlite();
  const first = await world.server({ options });
  const client = await world.open(first.url);
  await first.stop();
  await until(client, "reconnecting", () => client.seen.losses.length > 0);
  const [{ delay, error }] = client.seen.losses;
  assert.ok(delay >= 500, `${delay}`);
  assert.deepEqual([error.code, client.state], [1012, "reconnecting"]);
});

test("a handshake that is refused: the reason is asked for over HTTP", async (t) => {
  const world = new World(t);
  const { url } = await world.server();
  const client = world.client(`${url}?x=1&x=2`);
  const publishing = client.publish("x");
  await assert.rejects(publishing, Problem);
  await until(client, "close", () => client.state === "closed");
  const [{ code, error }] = client.seen.closes;
  assert.deepEqual([code, error.status, error.detail], [1006, 400, "x: given twice; give it once"]);
  await assert.rejects(client.publish("y"), Problem);
  await assert.rejects(client.setFilters([]), Problem);
});

test("a publisher whose handshake failed goes on when the server is back", async (t) => {
  const world = new World(t);
  const { port } = await world.server();
  const front = await world.front(port);
  const writer = await world.open(front.url, { role: "publisher" });
  front.noSockets = true;
  front.cut();
  const late = writer.publish("late");
  // Lost, then refused: it has asked over HTTP for the reason.
  await until(writer, "reconnecting", () => writer.seen.losses.length >= 2);
  front.noSockets = false;
  await late;
  assert.equal(writer.transport, "websocket");
});

test("filters are replaced at any time, and hold behind the cursor", async (t) => {
  const world = new World(t);
  const { url, port } = await world.server();
  const front = await world.front(port);
  const writer = await world.open(url);
  const client = await world.open(`${front.url}?exact.type=a`, { sql: "EXISTS type" });
  const say = (...types) => Promise.all(types.map((type) => writer.publish(type, { type })));
  await say("a", "b", "c");
  await has(client, 1);
  const cursor = await client.setFilters({ exact: { type: "b" } });
  const [before] = await say("b", "a");
  assert.ok(before.cursor > cursor);
  await has(client, 2);
  // The next connection begins with them.
  front.cut();
  await say("a", "b", "c");
  await has(client, 3);
  // While there is none, the answer waits for it. They hold behind the last that came: so for "c", too.
  front.cut();
  const both = client.setFilters([{ sql: "type IN ('b', 'c')" }]);
  await both;
  await say("a", "b", "c");
  await has(client, 6);
  assert.deepEqual(client.seen.data, ["a", "b", "b", "c", "b", "c"]);
  await client.setFilters([]);
  await say("d");
  await has(client, 7);
  assert.equal(client.seen.data[6], "d");
});

test("filters that are refused change nothing", async (t) => {
  const world = new World(t);
  const { url, port } = await world.server();
  const front = await world.front(port);
  const client = await world.open(`${front.url}?exact.type=a`);
  await assert.rejects(client.setFilters([{ sql: "type =" }]), (error) => error instanceof Problem && error.status === 400);
  front.cut();
  await until(client, "open", () => client.seen.opens.length === 2);
  await client.publish("no", { type: "b" });
  await client.publish("yes", { type: "a" });
  await has(client, 1);
  assert.deepEqual(client.seen.data, ["yes"]);
});

test("an iterator is bounded, and loses nothing", async (t) => {
  const world = new World(t);
  const { url } = await world.server();
  const writer = await world.open(url);
  const client = await world.open(url, { maxBuffered: 10 });
  const iterator = client[Symbol.asyncIterator]();
  // All have come, and most were not kept, before the first is taken.
  await publishAll(writer, numbers(95));
  const other = await world.open(url, { since: "start" });
  await has(other, 95);
  const got = [];
  for await (const notification of iterator) {
    got.push(notification.data);
    if (got.length === 50) await client.publish("one can publish in the midst of it");
    if (got.length === 96) break;
  }
  assert.deepEqual(got, [...numbers(95), "one can publish in the midst of it"]);
  assert.equal(client.seen.gaps.length, 0);
  // Whoever has left holds back nobody.
  await publishAll(writer, numbers(30, 100));
  await has(client, 126);
  assert.deepEqual(client.seen.data.slice(96), numbers(30, 100));
});

test("a full iteration holds up neither the listeners nor other iterations", async (t) => {
  const world = new World(t);
  const { url } = await world.server();
  const writer = await world.open(url);
  const client = await world.open(url, { maxBuffered: 10 });
  const [slow, other] = [client[Symbol.asyncIterator](), client[Symbol.asyncIterator]()];
  const take = async (iterator, until) => {
    const got = [];
    for await (const { data } of iterator) {
      got.push(data);
      if (data === until) break;
    }
    return got;
  };
  const taken = take(other, 94);
  await publishAll(writer, numbers(95));
  await has(client, 95);
  assert.deepEqual([client.seen.data, await taken], [numbers(95), numbers(95)]);
  // Whoever resumes at the client's cursor misses nothing that is still to be taken.
  assert.equal(client.cursor, client.seen.notifications[9].cursor);
  const rest = take(slow, "end");
  await client.publish("end");
  assert.deepEqual(await rest, [...numbers(95), "end"]);
  await has(client, 96);
  assert.deepEqual([client.seen.data, client.seen.gaps.length], [[...numbers(95), "end"], 0]);
  assert.equal(client.cursor, client.seen.notifications[95].cursor);
});

test("what the log dropped before a slow iteration came to it is lost to that iteration alone", async (t) => {
  const world = new World(t);
  const { url } = await world.server({ options: ["--max-log-entries", "20"] });
  const writer = await world.open(url);
  const client = await world.open(url, { maxBuffered: 10 });
  const slow = client[Symbol.asyncIterator]();
  for (const n of numbers(50)) {
    await writer.publish(n);
    await has(client, n + 1);
  }
  const got = [];
  while (got.length < 10) got.push((await slow.next()).value.data);
  await until(client, "gap", () => client.seen.gaps.length > 0);
  const { cursor: last } = client.seen.notifications[9];
  assert.deepEqual(client.seen.gaps.map(({ from, to }) => [from, to]), [[last, client.seen.notifications[49].cursor]]);
  await writer.publish("end");
  const { value } = await slow.next();
  assert.deepEqual([got, value.data, value.gap.from], [numbers(10), "end", last]);
  await has(client, 51);
  assert.deepEqual([client.seen.data, client.seen.notifications[50].gap], [[...numbers(50), "end"], null]);
});

test("an iteration that is full and has missed nothing costs no connection", async (t) => {
  const world = new World(t);
  const { port } = await world.server();
  const front = await world.front(port);
  const client = await world.open(front.url, { maxBuffered: 3 });
  const iterator = client[Symbol.asyncIterator]();
  for (let round = 0; round < 3; round += 1) {
    await publishAll(client, numbers(3));
    await has(client, 3 * round + 3);
    for (const n of numbers(3)) assert.equal((await iterator.next()).value.data, n);
  }
  assert.equal(front.handshakes, 1);
});

test("iteration ends with the client, when all was taken", async (t) => {
  const world = new World(t);
  const { url } = await world.server();
  const client = await world.open(url);
  const iterator = client[Symbol.asyncIterator]();
  await publishAll(client, [1, 2]);
  await has(client, 2);
  const unanswered = client.publish(3);
  client.close();
  client.close();
  await assert.rejects(unanswered, (error) => error instanceof Closed && error.code === 1000);
  const got = [];
  for await (const { data } of iterator) got.push(data);
  assert.deepEqual(got.slice(0, 2), [1, 2]);
  for await (const _ of client) assert.fail("it is closed");
  assert.deepEqual(client.seen.closes.map(({ code, error }) => [code, error]), [[1000, null]]);
});

test("a cursor is enough for another client to go on", async (t) => {
  const world = new World(t);
  const { url } = await world.server();
  const first = await world.open(url);
  await publishAll(first, numbers(10));
  await has(first, 10);
  const second = world.client(url, { since: first.seen.notifications[3].cursor });
  await has(second, 6);
  assert.deepEqual(second.seen.data, numbers(6, 4));
  assert.equal(second.seen.opens[0].recovered, true);
  const third = await world.open(url, { since: "nowhere:7" });
  assert.deepEqual(third.seen.gaps.map(({ from }) => from), ["nowhere:7"]);
});

test("what is too big for the server is told, and the rest goes on", async (t) => {
  const world = new World(t);
  const { url } = await world.server({ options: ["--max-message-bytes", "1000"] });
  const client = await world.open(url);
  const answers = await Promise.allSettled(["a", "x".repeat(2000), "b"].map((text) => client.publish(text)));
  assert.deepEqual(answers.map(({ status }) => status), ["fulfilled", "rejected", "fulfilled"]);
  assert.equal(answers[1].reason.code, 1009);
  await has(client, 2);
  assert.deepEqual(client.seen.data, ["a", "b"]);
});

test("more than maxUnacknowledged is refused at once", async (t) => {
  const world = new World(t);
  const { url } = await world.server();
  const client = world.client(url, { maxUnacknowledged: 2 });
  const answers = await Promise.allSettled([1, 2, 3].map((n) => client.publish(n)));
  assert.deepEqual(answers.map(({ status }) => status), ["fulfilled", "fulfilled", "rejected"]);
  assert.match(String(answers[2].reason), /^RangeError: maxUnacknowledged: /);
});

test("params may be a function: it is asked for each connection, and may fail for a while", async (t) => {
  const world = new World(t);
  const { port } = await world.server();
  const front = await world.front(port);
  let asked = 0;
  const params = async () => {
    asked += 1;
    if (asked === 2) throw new Error("no token today");
    return { token: asked };
  };
  const heads = [];
  front.said = (data) => heads.push(.../token=(\d)/.exec(data.toString("latin1"))?.slice(1) ?? []);
  const client = await world.open(front.url, { params });
  front.cut();
  await until(client, "open", () => client.seen.opens.length === 2);
  assert.deepEqual(heads, ["1", "3"]);
});

test("a silent connection is asked whether it lives", async (t) => {
  const world = new World(t);
  const { port } = await world.server();
  const front = await world.front(port);
  const client = await world.open(front.url, { probeInterval: 20 });
  // More than the server has patience with, if it were mistakes.
  let probes = 0;
  front.said = () => (probes += 1);
  await front.until(() => probes > 25);
  assert.equal(client.seen.opens.length, 1);
  assert.equal(client.seen.errors.length, 0);
});

test("a connection that has died without a word is replaced", async (t) => {
  const world = new World(t);
  const { url, port } = await world.server();
  const front = await world.front(port);
  const writer = await world.open(url);
  const client = await world.open(front.url, { probeInterval: 20, probeTimeout: 20 });
  front.die();
  await publishAll(writer, numbers(10));
  await has(client, 10);
  assert.deepEqual(client.seen.data, numbers(10));
});

test("a laptop that wakes up looks after its connection at once", async (t) => {
  const world = new World(t);
  const { url, port } = await world.server();
  const front = await world.front(port);
  const writer = await world.open(url);
  // Neither is due for as long as the test lasts: only the clock can tell.
  const client = await world.open(front.url, { probeInterval: 1e8, probeTimeout: 100 });
  front.die();
  await publishAll(writer, numbers(10));
  const { now } = Date;
  t.after(() => (Date.now = now));
  Date.now = () => now() + 3600_000;
  await has(client, 10);
  assert.deepEqual(client.seen.data, numbers(10));
  assert.equal(client.seen.gaps.length, 0);
});

test("a stream that was silent for too long while the laptop slept is replaced at once", async (t) => {
  const world = new World(t);
  const { url, port } = await world.server();
  const front = await world.front(port);
  const writer = await world.open(url);
  // One of the clocks stands still in sleep.
  const client = await world.open(front.url, { transport: "sse", probeInterval: 100, streamTimeout: 1_800_000 });
  front.die();
  await publishAll(writer, numbers(10));
  setBack(t, Date, 3600_000);
  await has(client, 10);
  assert.deepEqual([client.seen.data, client.seen.losses.length], [numbers(10), 0]);
});

test("whatever the time of day is set to, a connection that has died is noticed", async (t) => {
  const world = new World(t);
  const { url, port } = await world.server();
  const front = await world.front(port);
  const writer = await world.open(url);
  const client = await world.open(front.url, { probeInterval: 20, probeTimeout: 20 });
  setBack(t, Date, -3600_000);
  front.die();
  await publishAll(writer, numbers(10));
  await has(client, 10);
  assert.deepEqual(client.seen.data, numbers(10));
});

test("what came while the machine slept is read before the server is taken for dead", async (t) => {
  const world = new World(t);
  const front = await world.front((await world.server()).port);
  const sse = await world.open(front.url, { transport: "sse" });
  const socket = await world.open(front.url, { probeInterval: 200, probeTimeout: 100_000 });
  // Silent for longer than each has patience, as far as the clocks say, and there is something to read.
  setBack(t, performance, 3600_000);
  setBack(t, Date, 3600_000);
  let probes = 0;
  front.said = (data) => (probes += data.length);
  await front.until(() => probes > 0);
  await socket.publish("awake");
  await Promise.all([has(sse, 1), has(socket, 1)]);
  assert.deepEqual([sse.seen.losses.length, socket.seen.losses.length], [0, 0]);
});

const AGAIN = [1001, 1012, 1013, 1014, 4429];
const FINAL = [1000, 1002, 1003, 1007, 1008, 1009, 1011, 3000, 4000, 4401, 4403, 4999];

for (const code of [...AGAIN, ...FINAL]) {
  test(`the close code ${code}`, async (t) => {
    const world = new World(t);
    const address = await scripted(world, ({ socket, say, count }) => {
      say("welcome", { id: "x" }, { cursor: "e:0" });
      if (count === 1) socket.close(code, "that is why");
    });
    const client = world.client(address);
    if (AGAIN.includes(code)) return until(client, "open", () => client.seen.opens.length === 2);
    await until(client, "close", () => client.state === "closed");
    const [closed] = client.seen.closes;
    assert.deepEqual([closed.code, closed.reason], [code, "that is why"]);
    assert.equal(closed.error?.code, code === 1000 ? undefined : code);
  });
}

test("a message that can't be read costs that message", async (t) => {
  const world = new World(t);
  const event = (n) => JSON.stringify({ type: "t", id: `${n}`, source: "/s", cursor: `e:${n}`, data: n });
  const address = await scripted(world, ({ socket, say }) => {
    say("welcome", { id: "x" }, { cursor: "e:0" });
    for (const text of [event(1), '{"type":"t","cursor":"e:2","data":[}', event(3), "what?", Buffer.from([0]), event(4)])
      socket.send(text);
    for (const text of ['{"cursor":"f:9"', '{"cursor":"e:1"', '{"subject":"\\"cursor\\":\\"e:9\\""'])
      socket.send(text);
    socket.send(event(5));
  });
  const client = world.client(address);
  await has(client, 4);
  assert.deepEqual([client.seen.data, client.seen.opens.length, client.cursor], [[1, 3, 4, 5], 1, "e:5"]);
  const gaps = client.seen.gaps.map(({ from, to }) => [from, to]);
  assert.deepEqual(gaps, [["e:1", "e:2"], ["e:3", "e:3"], ["e:3", "e:3"], ...Array(3).fill(["e:4", "e:4"])]);
  assert.deepEqual(client.seen.notifications[1].gap, { from: "e:1", to: "e:2" });
});

test("falling off the log is told, and the stream goes on behind it", async (t) => {
  const world = new World(t);
  const cursors = [];
  const address = await scripted(world, ({ socket, say, query, count }) => {
    cursors.push(query.get("since"));
    say("welcome", { id: "x" }, { cursor: "e:0" });
    if (count > 1) return;
    say("gap", { from: "e:0", to: "e:5" }, { cursor: "e:5" });
    socket.send(JSON.stringify({ type: "t", id: "6", source: "/s", cursor: "e:6", data: 6 }));
    say("position", {}, { cursor: "e:9" });
    socket.close(1012);
  });
  const client = world.client(address);
  await until(client, "open", () => client.seen.opens.length === 2);
  assert.deepEqual(client.seen.gaps.map(({ from, to }) => [from, to]), [["e:0", "e:5"]]);
  assert.deepEqual(client.seen.notifications[0].gap, { from: "e:0", to: "e:5" });
  assert.deepEqual(cursors, [null, "e:9"]);
});

test("where it was is said in one way, however the address said it", async (t) => {
  const world = new World(t);
  const said = [];
  const address = await scripted(world, ({ socket, say, query, count }) => {
    said.push([...query].filter(([key]) => /since|last/i.test(key)));
    say("welcome", { id: "x", recovered: true }, { cursor: `e:${count}` });
    if (count === 1) socket.close(1012);
  });
  const first = world.client(`${address}?since=start&last_event_id=e:5&lastEventId=e:7`);
  await until(first, "open", () => first.seen.opens.length === 2);
  const params = () => ({ lastEventId: "e:9" });
  const second = world.client(`${address}?since=e:3&lastEventId=`, { params });
  await until(second, "open", () => second.seen.opens.length === 1);
  assert.deepEqual(said, [[["since", "e:7"]], [["since", "e:1"]], [["since", "e:3"]]]);
});

test("a server that knows no questions is asked once", async (t) => {
  const world = new World(t);
  const asked = [];
  let wasAsked;
  const first = new Promise((resolve) => (wasAsked = resolve));
  const address = await scripted(world, ({ socket, say }) => {
    say("welcome", { id: "x" }, { cursor: "e:0" });
    socket.on("message", (text) => {
      const { id, type } = JSON.parse(text);
      asked.push(type);
      if (type !== "trionotify.position") return say("ack", { id, source: "/clients/x", cursor: "e:1" });
      say("error", { status: 400, detail: "no", id });
      wasAsked();
    });
  });
  const client = await world.open(address, { id: "x", probeInterval: 20 });
  await first;
  await client.publish("its answer comes behind that of the question");
  // The next question would be due now.
  setBack(t, performance, 3600_000);
  for (const n of numbers(20)) await client.publish(n);
  assert.deepEqual(asked.filter((type) => type !== "message"), ["trionotify.position"]);
  assert.equal(client.seen.errors.length, 0);
});

test("what isn't a server of ours", async (t) => {
  const world = new World(t);
  const address = await scripted(world, ({ socket }) => socket.send("hello"));
  const client = world.client(address);
  await until(client, "close", () => client.state === "closed");
  assert.equal(client.seen.closes[0].code, 1002);
});
