// A program that uses all that trionotify.d.ts declares: `tsc` checks it, and nobody runs it.
import { Closed, Notification, Problem, Trionotify } from "../../trionotify/web/trionotify.js";
import type { Filter, Options, Receipt, State, Transport } from "../../trionotify/web/trionotify.js";

const filters: Filter[] = [
  { exact: { type: "order.created" } },
  { any: [{ prefix: { subject: "a" } }, { not: { suffix: { subject: "z" } } }, { sql: "EXISTS subject" }] },
];
const options: Options = {
  id: "alice",
  role: "both",
  filters,
  since: "10m",
  lag: "gap",
  share: true,
  params: async () => ({ team: "ops", level: 3, on: true }),
};
const client = new Trionotify(new URL("http://127.0.0.1:8765/events"), options);
const others: Trionotify[] = [
  new Trionotify(["https://a.example.org/", new URL("https://b.example.org/")], { token: "a" }),
  new Trionotify("/events", { token: () => "a", id: null }),
  new Trionotify("/events", { token: async () => "a" }),
];

client.addEventListener("open", ({ id, cursor, recovered, transport }) => {
  const how: Transport = transport;
  const words: string = id + cursor + how;
  const all: boolean | undefined = recovered;
  console.log(words, all);
});
client.addEventListener("notification", ({ notification }) => {
  const { type, source, subject, gap }: Notification = notification;
  const from: string | null | undefined = gap?.from;
  console.log(type.length, source.length, subject?.length, from, notification.json(), notification.attributes.x);
});
client.addEventListener("gap", { handleEvent: ({ to }) => console.log(to.length) });
client.addEventListener("reconnecting", ({ error, delay }) => console.log(error.message, delay.toFixed()));
client.addEventListener("error", ({ error }) => console.log(error.message));
client.addEventListener("close", ({ code, reason, error }) => {
  if (error instanceof Problem) console.log(error.status.toFixed(), error.detail.length);
  if (error instanceof Closed) console.log(error.code.toFixed(), error.reason.length);
  console.log(code.toFixed(), reason.length);
});

const receipt: Receipt = await client.publish({ amount: 12 }, { type: "order.paid", time: new Date(), shop: 7 });
const cursor: string = await client.setFilters({ exact: { type: "order.paid" } });
const state: State = client.state;
console.log(receipt.node?.length, receipt.durability, others.length);
console.log(receipt.wanted - receipt.behind, cursor.length, state.length, client.transport?.length);
for await (const { data, cursor } of client) console.log(data, cursor?.length);
client.close();

// What is wrong has to be found.
// @ts-expect-error
new Trionotify("/events", { role: "king" });
// @ts-expect-error
new Trionotify("/events", { token: () => 7 });
// @ts-expect-error
new Trionotify(["/events", 7]);
// @ts-expect-error
client.addEventListener("gap", ({ notification }) => notification);
// @ts-expect-error
await client.setFilters({ exakt: { type: "a" } });
// @ts-expect-error
client.id = "bob";
