"""`websockets` on Trio: its server, with its own broadcast."""

from functools import partial

import trio
from websockets.trio.server import ServerConnection, broadcast, serve

subscribers: set[ServerConnection] = set()


async def handle(websocket: ServerConnection) -> None:
    assert websocket.request is not None
    if websocket.request.path == "/publish":
        async for message in websocket:
            await broadcast(subscribers, message)
    else:
        subscribers.add(websocket)
        try:
            await websocket.wait_closed()
        finally:
            subscribers.discard(websocket)


async def main() -> None:
    async with trio.open_nursery() as nursery:
        server = await nursery.start(
            partial(serve, handle, 0, host="127.0.0.1", compression=None, ping_interval=None)
        )
        print(server.listeners[0].socket.getsockname()[1], flush=True)


trio.run(main)
