// The client with tokens of a real issuer: tickets, renewal, and what ends it.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { Closed, Problem, Trionotify } from "../../trionotify/web/trionotify.js";
import { Token } from "../../trionotify/web/trionotify/token.js";
import { FakeStreams, QUICK, World, has, scripted, setBack, until } from "./world.mjs";

/** One for all: it takes a while to start. */
const shared = new World({ after });
let issuer, server;
before(async () => {
  issuer = await shared.issuer();
  server = await shared.server({ options: issuer.options });
});

/** A way to it that notes down what clients say. */
async function guarded(t) {
  const world = new World(t);
  const front = await world.front(server.port);
  front.heads = [];
  front.said = (data) => front.heads.push(...(data.toString("latin1").match(/^(?:GET|POST) .*/gim) ?? []));
  return { world, front };
}

for (const transport of ["websocket", "sse"]) {
  test(`the client is whom its token names, on each connection, and no URL has the token (${transport})`, async (t) => {
    const { world, front } = await guarded(t);
    const given = [];
    const token = async () => (given.push(issuer.token()), given.at(-1));
    const client = world.client(front.url, { transport, token });
    // Before it is known who that is.
    const early = client.publish("early");
    assert.equal(client.id, "");
    await early;
    front.cut();
    await client.publish("late");
    await has(client, 2);
    assert.deepEqual(client.seen.notifications.map(({ source }) => source), ["/clients/alice", "/clients/alice"]);
    assert.deepEqual([client.id, client.seen.data, client.seen.gaps.length], ["alice", ["early", "late"], 0]);
    assert.ok(!front.heads.some((line) => given.some((one) => line.includes(one.slice(0, 40)))));
    const tickets = front.heads.filter((line) => line.startsWith("POST /tickets ")).length;
    assert.equal(tickets, transport === "sse" ? 0 : given.length);
    assert.ok(given.length >= 2);
  });
}

/** Look at the clocks often. */
const WATCHFUL = { probeInterval: 200, probeTimeout: 20_000 };

for (const clock of [Date, performance]) {
  test(`a token is renewed before it expires, and nothing is interrupted, whichever clock goes on in sleep (${clock === Date ? "Date" : "performance"})`, async (t) => {
    const { world, front } = await guarded(t);
    let asked = 0;
    const client = await world.open(front.url, { ...WATCHFUL, token: () => (asked += 1, issuer.token(600)) });
    for (const count of [1, 2, 3]) {
      assert.equal(asked, count);
      setBack(t, clock, 490_000);
      await front.until(() => asked > count);
      await client.publish("this has an answer, so what was said before it has one");
    }
    assert.deepEqual([client.seen.opens.length, client.seen.losses.length, client.seen.errors.length], [1, 0, 0]);
  });
}

test("a renewal that fails is told and tried again; when time is over, the next connection has a fresh token", async (t) => {
  const { world, front } = await guarded(t);
  let works = true;
  const token = async () => {
    if (works) return issuer.token(10);
    throw new Error("no token today");
  };
  const client = await world.open(front.url, { ...WATCHFUL, token });
  works = false;
  setBack(t, performance, 10_000);
  await until(client, "error", () => client.seen.errors.length > 1);
  await until(client, "reconnecting", () => client.seen.losses.length > 1);
  works = true;
  await until(client, "open", () => client.seen.opens.length === 2);
  await client.publish("again");
  await has(client, 1);
  const told = client.seen.errors.map(({ error }) => error.message);
  assert.deepEqual([...new Set(told)], ["token: not renewed: no token today"]);
  const [first, second] = client.seen.losses.map(({ error }) => error);
  assert.deepEqual([first.code, second.message], [4401, "token: no token today"]);
  assert.equal(client.seen.opens[1].recovered, true);
});

test("a server that refuses a renewal: it is told, and the connection goes on with the old token", async (t) => {
  const { world, front } = await guarded(t);
  const whose = ["alice", "bob"];
  const client = await world.open(front.url, { ...WATCHFUL, token: () => issuer.token(600, { sub: whose.shift() }) });
  setBack(t, Date, 490_000);
  await until(client, "error", () => client.seen.errors.length > 0);
  assert.match(client.seen.errors[0].error.message, /^token: not renewed: 403: token: /);
  await client.publish("still here");
  assert.deepEqual([client.seen.errors.length, client.seen.losses.length, client.id], [1, 0, "alice"]);
});

