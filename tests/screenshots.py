"""Pictures of the page at `/`, in every state that it has: `python -m tests.screenshots OUT`.

Each state is shown at 1280 and 390 pixels, light and dark, by a headless Chromium, as
`OUT/STATE-WIDTH-SCHEME.png`. With `--docs`, the pictures in the docs are taken as well, of the same
healthy traffic. Name states after OUT to take only those.

The states are also what the tests check for accessibility: `STATES` has for each how to get there.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import attrs
import trio

from tests.chromium import FAR_AWAY, Browser, Page, open_browser
from tests.fleet.server import free_port
from tests.provider import secret_issuer, secret_token
from trionotify import Prefix, Server, Tokens, connect, open_server

__all__ = ["STATES", "WIDTHS", "Stage", "open_stage"]

WIDTHS: Final = {1280: 800, 390: 844}
SCHEMES: Final = ("light", "dark")
SECRET: Final = b"correct horse battery staple"
DOCS: Final = Path(__file__).parent.parent / "docs"


@attrs.define
class Stage:
    """A server, and a browser that looks at it. Made by `open_stage`."""

    browser: Browser
    nursery: trio.Nursery
    port: int
    server: Server | None = None
    #: By which name the browser knows the server.
    host: str = "127.0.0.1"
    chance: random.Random = attrs.field(factory=lambda: random.Random(7))
    _end: trio.Event = attrs.field(factory=trio.Event)
    _ended: trio.Event = attrs.field(factory=trio.Event)

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}/"

    async def start(self, **options: Any) -> Server:
        """Start the server, again at the same port."""
        self._end, self._ended = trio.Event(), trio.Event()
        self.server = await self.nursery.start(self._serve, options)
        return self.server

    async def _serve(
        self, options: dict[str, Any], *, task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED
    ) -> None:
        async with open_server(port=self.port, **options) as server:
            task_status.started(server)
            await self._end.wait()
        self._ended.set()

    async def stop(self) -> None:
        self._end.set()
        await self._ended.wait()
        self.server = None

    async def open(self, width: int, scheme: str, *, fast: bool = False) -> Page:
        """The page; with `fast`, its clock runs faster than the machine's, as in a film of a flower."""
        page = await self.browser.open(
            self.url, width=width, height=WIDTHS[width], scheme=scheme, before=_FAST if fast else ""
        )
        await page.run("document.querySelector('#state').dataset.state !== 'connecting'", wait=True)
        return page

    async def clients(self) -> None:
        """A few clients, with filters of their own."""
        assert self.server is not None
        url = self.server.url
        ready = trio.Event()
        wanted: list[tuple[str, dict[str, Any]]] = [
            ("checkout", {"role": "publisher"}),
            ("alice", {"filters": Prefix(type="order.")}),
            ("bob", {"params": {"exact.subject": "17"}}),
            ("dashboard-berlin-entrance-hall-2", {}),
            ("alerts", {"sql": "type LIKE 'disk.%' OR EXISTS severity"}),
        ]
        open_ones = 0

        async def stay(id: str, options: dict[str, Any]) -> None:
            nonlocal open_ones
            async with connect(url, id=id, **options) as client:
                open_ones += 1
                if open_ones == len(wanted):
                    ready.set()
                if options.get("role") == "publisher":
                    await trio.sleep_forever()
                async for _ in client:
                    pass

        for id, options in wanted:
            self.nursery.start_soon(stay, id, options)
        await ready.wait()

    async def publish(self, count: int) -> None:
        """Traffic that looks like a shop's."""
        assert self.server is not None
        chance = self.chance
        for number in range(count):
            order = str(chance.randrange(100, 999))
            amount = round(chance.uniform(5, 250), 2)
            kind, subject, data = chance.choices(
                [
                    ("order.created", order, {"order": int(order), "amount": amount, "currency": "EUR"}),
                    ("order.paid", order, {"order": int(order), "method": "card"}),
                    ("order.shipped", order, {"order": int(order), "carrier": "DHL", "parcels": 1}),
                    ("cart.abandoned", order, {"cart": int(order), "minutes": 30}),
                    ("disk.warning", "web-2", "81 % of /var used"),
                    ("user.signedin", "alice", {"id": "alice", "device": "phone"}),
                ],
                weights=[5, 4, 3, 2, 1, 2],
            )[0]
            await self.server.hub.publish(
                **({"data": data} if isinstance(data, str) else {"json": data}),
                type=kind,
                subject=subject,
                source="/shop" if "." in kind and not kind.startswith("disk") else "/hosts/web-2",
                confirm=number % 10 == 9,
            )

    async def busy(self) -> None:
        """Publish without an end, some twenty in a second."""
        rate = 2.0
        while True:
            rate = min(max(rate + self.chance.uniform(-0.3, 0.3), 0.5), 4)
            await self.publish(round(rate + self.chance.uniform(-0.5, 0.5)))
            await trio.sleep(0.1)


