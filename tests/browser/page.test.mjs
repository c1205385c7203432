// What the page computes, without a browser: words for filters, rates and gaps, programs to copy.
import assert from "node:assert/strict";
import { test } from "node:test";

import { Figures, quantile } from "../../trionotify/web/page/figures.js";
import { toPublish, toSubscribe } from "../../trionotify/web/page/recipes.js";
import { runs } from "../../trionotify/web/page/tiles.js";
import { inWords, received, refusal } from "../../trionotify/web/page/words.js";

test("filters in words", () => {
  const said = [
    [{ exact: { type: "a", subject: "1" } }, "type is a and subject is 1"],
    [{ prefix: { type: "order." } }, "type begins with order."],
    [{ suffix: { type: ".paid" } }, "type ends with .paid"],
    [{ any: [{ exact: { type: "a" } }, { all: [{ exact: { type: "b" } }, { sql: "x = 1" }] }] }, "type is a or (type is b and (SQL: x = 1))"],
    [{ not: { any: [{ exact: { a: "1" } }, { exact: { a: "2" } }] } }, "not (a is 1 or a is 2)"],
    [{ callable: "<f>" }, "Python: <f>"],
    [{ other: 1 }, '{"other":1}'],
  ];
  for (const [filter, words] of said) assert.equal(inWords(filter), words);
  const role = "both";
  assert.equal(received({ role, filters: null }), "everything");
  assert.equal(received({ role, filters: [] }), "nothing");
  assert.equal(received({ role: "publisher", filters: null }), "nothing, it only publishes");
  assert.equal(received({ role, filters: [{ exact: { a: "1" } }, { sql: "TRUE" }] }), "a is 1 and (SQL: TRUE)");
});

test("the place of an error, if there is one", () => {
  assert.deepEqual(refusal("filters[1].sql: line 2, column 10: no"), {
    place: { line: 2, column: 10 },
    message: "line 2, column 10: no",
  });
  assert.deepEqual(refusal("filters[0].sql: too long"), { place: undefined, message: "too long" });
  assert.deepEqual(refusal("something else"), { message: "something else" });
});

const reading = (published, counts = [0, 0, 0], entries = 0) => ({
  clients: [{ count: 2 }, { count: 1 }],
  behind: 0,
  published,
  delivered: published * 2,
  latency: { bounds: [0.001, 0.01], counts, sum: 0 },
  log: { entries },
});

test("rates of two readings, and a gap where one is missing", () => {
  const figures = new Figures();
  figures.take(reading(0), 0);
  figures.take(reading(10, [10, 0, 0]), 2);
  assert.deepEqual(figures.all.map(({ at, clients, published, delivered }) => [at, clients, published, delivered]), [[2, 3, 5, 10]]);
  // Too soon after the last one: it says nothing of a rate.
  figures.take(reading(99), 2.1);
  assert.equal(figures.all.length, 1);
  // Nobody has looked for a while, or the server began anew: what was in between isn't invented.
  figures.take(reading(20), 20);
  figures.take(reading(3), 21);
  figures.take(reading(4), 22);
  assert.deepEqual(figures.all.map(({ at, published }) => [at, published]), [[2, 5], [22, 1]]);
  assert.deepEqual(runs(figures.all, "published").map((run) => run.length), [1, 1]);
  // And the window goes on.
  for (let at = 23; at < 300; at += 1) figures.take(reading(at), at);
  assert.ok(figures.all[0].at > 299 - 125 && figures.all.length > 110);
  assert.equal(runs(figures.all, "published").length, 1);
  assert.deepEqual(runs(figures.all, "p99"), []);
});

test("quantiles of what came between two readings", () => {
  const of = (share, counts, before = [0, 0, 0]) => {
    const found = quantile(share, { bounds: [0.001, 0.01], counts }, { counts: before });
    return found && Number(found.toFixed(6));
  };
  assert.equal(of(0.5, [0, 0, 0]), null);
  assert.equal(of(0.5, [5, 5, 5], [5, 5, 5]), null);
  assert.equal(of(0.5, [10, 0, 0]), 0.5);
  assert.equal(of(1, [0, 10, 0]), 10);
  assert.equal(of(0.99, [0, 0, 4]), 10);
});

