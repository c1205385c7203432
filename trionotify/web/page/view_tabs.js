/**
 * The tabs of the page, as the ARIA practices have them: arrow keys choose, and the chosen one is in the order of Tab.
 */

import { find } from "./elements.js";

export class ViewTabs {
  #tabs = /** @type {HTMLElement[]} */ ([...document.querySelectorAll("[role=tab]")]);
  #chosen;

  /** @param {(name: string) => void} chosen  told when a tab is */
  constructor(chosen) {
    this.#chosen = chosen;
    for (const tab of this.#tabs) {
      tab.addEventListener("click", () => this.choose(tab.id));
      tab.addEventListener("keydown", (event) => {
        const shown = this.#tabs.filter(({ hidden }) => !hidden);
        const [at, last] = [shown.indexOf(tab), shown.length - 1];
        const to = { ArrowRight: at === last ? 0 : at + 1, ArrowLeft: at === 0 ? last : at - 1, Home: 0, End: last }[event.key];
        if (to === undefined) return;
        event.preventDefault();
        this.choose(shown[to].id);
        shown[to].focus();
      });
    }
  }

  /** @param {string} id */
  choose(id) {
    for (const tab of this.#tabs) {
      const isChosen = tab.id === id;
      tab.setAttribute("aria-selected", String(isChosen));
      tab.tabIndex = isChosen ? 0 : -1;
      find(tab.getAttribute("aria-controls") ?? "").hidden = !isChosen;
    }
    this.#chosen(id);
  }
}
