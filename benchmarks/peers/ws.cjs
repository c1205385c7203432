// Node's ws: send to each client, the payload as the Buffer that came in.
const { WebSocketServer } = require("ws");

const subscribers = new Set();
const server = new WebSocketServer(
  { host: "127.0.0.1", port: 0, perMessageDeflate: false, backlog: 4096 },
  () => console.log(server.address().port),
);
server.on("connection", (socket, request) => {
  if (request.url === "/publish") {
    socket.on("message", (data, binary) => {
      for (const subscriber of subscribers) subscriber.send(data, { binary });
    });
  } else {
    subscribers.add(socket);
    socket.on("close", () => subscribers.delete(socket));
  }
});