test("a token that is refused: the function is asked once more, and the client ends when that one is refused, too", async (t) => {
  const { world, front } = await guarded(t);
  for (const transport of ["websocket", "sse"]) {
    let asked = 0;
    const good = await world.open(front.url, { transport, token: () => issuer.token((asked += 1) === 1 ? -60 : 600) });
    assert.deepEqual([asked, good.seen.losses.map(({ error }) => error.status)], [2, [401]]);
    asked = 0;
    const bad = world.client(front.url, { transport, token: () => (asked += 1, issuer.token(600, { aud: "another" })) });
    await assert.rejects(bad.publish("x"), (error) => error instanceof Problem && error.status === 401);
    const [{ error, code }] = bad.seen.closes;
    assert.deepEqual([asked, bad.state, code, error.status], [2, "closed", 1006, 401]);
    assert.match(error.detail, /^token: aud/);
    // A text can't be fresher.
    const fixed = world.client(front.url, { transport, token: issuer.token(-60) });
    await until(fixed, "close", () => fixed.state === "closed");
    assert.deepEqual([fixed.seen.closes[0].error.status, fixed.seen.losses.length], [401, 0]);
  }
});

test("4401: a fresh token, and the stream goes on; 4403 is the end", async (t) => {
  const world = new World(t);
  const fake = await new FakeStreams().listen(world);
  const codes = [4401, 4401, 4403];
  const since = [];
  const address = await scripted(world, ({ socket, say, query }) => {
    since.push(query.get("since"));
    say("welcome", { id: "alice", recovered: true }, { cursor: query.get("since") ?? "e:0" });
    say("position", {}, { cursor: `e:${since.length}` });
    socket.close(codes.shift(), "that is why");
  });
  let asked = 0;
  const fetch = async (url, { headers }) => {
    assert.deepEqual([url.pathname, headers.Authorization], ["/tickets", `Bearer token-${asked}`]);
    return Response.json({ ticket: "t", expires_in: 30 });
  };
  const client = world.client(address, { fetch, token: () => `token-${(asked += 1)}` });
  await until(client, "close", () => client.state === "closed");
  assert.deepEqual([asked, since], [3, [null, "e:1", "e:2"]]);
  assert.deepEqual([client.seen.closes[0].code, fake.requests.length], [4403, 0]);
});

test("a function that fails, hangs, or gives no token is told and asked again; an error of the client's own is the end", async (t) => {
  const { world, front } = await guarded(t);
  const answers = [
    () => Promise.reject(new Error("no token today")),
    () => new Promise(() => {}),
    () => undefined,
    () => "two\nlines",
    () => {
      throw "a string";
    },
    () => issuer.token(),
  ];
  const client = world.client(front.url, { token: () => answers.shift()(), connectTimeout: 5000 });
  await until(client, "open", () => client.state === "open");
  assert.deepEqual(
    client.seen.losses.map(({ error }) => error.message),
    [
      "token: no token today",
      "token: no answer within 5000 ms",
      "token: the function must return a string, not undefined",
      "token: must be printable ASCII and not empty, because it is sent in a header",
      "token: a string",
    ],
  );
  const over = world.client(front.url, { token: () => Promise.reject(new Closed(4000, "signed out")) });
  await until(over, "close", () => over.state === "closed");
  assert.deepEqual([over.seen.closes[0].code, over.seen.losses.length], [4000, 0]);
  // What is published ends with it, too.
  const fake = await new FakeStreams().listen(world);
  const first = [() => "good", () => Promise.reject(new Closed(4000, "signed out"))];
  const poster = await world.open(fake.url, { transport: "sse", token: () => first.shift()() });
  fake.answers.push([401, {}]);
  await assert.rejects(poster.publish("x"), (error) => error.code === 4000);
});

test("several that ask at once get the result of one call", async () => {
  const waiting = [];
  const token = new Token(() => new Promise((resolve) => waiting.push(resolve)), (promise) => promise);
  const both = [token.fresh(), token.fresh()];
  await Promise.resolve();
  assert.equal(waiting.length, 1);
  waiting[0]("a");
  assert.deepEqual(await Promise.all(both), ["a", "a"]);
  const next = token.fresh();
  await Promise.resolve();
  waiting[1]("b");
  assert.deepEqual([await next, token.last, waiting.length], ["b", "b", 2]);
  // One that comes too late doesn't count.
  const answers = [new Promise((resolve) => waiting.push(resolve)), "new"];
  const limits = [(promise) => Promise.race([promise, Promise.reject(new Error("late"))]), (promise) => promise];
  const other = new Token(() => answers.shift(), (promise) => limits.shift()(promise));
  await assert.rejects(other.fresh(), /late/);
  assert.equal(await other.fresh(), "new");
  waiting[2]("old");
  await Promise.resolve().then(() => {});
  assert.equal(other.last, "new");
});

