// The client with several servers that share a log, and with the cursors of such a log.
import assert from "node:assert/strict";
import { once } from "node:events";
import http from "node:http";
import { test } from "node:test";

import { Closed, Trionotify } from "../../trionotify/web/trionotify.js";
import { isAhead, sameEpoch } from "../../trionotify/web/trionotify/cursor.js";
import { FakeStreams, QUICK, World, freePort, has, scripted, until } from "./world.mjs";

test("which of two cursors is ahead", () => {
  const order = ["e:9", "e:10:x0a", "e:11", "e:12:xffffffffffffffff", "e:9007199254740993", "e:9007199254740994:x1"];
  for (const [at, one] of order.entries()) {
    for (const [other_at, other] of order.entries()) {
      assert.equal(isAhead(one, other), at > other_at, `${one} ${other}`);
      assert.ok(sameEpoch(one, other));
    }
  }
  for (const [one, other] of [["e:9:x1", "e:9"], ["e:9", "e:9:x1"]]) assert.equal(isAhead(one, other), false);
  // Another life of the log is always ahead. Epochs may have colons.
  for (const one of ["f:1", "e:e:1:x1", "e:x1:1"]) {
    assert.ok(isAhead(one, "e:5:x1") && isAhead("e:5:x1", one));
    assert.ok(!sameEpoch(one, "e:5"));
  }
  assert.deepEqual([isAhead("e:1", undefined), isAhead(undefined, "e:1"), isAhead(undefined, undefined)], [true, false, false]);
});

test("several URLs that don't fit", () => {
  const say = (...urls) => () => new Trionotify(urls, QUICK);
  const [one, other] = ["http://127.0.0.1:1/", "http://127.0.0.1:2/"];
  assert.throws(say(), /^TypeError: url: must be one URL or several, not none$/);
  assert.throws(say(`${one}?id=a`, `${other}?id=b`), /^TypeError: url: must have the query of the first URL, or none$/);
  assert.throws(say(one, `${other}?id=b`), /^TypeError: url: must have the query of the first URL, or none$/);
  assert.throws(say(one, ""), /^TypeError: url: missing; write/);
  for (const urls of [[`${one}?id=a`, other], [`${one}?id=a`, new URL(`${other}?id=a`)]]) {
    const client = new Trionotify(urls, QUICK);
    assert.equal(client.id, "a");
    client.close();
  }
});

/** Two servers with one log, and where clients came to. */
async function pair(world) {
  const came = [];
  const node = (name) =>
    scripted(world, ({ socket, say, query }) => {
      came.push([name, query.get("since"), query.get("type")]);
      say("welcome", { id: "al", recovered: true }, { cursor: query.get("since") ?? "e:0:xab" });
      socket.on("message", (text) => {
        const { id, source, data } = JSON.parse(text);
        if (data === "close") return socket.close(1012);
        if (data === "refuse") return socket.close(1011);
        say("ack", { id, source, cursor: "e:7:xcd", wanted: 1, written: 1, behind: 0, node: name, durability: "primary" });
        socket.send(JSON.stringify({ type: "t", id, source, cursor: "e:7:xcd", data }));
      });
    });
  return { came, urls: [await node("a"), await node("b")] };
}

test("the next one's turn comes when a server is away or sends the client away, with the same cursor and query", async (t) => {
  const world = new World(t);
  const { came, urls } = await pair(world);
  const gone = await world.front(1);
  await gone.close();
  const client = world.client([`${gone.url}?type=x`, ...urls.map((url) => `${url}?type=x`)]);
  const receipt = await client.publish("one");
  assert.deepEqual([receipt.node, receipt.durability, receipt.cursor], ["a", "primary", "e:7:xcd"]);
  // What has no answer when its server goes comes to the next one.
  const rejected = client.publish("close");
  await until(client, "open", () => client.seen.opens.length === 2);
  assert.deepEqual(came, [["a", null, "x"], ["b", "e:7:xcd", "x"]]);
  rejected.catch(() => {});
  await until(client, "reconnecting", () => client.seen.losses.length > 3);
  // Round and round: nobody is there, a, b.
  await until(client, "open", () => client.seen.opens.length === 4);
  assert.deepEqual(came.map(([name]) => name), ["a", "b", "a", "b"]);
});

test("what ends for good on one server is not tried on the next", async (t) => {
  const world = new World(t);
  const { came, urls } = await pair(world);
  const client = await world.open(urls);
  await assert.rejects(client.publish("refuse"), /closed: 1011/);
  assert.deepEqual([client.state, came.length], ["closed", 1]);
});