#: Counts up with each reading. It tells, in the page's own terms, how long it has been read.
_READINGS: Final = "Number(document.querySelector('#tiles').dataset.readings ?? 0)"
_FAST: Final = """{
    const [now, every, times] = [performance.now.bind(performance), setInterval, 3];
    performance.now = () => now() * times;
    window.setInterval = (callback, ms) => every(callback, ms / times);
}"""


@asynccontextmanager
async def open_stage(browser: Browser) -> AsyncIterator[Stage]:
    """A stage without a server yet."""
    async with trio.open_nursery() as nursery:
        yield Stage(browser, nursery, free_port())
        nursery.cancel_scope.cancel()


# --- states ---

#: Gets there, and gives the page.
State = Callable[[Stage, int, str], Awaitable[Page]]

IS_OPEN: Final = "document.querySelector('#state').dataset.state === 'open'"
HAS_ROWS: Final = "document.querySelectorAll('#stream button').length >= 15"


async def empty(stage: Stage, width: int, scheme: str) -> Page:
    """A new server: what to do first."""
    await stage.start()
    page = await stage.open(width, scheme)
    await page.run(IS_OPEN, wait=True)
    await page.run("document.querySelector('#empty').checkVisibility()", wait=True)
    await page.run(f"{_READINGS} > 1", wait=True)
    return page


async def traffic(stage: Stage, width: int, scheme: str) -> Page:
    """Clients, and events that come."""
    await stage.start()
    await stage.clients()
    await stage.publish(120)
    page = await stage.open(width, scheme, fast=True)
    await page.run(HAS_ROWS, wait=True)
    stage.nursery.start_soon(stage.busy)
    await page.run(f"{_READINGS} > 110", wait=True)
    return page


async def _quiet(stage: Stage, width: int, scheme: str) -> Page:
    """Events, but no waiting for readings."""
    await stage.start()
    await stage.clients()
    await stage.publish(120)
    page = await stage.open(width, scheme)
    await page.run(HAS_ROWS, wait=True)
    await page.run(f"{_READINGS} > 1", wait=True)
    return page


async def drawer(stage: Stage, width: int, scheme: str) -> Page:
    """One event."""
    page = await _quiet(stage, width, scheme)
    rows = "[...document.querySelectorAll('#stream button')]"
    await page.run(f"{rows}.find((one) => /order.created/.test(one.textContent)).click()")
    await page.run("document.querySelector('#drawer').open", wait=True)
    return page


async def filtered(stage: Stage, width: int, scheme: str) -> Page:
    """Filters as chips, and what they let through."""
    page = await _quiet(stage, width, scheme)
    await page.run(FILL.format(field="#value", text="order.", form="filter"))
    await page.run("document.querySelectorAll('#chips li').length === 1", wait=True)
    await page.run(FILL.format(field="#expression", text="EXISTS subject", form="filter"))
    await page.run("document.querySelectorAll('#chips li').length === 2", wait=True)
    await page.run("document.querySelectorAll('#stream button').length >= 10", wait=True)
    return page


async def filter_error(stage: Stage, width: int, scheme: str) -> Page:
    """A wrong expression, with its place."""
    page = await _quiet(stage, width, scheme)
    await page.run("document.querySelector('#more').click()")
    text = "type LIKE order AND EXISTS subject"
    await page.run(FILL.format(field="#expression", text=text, form="filter"))
    await page.run("document.querySelector('#filter-error').textContent", wait=True)
    return page