test("what is posted has the stream's token, and a fresh one after a 401", async (t) => {
  const world = new World(t);
  const fake = await new FakeStreams().listen(world);
  let asked = 0;
  const client = await world.open(fake.url, { transport: "sse", token: () => `token-${(asked += 1)}` });
  const sent = () => fake.requests.map(({ method, headers }) => [method, headers.authorization]);
  await client.publish("a");
  fake.answers.push([401, { detail: "token: it has expired" }]);
  await client.publish("b");
  await client.publish("c");
  const expected = [["GET", 1], ["POST", 1], ["POST", 1], ["POST", 2], ["POST", 2]];
  assert.deepEqual(sent(), expected.map(([method, n]) => [method, `Bearer token-${n}`]));
  fake.answers.push([401, { detail: "one" }], [401, { detail: "two" }]);
  await assert.rejects(client.publish("d"), (error) => error instanceof Problem && error.detail === "two");
  assert.deepEqual([asked, client.state], [3, "open"]);
});

test("a token that only lets subscribe: the client does, unless it was told to do more", async (t) => {
  const { world, front } = await guarded(t);
  const token = () => issuer.token(600, { scope: "trionotify:subscribe" });
  for (const transport of ["websocket", "sse"]) {
    const client = await world.open(front.url, { transport, token });
    const writer = await world.open(front.url, { token: () => issuer.token(600, { sub: "bob" }) });
    await assert.rejects(client.publish("x"), (error) => error instanceof Problem && error.status === 403);
    await writer.publish("y");
    await has(client, 1);
    assert.deepEqual([client.seen.data, client.seen.losses.length], [["y"], 0]);
    const told = world.client(front.url, { transport, token, role: "both" });
    await until(told, "close", () => told.state === "closed");
    assert.match(told.seen.closes[0].error.detail, /no right to publish.*role=subscriber/);
    const writes = () => issuer.token(600, { scope: "trionotify:publish" });
    const lost = world.client(front.url, { transport, token: writes });
    await until(lost, "close", () => lost.state === "closed");
    assert.match(lost.seen.closes[0].error.detail, /no right to subscribe.*role=publisher/);
  }
});

test("streams that end with their tokens go on with fresh ones", async (t) => {
  const { world, front } = await guarded(t);
  const client = await world.open(front.url, { transport: "sse", token: () => issuer.token(5) });
  for (let count = 1; count < 4; count += 1) {
    await client.publish(count);
    await until(client, "open", () => client.seen.opens.length > count);
  }
  await has(client, 3);
  assert.deepEqual([client.seen.data, client.seen.gaps.length, client.seen.errors.length], [[1, 2, 3], 0, 0]);
});

test("where no WebSocket gets through, tokens go with Server-Sent Events", async (t) => {
  const { world, front } = await guarded(t);
  front.noSockets = true;
  const client = await world.open(front.url, { token: () => issuer.token() });
  await client.publish("x");
  await has(client, 1);
  assert.deepEqual([client.transport, client.id, client.seen.losses.length], ["sse", "alice", 2]);
});

test("what answers in place of a server's tickets is named", async (t) => {
  const world = new World(t);
  const answers = ["<title>Sign in to the network</title>", "{}", "null"];
  const fetch = async () => new Response(answers.shift());
  const client = world.client("http://127.0.0.1:1/a/events", { token: "a", fetch });
  await until(client, "reconnecting", () => client.seen.losses.length === 3);
  const told = client.seen.losses.map(({ error }) => error.message);
  assert.deepEqual([...new Set(told)], ["no trionotify server answers at http://127.0.0.1:1/a/tickets"]);
});

test("a server without tokens, and mistakes", async (t) => {
  const world = new World(t);
  const { url } = await world.server();
  const client = world.client(url, { token: "a" });
  await until(client, "close", () => client.state === "closed");
  const { error } = client.seen.closes[0];
  assert.equal(error.status, 404);
  assert.match(error.detail, /^token: there are no tickets at http:.*\/tickets; the server accepts no tokens, or a proxy/);
  for (const token of [7, null, {}]) {
    assert.throws(() => new Trionotify(url, { ...QUICK, token }), /^TypeError: token: must be a string or a function, not (number|object)$/);
  }
});
