"""`hub.attach`: connections that an application accepted itself, with trio-websocket."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import trio
import trio.testing
import trio_websocket
from trio_websocket import WebSocketRequest, open_websocket, serve_websocket

from tests.conftest import raw_client
from tests.kernel import upgrade
from tests.provider import Provider
from trionotify import (
    EVERYTHING,
    Client,
    Disconnected,
    Exact,
    Hub,
    Notification,
    Refused,
    Request,
    StoreError,
    Tokens,
    open_hub,
)
from trionotify.http.tickets import issue
from trionotify.model.cloudevents import SUBPROTOCOL

EVENT = {"specversion": "1.0", "source": "/s"}


@asynccontextmanager
async def application(**options: Any) -> AsyncIterator[tuple[Hub, int]]:
    """An existing trio-websocket server whose handler hands over to a hub."""
    async with open_hub(**options) as hub, trio.open_nursery() as nursery:

        async def handler(request: WebSocketRequest) -> None:
            offered = SUBPROTOCOL in request.proposed_subprotocols
            websocket = await request.accept(subprotocol=SUBPROTOCOL if offered else None)
            await hub.attach(websocket)

        server = await nursery.start(partial(serve_websocket, handler, "127.0.0.1", 0, None))
        yield hub, server.port
        nursery.cancel_scope.cancel()
    assert not hub.connections
    assert not hub.broadcast.matcher._groups


def connect(port: int, target: str, **options: Any) -> Any:
    return open_websocket("127.0.0.1", port, target, use_ssl=False, **options)


async def test_it_is_a_client_like_any_other() -> None:
    """Filters, publishing, echo, audiences, resuming: by the query of its path."""
    async with application() as (hub, port):
        async with (
            connect(port, "/?id=al&exact.type=t") as reader,
            connect(port, "/?role=both&type=t&echo=0") as writer,
        ):
            while len(hub.clients) < 2:
                await trio.lowlevel.checkpoint()
            await writer.send_message("1")
            await writer.send_message(b"2")
            assert [await reader.get_message(), await reader.get_message()] == ["1", b"2"]
            await hub.publish("3", to="al", type="t")
            await hub.publish("4", type="u")
            await hub.publish("5", type="t")
            assert [await reader.get_message(), await reader.get_message()] == ["3", "5"]
            assert [await writer.get_message(), await writer.get_message()] == ["4", "5"]
            receipt = await hub.publish("6", type="t", confirm=True)
            assert (receipt.wanted, receipt.written, receipt.behind) == (2, 0, 2)
        async with connect(port, f"/?since={hub.log.epoch}:2&exact.type=t") as again:
            assert [await again.get_message() for _ in range(2)] == ["5", "6"]


async def test_it_counts_like_any_other() -> None:
    """By its peer's address, in the log as well; who is refused leaves no count."""
    async with application(max_connections_per_address=1) as (hub, port):
        async with connect(port, "/?id=al"):
            while len(hub.clients) < 1:
                await trio.lowlevel.checkpoint()
            (client,) = hub.clients
            assert client.remote.startswith("127.0.0.1:")
            for target in ("/?id=bo", "/?id=bo&since=nowhere:1"):
                async with raw_client(port, target) as second:
                    peer = await second.until(lambda peer: peer.close)
                    fault = "address: 127.0.0.1 already has 1 connection, the maximum; close one first"
                    assert peer.close == (4429, fault)
        while hub.clients:
            await trio.lowlevel.checkpoint()
        assert not hub.quotas._counts


async def test_a_ticket_lets_in_here_as_well(tmp_path: Path) -> None:
    """The rights of its token hold, and can be renewed. (trio-websocket keeps no header for a token.)"""
    provider = Provider()
    tokens = Tokens(provider.trusted(tmp_path / "keys"))
    grant = {"trionotify": {"subscribe": [{"exact": {"type": "t"}}]}}
    async with application(authenticate=tokens) as (hub, port):
        async with raw_client(port, "/?id=al") as stranger:
            peer = await stranger.until(lambda peer: peer.close)
            assert peer.close is not None
            assert peer.close[1].startswith("Authorization: missing; send Authorization")
        ticket = await issue(tokens.tickets, await tokens.check(provider.token(**grant)))
        async with connect(port, f"/?ticket={ticket}", subprotocols=[SUBPROTOCOL]) as client:
            assert json.loads(await client.get_message())["data"]["id"] == "alice"
            data = {"token": provider.token()}
            await hub.publish("1", type="u")
            await hub.publish("2", type="t")
            assert json.loads(await client.get_message())["data"] == "2"
            await client.send_message(
                json.dumps({**EVENT, "id": "1", "type": "trionotify.authenticate", "data": data})
            )
            answer = json.loads(await client.get_message())
            assert "expires_in" in answer["data"], answer
            await hub.publish("3", type="u")
            assert json.loads(await client.get_message())["data"] == "3"


