/**
 * A connection that stays: it connects, converses, and when that ends, connects again behind its cursor.
 *
 * One loop (`#run`) lives as long as the connection. In each turn it opens one link, a WebSocket or a stream, and waits for its
 * end; whether and when there is another turn depends on how it ended. What is said on a link is its `Dialogue`. Six parts
 * live as long as the connection: what was published (`Publisher`), changes of filters (`FilterChanges`), signs of life
 * (`Liveness`), the choice of the transport (`Fallback`), what lets in (`Token`), and a fresh one in time (`Renewal`).
 *
 * Always true: at most one link is alive, and nothing is heard of a link that was left. The cursor only moves with what was
 * handed to the hooks.
 */

import { Dialogue } from "./dialogue.js";
import { Closed, Problem, isFinal, messageOf, notAllowed } from "./errors.js";
import { kindOf } from "./event.js";
import { Fallback } from "./fallback.js";
import { FilterChanges } from "./filter_changes.js";
import { Liveness } from "./liveness.js";
import { Publisher } from "./publisher.js";
import { Renewal } from "./renewal.js";
import { FORBIDDEN, Requests, UNAUTHORIZED } from "./requests.js";
import { Backoff, Waits } from "./retry.js";
import { SocketLink } from "./socket_link.js";
import { StreamLink } from "./stream_link.js";
import { LONGEST, later, now } from "./time.js";
import { Token } from "./token.js";

/**
 * @typedef {import("./event.js").CloudEvent} CloudEvent
 * @typedef {import("./options.js").Settings} Settings
 * @typedef {import("./requests.js").Streaming} Streaming
 * @typedef {import("./socket_link.js").Ending} Ending
 * @typedef {import("./target.js").Target} Target
 * @typedef {import("../trionotify.d.ts").Filter} Filter
 * @typedef {import("./options.js").Connected} Connected
 * @typedef {import("../trionotify.d.ts").Transport} Transport
 *
 * What a connection tells.
 * @typedef {object} Hooks
 * @property {(event: CloudEvent, transport: Transport) => void} hear  it was in the stream
 * @property {(error: Error, delay: number) => void} lost  the next attempt is made in this many milliseconds
 * @property {(error: Error) => void} over  it will not connect again
 * @property {(error: Error) => void} failed  something that ends nothing went wrong
 */

/** A connection that has lasted for this many milliseconds was a good one. */
const LASTING = 10_000;
/** Statuses of a URL that is too long. */
const TOO_LONG = new Set([414, 431]);
/** Close codes: the credentials have expired, a message was too big. */
const EXPIRED = 4401;
const TOO_BIG = 1009;

/** @implements {Connected} */
export class Connection {
  /** The next connection begins behind this. @type {string | undefined} */
  cursor;
  #target;
  #options;
  #hooks;
  #waits = new Waits();
  #fallback;
  #requests;
  #publisher;
  #changes;
  #liveness;
  #token;
  #renewal;
  /** @type {SocketLink | StreamLink | null} */
  #link = null;
  /** What is said on it. @type {Dialogue | null} */
  #dialogue = null;
  /** Ends both. @type {((ending: Ending) => void) | null} */
  #end = null;
  /** The credentials were refused, and there has been no welcome since. */
  #isDenied = false;
  /** So many servers have refused this client, one right after the other. */
  #refusals = 0;
  #isClosed = false;

