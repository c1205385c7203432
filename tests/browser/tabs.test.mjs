// Tabs that share a connection, all in this process: what a browser has for them is imitated, so that a test decides in
// which order their locks and messages arrive.
import assert from "node:assert/strict";
import { test } from "node:test";

import { Closed, Problem } from "../../trionotify/web/trionotify.js";
import { withResolvers } from "../../trionotify/web/trionotify/time.js";
import { World, has, scripted, until } from "./world.mjs";

/** The locks and channels of one origin. */
class Origin {
  /** What wants each lock; the first one has it. @type {Map<string, object[]>} */
  lines = new Map();
  channels = new Set();
  /** Messages of which this is true wait for `release`. */
  holds = () => false;
  held = [];

  constructor(t) {
    const origin = this;
    const before = ["navigator", "BroadcastChannel"].map((name) => [name, Object.getOwnPropertyDescriptor(globalThis, name)]);
    t.after(() => {
      for (const [name, was] of before) was ? Object.defineProperty(globalThis, name, was) : delete globalThis[name];
    });
    class Channel extends EventTarget {
      constructor(name) {
        super();
        this.name = name;
        origin.channels.add(this);
      }
      postMessage(said) {
        for (const other of origin.channels) {
          if (other !== this && other.name === this.name) origin.bring(other, structuredClone(said));
        }
      }
      close() {
        origin.channels.delete(this);
      }
    }
    const request = (name, { signal }, granted) => this.request(name, signal, granted);
    for (const [name, value] of Object.entries({ navigator: { locks: { request } }, BroadcastChannel: Channel })) {
      Object.defineProperty(globalThis, name, { value, configurable: true });
    }
  }

  request(name, signal, granted) {
    return new Promise((resolve, reject) => {
      const line = this.lines.get(name) ?? [];
      this.lines.set(name, line);
      const next = () => line[0] && setImmediate(line[0].enter);
      const leave = () => {
        const isFirst = line[0] === wish;
        line.splice(line.indexOf(wish), 1);
        if (isFirst) next();
      };
      const wish = {
        enter: async () => {
          if (line[0] !== wish || wish.isIn) return;
          wish.isIn = true;
          resolve(await granted());
          leave();
        },
      };
      signal.addEventListener("abort", () => {
        if (wish.isIn || !line.includes(wish)) return;
        leave();
        reject(signal.reason);
      });
      line.push(wish);
      if (line[0] === wish) next();
    });
  }

  bring(channel, data) {
    if (this.holds(data)) return this.held.push([channel, data]);
    setImmediate(() => this.channels.has(channel) && channel.dispatchEvent(new MessageEvent("message", { data })));
  }

  /** What was held arrives. */
  release() {
    this.holds = () => false;
    for (const [channel, data] of this.held.splice(0)) this.bring(channel, data);
  }
}

const open = async (world, url, count, options = {}) => {
  const tabs = [];
  while (tabs.length < count) tabs.push(await world.open(url, { share: true, ...options }));
  return tabs;
};
const isOver = (tab) => until(tab, "close", () => tab.state === "closed");

test("filters that were agreed on hold when another tab takes over", async (t) => {
  new Origin(t);
  const world = new World(t);
  const { url } = await world.server();
  for (const transport of ["websocket", "sse"]) {
    for (const asking of [0, 1]) {
      const publisher = await world.open(url);
      const filters = { exact: { type: "a" } };
      const tabs = await open(world, url, 3, { transport, filters, share: `${transport} ${asking}` });
      await tabs[asking].setFilters({ exact: { type: "b" } });
      await publisher.publish("one", { type: "b" });
      for (const tab of tabs) await has(tab, 1);
      tabs[0].close();
      await publisher.publish("not this", { type: "a" });
      await publisher.publish("two", { type: "b" });
      for (const tab of tabs.slice(1)) {
        await has(tab, 2);
        assert.deepEqual([tab.seen.data, tab.seen.gaps], [["one", "two"], []]);
      }
      for (const tab of tabs) tab.close();
    }
  }
});

test("filters that were not agreed on are not those of the next tab that leads", async (t) => {
  new Origin(t);
  const world = new World(t);
  const [changed, again] = [withResolvers(), withResolvers()];
  const url = await scripted(world, ({ socket, say, query, count }) => {
    say("welcome", { id: "x" }, { cursor: "e:1" });
    // The change is never answered.
    socket.on("message", changed.resolve);
    if (count === 2) again.resolve(query.get("filters"));
  });
  const filters = { exact: { type: "a" } };
  const [first] = await open(world, url, 1, { filters });
  first.setFilters({ exact: { type: "b" } }).catch(() => {});
  await changed.promise;
  await open(world, url, 1, { filters });
  first.close();
  assert.equal(await again.promise, JSON.stringify([filters]));
});