async def test_it_may_speak_events() -> None:
    """If the application agreed on the subprotocol: all that other connections have, in order."""
    async with application(max_log_entries=3) as (hub, port):
        options = {"subprotocols": [SUBPROTOCOL]}
        async with connect(port, "/?id=al&role=both&exact.type=t", **options) as client:

            async def hear() -> dict[str, Any]:
                return cast("dict[str, Any]", json.loads(await client.get_message()))

            async def say(**members: Any) -> None:
                await client.send_message(json.dumps({**EVENT, **members}))

            welcome = await hear()
            epoch = hub.log.epoch
            assert welcome["data"] == {"epoch": epoch, "head": 0, "id": "al", "role": "both"}
            await say(id="1", type="t", data={"n": 1})
            # Which comes first is trio-websocket's business.
            heard = sorted([await hear() for _ in range(2)], key=lambda got: str(got["source"]))
            event, ack = heard
            assert (event["data"], event["cursor"]) == ({"n": 1}, f"{epoch}:1")
            assert ack["data"] == {
                "source": "/s",
                "id": "1",
                "cursor": f"{epoch}:1",
                "wanted": 1,
                "written": 0,
                "behind": 1,
            }
            await client.send_message("nonsense")
            assert (await hear())["type"] == "trionotify.error"
            await hub.publish(type="u", confirm=True)
            await say(id="2", type="trionotify.subscribe", data={"filters": [{"exact": {"type": "u"}}]})
            ack = await hear()
            assert (ack["data"]["id"], ack["cursor"]) == ("2", f"{epoch}:2")
            (record,) = hub.clients
            assert (record.format, record.subprotocol) == ("cloudevents", SUBPROTOCOL)
            await record.send("just you")
            assert (await hear())["data"] == "just you"
            await hub.publish("seen", type="u")
            assert (await hear())["data"] == "seen"


async def test_a_gap_is_told_to_events_and_ends_the_rest(autojump_clock: trio.testing.MockClock) -> None:
    """As of the other connections."""
    async with open_hub(max_log_entries=3) as hub, trio.open_nursery() as nursery:
        for target, closed in (("/?format=cloudevents", None), ("/", 1013)):
            websocket = SlowWebSocket(target)
            nursery.start_soon(hub.attach, websocket)
            await trio.testing.wait_all_tasks_blocked()
            for number in range(9):
                await hub.publish(f"{number}", confirm=True)
            websocket.go_on.set()
            await trio.testing.wait_all_tasks_blocked()
            await hub.publish("live", confirm=True)
            await trio.testing.wait_all_tasks_blocked()
            assert websocket.closed == closed
            if closed is None:
                events = [json.loads(message) for message in websocket.sent]
                kinds = [event["type"].rpartition(".")[2] for event in events]
                assert kinds == ["welcome", "message", "gap", "message"]
                assert events[2]["cursor"] == events[2]["data"]["to"]
                assert events[3]["data"] == "live"
        nursery.cancel_scope.cancel()


class SlowWebSocket:
    """A connection whose second send takes until `go_on`."""

    handshake_headers = ()
    remote = "test"
    subprotocol = None

    def __init__(self, path: str) -> None:
        self.path = path
        self.sent: list[str] = []
        self.closed: int | None = None
        self.go_on = trio.Event()

    async def get_message(self) -> str:
        await trio.sleep_forever()
        raise AssertionError

    async def send_message(self, message: str) -> None:
        self.sent.append(message)
        await trio.lowlevel.checkpoint()
        if "welcome" not in message:
            await self.go_on.wait()

    async def aclose(self, code: int, reason: str) -> None:
        self.closed = code
        await trio.lowlevel.checkpoint()


async def test_a_session_and_an_own_record() -> None:
    """The hub's session runs on it; the application may bring the client."""

    async def session(client: Client) -> None:
        await client.send(f"hello {client.id}")
        async for message in client:
            await client.send(message)
            client.close(4000, "enough")

    async with application(session=session) as (_, port), raw_client(port, "/?id=al") as client:
        await client.stream.send_all(b"\x81\x81\0\0\0\0x")
        peer = await client.until(lambda peer: peer.close)
        assert peer.messages == ["hello al", "x"]
        assert peer.close == (4000, "enough")


