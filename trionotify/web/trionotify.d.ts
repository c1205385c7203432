/** The types of `trionotify.js`, the client of a trionotify server for browsers and Node. */

/** One condition on attributes, as the CloudEvents Subscriptions API has it. */
export type Filter =
  | { exact: Record<string, string> }
  | { prefix: Record<string, string> }
  | { suffix: Record<string, string> }
  | { all: Filter[] }
  | { any: Filter[] }
  | { not: Filter }
  | { sql: string };

/** How it is connected: by a WebSocket, or by Server-Sent Events. */
export type Transport = "websocket" | "sse";

export type State = "connecting" | "open" | "reconnecting" | "closed";

export interface Options {
  /**
   * This client's id; a random one if missing. Several connections may have the same. `null`: the server says it, because it knows this client
   * by a cookie.
   */
  id?: string | null;
  /** What the client may do; `both` if missing. */
  role?: "subscriber" | "publisher" | "both";
  /** Which notifications the client wants: all filters must hold. Everything if missing. See also `setFilters`. */
  filters?: Filter | Filter[];
  /** A filter in CloudEvents SQL. */
  sql?: string;
  /** Where the stream starts: a cursor, `start`, a time, a duration; at the head if missing. */
  since?: string;
  /** What happens when the client is too slow for the log; `gap` if missing. */
  lag?: "gap" | "latest" | "disconnect";
  /** `false`: leave out what this connection publishes. */
  echo?: boolean;
  /**
   * More of the query. A function is called for each connection, may return a promise, and is called once more when the server
   * refuses what it gave (401 or 4401).
   */
  params?:
    | Record<string, string | number | boolean>
    | (() => Record<string, string | number | boolean> | Promise<Record<string, string | number | boolean>>);
  /**
   * A token that lets this client in, or a function that gets one. A function is called for each connection, and again before the token
   * expires. It is called once more when the server refuses the token (401 or 4401). If the server refuses that one as well, the client closes.
   * The token goes into headers only; for a WebSocket the client exchanges it for a ticket.
   */
  token?: string | (() => string | Promise<string>);
  /** One connection for all tabs of this origin that ask for the same; a name keeps groups apart. */
  share?: boolean | string;
  /** `auto` if missing: WebSocket, and Server-Sent Events for as long as WebSockets fail. */
  transport?: "auto" | Transport;
  /** Whether cookies go with HTTP requests to another origin; `same-origin` if missing. */
  credentials?: RequestCredentials;
  /** To use instead of the global one, for instance that of Node's `ws`. */
  WebSocket?: unknown;
  /** To use instead of the global one. */
  fetch?: typeof fetch;
  /** How many notifications may wait for one `for await`; 1000. What comes while that many wait is read from the log later. */
  maxBuffered?: number;
  /** How many published events may wait for their acknowledgement; 1000. */
  maxUnacknowledged?: number;
  // Durations are in milliseconds. Longer ones than an hour count as an hour.
  /** The bound of the first delay before reconnecting, which doubles; 500 ms. */
  firstDelay?: number;
  /** The highest bound of a delay; 30000 ms. */
  maxDelay?: number;
  /** How long the server's welcome may take, and `params` or `token`; a request that publishes may take three times as long. 10000 ms. */
  connectTimeout?: number;
  /** After this long without a message the server is asked for a sign of life; 25000 ms. */
  probeInterval?: number;
  /** How long that answer may take; 10000 ms. */
  probeTimeout?: number;
  /** How long Server-Sent Events may be silent; 75000 ms. */
  streamTimeout?: number;
}

/** Attributes of an event. Missing ones are taken from the URL, or have a default. */
export interface Attributes {
  id?: string;
  source?: string;
  /** `message` if missing. */
  type?: string;
  subject?: string;
  time?: string | Date;
  datacontenttype?: string;
  /** The id of the only clients that get it. */
  to?: string;
  /** Conditions on the queries of the clients that get it. */
  audience?: string | Filter | Filter[];
  /** When it expires. */
  expirytime?: string | Date;
  /** Extensions: names of lower-case letters and digits. */
  [extension: string]: unknown;
}

/** The server's acknowledgement: the event is in the log. */
export interface Receipt {
  /** Where it is in the log; missing if the server's session took it. */
  cursor?: string;
  /** How many clients want it. */
  wanted: number;
  /** To how many of these it was sent at once. */
  written: number;
  /** How many of these are catching up. */
  behind: number;
  /** Where several servers share a log, the one whose clients these are. */
  node?: string;
  /** There, how safe the event is. */
  durability?: "primary" | "replicated" | "fsynced";
}

/** Everything after `from`, up to and including `to`, is lost to this client. */
export interface Loss {
  /** Null if the stream was to start at something that is no cursor, or at none. */
  from: string | null;
  to: string;
}

