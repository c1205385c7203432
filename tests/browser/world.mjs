// What the tests of trionotify.js have in common: servers that are started and killed, and a front between
// them and their clients that can cut, hold and refuse.
import { spawn } from "node:child_process";
import { generateKeyPairSync, sign } from "node:crypto";
import { once } from "node:events";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import http from "node:http";
import { createRequire } from "node:module";
import net from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";

import { Trionotify } from "../../trionotify/web/trionotify.js";

const require = createRequire(new URL("../peers/package.json", import.meta.url));
export const ws = require("ws");
/** Node has a WebSocket of its own from 22 on. */
export const WebSocket = globalThis.WebSocket ?? ws.WebSocket;
const SCRIPT = new URL("../../trionotify/web/trionotify.js", import.meta.url);

/** The server's clock, which no test sets ahead. */
const { now: realNow } = Date;

/** A port below those that the system gives to others, so that it is still free after a restart. */
export async function freePort() {
  for (;;) {
    const server = net.createServer();
    try {
      server.listen(30_000 + Math.floor(Math.random() * 2_700), "127.0.0.1");
      await once(server, "listening");
      return server.address().port;
    } catch {
      // It is taken.
    } finally {
      server.close();
    }
  }
}

/** Short, so that what takes a while in life doesn't in tests. */
export const QUICK = { WebSocket, firstDelay: 20, maxDelay: 100 };

/** Clients are closed, servers killed at the end of the test `t`. */
export class World {
  constructor(t) {
    this.ending = [];
    t.after(async () => {
      for (const end of this.ending.reverse()) await end();
    });
  }

  /** A server in a process of its own. */
  async server({ port = 0, options = [] } = {}) {
    const command = ["-m", "trionotify", "--port", String(port), ...options];
    const process_ = spawn(process.env.PYTHON ?? "python3", command, {
      cwd: new URL("../..", import.meta.url),
      stdio: ["ignore", "pipe", "ignore"],
    });
    const exited = once(process_, "exit");
    const end = async (signal) => {
      process_.kill(signal);
      await exited;
    };
    this.ending.push(() => end("SIGKILL"));
    const [line] = await once(createInterface(process_.stdout), "line");
    const url = new URL(line.split(" ").at(-1));
    return { url, port: Number(url.port), kill: () => end("SIGKILL"), stop: () => end("SIGTERM") };
  }

  /** A folder that is gone after the test. */
  async folder() {
    const path = await mkdtemp(join(tmpdir(), "trionotify-"));
    this.ending.push(() => rm(path, { recursive: true }));
    return path;
  }

