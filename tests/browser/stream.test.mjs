// The client where no WebSocket gets through, and others' clients of the same streams.
import assert from "node:assert/strict";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import http from "node:http";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";

import { World, freePort, has, until } from "./world.mjs";

const require = createRequire(new URL("../peers/package.json", import.meta.url));

async function store(t) {
  const directory = await mkdtemp(join(tmpdir(), "trionotify-"));
  t.after(() => rm(directory, { recursive: true }));
  return ["--store", `sqlite:${join(directory, "log")}`];
}

test("where no WebSocket gets through, it is Server-Sent Events and POST", async (t) => {
  const world = new World(t);
  const { port } = await world.server();
  const front = await world.front(port);
  front.noSockets = true;
  const client = await world.open(front.url, { filters: { prefix: { type: "a" } } });
  assert.equal(client.transport, "sse");
  const receipt = await client.publish({ n: 1 }, { type: "ab", subject: "x" });
  assert.deepEqual([receipt.wanted, receipt.written], [1, 1]);
  await client.publish("no", { type: "b" });
  await client.publish(new Uint8Array([0, 255]), { type: "a" });
  await has(client, 2);
  assert.deepEqual(client.seen.data[0], { n: 1 });
  assert.deepEqual([...client.seen.data[1]], [0, 255]);
  assert.equal(client.seen.notifications[0].subject, "x");
  await client.setFilters({ exact: { type: "b" } });
  await client.publish("yes", { type: "b" });
  await has(client, 3);
  assert.equal(client.seen.data[2], "yes");
});

for (const options of [{ transport: "sse" }, {}]) {
  test(`a client that is closed while its stream is asked for leaves none open (${options.transport ?? "auto"})`, async (t) => {
    const world = new World(t);
    const { port } = await world.server();
    const front = await world.front(port);
    front.noSockets = true;
    const aborted = new Promise((resolve) => {
      const client = world.client(front.url, {
        ...options,
        async fetch(url, init) {
          const answer = await fetch(url, init);
          init.signal.addEventListener("abort", resolve);
          client.close();
          return answer;
        },
      });
    });
    await aborted;
  });
}

test("a redirect that makes a GET of a POST is named", async (t) => {
  const world = new World(t);
  const { url } = await world.server();
  const front = http.createServer((request, answer) => {
    answer.writeHead(301, { Location: new URL(request.url, url).href });
    answer.end();
  });
  front.listen(0, "127.0.0.1");
  await once(front, "listening");
  t.after(() => front.close());
  const client = await world.open(`http://127.0.0.1:${front.address().port}/events`, { transport: "sse" });
  await assert.rejects(client.publish("x"), /502: url: redirects publishing to .*\/events; write the URL that it leads to/);
  assert.equal(client.state, "open");
});

test("a publisher, too, goes on without WebSockets", async (t) => {
  const world = new World(t);
  const { url, port } = await world.server();
  const front = await world.front(port);
  front.noSockets = true;
  const reader = await world.open(url, { filters: { exact: { type: "a" } } });
  const writer = await world.open(front.url, { role: "publisher" });
  assert.equal(writer.transport, "sse");
  await writer.publish("one", { type: "a" });
  await has(reader, 1);
  assert.deepEqual([reader.seen.data, writer.seen.data], [["one"], []]);
});

test("a stream that is cut again and again: everything comes once and in order", async (t) => {
  const world = new World(t);
  const { url, port } = await world.server();
  const front = await world.front(port);
  const writer = await world.open(url);
  const client = await world.open(front.url, { transport: "sse" });
  for (let n = 0; n < 60; n += 1) {
    await writer.publish(n);
    if (n % 10 === 5) front.cut();
  }
  await has(client, 60);
  assert.deepEqual(client.seen.data, [...Array(60).keys()]);
  assert.deepEqual(client.seen.gaps, []);
});

test("a server with its log in a file is killed: a stream loses nothing", async (t) => {
  const world = new World(t);
  const options = await store(t);
  const server = await world.server({ port: await freePort(), options });
  const client = await world.open(server.url, { transport: "sse" });
  await client.publish("one");
  await server.kill();
  const late = client.publish("two");
  await world.server({ port: server.port, options });
  await late;
  await has(client, 2);
  assert.deepEqual(client.seen.data, ["one", "two"]);
});

test("Node's eventsource resumes by itself", async (t) => {
  const { EventSource } = require("eventsource");
  const world = new World(t);
  const options = await store(t);
  const server = await world.server({ port: await freePort(), options });
  const say = (port, text) => fetch(`http://127.0.0.1:${port}/events`, { method: "POST", body: text });
  const source = new EventSource(`http://127.0.0.1:${server.port}/events`);
  t.after(() => source.close());
  const heard = [];
  source.addEventListener("message", ({ data }) => heard.push(data));
  await once(source, "open");
  await say(server.port, "one");
  await until(source, "message", () => heard.length === 1);
  await server.kill();
  await world.server({ port: server.port, options });
  await say(server.port, "two");
  await until(source, "message", () => heard.length === 2);
  assert.deepEqual(heard, ["one", "two"]);
});