/** One notification: its data and attributes. The client makes it. */
export class Notification {
  constructor(event: Record<string, any>, gap?: Loss | null);
  /** What was lost just before this one; null if nothing was. */
  gap: Loss | null;
  /** JSON is parsed, text is a string, bytes are a Uint8Array; undefined if there is none. */
  get data(): any;
  /** The data, parsed if it is text. For JSON that came as plain text. Throws a SyntaxError. */
  json(): any;
  /** All attributes, extensions included. */
  get attributes(): Record<string, string | number | boolean>;
  /** Resume after this one: the `since` of another client. Undefined if the log doesn't have it. */
  get cursor(): string | undefined;
  get id(): string;
  get source(): string;
  get type(): string;
  get subject(): string | undefined;
  /** When it was made, in RFC 3339. */
  get time(): string | undefined;
  get datacontenttype(): string | undefined;
  /** The id of the only clients that get it. */
  get to(): string | undefined;
  /** The whole event as JSON has it. */
  toJSON(): Record<string, any>;
}

/** The server refused something: a handshake, an event, filters. Its RFC 9457 problem document says why. */
export class Problem extends Error {
  constructor(document: Record<string, any>);
  /** The HTTP status. */
  status: number;
  /** What is wrong, in words; it begins with the name of the thing at fault. */
  detail: string;
  /** The whole document. */
  document: Record<string, any>;
}

/** The connection is over, and another attempt would end in the same way; or `close()` was called. */
export class Closed extends Error {
  constructor(code: number, reason?: string);
  /** A WebSocket close code. */
  code: number;
  reason: string;
}

/** The client is connected, connected again, or connected by another transport. */
export interface OpenEvent extends Event {
  readonly id: string;
  readonly cursor: string;
  /** Whether everything since the cursor follows; undefined if there was none. */
  readonly recovered: boolean | undefined;
  readonly transport: Transport;
}

export interface NotificationEvent extends Event {
  readonly notification: Notification;
}

/** Notifications were lost. Load your state again. */
export interface GapEvent extends Event, Readonly<Loss> {}

/** The connection was lost or refused. The next attempt is made after `delay` milliseconds. */
export interface ReconnectingEvent extends Event {
  readonly error: Error;
  readonly delay: number;
}

/** Something went wrong that ends nothing. */
export interface FailureEvent extends Event {
  readonly error: Error;
}

/** The client is closed. `error` is null after `close()`, and after the server's session has ended. */
export interface ClosedEvent extends Event {
  /** The close code; 1006 if a handshake was refused: then `error` is the `Problem`. */
  readonly code: number;
  readonly reason: string;
  readonly error: Error | null;
}

export interface EventMap {
  open: OpenEvent;
  notification: NotificationEvent;
  gap: GapEvent;
  reconnecting: ReconnectingEvent;
  error: FailureEvent;
  close: ClosedEvent;
}

type Listener<E> = ((event: E) => void) | { handleEvent(event: E): void };

/** A client. It connects at once, and stays connected until `close()`, or until another attempt would end in the same way. */
export class Trionotify extends EventTarget {
  /**
   * Where several servers share a log, `url` may be several URLs: the client moves to the next one when one is away or refuses it. It ends
   * only if all refuse it in a row. A URL has no user and no password. Throws a TypeError that
   * begins with the option at fault.
   */
  constructor(url: string | URL | readonly (string | URL)[], options?: Options);
  /** This client's id, as the server knows it. With a token it is empty until the server says it. */
  get id(): string;
  get state(): State;
  /** Null before the first connection. */
  get transport(): Transport | null;
  /** Whether the connection is one for all tabs. */
  get shared(): boolean;
  /** Resume after this: the `since` of another client. All iterations have come at least this far. Undefined before the first connection. */
  get cursor(): string | undefined;
  /**
   * Publish `data` and wait for the acknowledgement, across reconnects. Rejects with a `Problem` if the server refuses it, and with status
   * 403 if this client may not publish; the connection goes on. Rejects at once with a TypeError or RangeError if it can't be sent.
   */
  publish(data?: unknown, attributes?: Attributes): Promise<Receipt>;
  /**
   * Send a request to the server's session, and wait for its reply, across reconnects: a value of JSON, a string, or bytes as a
   * `Uint8Array`. Rejects with a `Problem` if the session rejects it or gives no reply, and with an `Error` after `timeout` milliseconds
   * (30000 if missing), which says whether the request was sent; it isn't sent after that. The session may get a request
   * twice, with the same `id`, if its reply was lost.
   */
  request(data?: unknown, options?: Attributes & { timeout?: number }): Promise<any>;
  /** Replace all filters, including those of the URL. Resolves with the cursor after which they hold. */
  setFilters(filters: Filter | Filter[]): Promise<string>;
  /** Make the next attempt to connect now, if the client waits for it. For a button "Retry now" beside the `delay` of `reconnecting`. */
  retry(): void;
  /** Close. Whatever has no answer yet is rejected; iterations end when everything was taken. */
  close(): void;
  /** Notifications from now on. */
  [Symbol.asyncIterator](): AsyncIterableIterator<Notification>;
  addEventListener<K extends keyof EventMap>(
    type: K,
    listener: Listener<EventMap[K]> | null,
    options?: boolean | AddEventListenerOptions,
  ): void;
  removeEventListener<K extends keyof EventMap>(
    type: K,
    listener: Listener<EventMap[K]> | null,
    options?: boolean | EventListenerOptions,
  ): void;
}