@pytest.mark.parametrize(
    ("query", "code", "words"),
    [
        ("exakt.type=a", 1008, "exakt.type: unknown key"),
        ("a=1&a=2", 1008, "a: given twice; give it once"),
        ("since=nowhere:1", 1008, "since: not everything after nowhere:1 is stil"),
        ("lag=latest", 1008, "lag: latest needs a connection"),
        ("id=stranger", 4401, "id: who is that?"),
        ("id=mallory", 4403, "id: not you?"),
        ("id=oops", 1011, "the server failed"),
        ("id=second", 4429, "id: second already has 1 connection, the maximum; close one first"),
    ],
)
async def test_refusals(query: str, code: int, words: str, caplog: pytest.LogCaptureFixture) -> None:
    """A Close says why; neither the application nor another client hears of it."""
    caplog.set_level(logging.INFO)

    def authenticate(request: Request) -> Client:
        match request.params.get("id"):
            case "stranger":
                raise Refused(401, "id: who is that?")
            case "mallory":
                raise Refused(403, "id: not you\ud800")  # as it may be in a claim
            case "oops":
                raise ValueError("oops")
        return request.client()

    async with application(authenticate=authenticate, max_connections_per_id=1) as (hub, port):
        async with connect(port, "/?id=second") as other:
            while not hub.clients:
                await trio.lowlevel.checkpoint()
            async with raw_client(port, f"/?{query}") as client:
                found, reason = (await client.until(lambda peer: peer.close)).close or (0, "")
                assert (found, reason[: len(words)]) == (code, words)
            await hub.publish("hello")
            assert await other.get_message() == "hello"
    assert any(getattr(record, "event", "") == "refused" for record in caplog.records)


async def test_who_connects_too_often() -> None:
    """The rate of an address holds here, too."""
    async with application(connection_rate_per_address=0.001, rate_burst=1) as (hub, port):
        async with connect(port, "/?id=first"), raw_client(port, "/?id=second") as client:
            code, reason = (await client.until(lambda peer: peer.close)).close or (0, "")
            assert (code, reason[: reason.find(";")]) == (4429, "rate: connecting too often")
        assert hub.broadcast.counts.refused == {"rate_connection": 1}


async def test_connecting_too_often_comes_before_authentication() -> None:
    """As at the server's own port: guesses count, and `authenticate` isn't called for too many."""
    asked: list[str] = []

    def authenticate(request: Request) -> Client:
        asked.append(request.params["id"])
        raise Refused(401, "no")

    options: dict[str, Any] = {"connection_rate_per_address": 0.001, "rate_burst": 2000}
    async with application(authenticate=authenticate, **options) as (_, port):
        codes = []
        for number in range(4):
            async with raw_client(port, f"/?id={number}") as client:
                codes.append((await client.until(lambda peer: peer.close)).close)
        assert [code for code, _ in filter(None, codes)] == [4401, 4401, 4429, 4429]
        assert asked == ["0", "1"]


async def test_a_client_whose_time_is_over() -> None:
    """It is refused, also if the application passes it itself."""
    async with open_hub() as hub, trio.open_nursery() as nursery:

        async def handler(request: WebSocketRequest) -> None:
            await hub.attach(await request.accept(), Client("al", expires_at=1.0))

        server = await nursery.start(partial(serve_websocket, handler, "127.0.0.1", 0, None))
        async with raw_client(server.port) as client:
            code, reason = (await client.until(lambda peer: peer.close)).close or (0, "")
            assert (code, reason[:11]) == (4401, "expires_at:")
        nursery.cancel_scope.cancel()


async def test_a_session_that_raises(caplog: pytest.LogCaptureFixture) -> None:
    """1011 for that one."""

    async def session(client: Client) -> None:
        raise ValueError("oops")

    async with application(session=session) as (_, port), raw_client(port) as client:
        assert (await client.until(lambda peer: peer.close)).close == (1011, "")
        assert "ValueError" in caplog.text


async def test_a_session_whose_nursery_finds_the_client_gone(caplog: pytest.LogCaptureFixture) -> None:
    """`Disconnected` in a group is no fault either."""

    async def session(client: Client) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tick, client)

    async def tick(client: Client) -> None:
        async for _ in client:
            pass
        await client.send("tick")

    async with application(session=session) as (hub, port), connect(port, "/"):
        while not hub.clients:
            await trio.lowlevel.checkpoint()
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_a_session_that_fails_while_it_is_cancelled(caplog: pytest.LogCaptureFixture) -> None:
    """An exception that it raises then is logged, and the application doesn't get it."""

    async def session(client: Client) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cleans_up_badly)
            nursery.start_soon(trio.sleep_forever)

    async def cleans_up_badly() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("oops")

    async with application(session=session) as (hub, port), raw_client(port):
        while not hub.clients:
            await trio.lowlevel.checkpoint()
    assert "ValueError" in caplog.text


