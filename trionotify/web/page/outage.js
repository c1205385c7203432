/**
 * The banner of an outage: since when the server can't be reached, when the next attempt is made, and a button that makes it
 * now.
 *
 * The first sentence is an alert and is said once. The countdown changes each second, so it is none.
 */

import { clock, find, keepFocus } from "./elements.js";

export class Outage {
  /** @type {Date | null} */
  #since = null;
  #next = 0;
  #reason = "";
  /** @type {number | undefined} */
  #timer;

  /** @param {() => void} retry */
  constructor(retry) {
    find("retry").addEventListener("click", () => {
      if (find("retry").getAttribute("aria-disabled") === "true") return;
      this.#next = 0;
      this.#draw();
      retry();
    });
  }

  /** @param {Error} error @param {number} delay  in milliseconds */
  lost(error, delay) {
    this.#next = performance.now() + delay;
    const { code } = /** @type {any} */ (error);
    this.#reason = code === undefined ? error.message : `the server closed the connection, code ${code}`;
    find("retry").textContent = "Retry now";
    if (!this.#since) {
      this.#since = new Date();
      find("outage").hidden = false;
      find("outage-text").textContent = `No connection to the server since ${clock(this.#since)}.`;
      this.#timer = window.setInterval(() => this.#draw(), 250);
    }
    this.#draw();
  }

  back() {
    this.#since = null;
    clearInterval(this.#timer);
    keepFocus(() => (find("outage").hidden = true), () => find("main"));
  }

  /** It will not come back by itself. @param {string} text */
  over(text) {
    clearInterval(this.#timer);
    find("outage").hidden = false;
    find("outage-text").textContent = text;
    find("outage-next").textContent = "The figures and events below are those from before.";
    find("retry").textContent = "Connect again";
    find("retry").setAttribute("aria-disabled", "false");
  }

  #draw() {
    const seconds = Math.ceil((this.#next - performance.now()) / 1000);
    const next = seconds > 0 ? `Next attempt in ${seconds} s` : "Trying now";
    find("outage-next").textContent = `${next} (${this.#reason}).`;
    // Disabled in earnest, it would lose the focus.
    find("retry").setAttribute("aria-disabled", String(seconds <= 0));
  }
}