async def clients(stage: Stage, width: int, scheme: str) -> Page:
    """The connected clients."""
    page = await _quiet(stage, width, scheme)
    await page.run("document.querySelector('#tab-clients').click()")
    await page.run("document.querySelectorAll('#clients tr').length >= 6", wait=True)
    return page


async def receipt(stage: Stage, width: int, scheme: str) -> Page:
    """Something was published."""
    page = await _quiet(stage, width, scheme)
    await page.run("document.querySelector('#tab-try').click()")
    await page.run("document.querySelector('[name=type]').value = 'order.paid'")
    await page.run("document.querySelector('[name=datacontenttype]').value = 'application/json'")
    await page.run(FILL.format(field="[name=data]", text='{\\"amount\\": 12.5}', form="publish"))
    await page.run("/Published/.test(document.querySelector('#receipt').textContent)", wait=True)
    return page


async def publish_error(stage: Stage, width: int, scheme: str) -> Page:
    """Something was refused."""
    page = await _quiet(stage, width, scheme)
    await page.run("document.querySelector('#tab-try').click()")
    await page.run("document.querySelector('[name=datacontenttype]').value = 'application/json'")
    await page.run(FILL.format(field="[name=data]", text="{amount: 12.5}", form="publish"))
    await page.run("document.querySelector('#receipt').classList.contains('bad')", wait=True)
    return page


async def paused(stage: Stage, width: int, scheme: str) -> Page:
    """The stream stands still, and counts."""
    page = await _quiet(stage, width, scheme)
    await page.run("document.querySelector('#pause').click()")
    await stage.publish(8)
    await page.run("/new/.test(document.querySelector('#pause').textContent)", wait=True)
    return page


async def gone(stage: Stage, width: int, scheme: str) -> Page:
    """The server is away."""
    page = await _quiet(stage, width, scheme)
    await stage.stop()
    await page.run("document.querySelector('#outage').checkVisibility()", wait=True)
    return page


async def back(stage: Stage, width: int, scheme: str) -> Page:
    """The server was away, and is back: the line has a gap."""
    await stage.start()
    await stage.publish(40)
    page = await stage.open(width, scheme, fast=True)
    await page.run(HAS_ROWS, wait=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stage.busy)
        await page.run(f"{_READINGS} > 50", wait=True)
        nursery.cancel_scope.cancel()
    await stage.stop()
    await page.run("document.querySelector('#outage').checkVisibility()", wait=True)
    start = await page.run("performance.now()")
    await page.run(f"performance.now() - {start} > 15_000", wait=True)
    await stage.start()
    await stage.publish(40)
    await page.run("document.querySelector('#retry').click()")
    await page.run(IS_OPEN, wait=True)
    stage.nursery.start_soon(stage.busy)
    await page.run(f"{_READINGS} > 80", wait=True)
    return page


async def locked(stage: Stage, width: int, scheme: str) -> Page:
    """The server has a secret."""
    await stage.start(secret=SECRET)
    page = await stage.open(width, scheme)
    await page.run("document.querySelector('#locked').checkVisibility()", wait=True)
    return page


async def wrong_secret(stage: Stage, width: int, scheme: str) -> Page:
    """Not this one."""
    page = await locked(stage, width, scheme)
    await page.run(FILL.format(field="#secret", text="password123", form="unlock"))
    await page.run("document.querySelector('#locked-error').textContent", wait=True)
    return page


async def unlocked(stage: Stage, width: int, scheme: str) -> Page:
    """The right one."""
    page = await locked(stage, width, scheme)
    await page.run(FILL.format(field="#secret", text=SECRET.decode(), form="unlock"))
    await page.run(IS_OPEN, wait=True)
    await stage.publish(30)
    await page.run(HAS_ROWS, wait=True)
    await page.run("sessionStorage.clear()")
    return page


async def locked_with_tokens(stage: Stage, width: int, scheme: str) -> Page:
    """The server takes tokens, too, and the page came over plain HTTP."""
    await stage.start(secret=SECRET, authenticate=Tokens(secret_issuer()))
    stage.host = FAR_AWAY
    page = await stage.open(width, scheme)
    await page.run("document.querySelector('#locked').checkVisibility()", wait=True)
    return page