@pytest.mark.parametrize(
    "error",
    [
        trio.ClosedResourceError("mine"),
        trio.BrokenResourceError("mine"),
        trio.TooSlowError("mine"),
        Disconnected("mine"),
        StoreError(503, "mine"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_a_predicate_that_raises_what_a_connection_raises(
    error: Exception, caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    """Its exception is not taken for the connection's own, and the log says whose it is."""

    def judge(notification: Notification) -> bool:
        if notification.data == "2":
            raise error
        return True

    async with open_hub() as hub, trio.open_nursery() as nursery:
        websocket = SlowWebSocket("/?id=al")
        websocket.go_on.set()
        client = Client("al")
        client.subscribe(judge)
        nursery.start_soon(hub.attach, websocket, client)
        await trio.testing.wait_all_tasks_blocked()
        for text in ("1", "2", "3"):
            await hub.publish(text)
        await trio.testing.wait_all_tasks_blocked()
        assert websocket.sent == ["1"]
        assert websocket.closed == 1011
        assert not nursery.child_tasks
    assert "a predicate of client 'al' failed" in caplog.text


async def test_a_predicate_that_raises(caplog: pytest.LogCaptureFixture) -> None:
    """1011 as well."""
    async with application() as (hub, port), raw_client(port) as client:
        while not hub.clients:
            await trio.lowlevel.checkpoint()
        (record,) = hub.clients
        record.subscribe(lambda notification: 1 / 0)
        await hub.publish("x")
        closed = (await client.until(lambda peer: peer.close)).close
        assert closed == (1011, "a predicate of this client failed")
        assert "ZeroDivisionError" in caplog.text


async def test_a_filter_that_changes_while_it_reads_ahead(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """It holds from the cursor on that `subscribe` and `unsubscribe` return, and from there alone."""
    async with open_hub() as hub, trio.open_nursery() as nursery:
        ours, theirs = trio.testing.memory_stream_pair()

        @nursery.start_soon
        async def application() -> None:
            request = await trio_websocket.wrap_server_stream(nursery, ours)
            await hub.attach(await request.accept())

        reader = await trio_websocket.wrap_client_stream(nursery, theirs, "test", "/?exact.type=a")
        await trio.testing.wait_all_tasks_blocked()
        (client,) = hub.clients
        for number in range(20):
            await hub.publish(f"{number + 1}", type="ab"[number % 2])
        while not client.position or client.position.cursor < 5:
            await trio.lowlevel.checkpoint()
        behind = int((client.subscribe(Exact(type="b")) or "").rpartition(":")[2])
        await trio.testing.wait_all_tasks_blocked()
        due = [number for number in range(1, 21) if number % 2 or number > behind]
        assert [int(await reader.get_message()) for _ in due] == due
        await reader.aclose()


async def test_an_answer_that_is_cancelled_ends_the_connection() -> None:
    """Half of it may be out: nothing goes behind that, not even a Close frame."""
    scope = trio.CancelScope()

    async def session(client: Client) -> None:
        with scope:
            await client.send("x" * 9_000_000)
        with pytest.raises(Disconnected):
            await client.send("second")

    async with application(session=session) as (_, port):
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(upgrade("/"))
            await trio.testing.wait_all_tasks_blocked(0.01)
            scope.cancel()
            data = b""
            with suppress(trio.BrokenResourceError):
                while chunk := await stream.receive_some():
                    data += chunk
            frames = data.partition(b"\r\n\r\n")[2]
            assert scope.cancelled_caught
            assert set(frames[10:]) <= {ord("x")}


async def test_a_peer_that_closes_is_forgotten_at_once(autojump_clock: trio.testing.MockClock) -> None:
    """The task that writes doesn't wait for another notification."""
    async with open_hub() as hub, trio.open_nursery() as nursery:
        ours, theirs = trio.testing.memory_stream_pair()

        @nursery.start_soon
        async def application() -> None:
            request = await trio_websocket.wrap_server_stream(nursery, ours)
            await hub.attach(await request.accept())

        websocket = await trio_websocket.wrap_client_stream(nursery, theirs, "test", "/")
        await trio.testing.wait_all_tasks_blocked()
        assert len(hub.clients) == 1
        started = trio.current_time()
        await websocket.aclose()
        while hub.clients:
            await trio.lowlevel.checkpoint()
        assert trio.current_time() == started


async def test_it_takes_part_in_a_drain() -> None:
    """It gets all that was published, is told when to come back, and is closed; in either format."""
    async with application(close_timeout=600) as (hub, port):
        async with raw_client(port) as raw, raw_client(port, "/?format=cloudevents") as events:
            while len(hub.clients) < 2:
                await trio.lowlevel.checkpoint()
            for number in range(300):
                await hub.publish(f"{number}")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(hub.drain, 600)
                for client in (raw, events):
                    assert (await client.until(lambda peer: peer.close)).close == (1012, "")
                    await client.stream.send_all(b"\x88\x80abcd")
            assert raw.peer.messages == [f"{number}" for number in range(300)]
            heard = [json.loads(message) for message in events.peer.messages]
            assert [event["data"] for event in heard[1:-1]] == raw.peer.messages
            assert heard[-1]["type"] == "trionotify.drain"
            assert heard[-1]["cursor"] == f"{hub.log.epoch}:300"
            assert hub.lost == 0


async def test_it_is_cut_off_at_the_deadline(autojump_clock: trio.testing.MockClock) -> None:
    """Whether its session, its send or its Close takes too long; then `attach` returns."""

    async def session(client: Client) -> None:
        if client.id == "busy":
            await trio.sleep_forever()
        async for _ in client:
            pass

    class MuteWebSocket(SlowWebSocket):
        async def aclose(self, code: int, reason: str) -> None:
            await super().aclose(code, reason)
            await trio.sleep_forever()

    async with open_hub(session=session) as hub, trio.open_nursery() as nursery:
        websockets = [SlowWebSocket("/?id=slow"), MuteWebSocket("/?id=mute"), SlowWebSocket("/?id=busy")]
        nursery.start_soon(hub.attach, websockets[0])
        await trio.testing.wait_all_tasks_blocked()
        await hub.publish("1", confirm=True)
        for websocket in websockets[1:]:
            nursery.start_soon(hub.attach, websocket)
        await trio.testing.wait_all_tasks_blocked()
        begun = trio.current_time()
        await hub.drain(3)
        assert trio.current_time() == begun + 3
        await trio.testing.wait_all_tasks_blocked()
        assert not nursery.child_tasks
        assert not hub.connections
        assert hub.lost == 3
        assert websockets[1].closed == 1012


@pytest.mark.parametrize("revoked", [False, True])
async def test_a_peer_that_stalls(
    revoked: bool, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """It is dropped, and the log says why, or why it was closed before that."""
    caplog.set_level(logging.INFO, "trionotify")
    async with open_hub(stall_timeout=5, close_timeout=60) as hub, trio.open_nursery() as nursery:
        nursery.start_soon(hub.attach, SlowWebSocket("/"))
        await trio.testing.wait_all_tasks_blocked()
        await hub.publish("1", confirm=True)
        if revoked:
            assert await hub.disconnect(EVERYTHING, "no") == 1
        await trio.sleep(6)
        assert not hub.connections
    (left,) = [vars(record) for record in caplog.records if vars(record).get("event") == "left"]
    assert (left["code"], left["reason"]) == ((4403, "no") if revoked else (1013, "stalled"))


async def test_what_it_can_not_do_it_refuses() -> None:
    """The lag policy `latest` belongs to the Wire."""
    async with application() as (_, port), raw_client(port, "/?lag=latest") as client:
        code, reason = (await client.until(lambda peer: peer.close)).close or (0, "")
        assert (code, reason[:11]) == (1008, "lag: latest")


async def test_what_is_no_websocket_or_no_client() -> None:
    """The error names the argument."""
    async with open_hub() as hub:
        wrong: list[Any] = [5, None, "ws"]
        for it in wrong:
            with pytest.raises(
                TypeError, match=r"^websocket: must be a trio_websocket\.WebSocketConnection, "
            ):
                await hub.attach(it)
            with pytest.raises(TypeError, match=r"^stream: must be a trio\.abc\.Stream, not "):
                await hub.handle(it)
        websocket: Any = SlowWebSocket("/")
        with pytest.raises(TypeError, match=r"^client: must be a Client, not str$"):
            await hub.attach(websocket, "al")  # type: ignore[arg-type] # that is what is tried
        assert websocket.closed is None


async def test_what_ends_a_program_in_a_session_leaves_it_bare() -> None:
    """The nursery of the connection is no matter of the application's."""

    async def session(client: Client) -> None:
        raise KeyboardInterrupt

    async with open_hub(session=session) as hub:
        with pytest.raises(KeyboardInterrupt):
            await hub.attach(SlowWebSocket("/"))
        assert not hub.connections
