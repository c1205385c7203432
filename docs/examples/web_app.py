"""A hub beside a web application: Starlette on Hypercorn's Trio worker, in one nursery with the hub.

    pip install starlette hypercorn
    python web_app.py 8000 8765

Open http://127.0.0.1:8000/ in two browsers, and order something; or

    curl -N 'http://127.0.0.1:8765/events?prefix.type=order.'
    curl -d 'two tickets' http://127.0.0.1:8000/orders

The handler publishes on the hub by a function call, because both run in one process and one event
loop. The notifications have a port of their own, which the web application's pages may use:
`allow_origin`.

At a signal, the web server stops first. It stops accepting, and answers the requests that it has. Then
the notification server stops. What these requests have published still reaches all clients before
their goodbye. If both are cancelled instead, they end at once, and clients receive the goodbye all the
same.
"""

import signal
import sys
from functools import partial
from typing import Any

import hypercorn.trio
import trio
from hypercorn.config import Config
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

import trionotify

PAGE = """<!doctype html>
<title>Orders</title>
<link rel="icon" href="data:,">
<form><input name="text" aria-label="What"> <button>Order</button></form>
<ol></ol>
<script type="module">
  import {{ Trionotify }} from "{url}/trionotify.js";

  const orders = new Trionotify("{url}/events?exact.type=order.created&since=10m");
  orders.addEventListener("notification", ({{ notification }}) => {{
    const item = document.createElement("li");
    item.textContent = notification.data;
    document.querySelector("ol").append(item);
  }});
  document.forms[0].addEventListener("submit", (event) => {{
    event.preventDefault();
    fetch("/orders", {{ method: "POST", body: event.target.elements.text.value }});
  }});
</script>
"""


def make_app(hub: trionotify.Hub, url: str) -> Starlette:
    """The web application, with what it needs of the notifications."""

    async def page(request: Request) -> Response:
        return HTMLResponse(PAGE.format(url=url))

    async def order(request: Request) -> Response:
        text = (await request.body()).decode(errors="replace")
        receipt = await hub.publish(text, type="order.created", source="/orders", confirm=True)
        return JSONResponse({"order": receipt.cursor, "told": receipt.wanted}, 201)

    return Starlette(routes=[Route("/", page), Route("/orders", order, methods=["POST"])])


async def main(web_port: int, port: int) -> None:
    origin = f"http://127.0.0.1:{web_port}"
    config = Config.from_mapping(bind=[f"127.0.0.1:{web_port}"], graceful_timeout=5)
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trionotify.open_hub(allow_origin=[origin]) as hub, trio.open_nursery() as nursery:
            server = await nursery.start(partial(trionotify.serve, hub, port=port))

            async def serve_web(  # noqa: ASYNC128 - Hypercorn calls `started`
                *, task_status: trio.TaskStatus[list[str]]
            ) -> None:
                app: Any = make_app(hub, server.url)  # Hypercorn's types don't know Starlette's
                stop = partial(anext, signals)
                await hypercorn.trio.serve(app, config, shutdown_trigger=stop, task_status=task_status)
                server.stop()

            await nursery.start(serve_web)
            print(f"orders: {origin}, notifications: {server.url}", flush=True)


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]), int(sys.argv[2]))