test("tabs that lead and tabs that follow publish the same", async (t) => {
  new Origin(t);
  const world = new World(t);
  const { url } = await world.server();
  const tabs = await open(world, url, 2);
  const circle = {};
  circle.circle = circle;
  for (const tab of tabs) {
    await tab.publish(new Proxy({ x: 1 }, {}));
    await tab.publish({ link: new URL("http://a.b/"), f() {} });
    await tab.publish(new (class { toJSON = () => "public" })());
    await tab.setFilters(new Proxy([{ prefix: { type: "m" } }], {}));
    await assert.rejects(tab.publish(circle), TypeError);
  }
  const one = [{ x: 1 }, { link: "http://a.b/" }, "public"];
  for (const tab of tabs) {
    await has(tab, 6);
    assert.deepEqual(tab.seen.data, [...one, ...one]);
  }
});

test("what can't be handed to the tab that leads is rejected, and never published later", async (t) => {
  const origin = new Origin(t);
  const world = new World(t);
  const { url } = await world.server();
  const [first, second] = await open(world, url, 2);
  origin.holds = () => {
    throw new DOMException("too big", "DataCloneError");
  };
  await assert.rejects(second.publish("rejected"), { name: "DataCloneError" });
  origin.release();
  first.close();
  await second.publish("later");
  await has(second, 1);
  assert.deepEqual(second.seen.data, ["later"]);
});

test("a tab that begins to lead before it hears that its leader is over, is over too", async (t) => {
  const origin = new Origin(t);
  const world = new World(t);
  const [sockets, again] = [[], withResolvers()];
  const url = await scripted(world, ({ socket, say, count }) => {
    sockets.push(socket);
    say("welcome", { id: "x" }, { cursor: "e:1" });
    if (count === 2) again.resolve();
  });
  const tabs = await open(world, url, 3);
  origin.holds = ({ kind }) => kind === "over";
  sockets[0].close(4403, "revoked");
  await isOver(tabs[0]);
  // The second one leads now.
  await again.promise;
  origin.release();
  for (const tab of tabs) {
    await isOver(tab);
    assert.equal(tab.seen.closes[0].code, 4403);
  }
});

test("a place that the server doesn't accept ends only the tab that begins there", async (t) => {
  new Origin(t);
  const world = new World(t);
  const { url } = await world.server();
  const [first, second] = await open(world, url, 2);
  await first.publish("one");
  const bad = world.client(url, { share: true, since: "undefined" });
  const waits = second.publish("two");
  await isOver(bad);
  assert.equal(bad.seen.closes[0].error.status, 400);
  await waits;
  await second.publish("three");
  // Where it leads itself, it is no different.
  const good = world.client(url, { share: true, since: "start" });
  for (const tab of [first, second, good]) {
    await has(tab, 3);
    assert.deepEqual([tab.seen.data, tab.seen.gaps, tab.state], [["one", "two", "three"], [], "open"]);
  }
});

test("a tab that leads from a place that the server doesn't accept doesn't end the others", async (t) => {
  const origin = new Origin(t);
  const world = new World(t);
  const { url } = await world.server();
  const bad = world.client(url, { share: true, since: "undefined" });
  const good = world.client(url, { share: true });
  await isOver(bad);
  await good.publish("one");
  await has(good, 1);
  assert.equal(origin.lines.values().next().value.length, 1);
});

test("what waits is rejected with the reason for which the tabs are over", async (t) => {
  new Origin(t);
  const world = new World(t);
  const url = await scripted(world, ({ socket, say }) => {
    say("welcome", { id: "x", role: "both" }, { cursor: "e:1" });
    // The second event is there.
    let count = 0;
    socket.on("message", () => (count += 1) === 2 && socket.close(4403, "revoked"));
  });
  const tabs = await open(world, url, 2);
  const published = tabs.map((tab) => tab.publish("x").catch((error) => error));
  for (const error of await Promise.all(published)) assert.deepEqual([error instanceof Closed, error.code], [true, 4403]);
  await assert.rejects(tabs[1].publish("late"), { code: 4403 });
});

