"""`websockets` on asyncio, with its `broadcast`, on uvloop. `deflate` compresses."""

import asyncio
import sys

import uvloop
from websockets.asyncio.server import ServerConnection, broadcast, serve

COMPRESSION = "deflate" if "deflate" in sys.argv else None
subscribers: set[ServerConnection] = set()


async def handle(websocket: ServerConnection) -> None:
    assert websocket.request is not None
    if websocket.request.path == "/publish":
        async for message in websocket:
            broadcast(subscribers, message)
    else:
        subscribers.add(websocket)
        try:
            await websocket.wait_closed()
        finally:
            subscribers.discard(websocket)


async def main() -> None:
    async with serve(
        handle, "127.0.0.1", 0, compression=COMPRESSION, ping_interval=None, backlog=4096
    ) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await asyncio.get_running_loop().create_future()


uvloop.run(main())
