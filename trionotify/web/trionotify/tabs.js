/**
 * Tabs: one connection for all tabs of an origin that ask for the same.
 *
 * The tab that holds a lock (Web Locks) leads: it has the `Connection`, and hands on what comes over a BroadcastChannel. When
 * it is closed or put to sleep, another tab gets the lock. The messages between tabs are `hello` (who leads?), `lead` (the
 * answer), `event`, `lost`, `failed`, `over`, `behind` (this tab's place is behind the stream's), `retry`, `ask`, `answer` and
 * `agreed` (to filters). A lock may be faster than a message, so a tab that has just begun to lead may still hear that the leader
 * before it is over.
 *
 * Why not a SharedWorker: it needs a script of this origin and a Content-Security-Policy that allows workers, and some
 * browsers on phones have none. The price of a lock is that tabs don't agree on where the stream is when another one takes
 * over. So each tab has a place of its own, drops what it has seen, and says so when the stream went on without it.
 *
 * Always true: at most one tab leads, and a promise that was given is settled by whichever tab leads in the end.
 */

import { Connection } from "./connection.js";
import { isAhead } from "./cursor.js";
import { Closed, Problem, packed, unpacked } from "./errors.js";
import { kindOf, randomId } from "./event.js";
import { inQuery } from "./filters.js";
import { withResolvers } from "./time.js";

/**
 * @typedef {import("./options.js").Connected} Connected
 * @typedef {import("./connection.js").Hooks} Hooks
 * @typedef {import("./event.js").CloudEvent} CloudEvent
 * @typedef {import("./options.js").Settings} Settings
 * @typedef {import("./target.js").Target} Target
 * @typedef {import("../trionotify.d.ts").Filter} Filter
 * @typedef {import("../trionotify.d.ts").Transport} Transport
 */

/** @implements {Connected} */
export class Tabs {
  #name;
  #me = randomId();
  #channel;
  #target;
  #options;
  #hooks;
  /** The tab that has the connection. @type {string | null} */
  #leader = null;
  /** The tab that had it before this one. @type {string | null} */
  #former = null;
  /** The connection, if this tab has it. @type {Connection | null} */
  #connection = null;
  /** Where the stream is, for tabs that open later. @type {{ event: CloudEvent, transport: Transport } | null} */
  #welcome = null;
  /** The filters that the server agreed to last, as the query has them. The next tab that leads begins with them. */
  #agreed;
  /** The stream begins elsewhere for this tab, and was here before. @type {{ tab: string, cursor?: string } | null} */
  #trial = null;
  /** Why what waits gets no answer. @type {Error} */
  #error = new Closed(1000, "this client is closed");
  /** What this tab asked for and has no answer to yet. @type {Map<string, ReturnType<typeof withResolvers> & { what: object }>} */
  #asked = new Map();
  /** There can be no lock, so this tab shares nothing. */
  #isAlone = false;
  /** Gives back the lock, or the place in the line for it. @type {(() => void) | null} */
  #stepDown = null;
  /** @type {(() => void)[]} */
  #unlisten = [];

  /** Whether tabs can share here. A lock needs a secure context, and what exists may be forbidden. */
  static get possible() {
    try {
      new BroadcastChannel("trionotify").close();
      return Boolean(navigator.locks);
    } catch {
      return false;
    }
  }

