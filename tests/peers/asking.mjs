// Clients that ask: `node asking.mjs URL CLIENTS REQUESTS`. Prints how many were answered, rightly or not, and how many raised.
import { WebSocket } from "ws";

import { Trionotify } from "../../trionotify/web/trionotify.js";

const [, , url, clients, requests] = process.argv;
const counts = { right: 0, wrong: 0, raised: 0 };
const one = async (number) => {
  const client = new Trionotify(url, { id: `js${number}`, WebSocket, firstDelay: 50, maxDelay: 500 });
  for (let at = 0; at < Number(requests); at += 1) {
    const text = `${number} ${at}`;
    try {
      const { reply } = await client.request(text, { timeout: 300_000 });
      counts[reply === text ? "right" : "wrong"] += 1;
    } catch {
      counts.raised += 1;
    }
  }
  client.close();
};
await Promise.all(Array.from({ length: Number(clients) }, (_, number) => one(number)));
console.log(JSON.stringify(counts));
