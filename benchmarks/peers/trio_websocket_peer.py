"""trio-websocket as it is: `send_message` to one client after the other."""

import trio
import trio_websocket

subscribers: set[trio_websocket.WebSocketConnection] = set()


async def serve(request: trio_websocket.WebSocketRequest) -> None:
    websocket = await request.accept()
    publishes = request.path == "/publish"
    if not publishes:
        subscribers.add(websocket)
    try:
        while True:
            message = await websocket.get_message()
            for subscriber in tuple(subscribers):
                await subscriber.send_message(message)
    except trio_websocket.ConnectionClosed:
        subscribers.discard(websocket)


async def main() -> None:
    async with trio.open_nursery() as nursery:
        server = await nursery.start(trio_websocket.serve_websocket, serve, "127.0.0.1", 0, None)
        print(server.port, flush=True)


trio.run(main)
