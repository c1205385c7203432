"""A real Chromium without a window, driven by its DevTools protocol over trio-websocket."""

from __future__ import annotations

import base64
import itertools
import json
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio
import trio_websocket

__all__ = ["CHROMIUM", "FAR_AWAY", "Browser", "Page", "open_browser"]

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))),
    None,
)
#: A name of this machine that the browser takes for another one's: without https it isn't secure.
FAR_AWAY = "push.test"
_QUIET = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-quic"),
    *("--remote-debugging-port=0", "--remote-allow-origins=*"),
    f"--host-resolver-rules=MAP {FAR_AWAY} 127.0.0.1",
)
#: What the browser answers instead, if the document was replaced while it ran a script.
_NAVIGATED = ("navigated or closed", "context was destroyed", "Cannot find context")
#: What it says of an element that isn't in the document yet.
_NOT_THERE = "Cannot read properties of null"
_KEYS = {"Tab": 9, "Enter": 13, "Escape": 27, " ": 32, "ArrowRight": 39, "ArrowDown": 40}


class Browser:
    """Made by `open_browser`. Any task may ask it."""

    def __init__(self, websocket: trio_websocket.WebSocketConnection) -> None:
        self._websocket = websocket
        self._ids = itertools.count(1)
        self._answers: dict[int, trio.MemorySendChannel[dict[str, Any]]] = {}
        #: Errors, and what a Content-Security-Policy didn't allow.
        self.complaints: list[Any] = []

    async def listen(self) -> None:
        """Hear what it says, until it is gone."""
        while True:
            try:
                said = json.loads(await self._websocket.get_message())
            except trio_websocket.ConnectionClosed:
                return
            if said.get("method") == "Runtime.exceptionThrown":
                self.complaints.append(said["params"])
            if said.get("method") == "Log.entryAdded" and said["params"]["entry"]["level"] == "error":
                self.complaints.append(said["params"])
            if (answer := self._answers.pop(said.get("id"), None)) is not None:
                answer.send_nowait(said)

    async def ask(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """Call a method of the protocol; raises AssertionError with what it says is wrong."""
        number = next(self._ids)
        self._answers[number], answer = trio.open_memory_channel(1)
        call = {"id": number, "method": method, "params": params}
        await self._websocket.send_message(
            json.dumps(call | ({"sessionId": session} if session else {}))
        )
        said = await answer.receive()
        assert "error" not in said, (method, said)
        result: dict[str, Any] = said["result"]
        return result

    async def open(
        self,
        url: str,
        *,
        width: int = 1280,
        height: int = 900,
        scheme: str = "light",
        before: str = "",
    ) -> Page:
        """A new tab, whose document is there. The script `before` runs before all others."""
        target = (await self.ask("Target.createTarget", url="about:blank"))["targetId"]
        session = (await self.ask("Target.attachToTarget", targetId=target, flatten=True))["sessionId"]
        page = Page(self, target, session)
        for domain in ("Page", "Network", "Runtime", "Log"):
            await page.ask(f"{domain}.enable")
        await page.resize(width, height)
        await page.prefer(scheme)
        if before:
            await page.ask("Page.addScriptToEvaluateOnNewDocument", source=before)
        await page.ask("Page.navigate", url=url)
        await page.run(
            f"document.readyState === 'complete' && location.href !== {json.dumps('about:blank')}",
            wait=True,
        )
        return page


class Page:
    """One tab."""

    def __init__(self, browser: Browser, target: str, session: str) -> None:
        self._browser = browser
        self._target = target
        self._session = session

    async def ask(self, method: str, **params: Any) -> dict[str, Any]:
        return await self._browser.ask(method, self._session, **params)

    async def run(self, script: str, *, wait: bool = False) -> Any:
        """The value of an expression, or of its promise; with `wait`, as soon as it is true.

        With `wait`, the document may be replaced by another one meanwhile, and what the expression looks
        at may not be there yet.
        """
        while True:
            try:
                said = await self.ask(
                    "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
                )
            except AssertionError as error:
                if wait and any(reason in str(error) for reason in _NAVIGATED):
                    continue
                raise
            if wait and _NOT_THERE in json.dumps(said):
                continue
            assert "exceptionDetails" not in said, (script, said["exceptionDetails"])
            if (value := said["result"].get("value")) or not wait:
                return value

    async def press(self, key: str) -> None:
        """A key of the keyboard, down and up."""
        text = {"Enter": "\r", " ": " "}.get(key, "")
        number = _KEYS[key]
        event = {"key": key, "text": text, "windowsVirtualKeyCode": number}
        await self.ask("Input.dispatchKeyEvent", type="keyDown", **event)
        await self.ask("Input.dispatchKeyEvent", type="keyUp", **event)

    async def write(self, text: str) -> None:
        """Into what has the focus."""
        await self.ask("Input.insertText", text=text)

    async def set_offline(self, offline: bool) -> None:
        """The network is away, or back."""
        speed = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
        await self.ask("Network.emulateNetworkConditions", offline=offline, **speed)

    async def resize(self, width: int, height: int) -> None:
        """In CSS pixels; a narrow one is a phone."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        await self.ask("Emulation.setDeviceMetricsOverride", **size)

    async def prefer(self, scheme: str) -> None:
        """The colour scheme: `dark` or `light`. And nothing that moves by itself."""
        wishes = {"prefers-color-scheme": scheme, "prefers-reduced-motion": "reduce"}
        features = [{"name": name, "value": value} for name, value in wishes.items()]
        await self.ask("Emulation.setEmulatedMedia", features=features)

    async def screenshot(self, path: Path) -> None:
        said = await self.ask("Page.captureScreenshot", format="png")
        await trio.Path(path).write_bytes(base64.b64decode(said["data"]))

    async def close(self) -> None:
        await self._browser.ask("Target.closeTarget", targetId=self._target)


@asynccontextmanager
async def open_browser(profile: Path) -> AsyncIterator[Browser]:
    """Start it with a fresh profile, and end it."""
    assert CHROMIUM is not None
    command = [CHROMIUM, *_QUIET, f"--user-data-dir={profile}", "about:blank"]
    process = await trio.lowlevel.open_process(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    try:
        said = b""
        while b"DevTools listening on " not in said or not said.endswith(b"\n"):
            data = await process.stderr.receive_some()
            assert data, said
            said += data
        url = said.partition(b"DevTools listening on ")[2].split()[0].decode()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_drain, process.stderr)
            async with trio_websocket.open_websocket_url(url, max_message_size=1 << 26) as websocket:
                browser = Browser(websocket)
                nursery.start_soon(browser.listen)
                yield browser
            nursery.cancel_scope.cancel()
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


async def _drain(stream: trio.abc.ReceiveStream) -> None:
    while await stream.receive_some():
        pass
