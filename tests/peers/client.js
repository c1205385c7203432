// A plain `ws` client: prints one JSON line per thing that happens; sends what stdin says.
// node client.js URL [PROTOCOL]
const WebSocket = require("ws");
const [url, protocol] = process.argv.slice(2);
const socket = protocol ? new WebSocket(url, protocol) : new WebSocket(url);
const say = (line) => process.stdout.write(JSON.stringify(line) + "\n");

socket.on("upgrade", (response) => say({ id: response.headers["trionotify-id"] }));
socket.on("open", () => say({ open: socket.protocol }));
socket.on("message", (data, binary) =>
  say(binary ? { binary: data.toString("hex") } : { text: data.toString() }),
);
socket.on("pong", (data) => say({ pong: data.toString() }));
socket.on("unexpected-response", (_, response) => say({ status: response.statusCode }) || process.exit());
socket.on("close", (code, reason) => say({ close: code, reason: reason.toString() }));
socket.on("error", (error) => say({ error: error.message }));

require("readline")
  .createInterface({ input: process.stdin })
  .on("line", (line) => {
    const { text, binary, ping, close, raw } = JSON.parse(line);
    if (text !== undefined) socket.send(text);
    if (binary !== undefined) socket.send(Buffer.from(binary, "hex"));
    if (ping !== undefined) socket.ping(ping);
    if (raw !== undefined) socket._socket.write(Buffer.from(raw, "hex"));
    if (close !== undefined) socket.close(close, "bye");
  });
