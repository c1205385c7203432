/**
 * A block of code in several languages: buttons choose one, and another one copies it.
 *
 * The choice holds for all blocks of the page. Where the browser has no clipboard (it needs a secure context), the text is
 * selected instead, so that a key copies it.
 */

import { element } from "./elements.js";

let language = "curl";
/** @type {Set<CodeBlock>} */
const blocks = new Set();

export class CodeBlock {
  /** @type {Record<string, string>} */
  #texts = {};
  #pre = element("pre", { tabIndex: 0 });
  #choices = element("div", { class: "head" });
  #copy = element("button", { type: "button", class: "copy", "aria-live": "polite" });
  #label;

  /**
   * @param {Element} place
   * @param {string} label  what the code does
   */
  constructor(place, label) {
    this.#pre.setAttribute("aria-label", label);
    this.#pre.setAttribute("role", "region");
    this.#label = label;
    this.#say("Copy");
    this.#copy.addEventListener("click", () => this.#toClipboard());
    place.append(element("div", { class: "code" }, this.#choices, this.#pre));
    blocks.add(this);
  }

  /** @param {Record<string, string>} texts  by language */
  set(texts) {
    if (Object.keys(texts).join() !== Object.keys(this.#texts).join()) {
      const buttons = Object.keys(texts).map((name) => {
        const button = element("button", { type: "button" }, name);
        button.addEventListener("click", () => {
          language = name;
          for (const block of blocks) block.#draw();
        });
        return button;
      });
      this.#choices.replaceChildren(...(buttons.length > 1 ? buttons : []), this.#copy);
    }
    this.#texts = texts;
    this.#draw();
  }

  get #chosen() {
    return language in this.#texts ? language : Object.keys(this.#texts)[0];
  }

  #draw() {
    if (!this.#chosen) return;
    this.#pre.textContent = this.#texts[this.#chosen];
    for (const button of this.#choices.children) {
      if (button !== this.#copy) button.setAttribute("aria-pressed", String(button.textContent === this.#chosen));
    }
  }

  async #toClipboard() {
    try {
      await navigator.clipboard.writeText(this.#pre.textContent);
      this.#say("Copied");
    } catch {
      getSelection()?.selectAllChildren(this.#pre);
      this.#say("Selected: press Ctrl+C");
    }
    setTimeout(() => this.#say("Copy"), 2000);
  }

  /** @param {string} text  of the button that copies */
  #say(text) {
    this.#copy.textContent = text;
    this.#copy.setAttribute("aria-label", `${text}: ${this.#label}`);
  }
}
