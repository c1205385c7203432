/**
 * A link over Server-Sent Events: one HTTP response, from its head to its end.
 *
 * To the connection it looks like a link over WebSocket, except that nothing can be sent: events are posted one by one.
 * The browser's own `EventSource` isn't used, because it hides the status and the body of a refusal, and reconnects by rules
 * of its own.
 */

import { OURS } from "./event.js";

/**
 * @typedef {import("./socket_link.js").Ending} Ending
 * @typedef {import("../trionotify.d.ts").Transport} Transport
 */

/** One response of Server-Sent Events, from its head to its end. */
export class StreamLink {
  /** @type {Transport} */
  transport = "sse";
  /** Events are posted one by one. */
  send = undefined;
  #abort;
  #left = false;

  /**
   * @param {{ body: ReadableStream<Uint8Array>, abort: () => void }} stream
   * @param {(text: string | null) => void} hear  null stands for a sign of life
   * @param {(ending: Ending) => void} ended
   */
  constructor({ body, abort }, hear, ended) {
    this.#abort = abort;
    const blocks = new Blocks();
    const decoder = new TextDecoder();
    const reader = body.getReader();
    const read = async () => {
      let error = new Error("the server ended the stream");
      try {
        for (;;) {
          const { done, value } = await reader.read();
          if (done || this.#left) break;
          hear(null);
          for (const { data, id } of blocks.feed(decoder.decode(value, { stream: true }))) {
            if (this.#left) return;
            // An id alone says where the stream is now.
            hear(data || JSON.stringify({ type: `${OURS}position`, cursor: id }));
          }
        }
      } catch (cause) {
        error = new Error("the stream was lost", { cause });
      }
      if (!this.#left) ended({ again: true, error, opened: true });
    };
    void read();
  }

  close() {
    this.#left = true;
    this.#abort();
  }
}

/** The blocks of an event stream, by the HTML standard. Only `data` and `id` matter here. */
class Blocks {
  #rest = "";
  /** @type {string[]} */
  #data = [];
  /** @type {string | undefined} */
  #id;

  /**
   * The blocks that are complete by now.
   * @param {string} text
   */
  *feed(text) {
    // A CR at the end may be one half of a CRLF.
    const lines = (this.#rest + text).split(/\r\n|\n|\r(?!$)/);
    this.#rest = lines.pop() ?? "";
    for (const line of lines) {
      if (line === "") {
        if (this.#data.length || this.#id !== undefined) {
          yield { data: this.#data.join("\n"), id: this.#id };
        }
        this.#data = [];
        this.#id = undefined;
        continue;
      }
      const [, name, value] = /^([^:]*)(?:: ?(.*))?$/s.exec(line) ?? [];
      if (name === "data") this.#data.push(value ?? "");
      if (name === "id") this.#id = value ?? "";
    }
  }
}