test("an event as a command and as programs", () => {
  const url = "http://h/x/events";
  const attributes = { type: "a.b", subject: "it's", datacontenttype: "application/json" };
  const made = toPublish(url, { data: { n: [1, null, true] }, attributes, guard: null });
  assert.equal(
    made.curl,
    "curl 'http://h/x/events?type=a.b&subject=it%27s' \\\n  -H 'Content-Type: application/json' \\\n  --data-raw '{\"n\":[1,null,true]}'",
  );
  assert.match(made.JavaScript, /^import \{ Trionotify \} from "http:\/\/h\/x\/trionotify\.js";\n/);
  assert.match(made.JavaScript, /client\.publish\(\{"n":\[1,null,true\]\}, \{ type: "a\.b", subject: "it's" \}\);/);
  assert.match(made.Python, /client\.publish\(json=\{"n": \[1, None, True\]\}, type="a\.b", subject="it's"\)/);
  // An attribute of its own can't be in a query.
  const own = toPublish(url, { data: "x", attributes: { type: "a", severity: 3 }, guard: "secret" });
  assert.match(own.curl, /Authorization: Bearer \$SECRET/);
  assert.match(own.curl, /cloudevents\+json.*\n.*"severity":3/);
  assert.match(own.Python, /trionotify\.sign\(/);
  // Its name may be a word of the language.
  const words = toPublish(url, { data: "x", attributes: { type: "a", from: "b", class: 1 }, guard: null });
  assert.match(words.Python, /client\.publish\("x", type="a", extensions=\{"from": "b", "class": 1\}\)/);
  // A text may be JSON, and JSON may be a text.
  const text = toPublish(url, { data: "x", attributes: { datacontenttype: "application/json" }, guard: null });
  assert.match(text.curl, /Content-Type: application\/json' \\\n  --data-raw '"x"'$/);
  assert.match(text.JavaScript, /client\.publish\("x", \{ datacontenttype: "application\/json" \}\);/);
  assert.match(text.Python, /client\.publish\(json="x"\)/);
  const nothing = toPublish(url, { data: null, attributes: {}, guard: null });
  assert.match(nothing.curl, /Content-Type: application\/json' \\\n  --data-raw 'null'$/);
  const borne = toPublish(url, { data: "x", attributes: { type: "a" }, guard: "token" });
  assert.match(borne.curl, /-H "Authorization: Bearer \$TOKEN"/);
  assert.match(borne.JavaScript, /new Trionotify\("http:\/\/h\/x\/events", \{ token: getToken \}\);/);
  assert.match(borne.Python, /connect\("http:\/\/h\/x\/events", token=os\.environ\["TOKEN"\]\)/);
  // In a shell, a quotation mark must not end the text.
  assert.match(toPublish(url, { data: "it's; rm", attributes: {}, guard: null }).curl, /--data-raw 'it'\\''s; rm'$/);
});

test("a stream as a command and as programs", () => {
  const filters = [{ prefix: { type: "a" } }];
  const made = toSubscribe("http://h/events", { filters, guard: null });
  assert.equal(made.curl, `curl -N 'http://h/events?filters=${encodeURIComponent(JSON.stringify(filters))}'`);
  assert.match(made.JavaScript, /new Trionotify\("http:\/\/h\/events", \{ filters: \[\{"prefix"/);
  assert.match(made.Python, /connect\("http:\/\/h\/events", filters=\[\{"prefix": \{"type": "a"\}\}\]\)/);
  assert.match(toSubscribe("http://h/events", { filters: [], guard: "secret" }).curl, /\?SIGNED'$/);
  const borne = toSubscribe("http://h/events", { filters, guard: "token" });
  assert.match(borne.curl, /^curl -N -H "Authorization: Bearer \$TOKEN" 'http:/);
  assert.match(borne.JavaScript, /new Trionotify\("http:\/\/h\/events", \{ token: getToken, filters: \[/);
  assert.match(borne.Python, /connect\("http:\/\/h\/events", token=os\.environ\["TOKEN"\], filters=\[/);
});
