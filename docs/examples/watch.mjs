// Print what arrives: `node watch.mjs URL`, with Node's `ws` installed.
import WebSocket from "ws";

const socket = new WebSocket(process.argv[2]);
socket.on("message", (data, isBinary) => console.log(isBinary ? data : data.toString()));
socket.on("unexpected-response", (request, response) => {
  console.error("refused:", response.statusCode);
  response.pipe(process.stderr);
});
socket.on("close", (code, reason) => console.error("closed", code, reason.toString()));