  /**
   * @param {string} name
   * @param {Target} target
   * @param {Settings} options
   * @param {Hooks & { cursor: () => string | undefined, alone: () => void }} hooks
   */
  constructor(name, target, options, hooks) {
    this.#name = name;
    this.#target = target;
    this.#options = options;
    this.#hooks = hooks;
    this.#agreed = target.wanted;
    this.#channel = new BroadcastChannel(name);
    this.#channel.addEventListener("message", ({ data }) => this.#hear(data));
    const { document } = globalThis;
    /** @type {(target: EventTarget | undefined, type: string, heard: () => void) => void} */
    const on = (target, type, heard) => {
      target?.addEventListener?.(type, heard);
      this.#unlisten.push(() => target?.removeEventListener?.(type, heard));
    };
    // A page in the browser's cache doesn't run, so it can't lead.
    on(globalThis, "pagehide", () => this.#resign());
    on(document, "freeze", () => this.#resign());
    on(globalThis, "pageshow", () => this.#stand());
    on(document, "resume", () => this.#stand());
    this.#stand();
  }

  /** @param {CloudEvent} event */
  publish(event) {
    return this.#ask({ event });
  }

  /** @param {Filter[]} filters */
  choose(filters) {
    return this.#ask({ filters });
  }

  /**
   * @param {string} cursor
   * @param {boolean} [always]  it is where this tab begins, which need not be a cursor
   */
  rewind(cursor, always = false) {
    if (!this.#connection) this.#say({ kind: "behind", cursor, always });
    else if (always) this.#try(this.#me, cursor);
    else if (isAhead(this.#connection.cursor, cursor)) this.#connection.rewind(cursor);
  }

  retry() {
    if (this.#connection) this.#connection.retry();
    else this.#say({ kind: "retry" });
  }

  close() {
    this.#resign();
    for (const unlisten of this.#unlisten.splice(0)) unlisten();
    this.#channel.close();
    for (const { reject } of this.#asked.values()) reject(this.#error);
    this.#asked.clear();
  }

  /** Wait for the lock, unless this tab already does. */
  #stand() {
    if (this.#stepDown) return;
    const controller = new AbortController();
    /** @type {() => void} */
    let release = () => {};
    const held = new Promise((/** @type {(value?: unknown) => void} */ resolve) => (release = resolve));
    this.#stepDown = () => {
      controller.abort();
      release();
    };
    const { signal } = controller;
    const wait = async () => {
      await navigator.locks.request(this.#name, { signal }, () => {
        if (!signal.aborted) this.#lead();
        return held;
      });
    };
    // Unless this tab has resigned, locks are forbidden here, as in a frame with a sandbox.
    wait().catch(() => signal.aborted || this.#goAlone());
    this.#say({ kind: "hello" });
  }

  #goAlone() {
    this.#isAlone = true;
    this.#channel.close();
    this.#hooks.alone();
    this.#lead();
  }

  #resign() {
    this.#stepDown?.();
    this.#stepDown = null;
    const connection = this.#connection;
    this.#connection = this.#leader = null;
    connection?.close();
  }

  #lead() {
    this.#former = this.#leader;
    this.#leader = this.#me;
    const cursor = this.#hooks.cursor();
    this.#trial = cursor === undefined && this.#target.since !== undefined ? { tab: this.#me } : null;
    this.#connect(cursor);
    this.#tell();
    for (const n of this.#asked.keys()) this.#relay(n);
  }

  /** @param {string | undefined} cursor */
  #connect(cursor) {
    this.#welcome = null;
    this.#target.wanted = this.#agreed;
    this.#connection = new Connection(
      this.#target,
      this.#options,
      {
        hear: (event, transport) => {
          if (kindOf(event) === "welcome") {
            this.#welcome = { event, transport };
            this.#trial = null;
          }
          this.#say({ kind: "event", event, transport });
          this.#hooks.hear(event, transport);
        },
        lost: (error, delay) => {
          this.#welcome = null;
          this.#say({ kind: "lost", error: packed(error), delay });
          this.#hooks.lost(error, delay);
        },
        over: (error) => this.#over(error),
        failed: (error) => {
          this.#say({ kind: "failed", error: packed(error) });
          this.#hooks.failed(error);
        },
      },
      cursor,
    );
  }

  /**
   * Begin where one tab asks for. If another one is being served, this one asks again after the next welcome.
   * @param {string} tab
   * @param {string} cursor
   */
  #try(tab, cursor) {
    if (this.#trial || !this.#connection) return;
    this.#trial = { tab, cursor: this.#connection.cursor };
    this.#connection.rewind(cursor);
  }

  /** @param {Error} error */
  #over(error) {
    const isRefused = error instanceof Problem && error.status === 400;
    const trial = isRefused ? this.#trial : null;
    if (!trial) return this.#endAll(error);
    // The server doesn't accept where one tab begins. That is no reason for the others to end.
    if (trial.tab === this.#me) return this.#end(error);
    this.#trial = null;
    this.#say({ kind: "over", to: trial.tab, error: packed(error) });
    this.#connect(trial.cursor);
  }

  /** @param {Error} error */
  #endAll(error) {
    this.#say({ kind: "over", error: packed(error) });
    this.#end(error);
  }

  /** @param {Error} error */
  #end(error) {
    this.#error = error;
    this.#hooks.over(error);
  }

  /** Tell the others that this tab leads, and where the stream is. */
  #tell() {
    const { event, transport } = this.#welcome ?? {};
    const { cursor } = this.#connection ?? {};
    // For a tab that opens now, the stream begins here. Whether this connection was resumed doesn't concern it.
    const welcome = event && { ...event, cursor, since: undefined, data: { ...event.data, recovered: undefined } };
    this.#say({ kind: "lead", id: this.#target.id, wanted: this.#agreed, welcome, place: this.#hooks.cursor(), transport });
  }

  /** @param {Record<string, any>} said */
  #say(said) {
    if (!this.#isAlone) this.#channel.postMessage({ from: this.#me, ...said });
  }

  /** @param {Record<string, any>} said */
  #hear(said) {
    if (this.#connection) {
      if (said.kind === "hello") this.#tell();
      else if (said.kind === "behind" && said.always) this.#try(said.from, said.cursor);
      else if (said.kind === "behind") this.rewind(said.cursor);
      else if (said.kind === "retry") this.retry();
      else if (said.kind === "ask" && said.to === this.#me) this.#serve(said);
      else if (said.kind === "over" && said.from === this.#former && !said.to) this.#endAll(unpacked(said.error));
      return;
    }
    if (said.kind === "lead") this.#follow(said);
    else if (said.from !== this.#leader) return;
    else if (said.kind === "event") this.#hooks.hear(said.event, said.transport);
    else if (said.kind === "lost") this.#hooks.lost(unpacked(said.error), said.delay);
    else if (said.kind === "failed") this.#hooks.failed(unpacked(said.error));
    else if (said.kind === "over" && (said.to ?? this.#me) === this.#me) this.#end(unpacked(said.error));
    else if (said.kind === "agreed") this.#agreed = said.wanted;
    else if (said.kind === "answer") this.#settle(said);
  }

  /** @param {Record<string, any>} said */
  #follow({ from, id, wanted, welcome, place, transport }) {
    // Events of this client's id that were published and not acknowledged are known by it.
    if (id) this.#target.id = id;
    this.#agreed = wanted;
    if (this.#leader !== from) {
      this.#leader = from;
      for (const n of this.#asked.keys()) this.#relay(n);
    }
    // It may be wound back for another tab just now.
    const begins = this.#hooks.cursor() === undefined && isAhead(place, welcome?.cursor) ? { ...welcome, cursor: place } : welcome;
    if (welcome) this.#hooks.hear(begins, transport);
  }

  /**
   * @param {object} what
   * @returns {Promise<any>}
   */
  #ask(what) {
    const n = randomId();
    // As JSON, because not everything that the server can be told can be cloned for another tab.
    const asked = { ...withResolvers(), what: JSON.parse(JSON.stringify(what)) };
    this.#asked.set(n, asked);
    try {
      this.#relay(n);
    } catch (error) {
      this.#asked.delete(n);
      throw error;
    }
    return asked.promise;
  }

  /** Ask the tab that leads. If there is none, the next one is asked. @param {string} n */
  #relay(n) {
    const said = { kind: "ask", from: this.#me, to: this.#leader, n, ...this.#asked.get(n)?.what };
    if (this.#connection) void this.#serve(said);
    else if (this.#leader) this.#say(said);
  }

  /** @param {Record<string, any>} said @returns {Promise<void>} */
  async #serve(said) {
    const { from, n, event, filters } = said;
    const connection = this.#connection;
    /** @type {Record<string, any>} */
    const answer = { kind: "answer", to: from, n };
    try {
      answer.value = await (event ? connection?.publish(event) : connection?.choose(filters));
    } catch (error) {
      answer.error = packed(/** @type {Error} */ (error));
    }
    // If this tab has resigned, the next one that leads is asked again.
    if (!this.#connection) return;
    if (connection !== this.#connection) return this.#serve(said);
    if (filters && !answer.error) this.#say({ kind: "agreed", wanted: (this.#agreed = inQuery(filters)) });
    if (from === this.#me) this.#settle(answer);
    else this.#say(answer);
  }

  /** @param {Record<string, any>} answer */
  #settle({ n, value, error }) {
    const asked = this.#asked.get(n);
    this.#asked.delete(n);
    if (error) asked?.reject(unpacked(error));
    else asked?.resolve(value);
  }
}
