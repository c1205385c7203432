/**
 * Liveness: whether the server is still there, and when to look.
 *
 * A page sees no Ping, and a connection that is silent may be a dead one. So after `probeInterval` without a sign of life the
 * server is asked for one (`trionotify.position`), and has `probeTimeout` to answer. Server-Sent Events can't be asked, but the
 * server sends a comment regularly, so silence for `streamTimeout` is enough.
 *
 * One timer looks every `tick`. A late tick means that the machine slept, and what happens to the page and the network is
 * listened to as well: then the next attempt is made at once, and an open connection is asked. What came while the page
 * didn't run is read before a connection is believed dead, which is why that takes two looks.
 */

import { OURS, randomId } from "./event.js";
import { now } from "./time.js";

/**
 * @typedef {import("./options.js").Settings} Settings
 * @typedef {import("../trionotify.d.ts").Transport} Transport
 *
 * @typedef {object} Watched  what it looks after
 * @property {() => Transport | null} transport  null while nothing is open
 * @property {(id: string) => void} ask  for a sign of life
 * @property {() => void} die  it gives no sign of life
 * @property {() => void} renew  connect again where the stream is
 * @property {() => void} hurry  make the next attempt now
 */

/** After this many `maxDelay` on Server-Sent Events, a WebSocket is tried again. */
const RETURN = 10;

export class Liveness {
  #options;
  #watched;
  #openedAt = 0;
  #heardAt = 0;
  /** When the server was asked for a sign of life, while it owes one. @type {number | null} */
  #probedAt = null;
  /** @type {string | null} */
  #probeId = null;
  #canProbe = true;
  #isDoubted = false;
  #tickedAt = now();
  #tickedOn = Date.now();
  #tick;
  /** @type {(() => void)[]} */
  #unlisten = [];

  /**
   * @param {Settings} options
   * @param {Watched} watched
   */
  constructor(options, watched) {
    this.#options = options;
    this.#watched = watched;
    this.#tick = setInterval(() => this.#look(), options.tick);
    this.#listen();
  }

  /** A link was opened. */
  opened() {
    this.#heardAt = this.#openedAt = now();
  }

  /** Something came. */
  heard() {
    this.#heardAt = now();
    this.#probedAt = null;
  }

  /** The server said welcome. */
  welcomed() {
    this.#isDoubted = false;
    this.#watched.hurry(); // what is posted need not wait any more
  }

  /** The link ended. */
  ended() {
    this.#probedAt = null;
  }

  /**
   * Whether what the server refused was our question. A server that doesn't know it lives, too, but isn't asked again.
   * @param {unknown} id
   */
  isRefused(id) {
    if (id !== this.#probeId) return false;
    this.#canProbe = false;
    return true;
  }

  stop() {
    clearInterval(this.#tick);
    for (const unlisten of this.#unlisten.splice(0)) unlisten();
  }

  #look() {
    const { tick, probeInterval, probeTimeout, streamTimeout, maxDelay, transport } = this.#options;
    const [at, on] = [now(), Date.now()];
    const late = Math.max(at - this.#tickedAt, on - this.#tickedOn) - tick;
    this.#tickedAt = at;
    this.#tickedOn = on;
    // Timers don't run while a machine sleeps, nor does each of the clocks. (In a hidden tab they run less often.)
    if (late > 2 * tick) this.#suspect(late > streamTimeout);
    const open = this.#watched.transport();
    if (open === null) return;
    const isStream = open === "sse";
    const silent = at - this.#heardAt;
    if ((this.#probedAt !== null && at - this.#probedAt > probeTimeout) || (isStream && silent > streamTimeout)) {
      if (this.#isDoubted) this.#watched.die();
      this.#isDoubted = true;
      return;
    }
    this.#isDoubted = false;
    if (isStream && transport === "auto" && at - this.#openedAt > RETURN * maxDelay) this.#watched.renew();
    else if (this.#probedAt === null && silent >= probeInterval) this.#probe();
  }

  #probe() {
    if (this.#watched.transport() === "sse" || !this.#canProbe || this.#probedAt !== null) return;
    this.#probedAt = now();
    this.#probeId = `${OURS}probe-${randomId()}`;
    this.#watched.ask(this.#probeId);
  }

  /**
   * Something happened to the machine, or to the page.
   * @param {boolean} isChanged  the connection is probably dead
   */
  #suspect(isChanged) {
    this.#watched.hurry();
    const open = this.#watched.transport();
    if (open === "websocket" && this.#canProbe) this.#probe();
    else if (open !== null && isChanged) this.#watched.renew();
  }

  #listen() {
    const { document } = globalThis;
    /** @type {(target: EventTarget | undefined, type: string, heard: (event: any) => void) => void} */
    const on = (target, type, heard) => {
      target?.addEventListener?.(type, heard);
      this.#unlisten.push(() => target?.removeEventListener?.(type, heard));
    };
    on(globalThis, "online", () => this.#suspect(true));
    on(globalThis, "offline", () => this.#suspect(false));
    on(globalThis, "pageshow", ({ persisted }) => persisted && this.#suspect(true));
    on(document, "resume", () => this.#suspect(true));
    on(document, "visibilitychange", () => document.visibilityState === "visible" && this.#suspect(false));
  }
}
