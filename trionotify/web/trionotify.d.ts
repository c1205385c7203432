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
  /** Who this client is; made up if missing. Several connections may share one. */
  id?: string;
  /** What it may do; `both` if missing. */
  role?: "subscriber" | "publisher" | "both";
  /** What it wants, all of it to hold; everything if missing. See also `setFilters`. */
  filters?: Filter | Filter[];
  /** A filter in CloudEvents SQL. */
  sql?: string;
  /** Where the stream starts: a cursor, `start`, a time, a duration; at the head if missing. */
  since?: string;
  /** What happens when it falls off the log; `gap` if missing. */
  lag?: "gap" | "latest" | "disconnect";
  /** `false`: not what this connection publishes. */
  echo?: boolean;
  /**
   * More of the query. A function is called for each connection, may return a promise, and is called once more when the server
   * refuses what it gave (401 or 4401).
   */
  params?:
    | Record<string, string | number | boolean>
    | (() => Record<string, string | number | boolean> | Promise<Record<string, string | number | boolean>>);
  /** One connection for all tabs of this origin that ask for the same; a name keeps groups apart. */
  share?: boolean | string;
  /** `auto` if missing: WebSocket, and Server-Sent Events for as long as WebSockets fail. */
  transport?: "auto" | Transport;
  /** Whether cookies go with HTTP requests to another origin; `same-origin` if missing. */
  credentials?: RequestCredentials;
  /** In place of the global one, for instance that of Node's `ws`. */
  WebSocket?: unknown;
  /** In place of the global one. */
  fetch?: typeof fetch;
  /** So many notifications wait for a `for await` at most; 1000. */
  maxBuffered?: number;
  /** So many events wait for their acknowledgement at most; 1000. */
  maxUnacknowledged?: number;
  // Durations are in milliseconds. One hour is the most; longer ones count as that.
  /** The bound of the first delay before reconnecting, which doubles; 500 ms. */
  firstDelay?: number;
  /** The bound that it doubles up to; 30000 ms. */
  maxDelay?: number;
  /** From the first byte to the server's welcome, and how long `params` may take; a request that publishes has three times that. 10000 ms. */
  connectTimeout?: number;
  /** After so long a silence the server is asked for a sign of life; 25000 ms. */
  probeInterval?: number;
  /** So long it has to answer; 10000 ms. */
  probeTimeout?: number;
  /** So long Server-Sent Events may be silent; 75000 ms. */
  streamTimeout?: number;
}

/** What `publish` may say besides the data. What is missing is as the URL has it, or made up. */
export interface Attributes {
  id?: string;
  source?: string;
  /** `message` if missing. */
  type?: string;
  subject?: string;
  time?: string | Date;
  datacontenttype?: string;
  /** The id of the only clients that it is for. */
  to?: string;
  /** Conditions on the query of the clients that it is for. */
  audience?: string | Filter | Filter[];
  /** From when on it is of no use. */
  expirytime?: string | Date;
  /** Extensions: names of lower-case letters and digits. */
  [extension: string]: unknown;
}

/** The server's acknowledgement: it is in the log. */
export interface Receipt {
  /** Where it is in the log; missing if the server's session took it. */
  cursor?: string;
  /** How many clients want it; */
  wanted: number;
  /** of these, to how many it went at once, */
  written: number;
  /** and how many are catching up. */
  behind: number;
}

/** What lies behind `from`, up to and including `to`, is lost to this client. */
export interface Loss {
  /** Null if the stream was to start at something that is no cursor, or at none. */
  from: string | null;
  to: string;
}

/** Something that happened, as the server tells it: data and attributes. Made by the client. */
export class Notification {
  constructor(event: Record<string, any>, gap?: Loss | null);
  /** What was lost just in front of this one; null if nothing was. */
  gap: Loss | null;
  /** JSON is parsed, text is a string, bytes are a Uint8Array; undefined if there is none. */
  get data(): any;
  /** The data, parsed if it is text: for JSON that came as plain text. Throws a SyntaxError. */
  json(): any;
  /** All attributes, extensions included. */
  get attributes(): Record<string, string | number | boolean>;
  /** Resume behind this one: the `since` of another client. Undefined where the log doesn't have it. */
  get cursor(): string | undefined;
  get id(): string;
  get source(): string;
  get type(): string;
  get subject(): string | undefined;
  /** When it was made, as RFC 3339 has it. */
  get time(): string | undefined;
  get datacontenttype(): string | undefined;
  /** The id of the only clients that it is for. */
  get to(): string | undefined;
  /** The whole event as JSON has it. */
  toJSON(): Record<string, any>;
}

/** What the server refuses: a handshake, an event, filters. Its RFC 9457 problem document says why. */
export class Problem extends Error {
  constructor(document: Record<string, any>);
  /** The HTTP status. */
  status: number;
  /** What is wrong, for the person who reads it; it begins with the thing at fault. */
  detail: string;
  /** All of it. */
  document: Record<string, any>;
}

/** The connection is over, and coming back would lead to the same end; or `close()` was called. */
export class Closed extends Error {
  constructor(code: number, reason?: string);
  /** A WebSocket close code. */
  code: number;
  reason: string;
}

/** It is connected, connected again, or connected by another transport. */
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

/** Something is lost. Load your state anew. */
export interface GapEvent extends Event, Readonly<Loss> {}

/** The connection is lost, or there was none; the next attempt is made after `delay` milliseconds. */
export interface ReconnectingEvent extends Event {
  readonly error: Error;
  readonly delay: number;
}

/** Something went wrong that ends nothing. */
export interface FailureEvent extends Event {
  readonly error: Error;
}

/** It is over. `error` is null after `close()`, and after the server's session has ended. */
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

/** A client. It connects at once, and stays connected until `close()`, or until there is no use in it. */
export class Trionotify extends EventTarget {
  /** Throws a TypeError that begins with the option at fault. */
  constructor(url: string | URL, options?: Options);
  /** Who the server says that this client is. */
  get id(): string;
  get state(): State;
  /** Null before there was a connection. */
  get transport(): Transport | null;
  /** Whether the connection is one for all tabs. */
  get shared(): boolean;
  /** Resume behind this: the `since` of another client. Undefined before there was a connection. */
  get cursor(): string | undefined;
  /**
   * Publish `data` and wait for the acknowledgement, over reconnects. Rejects with a `Problem` if the server refuses it, and with status
   * 403 if this client may not publish; the connection goes on.
   */
  publish(data?: unknown, attributes?: Attributes): Promise<Receipt>;
  /**
   * Send a request to the server's session, and wait for its reply, over reconnects: a value of JSON, a string, or bytes as a
   * `Uint8Array`. Rejects with a `Problem` if the session rejects it or gives no reply, and with an `Error` after `timeout` milliseconds
   * (30000 if missing). The session may get a request twice, with the same `id`, if its reply was lost.
   */
  request(data?: unknown, options?: Attributes & { timeout?: number }): Promise<any>;
  /** Replace all filters, those of the URL too; gives the cursor behind which they hold. */
  setFilters(filters: Filter | Filter[]): Promise<string>;
  /** Say goodbye. What has no answer yet is rejected; iterations end when all was taken. */
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