async def wrong_token(stage: Stage, width: int, scheme: str) -> Page:
    """One of another issuer."""
    page = await locked_with_tokens(stage, width, scheme)
    token = "eyJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJ4In0.AAAA"
    await page.run(FILL.format(field="#secret", text=token, form="unlock"))
    await page.run("document.querySelector('#locked-error').textContent", wait=True)
    return page


async def with_token(stage: Stage, width: int, scheme: str) -> Page:
    """A good one, which shows neither figures nor clients."""
    page = await locked_with_tokens(stage, width, scheme)
    token = secret_token(exp=time.time() + 600)
    await page.run(FILL.format(field="#secret", text=token, form="unlock"))
    await page.run(IS_OPEN, wait=True)
    await stage.publish(30)
    await page.run(HAS_ROWS, wait=True)
    await page.run("document.querySelector('#tab-clients').click()")
    await page.run("document.querySelector('#clients-note').checkVisibility()", wait=True)
    await page.run("sessionStorage.clear()")
    return page


async def plain_http(stage: Stage, width: int, scheme: str) -> Page:
    """With the secret, over plain HTTP: by Server-Sent Events, and it says why."""
    stage.host = FAR_AWAY
    return await unlocked(stage, width, scheme)


async def nodes(stage: Stage, width: int, scheme: str) -> Page:
    """Three servers that share a log, of which one is behind."""
    server = await stage.start()
    since = ["2026-11-02T06:12:40Z", "2026-11-02T06:13:05Z", "2026-11-26T09:30:00Z"]
    names = ["eu-west-1a-trionotify-0", "eu-west-1b-trionotify-1", "eu-west-1c-trionotify-2"]
    ages = [0.4, 0.2, 7.1]
    server.hub.log.nodes = [  # type: ignore[misc] - a log in memory only has it for reading
        {"name": name, "version": "1.0.0", "since": began, "clients": 1874 - 211 * n, "tail_age": age}
        for n, (name, began, age) in enumerate(zip(names, since, ages, strict=True))
    ]
    await stage.publish(60)
    page = await stage.open(width, scheme)
    await page.run(HAS_ROWS, wait=True)
    await page.run("document.querySelector('#tab-nodes').checkVisibility()", wait=True)
    await page.run("document.querySelector('#tab-nodes').click()")
    await page.run(f"{_READINGS} > 1", wait=True)
    return page


#: Into a field, and send the form.
FILL: Final = """(() => {{
    const field = document.querySelector("{field}");
    field.value = "{text}";
    field.dispatchEvent(new Event("input", {{ bubbles: true }}));
    document.querySelector("#{form}").requestSubmit();
}})()"""

STATES: Final[dict[str, State]] = {
    state.__name__.replace("_", "-"): state
    for state in (
        *(empty, traffic, drawer, filtered, filter_error, clients, receipt, publish_error, paused),
        *(gone, back, locked, wrong_secret, unlocked),
        *(locked_with_tokens, wrong_token, with_token, plain_http, nodes),
    )
}


async def take(out: Path, names: list[str], docs: bool) -> None:
    """All pictures."""
    await trio.Path(out).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        async with open_browser(Path(profile)) as browser:
            for name in names:
                for width in WIDTHS:
                    for scheme in SCHEMES:
                        async with open_stage(browser) as stage:
                            page = await STATES[name](stage, width, scheme)
                            file = out / f"{name}-{width}-{scheme}.png"
                            await page.screenshot(file)
                            if docs and name == "traffic" and width == max(WIDTHS):
                                await page.screenshot(DOCS / f"page-{scheme}.png")
                        await page.close()
                        print(file)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.screenshots", description=__doc__)
    parser.add_argument("out", type=Path, help="folder for the pictures")
    parser.add_argument("states", nargs="*", choices=[*STATES, []], help="only these; all by default")
    parser.add_argument("--docs", action="store_true", help="also the pictures in docs/")
    options = parser.parse_args()
    trio.run(take, options.out, options.states or list(STATES), options.docs)


if __name__ == "__main__":
    main()
