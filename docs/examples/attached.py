"""Notifications in an existing trio-websocket server, beside its other paths.

    python attached.py 8765

`npx wscat -c ws://127.0.0.1:8765/echo` gets back what it sends, and one at `…/clock` gets the time
each second. To watch clients come and go there, connect one to `…/notifications`, or to
`…/notifications?exact.subject=/clock` for the clock only.

`hub.attach` serves a connection until it ends. The handshake has been answered by then, so a refusal,
for instance of an invalid query, is a Close frame. The hub knows nothing of the other paths. An
exception there would end the whole trio-websocket server, so this example ignores that a client
leaves.

At the end there are two kinds of clients. The hub's clients are sent away with 1012, and the others
are dropped when the server is cancelled.
"""

import signal
import sys
import time
from functools import partial

import trio
import trio_websocket
from trio_websocket import WebSocketConnection, WebSocketRequest

import trionotify

EVENTS = "cloudevents.json"


async def echo(websocket: WebSocketConnection) -> None:
    while True:
        await websocket.send_message(await websocket.get_message())


async def clock(websocket: WebSocketConnection) -> None:
    while True:
        await websocket.send_message(time.strftime("%H:%M:%S"))
        await trio.sleep(1)


PATHS = {"/echo": echo, "/clock": clock}


async def serve(hub: trionotify.Hub, request: WebSocketRequest) -> None:
    """One connection, whatever its path is."""
    path = request.path.partition("?")[0]
    if path == "/notifications":
        subprotocol = EVENTS if EVENTS in request.proposed_subprotocols else None
        websocket = await request.accept(subprotocol=subprotocol)
        try:
            await hub.attach(websocket)
        except trionotify.Refused as refused:
            await websocket.aclose(trionotify.CloseCode.POLICY_VIOLATION, refused.detail[:120])
    elif path in PATHS:
        websocket = await request.accept()
        await hub.publish(f"somebody came to {path}", type="path.opened", subject=path)
        try:
            await PATHS[path](websocket)
        except trio_websocket.ConnectionClosed:
            await hub.publish(f"somebody left {path}", type="path.closed", subject=path)
    else:
        await request.reject(404, body=b"nothing is here\n")


async def main(port: int) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trionotify.open_hub() as hub, trio.open_nursery() as nursery:
            listen = partial(trio_websocket.serve_websocket, partial(serve, hub))
            server = await nursery.start(listen, "127.0.0.1", port, None)
            print(f"attached: http://127.0.0.1:{server.port}", flush=True)
            await anext(signals)
            await hub.drain(5)
            nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]))
