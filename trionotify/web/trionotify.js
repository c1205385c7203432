/**
 * The client of a trionotify server for browsers, and for Node from version 20 on. It has no dependencies and no build step.
 *
 *     import { Trionotify } from "/trionotify.js";
 *     const client = new Trionotify("/events", { filters: [{ prefix: { type: "order." } }] });
 *     client.addEventListener("notification", ({ notification }) => console.log(notification.data));
 *     const receipt = await client.publish({ amount: 12.5 }, { type: "order.paid", subject: "17" });
 *
 * Its modules are in the folder `trionotify`, one noun each:
 *
 *     client                what an application sees: events, iterations (`queue`), and where each is in the stream (`place`)
 *     └── connection        stays connected and resumes, with its parts:
 *         ├── target        where to connect, and with which query
 *         ├── socket_link   one WebSocket
 *         ├── stream_link   one response of Server-Sent Events
 *         ├── fallback      which of the two is next
 *         ├── requests      HTTP
 *         ├── token         what lets in
 *         ├── renewal       a fresh one on a live connection
 *         ├── retry         when to try again
 *         ├── liveness      whether the server is still there
 *         ├── publisher     what was published and has no answer yet
 *         └── filter_changes
 *
 * With the option `share`, `tabs` stands between the first two: one tab has the connection, and hands on to the others.
 * Without I/O: `event`, `notification`, `cursor`, `filters`, `options`, `errors`, `time`.
 *
 * A server joins the modules into the one file that it serves as `/trionotify.js`: a page makes one request, never gets the
 * modules of two versions, and can save the client as one file.
 *
 * @module trionotify
 */

export { Trionotify } from "./trionotify/client.js";
export { Closed, Problem } from "./trionotify/errors.js";
export { Notification } from "./trionotify/notification.js";