  /**
   * @param {Target} target
   * @param {Settings} options
   * @param {Hooks} hooks
   * @param {string} [cursor]
   */
  constructor(target, options, hooks, cursor) {
    this.#target = target;
    this.#options = options;
    this.#hooks = hooks;
    this.cursor = cursor;
    this.#fallback = new Fallback(options.transport);
    this.#requests = new Requests(options);
    this.#token = new Token(options.token, (promise) => this.#requests.within(promise));
    const authenticate = (/** @type {string} */ id, /** @type {object} */ data) => this.#dialogue?.sendOwn("authenticate", id, data);
    this.#renewal = new Renewal(this.#token, options, this.#waits, authenticate, hooks.failed);
    this.#publisher = new Publisher(target, this.#token, this.#requests, options, this.#waits);
    this.#changes = new FilterChanges(target);
    this.#liveness = new Liveness(options, {
      transport: () => (this.#isWelcome ? this.#fallback.transport : null),
      ask: (id) => this.#dialogue?.sendOwn("position", id, {}),
      die: () => this.#leave({ again: true, error: new Error("the server does not answer"), opened: true }),
      renew: () => this.rewind(this.cursor),
      hurry: () => this.#waits.cut(),
    });
    void this.#run();
  }

  get #isWelcome() {
    return this.#dialogue?.isWelcome ?? false;
  }

  /** @param {CloudEvent} event */
  publish(event) {
    if (this.#dialogue?.isMute) return Promise.reject(notAllowed());
    const { isDue, waiting } = this.#publisher.put(event);
    if (isDue && this.#isWelcome) this.#dialogue?.send(waiting);
    return waiting.promise;
  }

  /** Its time is over. @param {CloudEvent} event @param {(wasSent: boolean) => Error} errorOf */
  withdraw(event, errorOf) {
    const error = this.#publisher.withdraw(event, errorOf);
    this.#dialogue?.goOn();
    return error;
  }

  /** @param {Filter[]} filters */
  choose(filters) {
    const { id, promise } = this.#changes.begin(filters);
    if (this.#isWelcome && (this.#fallback.transport === "sse" || this.#changes.holding)) this.rewind(this.cursor);
    else if (this.#isWelcome) this.#dialogue?.sendOwn("subscribe", id, { filters });
    return promise;
  }

  /**
   * Connect again, behind `cursor`.
   * @param {string | undefined} cursor
   */
  rewind(cursor) {
    this.cursor = cursor;
    if (this.#isWelcome) this.#leave({ again: true, quiet: true, error: new Error("wound back") });
  }

  /** Make the next attempt now, if it is waited for. */
  retry() {
    this.#waits.cut(true);
  }

  close() {
    this.#stop();
    this.#leave({ again: false, error: new Closed(1000) });
    this.#refuseAll(new Closed(1000, "this client is closed"));
  }

  // The loop.

  async #run() {
    const backoff = new Backoff(this.#options.firstDelay, this.#options.maxDelay);
    while (!this.#isClosed) {
      const begun = now();
      const asked = this.cursor ?? this.#target.since;
      const dialogue = new Dialogue(this.#target, this.#publisher, this.#changes, this.#liveness, this.#renewal, {
        cursor: () => this.cursor,
        tell: (event) => this.#tell(event, asked),
        leave: (ending) => this.#leave(ending),
        failed: this.#hooks.failed,
      });
      this.#dialogue = dialogue;
      this.#changes.reset();
      const ending = await this.#attempt(dialogue);
      this.#dialogue = null;
      if (this.#isClosed) return;
      const hasLasted = dialogue.isWelcome && now() - begun >= LASTING;
      if (ending.again || dialogue.isWelcome) this.#refusals = 0;
      if (!ending.again && !this.#canChange(ending, dialogue)) return this.#over(ending.error);
      if (dialogue.isUseful || hasLasted) backoff.reset();
      this.#fallback.choose(ending, dialogue.isUseful, hasLasted);
      if (ending.quiet) continue;
      const after = Math.max(ending.after ?? 0, dialogue.retryAfter);
      const delay = Math.min(after + backoff.next(), LONGEST);
      const waited = this.#waits.wait(delay, after); // a listener may already end it
      this.#hooks.lost(ending.error, delay);
      await waited;
      if (ending.again) this.#target.moveOn();
    }
  }

  /**
   * Whether another attempt makes sense, because the cause of this end can be changed or may lie with this server alone.
   * @param {Ending} ending
   * @param {Dialogue} dialogue
   */
  #canChange(ending, { isWelcome }) {
    const { error } = ending;
    const code = error instanceof Problem ? error.status : error instanceof Closed ? error.code : 0;
    const renews = this.#target.renews || this.#token.renews;
    if ((code === UNAUTHORIZED || code === EXPIRED) && renews && !this.#isDenied) {
      // The function is asked once more. If the server refuses that as well, it is over.
      return (this.#isDenied = true);
    }
    // A token that grants less than this client asks for by default. The server says what would do.
    const isLess = code === FORBIDDEN && error.message.includes("role=subscriber");
    if (isLess && this.#target.askForLess()) return (ending.quiet = true);
    if (TOO_LONG.has(code) && this.#options.transport !== "sse" && this.#target.longest && this.#target.wanted.length) {
      this.#target.longest = 0;
      return (ending.quiet = true);
    }
    // The new filters may be the reason. Those before them were not refused.
    if (error instanceof Problem && this.#changes.takeBackAsked(error)) return (ending.quiet = true);
    // Another server may be of another version, or have other settings.
    return !isWelcome && !ending.isOwn && (this.#refusals += 1) < this.#target.count && (ending.again = true);
  }

  /** One link, from its beginning to its end. @param {Dialogue} dialogue @returns {Promise<Ending>} */
  async #attempt(dialogue) {
    let address, token, asked = "params";
    try {
      address = await this.#requests.within(this.#target.address(this.cursor));
      asked = "token";
      token = await this.#token.fresh();
    } catch (cause) {
      if (isFinal(cause)) return { again: false, error: cause, isOwn: true };
      return { again: true, error: new Error(`${asked}: ${messageOf(cause)}`, { cause }) };
    }
    if (this.#isClosed) return { again: false, error: new Closed(1000) };
    if (this.#fallback.transport === "sse") return this.#overStream(await this.#askForAll(address.whole));
    this.#changes.held = address.held;
    // A browser's WebSocket has no header for a token, and a URL is no place for one.
    const url = new URL(address.url);
    if (token !== undefined) {
      const answer = await this.#requests.ticket(this.#target.beside("tickets"), token);
      if ("error" in answer) return answer;
      url.searchParams.set("ticket", answer.ticket);
    }
    const ending = await this.#converse((hear, ended) => new SocketLink(this.#options.WebSocket, url, hear, ended));
    if (this.#isClosed) return ending;
    if (!ending.opened && !dialogue.isWelcome) return this.#refused(address, ending);
    // The event that was too big for the server is refused, and the others go on.
    const isTooBig = ending.error instanceof Closed && ending.error.code === TOO_BIG;
    if (isTooBig && dialogue.refuseTooBig(ending.error)) ending.again = true;
    return ending;
  }

  /**
   * A handshake failed, and a browser doesn't say why: ask over HTTP. The question is the one of the fallback, so the answer
   * also shows whether that works. If it doesn't work either, WebSocket is not the problem.
   * @param {{ whole: URL, url: URL }} address
   * @param {Ending} ending
   * @returns {Promise<Ending>}
   */
  async #refused({ whole, url }, ending) {
    let answer = await this.#requests.stream(url, this.#token.last);
    if (this.#isClosed) return this.#overStream(answer);
    if ("error" in answer) return answer;
    const fallsBack = this.#fallback.takesOver();
    if (!fallsBack || url !== whole) answer.abort();
    if (!fallsBack) return ending;
    if (url !== whole) answer = await this.#askForAll(whole);
    this.#changes.held = null;
    return this.#overStream(answer);
  }

  /**
   * Ask for Server-Sent Events with all filters in the URL. Filters that are too long for that may fit a WebSocket.
   * @param {URL} whole
   */
  async #askForAll(whole) {
    const answer = await this.#requests.stream(whole, this.#token.last);
    if ("error" in answer && answer.error instanceof Problem && TOO_LONG.has(answer.error.status)) {
      answer.again = this.#options.transport === "auto" && !this.#changes.isWaiting;
    }
    return answer;
  }

  /** @param {Ending | Streaming} answer @returns {Promise<Ending>} */
  async #overStream(answer) {
    if ("error" in answer) return answer;
    if (this.#isClosed) answer.abort(); // `close` came while it was asked for
    return this.#converse((hear, ended) => new StreamLink(answer, hear, ended));
  }

  /**
   * Hear, until it ends.
   * @param {(hear: (text: unknown) => void, ended: (ending: Ending) => void) => SocketLink | StreamLink} open
   * @returns {Promise<Ending>}
   */
  #converse(open) {
    return new Promise((resolve) => {
      if (this.#isClosed) return resolve({ again: false, error: new Closed(1000) });
      const stop = later(this.#options.connectTimeout, () => {
        if (!this.#isWelcome) this.#leave({ again: true, error: new Error("the server does not answer") });
      });
      const dialogue = /** @type {Dialogue} */ (this.#dialogue);
      this.#end = (ending) => {
        stop();
        this.#link = this.#end = null;
        this.#liveness.ended();
        this.#renewal.end();
        resolve(ending);
      };
      this.#liveness.opened();
      try {
        this.#link = open((text) => dialogue.hear(text), this.#end);
        dialogue.link = this.#link;
      } catch (cause) {
        // For instance, the page's Content-Security-Policy doesn't allow this address.
        this.#end({ again: true, error: new Error(`WebSocket: can't be opened: ${messageOf(cause)}`, { cause }) });
      }
    });
  }

  /**
   * @param {CloudEvent} event
   * @param {string | undefined} since  where this link was asked to start
   */
  #tell(event, since) {
    const isWelcome = kindOf(event) === "welcome";
    if (isWelcome) this.#isDenied = false;
    if (typeof event.cursor === "string") this.cursor = event.cursor;
    this.#hooks.hear(isWelcome ? { ...event, since } : event, this.#fallback.transport);
  }

  /** @param {Ending} ending */
  #leave(ending) {
    this.#link?.close();
    this.#end?.(ending);
  }

  /** @param {Error} error */
  #over(error) {
    this.#stop();
    this.#refuseAll(error);
    this.#hooks.over(error);
  }

  #stop() {
    this.#isClosed = true;
    this.#liveness.stop();
    this.#renewal.end();
    this.#publisher.stop();
    this.#waits.cut(true);
  }

  /** @param {Error} error */
  #refuseAll(error) {
    this.#publisher.refuseAll(error);
    this.#changes.refuseAll(error);
  }
}