  /** An issuer of tokens, and the `options` of a server that accepts them. */
  async issuer() {
    const folder = await this.folder();
    const { publicKey, privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
    const issuer = { issuer: "https://id.example.org", audience: "notifications", jwks: join(folder, "keys"), leeway: 0 };
    const lines = Object.entries(issuer).map(([name, value]) => `${name} = ${JSON.stringify(value)}\n`);
    await writeFile(issuer.jwks, JSON.stringify({ keys: [{ ...publicKey.export({ format: "jwk" }), kid: "1" }] }));
    await writeFile(join(folder, "config"), `[[issuer]]\n${lines.join("")}`);
    const encoded = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
    const scope = "trionotify:subscribe trionotify:publish";
    return {
      options: ["--config", join(folder, "config")],
      /** A token that is good for that many seconds. */
      token(seconds = 600, claims = {}) {
        const exp = Math.floor(realNow() / 1000) + seconds;
        const all = { iss: issuer.issuer, aud: issuer.audience, sub: "alice", exp, scope, ...claims };
        const text = `${encoded({ alg: "ES256", typ: "at+jwt", kid: "1" })}.${encoded(all)}`;
        return `${text}.${sign("sha256", Buffer.from(text), { key: privateKey, dsaEncoding: "ieee-p1363" }).toString("base64url")}`;
      },
    };
  }

  async front(port) {
    const front = new Front(port);
    await front.listen();
    this.ending.push(() => front.close());
    return front;
  }

  /** A client that notes down what it is told. */
  client(url, options = {}) {
    const client = new Trionotify(url, { ...QUICK, ...options });
    const seen = { notifications: [], data: [], gaps: [], opens: [], losses: [], errors: [], closes: [] };
    client.seen = seen;
    client.addEventListener("notification", ({ notification }) => {
      seen.notifications.push(notification);
      seen.data.push(notification.data);
    });
    client.addEventListener("gap", (event) => seen.gaps.push(event));
    client.addEventListener("open", (event) => seen.opens.push(event));
    client.addEventListener("reconnecting", (event) => seen.losses.push(event));
    client.addEventListener("error", (event) => seen.errors.push(event));
    client.addEventListener("close", (event) => seen.closes.push(event));
    this.ending.push(() => client.close());
    return client;
  }

  /** A client that is open. */
  async open(url, options) {
    const client = this.client(url, options);
    await until(client, "open", () => client.state === "open");
    return client;
  }
}

/** A server of our own that says what the test wants. */
export async function scripted(world, script) {
  const server = new ws.WebSocketServer({ port: 0, host: "127.0.0.1" });
  await new Promise((resolve) => server.on("listening", resolve));
  world.ending.push(() => {
    for (const socket of server.clients) socket.terminate();
    server.close();
  });
  let count = 0;
  server.on("connection", (socket, request) => {
    count += 1;
    const query = new URL(request.url, "http://x").searchParams;
    const say = (kind, data, more) =>
      socket.send(JSON.stringify({ type: `trionotify.${kind}`, source: "/trionotify", data, ...more }));
    script({ socket, say, query, count });
  });
  return `http://127.0.0.1:${server.address().port}/`;
}

/** Wait until the condition holds; looked at now, and after each event of that type. */
export function until(target, type, condition) {
  return new Promise((resolve) => {
    const look = () => {
      if (!condition()) return;
      target.removeEventListener(type, look);
      resolve();
    };
    target.addEventListener(type, look);
    look();
  });
}

/** From now on a clock is that much ahead of itself. */
export function setBack(t, clock, ms) {
  const { now } = clock;
  t.after(() => (clock.now = now));
  clock.now = () => now.call(clock) + ms;
}

/** Wait until that much data has come. */
export const has = (client, count) => until(client, "notification", () => client.seen.data.length >= count);

/** Between clients and a server, on an address of its own. It serves the client's module and a page, too. */
export class Front {
  constructor(port) {
    this.port_ = port;
    this.pairs = new Set();
    /** WebSocket handshakes that were passed on. */
    this.handshakes = 0;
    /** What the server says doesn't arrive. */
    this.deaf = false;
    /** Nothing arrives, in neither direction, and nobody is told. */
    this.dead = false;
    /** No WebSocket handshake gets through. */
    this.noSockets = false;
    /** WebSockets are cut when the server has said its first words. */
    this.brief = false;
    /** Longer request lines are refused with 414. */
    this.longest = Infinity;
    /** @type {((text: string) => void) | null} what clients say is shown to this one */
    this.said = null;
    this.server = net.createServer((client) => this.meet(client));
    this.waiting = [];
  }

  async listen() {
    this.server.listen(0, "127.0.0.1");
    await once(this.server, "listening");
    this.url = `http://127.0.0.1:${this.server.address().port}/events`;
    this.page = `http://127.0.0.1:${this.server.address().port}/page`;
  }

  meet(client) {
    client.on("error", () => {});
    client.once("data", (head) => {
      const text = head.toString("latin1");
      if (/^GET \/(page|trionotify\.js)[ ?]/.test(text)) return this.serve(client, text);
      const isSocket = /^upgrade: *websocket/im.test(text);
      if (isSocket && this.noSockets) return client.end("HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n");
      if (text.indexOf("\r\n") > this.longest) return client.end("HTTP/1.1 414 URI Too Long\r\nContent-Length: 0\r\n\r\n");
      if (isSocket) this.handshakes += 1;
      this.pass(client, head, isSocket && this.brief);
    });
  }

  async serve(client, text) {
    const isScript = text.startsWith("GET /trionotify.js");
    const body = isScript ? await readFile(SCRIPT) : Buffer.from("<!doctype html><title>page</title>");
    client.end(
      Buffer.concat([
        Buffer.from(
          `HTTP/1.1 200 OK\r\nContent-Type: text/${isScript ? "javascript" : "html"}; charset=utf-8\r\n` +
            "Content-Security-Policy: default-src 'none'; script-src 'self'; connect-src 'self'\r\n" +
            `Connection: close\r\nContent-Length: ${body.length}\r\n\r\n`,
        ),
        body,
      ]),
    );
  }