test("tabs share only what was signed for the same one", async (t) => {
  const origin = new Origin(t);
  const world = new World(t);
  const url = await scripted(world, ({ say, query }) => say("welcome", { id: query.get("id") ?? "x" }, { cursor: "e:1" }));
  const rooms = () => origin.lines.size;
  const opened = async (query, options = {}) => {
    await open(world, `${url}${query}`, 1, options);
    return rooms();
  };
  assert.equal(await opened("?id=alice&exp=1&sig=a"), 1);
  assert.equal(await opened("?id=alice&exp=2&sig=b"), 1); // another time
  assert.equal(await opened("?id=bob&exp=1&sig=c"), 2);
  assert.equal(await opened("?id=alice&exact.type=a&exp=1&sig=d"), 3);
  assert.equal(await opened("?id=alice"), 4); // not signed
  assert.equal(await opened("?exact.type=a&exp=1&sig=e"), 5);
  assert.equal(await opened("?exact.type=a&exp=1&sig=f"), 6); // of somebody else, maybe
  assert.equal(await opened("?exact.type=a&exp=1&sig=f"), 6);
  // In `params` it is the same.
  assert.equal(await opened("", { params: { id: "alice", exp: 3, sig: "g" } }), 6);
  assert.equal(await opened("", { params: { id: "carol", exp: 3, sig: "h" } }), 7);
  // A function isn't asked, but whoever has none is somebody else.
  assert.equal(await opened(""), 8);
  assert.equal(await opened("", { params: () => ({ id: "alice" }) }), 9);
  assert.equal(await opened("", { id: null }), 10);
});

test("errors are the same in the tab that leads and in those that follow", async (t) => {
  new Origin(t);
  const world = new World(t);
  const sockets = [];
  const url = await scripted(world, ({ socket, say }) => {
    sockets.push(socket);
    say("welcome", { id: "x", role: "both" }, { cursor: "e:1" });
    say("error", { id: "nobody's", status: 429, detail: "slow down" });
  });
  class SignedOut extends Closed {
    constructor() {
      super(4000, "signed out");
      this.name = "SignedOut";
      this.user = { id: "al" };
      this.page = () => "not for JSON";
      this.itself = this;
    }
  }
  const answers = [
    () => ({}),
    () => Promise.reject(new TypeError("no ticket", { cause: new DOMException("too late", "TimeoutError") })),
    () => Promise.reject("a string"),
    () => Promise.reject(new SignedOut()),
  ];
  const tabs = [];
  while (tabs.length < 2) tabs.push(world.client(url, { share: true, params: () => answers.shift()() }));
  for (const tab of tabs) {
    await until(tab, "error", () => tab.seen.errors.length > 0);
    await assert.rejects(tab.setFilters({ exact: { type: "\ud83d" } }), { name: "TypeError", message: /^filters: must not contain half/ });
    await assert.rejects(tab.setFilters({ exact: { type: "\ud83d" } }), TypeError);
  }
  for (const socket of sockets) socket.close(1012, "restart");
  for (const tab of tabs) {
    await isOver(tab);
    const { errors, losses, closes } = tab.seen;
    assert.deepEqual([errors[0].error instanceof Problem, errors[0].error.status], [true, 429]);
    const [restart, failed, thrown] = losses.map(({ error }) => error);
    assert.deepEqual([restart instanceof Closed, restart.code, restart.reason], [true, 1012, "restart"]);
    assert.deepEqual([failed.message, failed.cause instanceof TypeError, failed.cause.message], ["params: no ticket", true, "no ticket"]);
    assert.deepEqual([failed.cause.cause instanceof DOMException, failed.cause.cause.name], [true, "TimeoutError"]);
    assert.equal(thrown.cause, "a string");
    const [{ code, reason, error }] = closes;
    assert.deepEqual([code, reason, error instanceof Closed, error.name, error.user], [4000, "signed out", true, "SignedOut", { id: "al" }]);
    assert.deepEqual([error.message, error.stack.length > 0], ["closed: 4000 signed out", true]);
  }
});

test("a tab that opens while the stream is wound back for another one begins where the stream was", async (t) => {
  new Origin(t);
  const world = new World(t);
  const lines = [];
  const again = withResolvers();
  const url = await scripted(world, ({ socket, say, query }) => {
    lines.push((...numbers) => {
      for (const n of numbers) socket.send(JSON.stringify({ type: "t", id: `${n}`, source: "/s", cursor: `e:${n}`, data: n }));
    });
    const since = query.get("since");
    say("welcome", { id: "x", ...(since && { recovered: true }) }, { cursor: since ?? "e:0" });
    if (since) again.resolve(since);
  });
  const [first, second] = await open(world, url, 2, { maxBuffered: 2 });
  const iterator = second[Symbol.asyncIterator]();
  lines[0](1, 2, 3, 4, 5);
  for (const tab of [first, second]) await has(tab, 5);
  const take = async () => (await iterator.next()).value.data;
  assert.deepEqual([await take(), await take(), await again.promise], [1, 2, "e:2"]);
  const [third] = await open(world, url, 1);
  assert.equal(third.cursor, "e:5");
  lines[1](3, 4, 5, 6);
  for (const tab of [first, second]) await has(tab, 6);
  await has(third, 1);
  assert.deepEqual([first.seen.data, second.seen.data, third.seen.data], [[1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6], [6]]);
});