/** A server that refuses all requests with that status, and how many there were. */
async function refusing(world, status) {
  const found = { asked: 0 };
  const server = http.createServer((_, response) => {
    found.asked += 1;
    response.writeHead(status, { "Content-Type": "application/problem+json" });
    response.end(JSON.stringify({ detail: `not here: ${status}` }));
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  world.ending.push(() => server.close());
  return Object.assign(found, { url: `http://127.0.0.1:${server.address().port}/` });
}

for (const transport of ["websocket", "sse"]) {
  test(`a server that refuses the client ends it only if the others do so too (${transport})`, async (t) => {
    const world = new World(t);
    const { url } = await world.server();
    for (const status of [400, 401, 403, 404, 410]) {
      const client = await world.open([(await refusing(world, status)).url, url], { transport });
      assert.deepEqual(client.seen.losses.map(({ error }) => error.status), [status]);
      await client.publish("x");
      const all = [await refusing(world, status), await refusing(world, 404)];
      const nowhere = world.client(all.map((one) => one.url), { transport });
      await until(nowhere, "close", () => nowhere.state === "closed");
      assert.equal(nowhere.seen.closes[0].error.detail, "not here: 404");
      // With a WebSocket, the second request is the question why.
      assert.deepEqual(all.map(({ asked }) => asked), transport === "sse" ? [1, 1] : [2, 2]);
    }
  });
}

test("one that is away may still take the client that the others refuse", async (t) => {
  const world = new World(t);
  const port = await freePort();
  const refused = await refusing(world, 404);
  const client = world.client([refused.url, `http://127.0.0.1:${port}/`], { transport: "sse" });
  await until(client, "reconnecting", () => client.seen.losses.length > 5);
  await world.server({ port });
  await until(client, "open", () => client.state === "open");
  assert.ok(refused.asked > 1);
});

test("something else in a server's place is no end, if there is another one", async (t) => {
  const world = new World(t);
  const other = await scripted(world, ({ socket }) => socket.send("hello"));
  const { url } = await world.server();
  await world.open([other, url]);
});

test("what the application says is the end is not tried on the next server", async (t) => {
  const world = new World(t);
  const all = [await refusing(world, 404), await refusing(world, 404)];
  const params = () => {
    throw new Closed(4000, "signed out");
  };
  const client = world.client(all.map(({ url }) => url), { params });
  await until(client, "close", () => client.state === "closed");
  assert.deepEqual([client.seen.closes[0].code, all.map(({ asked }) => asked)], [4000, [0, 0]]);
});

test("credentials that have expired are no reason to move", async (t) => {
  const world = new World(t);
  const came = [];
  const node = (name) =>
    scripted(world, ({ socket, say, query }) => {
      came.push([name, query.get("n")]);
      say("welcome", { id: "al" }, { cursor: "e:0" });
      if (came.length < 3) socket.close(4401);
    });
  const urls = [await node("a"), await node("b")];
  let n = 0;
  const client = world.client(urls, { params: () => ({ n: (n += 1) }) });
  await until(client, "open", () => client.seen.opens.length === 3);
  assert.deepEqual(came, [["a", "1"], ["a", "2"], ["a", "3"]]);
});

test("what is posted goes to the server whose stream it is, and moves on with it", async (t) => {
  const world = new World(t);
  const [a, b] = [await new FakeStreams().listen(world), await new FakeStreams().listen(world)];
  const client = await world.open([a.url, b.url], { transport: "sse", id: "al" });
  await client.publish("one");
  a.server.close();
  a.server.closeAllConnections();
  await client.publish("two");
  await until(client, "open", () => client.seen.opens.length === 2);
  await client.publish("three");
  await has(client, 2);
  assert.deepEqual(b.log.map(({ data }) => data), ["two", "three"]);
});

test("with several servers, the ticket is of the one to which it goes", async (t) => {
  const world = new World(t);
  const { urls } = await pair(world);
  const asked = [];
  const fetch = async (url) => {
    asked.push(String(url));
    return asked.length === 1 ? new Response("away", { status: 503 }) : Response.json({ ticket: "t", expires_in: 30 });
  };
  const client = await world.open(urls, { fetch, token: "a" });
  assert.deepEqual(asked, urls.map((url) => `${url}tickets`));
  assert.equal(client.id, "al");
});