  pass(client, head, brief = false) {
    const server = net.connect(this.port_, "127.0.0.1");
    const pair = { client, server };
    this.pairs.add(pair);
    const part = () => {
      client.destroy();
      server.destroy();
      this.pairs.delete(pair);
    };
    const forward = (data) => {
      this.said?.(data);
      this.stir();
      if (!pair.dead) server.write(data);
    };
    server.on("error", part).on("close", part);
    client.on("close", part);
    server.on("data", (data) => {
      this.stir();
      if (brief) return client.end(data);
      if (!pair.dead && !pair.deaf) client.write(data);
    });
    client.on("data", forward);
    forward(head);
  }

  /** Something went through here, or would have. */
  stir() {
    for (const look of [...this.waiting]) look();
  }

  /** Wait until the condition holds, which depends on what goes through here. */
  until(condition) {
    return new Promise((resolve) => {
      const look = () => {
        if (!condition()) return;
        this.waiting = this.waiting.filter((other) => other !== look);
        resolve();
      };
      this.waiting.push(look);
      look();
    });
  }

  /** Of the connections that there are now, let nothing arrive that comes from the server. */
  deafen() {
    for (const pair of this.pairs) pair.deaf = true;
  }

  /** Of the connections that there are now, let nothing arrive at all. */
  die() {
    for (const pair of this.pairs) pair.dead = true;
  }

  cut() {
    for (const { client, server } of [...this.pairs]) {
      client.destroy();
      server.destroy();
    }
  }

  async close() {
    this.server.close();
    this.cut();
  }
}

/**
 * A server that has no WebSocket: a log in memory, Server-Sent Events, and `POST /events`. As much of
 * docs/reference.md as the client's fallback needs.
 */
export class FakeStreams {
  constructor() {
    this.log = [];
    this.streams = new Set();
    this.requests = [];
    /** Answer so, in place of what was asked for: [status, problem, headers]. @type {any[]} */
    this.answers = [];
    /** How a block is cut into pieces. */
    this.pieces = (text) => [text];
    this.known = new Map();
    this.server = http.createServer((request, response) => void this.serve(request, response));
    this.server.on("upgrade", (_, socket) => socket.destroy());
  }

  async listen(world) {
    this.server.listen(0, "127.0.0.1");
    await once(this.server, "listening");
    this.url = `http://127.0.0.1:${this.server.address().port}/events`;
    world.ending.push(() => {
      this.server.close();
      this.server.closeAllConnections();
    });
    return this;
  }

  async serve(request, response) {
    const url = new URL(request.url, "http://x");
    const query = Object.fromEntries(url.searchParams);
    this.requests.push({ method: request.method, query, headers: request.headers });
    const answer = this.answers.shift();
    if (answer) {
      const [status, document, headers = {}] = answer;
      if (status === null) return; // never
      if (status === 0) return request.socket.destroy();
      response.writeHead(status, { "Content-Type": "application/problem+json", ...headers });
      return response.end(JSON.stringify(document));
    }
    if (request.method === "POST") return this.take(request, response, query);
    response.writeHead(200, { "Content-Type": "text/event-stream; charset=utf-8" });
    const filter = JSON.parse(query.filters ?? "[]")[0]?.exact?.type;
    const stream = { response, filter };
    this.streams.add(stream);
    response.on("close", () => this.streams.delete(stream));
    const since = query.since?.startsWith("e:") ? Number(query.since.slice(2)) : this.log.length;
    const data = { id: query.id, ...(query.since && { recovered: true }) };
    this.say(stream, { type: "trionotify.welcome", source: "/trionotify", cursor: `e:${since}`, data });
    for (const event of this.log.slice(since)) this.say(stream, event);
  }

  say({ response, filter }, event) {
    if (filter && !event.type.startsWith("trionotify.") && event.type !== filter) return;
    for (const piece of this.pieces(`id: ${event.cursor}\ndata: ${JSON.stringify(event)}\n\n`)) {
      response.write(piece);
    }
  }

  publish(event) {
    const cursor = `e:${this.log.length + 1}`;
    this.log.push({ ...event, cursor });
    for (const stream of this.streams) this.say(stream, this.log.at(-1));
    return { cursor, wanted: 1, written: 1, behind: 0 };
  }

  async take(request, response, query) {
    let text = "";
    for await (const piece of request) text += piece;
    const event = JSON.parse(text);
    const key = `${query.id} ${event.source} ${event.id}`;
    if (!this.known.has(key)) this.known.set(key, this.publish(event));
    // Told after it was published: the answer may be lost.
    if (this.lose) {
      this.lose = false;
      return request.socket.destroy();
    }
    response.writeHead(200, { "Content-Type": "application/json" });
    response.end(JSON.stringify(this.known.get(key)));
  }
}
