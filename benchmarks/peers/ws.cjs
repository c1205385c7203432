// Node's ws: send to each client, the payload as the Buffer that came in. `deflate` compresses, `tls CERT KEY` encrypts.
const fs = require("fs");
const { WebSocketServer } = require("ws");

const [how, cert, key] = process.argv.slice(2);
const server =
  how === "tls"
    ? require("https").createServer({ cert: fs.readFileSync(cert), key: fs.readFileSync(key) })
    : require("http").createServer();
const subscribers = new Set();
const streams = new Set();
const perMessageDeflate =
  how === "deflate" ? { serverNoContextTakeover: true, clientNoContextTakeover: true, threshold: 0 } : false;
const publish = (data, binary) => {
  for (const subscriber of subscribers) subscriber.send(data, { binary });
  if (streams.size) {
    const event = `data: ${data}\n\n`;
    for (const stream of streams) stream.write(event);
  }
};

new WebSocketServer({ server, perMessageDeflate }).on("connection", (socket, request) => {
  if (request.url === "/publish") {
    socket.on("message", publish);
  } else {
    subscribers.add(socket);
    socket.on("close", () => subscribers.delete(socket));
  }
});
// Server-Sent Events, and publishing by POST, which checks no more than that it is JSON.
server.on("request", (request, response) => {
  if (request.method === "POST") {
    const chunks = [];
    request.on("data", (chunk) => chunks.push(chunk));
    request.on("end", () => {
      const body = Buffer.concat(chunks);
      JSON.parse(body);
      publish(body, false);
      response.writeHead(202, { "Content-Length": 0 }).end();
    });
  } else {
    response.writeHead(200, { "Content-Type": "text/event-stream" }).flushHeaders();
    streams.add(response);
    response.on("close", () => streams.delete(response));
  }
});
server.listen({ host: "127.0.0.1", port: 0, backlog: 4096 }, () => console.log(server.address().port));
