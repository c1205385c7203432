"""Request and reply: clients reserve seats, and all clients see the plan change.

    python seats.py 8765

Connect with `npx wscat -c ws://127.0.0.1:8765/`, from two terminals, and send in one of them

    {"id": 1, "do": "list"}
    {"id": 2, "do": "reserve", "seat": "A1"}
    {"id": 3, "do": "release", "seat": "A1"}

A reply (`client.send`) goes only to the client that asked, and isn't in the log. It has the request's
`id`. Changes are published, so all clients see them, in one order. The client that asked may see the
change before or after the reply. An invalid request is answered with an error, and the connection
stays. When a client has left, its seats are free again, because its session ends with the connection.
"""

import signal
import sys
from contextlib import suppress

import attrs
import msgspec
import trio

import trionotify
from trionotify import Client


class List(msgspec.Struct, tag_field="do", tag="list"):
    """Which seats are free?"""


class Reserve(msgspec.Struct, tag_field="do", tag="reserve"):
    seat: str


class Release(msgspec.Struct, tag_field="do", tag="release"):
    seat: str


class NotPossibleError(Exception):
    """A valid request that can't be fulfilled."""


@attrs.define
class Plan:
    """The seats. There is no await between a look and a change, so no two clients get one seat."""

    holders: dict[str, Client | None]

    async def session(self, client: Client) -> None:
        """Answer what one client asks, until it leaves; then free what it has."""
        try:
            with suppress(trionotify.Disconnected):  # it didn't wait for the answer
                async for message in client:
                    await client.send(msgspec.json.encode(await self.answer(client, message)).decode())
        finally:
            left = [seat for seat, holder in self.holders.items() if holder is client]
            self.holders.update(dict.fromkeys(left))
        for seat in left:
            await tell(client, seat, "free")

    async def answer(self, client: Client, message: str | bytes) -> dict[str, object]:
        """The reply to a message, whatever it is."""
        id = None
        try:
            asked = msgspec.json.decode(message)
            id = asked.get("id") if isinstance(asked, dict) else None
            request = msgspec.convert(asked, List | Reserve | Release)
            return {"id": id, "result": await self.do(client, request)}
        except (msgspec.MsgspecError, RecursionError, NotPossibleError) as error:
            return {"id": id, "error": str(error)}

    async def do(self, client: Client, request: List | Reserve | Release) -> object:
        match request:
            case List():
                return [seat for seat, holder in self.holders.items() if holder is None]
            case Reserve(seat):
                if seat not in self.holders or self.holders[seat] is not None:
                    raise NotPossibleError(f"{seat} is not free")
                self.holders[seat] = client
                await tell(client, seat, "taken")
            case Release(seat):
                if self.holders.get(seat) is not client:
                    raise NotPossibleError(f"{seat} is not yours")
                self.holders[seat] = None
                await tell(client, seat, "free")
        return True


async def tell(client: Client, seat: str, what: str) -> None:
    """Tell all clients."""
    await client.hub.publish(json={"seat": seat, "is": what}, type=f"seat.{what}", subject=seat)


async def main(port: int) -> None:
    plan = Plan(dict.fromkeys(["A1", "A2", "A3", "B1", "B2", "B3"]))
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trionotify.open_server(port=port, session=plan.session) as server:
            print(f"reserve seats: {server.url}", flush=True)
            await anext(signals)


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]))
