"""Each way of attack alone: `python -m tests.soak.ways [WAY …] [--seconds 8]`.

While it goes on, another process asks for `/livez`, and a subscriber waits for what is published. In the
end SIGTERM comes. There is a line for each way. What took too long, or didn't come, is a fault.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import trio

from tests.fleet.line import open_line
from tests.fleet.server import server_process
from tests.fuzz.lag import BOUND, measured_lag
from tests.soak.attacks import WAYS

#: Seconds within which a marker must have come, and within which SIGTERM must have ended the server.
_PATIENCE = 10.0
_MARK = (
    b"POST /events?type=mark HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n"
    b"Connection: close\r\n\r\nmark"
)


async def _marked(port: int, waits: list[float]) -> None:
    """Publish again and again, and note how long it takes until a subscriber has it."""
    async with open_line(port, {"exact.type": "mark"}) as line:
        while True:
            begun = trio.current_time()
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                await stream.send_all(_MARK)
                assert (await stream.receive_some()).startswith(b"HTTP/1.1 200 ")
            assert await line.read() == [b"mark"]
            waits.append(trio.current_time() - begun)
            await trio.sleep(0.2)


async def _tried(way: str, seconds: float, directory: Path) -> tuple[str, list[str]]:
    """Its line, and what is wrong."""
    waits: list[float] = []
    faults: list[str] = []
    patience = seconds + 6 * _PATIENCE
    async with server_process(directory, "--drain-timeout", "5", patience=patience) as server:
        await server.start()
        command = [sys.executable, "-m", "tests.soak.attacks", str(server.port), way, str(seconds + 30)]
        attack = await trio.lowlevel.open_process(command, stderr=subprocess.DEVNULL)
        try:
            async with measured_lag(server.port) as lag:
                with trio.move_on_after(seconds):
                    await _marked(server.port, waits)
            server.signal(signal.SIGTERM)
            begun = time.monotonic()
            with trio.move_on_after(3 * _PATIENCE) as scope:
                code = await server.ended()
            ended = time.monotonic() - begun
        finally:
            attack.kill()
            with trio.CancelScope(shield=True):
                await attack.wait()
        if scope.cancelled_caught or code != 0 or ended > _PATIENCE:
            faults.append(f"SIGTERM: {ended:.1f} s")
        if "Traceback" in server.errors or '"error"' in server.errors:
            faults.append("the log has errors")
    if lag.percentile(0.99) > BOUND:
        faults.append(f"/livez: above {BOUND * 1000:.0f} ms")
    if not waits or max(waits) > _PATIENCE:
        faults.append("a subscriber didn't hear")
    slowest = f"{max(waits) * 1000:.0f}" if waits else "-"
    return f"{lag}; {len(waits)} markers, {slowest} ms at most; SIGTERM {ended:.1f} s", faults


@click.command()
@click.argument("ways", nargs=-1, type=click.Choice(list(WAYS)))
@click.option("--seconds", default=8.0, show_default=True, help="How long each goes on.")
def main(ways: tuple[str, ...], seconds: float) -> None:
    """Try each way of attack alone, and print how long others had to wait."""
    failed = False
    for way in ways or tuple(WAYS):
        with tempfile.TemporaryDirectory() as directory:
            line, faults = trio.run(_tried, way, seconds, Path(directory))
        print(f"{way:14}{line}{'; '.join(['', *faults])}", flush=True)
        failed |= bool(faults)
    sys.exit(failed)


if __name__ == "__main__":
    main()
