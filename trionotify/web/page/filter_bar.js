/**
 * The filter bar: filters as chips, each of which can be taken away, and CloudEvents SQL behind "Advanced".
 *
 * Every change is given to the server at once, because it alone decides what a filter means. A refused change leaves
 * everything as it was. The place of an error in an expression is marked in a copy below the field, and selected in the field.
 */

import { element, find, keepFocus } from "./elements.js";
import { inWords, refusal } from "./words.js";

export class FilterBar {
  /** @type {any[]} */
  #filters = [];
  /** Changes are made one after the other, each of what the one before it has left. */
  #last = Promise.resolve();
  #choose;

  /** @param {(filters: any[]) => Promise<void>} choose  rejects with what the server says is wrong */
  constructor(choose) {
    this.#choose = choose;
    find("more").addEventListener("click", () => this.#disclose(find("advanced").hidden));
    find("filter").addEventListener("submit", (/** @type {SubmitEvent} */ event) => {
      event.preventDefault();
      const isExpression = find("advanced").contains(event.submitter) || find("value").value.trim() === "";
      void (isExpression ? this.#apply() : this.#quick());
    });
  }

  /** Add a filter. @param {any} filter */
  async add(filter) {
    const words = inWords(filter);
    await this.#change((filters) => (filters.some((one) => inWords(one) === words) ? filters : [...filters, filter]));
  }

  /** Take all filters away. */
  async clear() {
    find("expression").value = "";
    await this.#change(() => []);
  }

  get filters() {
    return this.#filters;
  }

  async #quick() {
    const value = find("value").value.trim();
    await this.add({ [find("dialect").value]: { [find("attribute").value]: value } });
    find("value").value = "";
  }

  /** The expression replaces the one before it; an empty one takes it away. */
  async #apply() {
    const text = find("expression").value.trim();
    const isSql = (/** @type {any} */ one) => "sql" in one;
    if (text || this.#filters.some(isSql)) {
      await this.#change((filters) => [...filters.filter((one) => !isSql(one)), ...(text ? [{ sql: text }] : [])]);
    } else if (find("advanced").hidden) {
      find("value").focus();
    }
  }

  /** @param {(filters: any[]) => any[]} changed */
  #change(changed) {
    return (this.#last = this.#last.then(() => this.#replace(changed(this.#filters))));
  }

  /** @param {any[]} filters */
  async #replace(filters) {
    if (filters === this.#filters) return;
    const field = find("expression");
    find("filter-error").replaceChildren();
    field.removeAttribute("aria-invalid");
    try {
      await this.#choose(filters);
      this.#filters = filters;
      this.#draw();
    } catch (error) {
      this.#refused(/** @type {any} */ (error), filters);
    }
  }

  /** @param {any} error @param {any[]} filters */
  #refused(error, filters) {
    const field = find("expression");
    const text = filters.find((one) => "sql" in one)?.sql;
    const { message, place } = refusal(error.detail ?? error.message);
    const parts = [element("p", {}, message.charAt(0).toUpperCase() + message.slice(1))];
    if (place && text) parts.push(marked(text, place.column));
    this.#disclose(true);
    find("filter-error").replaceChildren(...parts);
    if (!text) return;
    field.setAttribute("aria-invalid", "true");
    field.focus();
    if (place) field.setSelectionRange(place.column - 1, place.column);
  }

  /** @param {boolean} isOpen */
  #disclose(isOpen) {
    find("advanced").hidden = !isOpen;
    find("more").setAttribute("aria-expanded", String(isOpen));
  }

  #draw() {
    const chips = this.#filters.map((filter) => {
      const words = inWords(filter);
      const button = element("button", { type: "button", "aria-label": `Remove the filter: ${words}` }, "✕");
      button.addEventListener("click", () => {
        if ("sql" in filter) find("expression").value = "";
        void this.#change((filters) => filters.filter((one) => one !== filter));
      });
      return element("li", {}, element("span", { title: words }, words), button);
    });
    keepFocus(
      () => {
        find("chips").replaceChildren(...chips);
        find("chips").hidden = chips.length === 0;
      },
      () => find("chips").querySelector("button") ?? find("value"),
    );
  }
}

/** The expression, with what is wrong in it marked. @param {string} text @param {number} column */
function marked(text, column) {
  const at = column - 1;
  // An expression that ends too early is wrong at its end, where there is nothing to mark.
  const wrong = /^(\w+|\S)/.exec(text.slice(at))?.[0] ?? "\u00a0\u00a0";
  return element("pre", {}, text.slice(0, at).padEnd(at), element("mark", {}, wrong), text.slice(at + wrong.length));
}
