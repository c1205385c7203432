// What seldom happens: events, filters and requests that the server can't take, or that come at a bad moment.
import assert from "node:assert/strict";
import { test } from "node:test";

import { Closed, Problem } from "../../trionotify/web/trionotify.js";
import { Publisher } from "../../trionotify/web/trionotify/publisher.js";
import { Waits } from "../../trionotify/web/trionotify/retry.js";
import { QUICK, World, freePort, has, scripted, until } from "./world.mjs";

/** Arrays inside each other: too deep for the server, which then can't read the event's id. */
const deep = (levels = 130) => JSON.parse("[".repeat(levels) + "]".repeat(levels));
const HALF = "\ud83d";

// Events that the server couldn't name in its refusal.

test("an event that the server could not name is refused before it is sent", async (t) => {
  const world = new World(t);
  const { url } = await world.server();
  const client = await world.open(url);
  const many = Object.fromEntries(Array.from({ length: 97 }, (_, n) => [`a${n}`, n]));
  const cases = [
    [`cut ${HALF}`, {}, /^TypeError: data: must not contain half of a surrogate pair/],
    [{ a: [`\\${HALF}`] }, {}, /^TypeError: data: must not contain half/],
    [{ [HALF]: 1 }, {}, /^TypeError: data: must not contain half/],
    ["x", { subject: "\udc00" }, /^TypeError: subject: must not contain half/],
    ["x", { id: HALF }, /^TypeError: id: must not contain half/],
    ["x", { id: "" }, /^TypeError: id: must not be empty$/],
    ["x", { id: 5 }, /^TypeError: id: must be a string, not number$/],
    ["x", { id: "i".repeat(4097) }, /^RangeError: id: must have at most 4096 characters$/],
    ["x", { source: "" }, /^TypeError: source: must not be empty$/],
    ["x", { source: 5 }, /^TypeError: source: must be a string/],
    ["x", { type: true }, /^TypeError: type: must be a string, not boolean$/],
    ["x", { type: null }, /^TypeError: type: must be a string, not undefined$/],
    ["x", { time: new Date(NaN) }, /^TypeError: time: must be a valid date$/],
    [new Date(NaN), {}, /^TypeError: data: Invalid Date can't be written as JSON$/],
    [() => 1, {}, /^TypeError: data: a function can't be written as JSON$/],
    [Symbol("s"), {}, /^TypeError: data: Symbol\(s\) can't be written as JSON$/],
    [NaN, {}, /^TypeError: data: NaN can't be written as JSON$/],
    [1n, {}, TypeError],
    ["x", many, /^RangeError: attributes: an event may have at most 100, its data included, not 103$/],
  ];
  for (const [data, attributes, error] of cases) await assert.rejects(client.publish(data, attributes), error);
  // What looks alike is sent as it is.
  const fine = ["\\ud83d", "🎉", { "\\ud83d": ["🎉", null, "\u0000"] }, null];
  for (const data of fine) await client.publish(data, { id: `${"🎉".repeat(4090)}${fine.indexOf(data)}` });
  await has(client, 4);
  assert.deepEqual([client.seen.data, client.seen.opens.length, client.seen.errors.length], [fine, 1, 0]);
});

test("an event that waits for the client's id is sent as it was published", async (t) => {
  const world = new World(t);
  const heard = [];
  let greet;
  const connected = new Promise((resolve) => (greet = resolve));
  const address = await scripted(world, ({ socket, say }) => {
    socket.on("message", (text) => {
      const { id, source, data } = JSON.parse(text);
      heard.push([source, data]);
      say("ack", { id, source });
    });
    greet(() => say("welcome", { id: "alice" }, { cursor: "e:0" }));
  });
  const client = world.client(address, { id: null });
  const data = [1];
  const attributes = { source: "/here" };
  const published = [client.publish(data), client.publish(data, attributes)];
  data.push(2);
  attributes.source = "/there";
  (await connected)();
  await Promise.all(published);
  assert.deepEqual(heard, [["/clients/alice", [1]], ["/here", [1]]]);
});

test("what is refused without an id costs that event only", async (t) => {
  const world = new World(t);
  const { url } = await world.server();
  const client = await world.open(url);
  const isDeep = (error) => error instanceof Problem && error.status === 400;
  // Nothing else can be meant.
  await assert.rejects(client.publish(deep()), isDeep);
  assert.equal(client.seen.opens.length, 1);
  // It isn't clear what is meant.
  const data = ["a", deep(), "b", deep(), "c"];
  const answers = await Promise.allSettled(data.map((datum) => client.publish(datum)));
  assert.deepEqual(answers.map(({ reason }) => reason?.status), [undefined, 400, undefined, 400, undefined]);
  await client.publish("d");
  await has(client, 4);
  assert.deepEqual([client.seen.data, client.state], [["a", "b", "c", "d"], "open"]);
  assert.equal(client.seen.gaps.length, 0);
});

test("an error that means nothing of ours is told, and ends nothing", async (t) => {
  const world = new World(t);
  const address = await scripted(world, ({ say }) => {
    say("welcome", { id: "x" }, { cursor: "e:0" });
    say("error", { status: 400, detail: "no" });
    say("error", { status: 400, detail: "no", id: "" });
    say("position", {}, { cursor: "e:1" });
  });
  const client = world.client(address);
  await until(client, "error", () => client.seen.errors.length === 2);
  assert.deepEqual([client.state, client.seen.opens.length], ["open", 1]);
});

test("filters that the server can't read are refused, and the client stays", async (t) => {
  const world = new World(t);
  const { port } = await world.server();
  const front = await world.front(port);
  const client = await world.open(front.url, { filters: { exact: { type: "a" } } });
  const nested = Array.from({ length: 130 }).reduce((inner) => ({ not: inner }), { exact: { type: "a" } });
  await assert.rejects(client.setFilters({ exact: { type: HALF } }), /^TypeError: filters: must not contain half/);
  await assert.rejects(client.setFilters({ exact: { type: 1n } }), TypeError);
  await assert.rejects(client.setFilters(nested), Problem);
  await client.publish("no", { type: "b" });
  await client.publish("yes", { type: "a" });
  await has(client, 1);
  // Nothing of it is left for the next connection.
  front.cut();
  await until(client, "reconnecting", () => client.seen.losses.length > 1);
  await client.publish("again", { type: "a" });
  await has(client, 2);
  assert.deepEqual(client.seen.data, ["yes", "again"]);
});

test("a connection that has died is noticed after all that was refused", async (t) => {
  const world = new World(t);
  let probed;
  const asked = new Promise((resolve) => (probed = resolve));
  const address = await scripted(world, ({ socket, say }) => {
    say("welcome", { id: "x" }, { cursor: "e:0" });
    // None of these is about a question, because there was none.
    say("error", { status: 400, detail: "no", id: "" });
    say("ack", { source: "/s", id: "" });
    socket.on("message", (text) => JSON.parse(text).type === "trionotify.position" && probed());
  });
  await world.open(address, { probeInterval: 100 });
  await asked;
});

// Filters.

test("filters that are set while the client connects hold", async (t) => {
  const world = new World(t);
  const { url } = await world.server();
  for (const transport of ["websocket", "sse"]) {
    let client, chosen;
    const choose = () => (chosen ??= client.setFilters({ exact: { type: "c" } }));
    // The address was made, and nothing has come yet.
    class Late extends QUICK.WebSocket {
      constructor(...given) {
        super(...given);
        choose();
      }
    }
    const late = (...given) => (choose(), fetch(...given));
    client = world.client(url, { transport, WebSocket: Late, fetch: late, filters: { exact: { type: "a" } } });
    await until(client, "open", () => client.state === "open");
    await chosen;
    for (const type of ["a", "c"]) await client.publish(type, { type });
    await has(client, 1);
    assert.deepEqual(client.seen.data, ["c"]);
  }
});

test("filters that are set while the client is away are not refused with those after them", async (t) => {
  const world = new World(t);
  const { url, port } = await world.server();
  const front = await world.front(port);
  const client = await world.open(front.url);
  const writer = await world.open(url);
  front.cut();
  await until(client, "reconnecting", () => client.state === "reconnecting");
  const set = [{ exact: { type: "a" } }, { exact: { type: "b" } }, { nope: 1 }, { nope: 2 }].map((one) => client.setFilters(one));
  const answers = await Promise.allSettled(set);
  assert.deepEqual(answers.map(({ status }) => status), ["fulfilled", "fulfilled", "rejected", "rejected"]);
  assert.match(String(answers[2].reason), /unknown dialect/);
  for (const type of ["a", "b"]) await writer.publish(type, { type });
  await has(client, 1);
  assert.deepEqual([client.seen.data, client.seen.gaps.length], [["b"], 0]);
});

test("filters that are set while the client connects, and are refused, change nothing", async (t) => {
  const world = new World(t);
  const { url } = await world.server();
  let client, chosen;
  class Late extends QUICK.WebSocket {
    constructor(...given) {
      super(...given);
      chosen ??= [{ sql: "type =" }, { exact: { type: "b" } }].map((one) => client.setFilters(one));
    }
  }
  client = world.client(url, { WebSocket: Late, filters: { exact: { type: "a" } } });
  await until(client, "open", () => client.state === "open");
  const [refused, taken] = chosen;
  await assert.rejects(refused, Problem);
  await taken;
  for (const type of ["a", "b"]) await client.publish(type, { type });
  await has(client, 1);
  assert.deepEqual(client.seen.data, ["b"]);
});

test("a publisher that has chosen to get everything gets it after a reconnect, too", async (t) => {
  const world = new World(t);
  const { url, port } = await world.server();
  const front = await world.front(port);
  const writer = await world.open(url);
  const client = await world.open(front.url, { role: "publisher" });
  await client.setFilters([]);
  await writer.publish("before");
  await has(client, 1);
  front.cut();
  await until(client, "open", () => client.seen.opens.length === 2);
  await writer.publish("after");
  await has(client, 2);
  assert.deepEqual(client.seen.data, ["before", "after"]);
});

// Too big.

test("of what is too big, the bytes count", async (t) => {
  const world = new World(t);
  const { url } = await world.server({ options: ["--max-message-bytes", "2000"] });
  const client = await world.open(url);
  const data = ["字".repeat(700), "a".repeat(1500), "字".repeat(800)];
  const answers = await Promise.allSettled(data.map((datum) => client.publish(datum)));
  assert.deepEqual(answers.map(({ reason }) => reason?.code), [1009, undefined, 1009]);
  assert.equal(client.seen.losses.length, 1);
  await has(client, 1);
  assert.deepEqual(client.seen.data, [data[1]]);
});

test("where the server doesn't say how much is too big, it is the longest", async (t) => {
  const world = new World(t);
  const address = await scripted(world, ({ socket, say }) => {
    say("welcome", { id: "x" }, { cursor: "e:0" });
    socket.on("message", (text) => {
      const { id, source, data } = JSON.parse(text);
      if (data === "字字字") socket.close(1009);
      else say("ack", { id, source, cursor: "e:1" });
    });
  });
  const client = await world.open(address);
  const answers = await Promise.allSettled(["字字字", "aaaaa"].map((datum) => client.publish(datum)));
  assert.deepEqual(answers.map(({ reason }) => reason?.code), [1009, undefined]);
});

test("filters that are too big are taken back, and innocent events go on", async (t) => {
  const world = new World(t);
  const { port } = await world.server();
  const front = await world.front(port);
  const big = { exact: { subject: "x".repeat(1_200_000) } };
  for (const role of ["both", "subscriber"]) {
    const client = await world.open(front.url, { role, filters: { exact: { type: role } } });
    const others = role === "both" ? [client.publish("1", { type: "x" })] : [];
    const refused = assert.rejects(client.setFilters(big), (error) => error instanceof Closed && error.code === 1009);
    if (role === "both") others.push(client.publish("2", { type: role }));
    await Promise.all([refused, ...others]);
    // And between two connections, when they have to be held.
    front.cut();
    await assert.rejects(client.setFilters(big), (error) => error instanceof Closed && error.code === 1009);
    const writer = await world.open(front.url);
    await writer.publish("3", { type: role });
    await has(client, role === "both" ? 2 : 1);
    assert.equal(client.seen.data.at(-1), "3");
    assert.notEqual(client.state, "closed");
  }
});

test("two events with one id and different sources: the one that is refused is rejected", async (t) => {
  const world = new World(t);
  const address = await scripted(world, ({ socket, say, count }) => {
    say("welcome", { id: "x", role: "both" }, { cursor: "e:0" });
    let heard = 0;
    socket.on("message", (text) => {
      const { id, source } = JSON.parse(text);
      // A problem document names the id alone.
      if (count === 1) return (heard += 1) === 2 && say("error", { id, status: 400, detail: "no" });
      if (source === "/b") say("error", { id, status: 400, detail: "no" });
      else say("ack", { id, source, cursor: "e:1" });
    });
  });
  const client = await world.open(address);
  const published = ["/a", "/b"].map((source) => client.publish("x", { id: "1", source }));
  const answers = await Promise.allSettled(published);
  assert.deepEqual(answers.map(({ status }) => status), ["fulfilled", "rejected"]);
  assert.equal(answers[1].reason.detail, "no");
});

test("what a WebSocket takes over is not posted any more", async () => {
  const waits = new Waits();
  let posted = 0;
  const post = async () => {
    posted += 1;
    if (posted > 1) return { wanted: 0, written: 0, behind: 0 };
    publisher.posts = false;
    setImmediate(() => waits.cut(true));
    return { again: true, error: new Error("away") };
  };
  const [target, token] = [{ renews: false }, { renews: false }];
  const publisher = new Publisher(target, token, { post }, { firstDelay: 1e6, maxDelay: 1e6 }, waits);
  publisher.posts = true;
  publisher.put({ id: "1", source: "/" });
  await publisher.postAll();
  assert.deepEqual([posted, publisher.size], [1, 1]);
});

// Requests.

test("a request whose time is over isn't sent any more, and its place is free", async (t) => {
  const world = new World(t);
  const port = await freePort();
  const client = world.client(`http://127.0.0.1:${port}/`, { maxUnacknowledged: 2 });
  for (const n of [1, 2, 3]) {
    const said = { name: "Error", message: "no reply within 10 ms; the request was not sent" };
    await assert.rejects(client.request(`buy ${n}`, { timeout: 10 }), said);
  }
  const last = client.publish("last");
  const server = await world.server({ port });
  const reader = world.client(server.url, { since: "start" });
  await last;
  await has(reader, 1);
  assert.deepEqual(reader.seen.data, ["last"]);
});

test("a request that was sent, and whose time is over, may have had an effect", async (t) => {
  const world = new World(t);
  const heard = [];
  const address = await scripted(world, ({ socket, say }) => {
    say("welcome", { id: "x", role: "both" }, { cursor: "e:0" });
    socket.on("message", (text) => {
      const { id, source, data } = JSON.parse(text);
      heard.push(data);
      if (data !== "never") say("ack", { id, source, reply: data });
      if (data === "last") socket.terminate();
    });
  });
  const client = await world.open(address, { maxUnacknowledged: 1 });
  const words = /^Error: no reply within 50 ms; whether the session acted on the request is unknown$/;
  await assert.rejects(client.request("never", { timeout: 50 }), words);
  // Neither on this connection nor on the next.
  assert.equal(await client.request("last"), "last");
  await until(client, "open", () => client.seen.opens.length === 2);
  assert.equal(await client.request("next"), "next");
  assert.deepEqual(heard, ["never", "last", "next"]);
});
