"""A server whose handler replies: `python replying.py PORT`. It says when it listens."""

import sys

import trio

from trionotify import Client, open_server


async def handler(client: Client, message: str | bytes) -> object:
    """Say the same again."""
    return {"reply": message if isinstance(message, str) else len(message)}


async def main(port: int) -> None:
    """Serve until it is killed."""
    async with open_server(port=port, handler=handler, close_timeout=1, drain_timeout=1):
        print("listening", flush=True)
        await trio.sleep_forever()


trio.run(main, int(sys.argv[1]))
