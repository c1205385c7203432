/**
 * "Try it": a form that publishes an event, its receipt, and the same from a program.
 *
 * What is wrong is said below the button, and the field at fault is marked: a problem document begins with the name of the
 * attribute. JSON is checked here before it is sent.
 */

import { eventsUrl, guard } from "./access.js";
import { CodeBlock } from "./code_block.js";
import { count, element, find, several } from "./elements.js";
import { toPublish, toSubscribe } from "./recipes.js";

export class PublishForm {
  #form = find("publish");
  #publish;
  #filters;
  #publishing = new CodeBlock(find("publish-code"), "The same from a program");
  #subscribing = new CodeBlock(find("subscribe-code"), "Receive what the stream shows");

  /**
   * @param {(data: any, attributes: object) => Promise<any>} publish
   * @param {() => any[]} filters  those of the stream
   * @param {(receipt: any) => void} show  the event in the stream
   */
  constructor(publish, filters, show) {
    this.#publish = publish;
    this.#filters = filters;
    this.#form.addEventListener("submit", (/** @type {Event} */ event) => {
      event.preventDefault();
      void this.#send();
    });
    this.#form.addEventListener("input", () => {
      this.#say();
      this.draw();
    });
    /** @type {any} */
    this.receipt = null;
    find("show").addEventListener("click", () => show(this.receipt));
  }

  /** The programs, as the form and the filters are now. */
  draw() {
    const { data, attributes, error } = this.#read();
    const url = eventsUrl();
    this.#publishing.set(toPublish(url, { data: error ? this.#field("data").value : data, attributes, guard: guard() }));
    this.#subscribing.set(toSubscribe(url, { filters: this.#filters(), guard: guard() }));
  }

  /** @param {string} name */
  #field(name) {
    return this.#form.elements[name];
  }

  /** What is in the form. `error` if the data is no JSON, though it should be. */
  #read() {
    const { data, ...given } = Object.fromEntries(new FormData(this.#form));
    const attributes = Object.fromEntries(Object.entries(given).filter(([, value]) => value !== ""));
    if (given.datacontenttype !== "application/json") return { data: String(data), attributes };
    try {
      return { data: JSON.parse(String(data)), attributes };
    } catch (error) {
      return { attributes, error: wrongIn(String(data), /** @type {Error} */ (error)) };
    }
  }

  async #send() {
    const { data, attributes, error } = this.#read();
    if (error) return this.#say(error);
    try {
      this.receipt = await this.#publish(data, attributes);
      const { wanted, written, behind, cursor } = this.receipt;
      const to = wanted ? `Sent to ${several(written, "client")}` : "No connected client wants it";
      const later = behind ? `; ${count(behind)} still catching up will get it later` : "";
      this.#say(`Published. ${to}${later}.`, [element("p", { class: "mono" }, `cursor ${cursor}`)]);
      find("show").hidden = false;
    } catch (problem) {
      const { detail, message } = /** @type {any} */ (problem);
      this.#say(detail ?? message, [], true);
    }
  }

  /** @param {string} [text] @param {Node[]} [more] @param {boolean} [isBad] */
  #say(text = "", more = [], isBad = text.startsWith("data: ")) {
    const receipt = find("receipt");
    receipt.className = isBad ? "bad" : "";
    receipt.replaceChildren(...(text ? [element("p", {}, text), ...more] : []));
    find("show").hidden = true;
    for (const field of this.#form.elements) field.removeAttribute("aria-invalid");
    const field = isBad && this.#field(text.split(":", 1)[0]);
    if (field instanceof HTMLElement) {
      field.setAttribute("aria-invalid", "true");
      field.focus();
    }
  }
}

/** What is wrong with JSON, and where. @param {string} text @param {Error} error */
function wrongIn(text, error) {
  if (text.trim() === "") return "data: must not be empty in JSON; write null for no value";
  const at = Number(/position (\d+)/.exec(error.message)?.[1] ?? NaN);
  if (Number.isNaN(at)) return "data: not valid JSON";
  const before = text.slice(0, at).split("\n");
  return `data: not valid JSON; look at line ${before.length}, column ${(before.at(-1) ?? "").length + 1}`;
}
