"""Publish standard input, line by line: `tail -F app.log | python publish_lines.py URL`.

URL is the server's, with a query that names the publisher and the type, for instance
`ws://127.0.0.1:8765/?role=publisher&id=web1&type=log.nginx`. A busy server doesn't read, and so holds
back this loop, the pipe, and the program that writes into it.
"""

import sys

import trio
import trio_websocket


async def main(url: str) -> None:
    async with trio_websocket.open_websocket_url(url) as websocket:
        async for line in trio.wrap_file(sys.stdin):
            await websocket.send_message(line.rstrip("\n"))


trio.run(main, sys.argv[1])
