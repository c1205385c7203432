"""Connections: the handshake, sessions, liveness, faults and the goodbye, on a virtual clock."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio
import trio.testing
import trio_websocket

from tests.conftest import Room, open_room
from tests.kernel import KEY, FakeKernel, Peer, masked, upgrade
from trionotify import Client, Disconnected, Exact, Refused, Request, open_hub
from trionotify.connection.frames import message_frame
from trionotify.http.serving import serve_transport

Clock = trio.testing.MockClock


# --- the handshake ---


async def test_the_handshake(room: Room, autojump_clock: Clock) -> None:
    """101, with who the client is and where its stream starts."""
    await room.hub.publish("x", confirm=True)
    peer = await room.connect("/events?id=al%20%C3%A9")
    assert peer.status == 101
    # RFC 6455, section 1.3: the key's hash.
    assert peer.header("Sec-WebSocket-Accept") == "BACScCJPNqyz+UBoqMH89VmURoA="
    assert peer.header("Trionotify-Id") == "al%20%C3%A9"
    assert peer.header("Trionotify-Cursor") == f"{room.hub.log.epoch}:1"
    assert peer.header("Trionotify-Recovered") is None
    assert peer.header("Sec-WebSocket-Protocol") is None


@pytest.mark.parametrize("offered", [None, "mqtt", "json, mqtt"])
async def test_the_answer_is_the_one_that_trio_websocket_gives(
    offered: str | None, autojump_clock: Clock
) -> None:
    """The same status, and the same fields beside those of our own."""
    fields = [] if offered is None else [f"Sec-WebSocket-Protocol: {offered}"]
    async with open_room(subprotocol="mqtt") as room:
        ours = (await room.connect("/", *fields)).kernel.taken
    client, server = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        await client.send_all(upgrade("/", *fields))
        proposal = await trio_websocket.wrap_server_stream(nursery, server)
        await proposal.accept(subprotocol=None if offered is None else "mqtt")
        theirs = await client.receive_some()
        await client.aclose()
    assert _head(ours) == _head(theirs)


def _head(answer: bytes | bytearray) -> tuple[bytes, list[bytes]]:
    """The status of an answer without the phrase, and its headers without our own."""
    status, *fields = bytes(answer).partition(b"\r\n\r\n")[0].split(b"\r\n")
    named = [field.partition(b": ") for field in fields]
    meant = [name.lower() + mark + value for name, mark, value in named]
    return status[:12], sorted(field for field in meant if not field.startswith(b"trionotify-"))


async def test_a_foreign_subprotocol_is_accepted_without_one(room: Room, autojump_clock: Clock) -> None:
    """It is no error to offer what is not ours. A browser, which would fail, is told why."""
    peer = await room.connect("/", "Sec-WebSocket-Protocol: graphql-ws, mqtt")
    assert peer.status == 101
    assert peer.header("Sec-WebSocket-Protocol") is None
    peer = await room.connect("/", "Sec-WebSocket-Protocol: graphql-ws, mqtt", "Origin: http://test")
    assert peer.status == 400
    detail = json.loads(bytes(peer.kernel.taken).partition(b"\r\n\r\n")[2])["detail"]
    assert detail.startswith("Sec-WebSocket-Protocol: graphql-ws, mqtt is not served here")
    assert "--subprotocol NAME" in detail
    # One that offers none, and one that offers ours besides, come in.
    assert (await room.connect("/", "Origin: http://test")).status == 101
    peer = await room.connect(
        "/", "Sec-WebSocket-Protocol: mqtt, cloudevents.json", "Origin: http://test"
    )
    assert peer.header("Sec-WebSocket-Protocol") == "cloudevents.json"


@pytest.mark.parametrize(
    ("offered", "query", "chosen", "format"),
    [
        ("x, json, mqtt", "", "json", "raw"),
        ("mqtt, json", "", "mqtt", "raw"),
        ("json, cloudevents.json", "", "cloudevents.json", "cloudevents"),
        ("json", "&format=cloudevents", "json", "cloudevents"),
        ("JSON", "", None, "raw"),
        ("x", "", None, "raw"),
    ],
)
async def test_a_subprotocol_that_the_operator_names(
    offered: str, query: str, chosen: str | None, format: str, autojump_clock: Clock
) -> None:
    """The first offered one that is served is chosen, ours before all; the client's record says it."""
    async with open_room(subprotocol=["mqtt", "json"]) as room:
        peer = await room.connect(f"/?id=al{query}", f"Sec-WebSocket-Protocol: {offered}")
        assert peer.header("Sec-WebSocket-Protocol") == chosen
        (client,) = room.hub.clients
        assert (client.subprotocol, client.format) == (chosen, format)


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        (
            "a b",
            ValueError,
            "^subprotocol: must consist of .*, not 'a b'$",
        ),
        (
            "",
            ValueError,
            "^subprotocol: must consist of .*, not ''$",
        ),
        (
            "é",
            ValueError,
            "^subprotocol: must consist of .*, not 'é'$",
        ),
        (
            b"x",
            TypeError,
            ("^subprotocol: must be str, not bytes"),
        ),
    ],
)
async def test_what_is_no_subprotocol(name: Any, error: type[Exception], words: str) -> None:
    """Said before anything listens."""
    with pytest.raises(error, match=words):
        async with open_room(subprotocol=[name]):
            raise AssertionError("it opened")


@pytest.mark.parametrize("pieces", [1, 7, 1000])
async def test_a_head_may_come_in_pieces_and_frames_right_behind(
    room: Room, pieces: int, autojump_clock: Clock
) -> None:
    """However it is cut; what follows the head is not lost."""
    kernel = FakeKernel()
    data = (
        upgrade("/?role=publisher")
        + b"\x81\x85abcd"
        + bytes(a ^ b for a, b in zip(b"early", b"abcda", strict=True))
    )
    room.nursery.start_soon(serve_transport, room.hub, kernel, "test")
    for at in range(0, len(data), pieces):
        kernel.feed(data[at : at + pieces])
        await room.quiet()
    assert [entry.notification.data for entry in room.hub.log.read(0, 9)] == ["early"]


GOOD = upgrade("/").decode()


@pytest.mark.parametrize(
    ("request_text", "status", "words"),
    [
        ("GET / HTTP/1.1\r\nHost: x\r\nAccept: application/json\r\n\r\n", 426, "WebSocket"),
        (GOOD.replace("Connection: Upgrade\r\nUpgrade: websocket\r\n", ""), 426, "WebSocket"),
        (GOOD.replace("Upgrade: websocket\r\n", "Accept: text/html\r\n"), 426, "WebSocket"),
        (
            "GET /nope HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
            404,
            "there is nothing at '/nope'",
        ),
        ("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello", 405, "POST is not allowed"),
        (GOOD.replace("Version: 13", "Version: 8"), 426, "Sec-WebSocket-Version: must be 13"),
        (GOOD.replace(KEY, "short"), 400, "Sec-WebSocket-Key"),
        (GOOD.replace(f"Sec-WebSocket-Key: {KEY}\r\n", ""), 400, "Sec-WebSocket-Key"),
        (GOOD.replace("Connection: Upgrade", "Connection: close"), 400, "Connection: Upgrade"),
        (GOOD.replace("HTTP/1.1", "HTTP/1.0"), 400, "HTTP/1.1"),
        (GOOD.replace("GET / ", "GET /ws "), 404, "WebSocket clients connect to /events"),
        (GOOD.replace("Host: test\r\n", ""), 400, "request: not valid HTTP: "),
        ("nonsense\r\n\r\n", 400, "request: not valid HTTP: "),
        ("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400, "request: not valid HTTP: "),
        ("GET / HTTP/1.1\r\nX: " + "y" * 20_000, 431, "headers: must have at most 16384 bytes"),
        (GOOD.replace("GET / ", "GET /?id=a&id=b "), 400, "id: given twice; give it once"),
        (GOOD.replace("GET / ", "GET /?exact.Type=b "), 400, "exact.Type"),
        (GOOD.replace("GET / ", "GET /?since=nope:1 "), 410, "since: not everything after nope:1"),
    ],
)
async def test_what_is_refused_gets_a_problem_document(
    room: Room, request_text: str, status: int, words: str, autojump_clock: Clock
) -> None:
    """RFC 9457, with the reason, and the connection is closed in good order behind it."""
    kernel = FakeKernel()
    kernel.feed(request_text.encode("latin-1"))
    room.nursery.start_soon(serve_transport, room.hub, kernel, "test")
    await trio.sleep(1)  # of a head that is too long, the end is waited for a moment
    peer = Peer(kernel).look()
    body = json.loads(bytes(kernel.taken).partition(b"\r\n\r\n")[2])
    assert peer.status == body["status"] == status
    assert peer.header("Content-Type") == "application/problem+json"
    assert "close" in (peer.header("Connection") or "")
    assert set(body) == {"type", "title", "status", "detail"}
    assert words in body["detail"]
    assert kernel.eof_sent
    assert not kernel.closed
    kernel.hang_up()
    await room.quiet()
    assert kernel.closed
    assert not kernel.was_reset


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        ("GET /livez HTTP/1.0", 200),
        ("GET /livez HTTP/1.1", 200),
        ("HEAD /metrics HTTP/1.1", 200),
        ("POST /events HTTP/1.1", 200),
        ("OPTIONS /events HTTP/1.1", 204),
        ("GET /events HTTP/1.0", 406),
    ],
)
async def test_an_upgrade_that_is_ignored(
    room: Room, request_line: str, status: int, autojump_clock: Clock
) -> None:
    """In HTTP/1.0, and where no handshake can be meant."""
    fields = "Host: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nAccept: a/b\r\nContent-Length: 0"
    kernel = FakeKernel()
    kernel.feed(f"{request_line}\r\n{fields}\r\n\r\n".encode())
    room.nursery.start_soon(serve_transport, room.hub, kernel, "test")
    await room.quiet()
    assert Peer(kernel).look().status == status


async def test_an_answer_to_head_has_no_body(room: Room, autojump_clock: Clock) -> None:
    """Only the head of what GET would get."""
    kernel = FakeKernel()
    kernel.feed(b"HEAD /nope HTTP/1.1\r\nHost: x\r\n\r\n")
    room.nursery.start_soon(serve_transport, room.hub, kernel, "test")
    await room.quiet()
    assert kernel.taken.startswith(b"HTTP/1.1 404 Not Found\r\n")
    assert kernel.taken.endswith(b"\r\n\r\n")


async def test_a_head_that_never_ends_meets_a_deadline(room: Room, autojump_clock: Clock) -> None:
    """408 after `head_timeout`, however steadily it drips."""
    kernel = FakeKernel()
    room.nursery.start_soon(serve_transport, room.hub, kernel, "test")
    started = trio.current_time()
    while not kernel.taken:
        kernel.feed(b"x")
        await trio.sleep(1)
    assert kernel.taken.startswith(b"HTTP/1.1 408 ")
    assert trio.current_time() - started == pytest.approx(10, abs=1)


async def test_half_open_connections_make_room_for_newer_ones(autojump_clock: Clock) -> None:
    """The oldest is dropped; a real client always gets in."""
    async with open_room(max_half_open=3) as room:
        silent = [FakeKernel() for _ in range(5)]
        for kernel in silent:
            room.nursery.start_soon(serve_transport, room.hub, kernel, "test")
            await room.quiet()
        assert [kernel.closed for kernel in silent] == [True, True, False, False, False]
        assert (await room.connect("/")).status == 101


async def test_a_full_server_says_so(autojump_clock: Clock) -> None:
    """503 with Retry-After, until a client leaves."""
    async with open_room(max_connections=2) as room:
        first, _ = await room.connect("/"), await room.connect("/")
        refused = await room.connect("/")
        assert refused.status == 503
        assert refused.header("Retry-After")
        first.say_close()
        await room.quiet()
        assert (await room.connect("/")).status == 101


async def test_a_peer_that_leaves_at_once(room: Room, autojump_clock: Clock) -> None:
    """A connection without a byte is nothing to speak of."""
    kernel = FakeKernel()
    room.nursery.start_soon(serve_transport, room.hub, kernel, "test")
    kernel.hang_up()
    await room.quiet()
    assert kernel.closed
    assert not kernel.taken


# --- who it is ---


async def test_authenticate_makes_the_client(autojump_clock: Clock) -> None:
    """From whatever the request has; async or not; a refusal is an HTTP answer."""
    seen: list[Request] = []

    async def authenticate(request: Request) -> Client:
        seen.append(request)
        match request.header("authorization"):
            case "Bearer alice":
                return Client("alice", request.params, "both")
            case "Bearer ops":
                client = Client("ops", request.params)
                client.subscribe(Exact(type="ops"))
                return client
            case "Basic x":
                raise Refused(401, "a token is needed, and no password")
        raise Refused(401, "a token is needed", headers=(("WWW-Authenticate", "Bearer"),))

    async with open_room(authenticate=authenticate) as room:
        refused = await room.connect("/?id=mallory")
        assert (refused.status, refused.header("WWW-Authenticate")) == (401, "Bearer")
        assert b"a token is needed" in refused.kernel.taken
        unnamed = await room.connect("/?id=trudy", "Authorization: Basic x")
        assert unnamed.header("WWW-Authenticate") == 'Bearer realm="trionotify"'
        alice = await room.connect("/?id=mallory&exact.type=a", "Authorization: Bearer alice")
        assert alice.header("Trionotify-Id") == "alice"
        narrowed = await room.connect("/?exact.subject=s", "Authorization: Bearer ops")
        await room.hub.publish("1", type="a")
        await room.hub.publish("2", type="ops")
        await room.hub.publish("3", type="ops", subject="s")
        alice.say("mine")
        await room.quiet()
        assert alice.look().messages == ["1"]
        assert narrowed.look().messages == ["3"]
        assert [entry.notification.source for entry in room.hub.log.read(3, 9)] == ["/clients/alice"]
        assert seen[2].params["id"] == "mallory"
        assert (seen[0].method, seen[0].path, seen[0].remote) == ("GET", "/", "test:1")


async def test_authenticate_that_fails(autojump_clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """500 for that one; the next is served."""

    def authenticate(request: Request) -> Client:
        return request.client(id={"good": "alice"}[request.params["token"]])

    async with open_room(authenticate=authenticate) as room:
        assert (await room.connect("/?token=bad")).status == 500
        assert "\nKeyError" in caplog.text
        assert (await room.connect("/?token=good")).header("Trionotify-Id") == "alice"


# --- resuming ---


async def test_resuming_at_a_cursor(room: Room, autojump_clock: Clock) -> None:
    """Everything since, exactly once, then live; filters apply to the replay."""
    for i in range(1500):
        await room.hub.publish(f"{i}", type="even" if i % 2 == 0 else "odd")
    await room.quiet()
    epoch = room.hub.log.epoch
    peer = await room.connect(f"/?since={epoch}:100&exact.type=even")
    assert peer.header("Trionotify-Recovered") == "true"
    assert peer.header("Trionotify-Cursor") == f"{epoch}:100"
    await room.hub.publish("live", type="even", confirm=True)
    assert peer.look().messages == [f"{i}" for i in range(100, 1500, 2)] + ["live"]


async def test_from_the_start(autojump_clock: Clock) -> None:
    """The oldest that is kept."""
    async with open_room(max_log_entries=3) as room:
        for i in range(5):
            await room.hub.publish(f"{i}", confirm=True)
        peer = await room.connect("/?since=start")
        assert peer.look().messages == ["2", "3", "4"]


@pytest.mark.parametrize("cursor", ["{epoch}:1", "{epoch}:9", "other:4"])
async def test_what_cannot_be_recovered_is_410(cursor: str, autojump_clock: Clock) -> None:
    """Too old, beyond the head, of another life: never a partial replay."""
    async with open_room(max_log_entries=3) as room:
        for i in range(5):
            await room.hub.publish(f"{i}", confirm=True)
        refused = await room.connect("/?since=" + cursor.format(epoch=room.hub.log.epoch))
        assert refused.status == 410


# --- sessions ---


async def test_a_subscriber_may_not_publish(room: Room, autojump_clock: Clock) -> None:
    """The default session: 1008, with what to do instead."""
    peer = await room.connect("/")
    peer.say("hello")
    await room.quiet()
    assert peer.look().close == (
        *(1008, "role: a subscriber may not publish; connect with role=publisher or role=both"),
    )
    assert room.hub.log.head == 0


async def test_a_session_is_a_conversation(autojump_clock: Clock) -> None:
    """Connect and disconnect are its beginning and end; messages are str or bytes; it may answer."""
    story: list[Any] = []

    async def session(client: Client) -> None:
        story.append(("hello", client.id, client.hub is not None))
        async for message in client:
            story.append(message)
            await client.send(message * 2)
        story.append("bye")

    async with open_room(session=session) as room:
        peer = await room.connect("/?id=al")
        peer.say("a", b"b")
        await room.quiet()
        assert peer.look().messages == ["aa", b"bb"]
        peer.say_close(1000)
        await room.quiet()
        assert story == [("hello", "al", True), "a", b"b", "bye"]
        assert peer.look().close == (1000, "")


async def test_handler_is_the_short_form(autojump_clock: Clock) -> None:
    """One call per message."""

    async def handler(client: Client, message: str | bytes) -> None:
        await client.send(f"{client.id} said {message!r}")

    async with open_room(handler=handler) as room:
        peer = await room.connect("/?id=al")
        peer.say("x")
        await room.quiet()
        assert peer.look().messages == ["al said 'x'"]


async def test_a_session_that_ends_closes_with_1000(autojump_clock: Clock) -> None:
    """Or with what it says."""

    async def session(client: Client) -> None:
        if client.id == "x":
            client.close(4403, "not you")

    async with open_room(session=session) as room:
        assert (await room.connect("/?id=y")).close == (1000, "")
        assert (await room.connect("/?id=x")).close == (4403, "not you")


@pytest.mark.parametrize("half_closes", [True, False])
@pytest.mark.parametrize("size", [0, 1, 6, 7, 12])
async def test_a_session_that_reads_nothing_hears_the_close(
    half_closes: bool, size: int, autojump_clock: Clock
) -> None:
    """However much of what its client sends comes with the request."""

    async def session(client: Client) -> None:
        """End at once."""

    sent = b"\x89\x80abcd" + b"\x88\x80abcd"
    async with open_room(session=session) as room:
        kernel = FakeKernel()
        kernel.half_closes = half_closes
        kernel.feed(upgrade("/") + sent[:size])
        if size < len(sent):
            kernel.feed(sent[size:])
        room.nursery.start_soon(serve_transport, room.hub, kernel, "test:1")
        await room.quiet()
        assert Peer(kernel).look().close == (1000, "")
        assert (kernel.closed, kernel.was_reset) == (True, False)


async def fails(client: Client) -> None:
    raise ValueError("oops")


async def fails_in_a_nursery(client: Client) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep_forever)
        nursery.start_soon(fails, client)


@pytest.mark.parametrize("broken", [fails, fails_in_a_nursery])
async def test_a_session_that_raises_ends_alone(
    broken: Any, autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """1011, logged; the others go on."""

    async def session(client: Client) -> None:
        if client.id == "broken":
            await broken(client)
        async for _ in client:
            pass

    async with open_room(session=session) as room:
        fine = await room.connect("/?id=fine")
        peer = await room.connect("/?id=broken")
        assert peer.close == (1011, "")
        assert "ValueError" in caplog.text
        await room.hub.publish("x", confirm=True)
        assert fine.look().messages == ["x"]


async def test_a_session_that_sends_to_a_client_that_is_gone(
    autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """`Disconnected`, which is no fault: nothing is logged as an error."""

    async def session(client: Client) -> None:
        while True:
            await client.send("tick")
            await trio.sleep(1)

    async with open_room(session=session) as room:
        peer = await room.connect("/")
        peer.kernel.closed = True
        await trio.sleep(3)
        assert len(room.hub.clients) == 0
        assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_what_was_received_is_handled_to_its_end(autojump_clock: Clock) -> None:
    """The client's going doesn't cancel the session in the middle of its last message."""
    handled: list[Any] = []

    async def handler(client: Client, message: str | bytes) -> None:
        await trio.sleep(100)
        handled.append(message)

    async with open_room(handler=handler) as room:
        peer = await room.connect("/")
        peer.say("1", "2")
        peer.kernel.hang_up()
        await trio.sleep(300)
        assert handled == ["1", "2"]


async def test_a_record_outlives_its_connection(room: Room, autojump_clock: Clock) -> None:
    """It can be looked at; what needs a connection says that there is none."""
    peer = await room.connect("/?id=al")
    (client,) = room.hub.clients
    peer.say_close()
    await room.quiet()
    assert (client.id, client.position) == ("al", None)
    with pytest.raises(Disconnected, match="client 'al' is not connected"):
        await client.send("x")


async def test_answers_go_between_notifications(autojump_clock: Clock) -> None:
    """A client that is far behind gets the answer soon, and no frame is torn."""

    async def echo(client: Client) -> None:
        async for message in client:
            await client.send(message)

    async with open_room(session=echo) as room:
        peer = await room.connect("/")
        peer.kernel.stall()
        for i in range(200):
            await room.hub.publish(f"{i}" + "x" * 1000, confirm=True)
        peer.say("question")
        await room.quiet()
        peer.kernel.grant(70_000)
        await room.quiet()
        peer.kernel.grant(200_000)
        await room.quiet()
        messages = peer.look().messages
        assert messages.index("question") < 100
        assert [m for m in messages if m != "question"] == [f"{i}" + "x" * 1000 for i in range(200)]


# --- faults ---


@pytest.mark.parametrize(
    ("garbage", "code"),
    [
        (b"\x81\x05hello", 1002),
        (b"\xc1\x80abcd", 1002),
        (b"\x80\x80abcd", 1002),
        (b"\x89\xfe\x00\x7eabcd", 1002),
        (b"\x88\x82\x00\x00\x00\x00\x03\xed", 1002),
        (b"\x81\x81\x00\x00\x00\x00\xff", 1007),
        (b"\x82\xff\x00\x00\x00\x00\x40\x00\x00\x00abcd", 1009),
    ],
)
async def test_faults_get_their_close_code(
    room: Room, garbage: bytes, code: int, autojump_clock: Clock
) -> None:
    """And a reason; the next client isn't touched."""
    other = await room.connect("/")
    peer = await room.connect("/?role=publisher")
    peer.say("good")
    peer.kernel.feed(garbage)
    await room.quiet()
    assert peer.look().close is not None
    assert peer.close[0] == code
    assert peer.close[1]
    assert other.look().messages == ["good"]


async def test_pings_during_our_close(room: Room, autojump_clock: Clock) -> None:
    """They are ignored, and do no harm."""
    peer = await room.connect("/?id=al")
    (client,) = room.hub.clients
    client.close(1000)
    for _ in range(3):
        peer.say_ping(b"?")
        await room.quiet()
    peer.say_close()
    await room.quiet()
    assert peer.look().close == (1000, "")
    assert peer.kernel.closed
    assert not peer.kernel.was_reset


# --- liveness ---


async def test_a_silent_client_is_pinged_and_then_dropped(room: Room, autojump_clock: Clock) -> None:
    """After `ping_interval` a ping, and `ping_timeout` later the end."""
    peer = await room.connect("/")
    await trio.sleep(45)
    assert peer.look().pings == 1
    assert not peer.kernel.closed
    await trio.sleep(35)
    assert peer.kernel.was_reset
    assert len(room.hub.clients) == 0


async def test_a_process_that_was_stopped_hears_first(room: Room, autojump_clock: Clock) -> None:
    """Before it judges: whose answer waits in the kernel isn't dropped; who is dead is, a bit later."""
    peer, dead = await room.connect("/"), await room.connect("/")
    await trio.sleep(45)
    assert peer.look().pings == 1
    autojump_clock.jump(100)
    await room.quiet()  # what is due now is done
    peer.kernel.feed(b"\x8a\x80abcd")
    await trio.sleep(20)
    assert not peer.kernel.closed
    assert dead.kernel.was_reset


async def test_a_process_that_is_always_late_drops_the_dead(room: Room, autojump_clock: Clock) -> None:
    """It passes over one round, not over all of them."""
    peer = await room.connect("/")
    for _ in range(20):
        autojump_clock.jump(20)
        await room.quiet()
    assert peer.kernel.was_reset


async def test_any_bytes_are_a_sign_of_life(room: Room, autojump_clock: Clock) -> None:
    """An answer to the ping, a message, an unsolicited Pong."""
    peer = await room.connect("/?role=publisher")
    for _ in range(10):
        await trio.sleep(40)
        peer.kernel.feed(b"\x8a\x80abcd")
    assert not peer.kernel.closed
    assert 1 <= peer.look().pings <= 10


async def test_a_client_that_takes_bytes_is_alive(room: Room, autojump_clock: Clock) -> None:
    """However slowly, and though it says nothing: its pongs would be behind the data."""
    peer = await room.connect("/")
    peer.kernel.stall()
    await room.hub.publish("x" * 1000)
    for _ in range(20):
        await trio.sleep(50)
        peer.kernel.grant(1)
    assert not peer.kernel.closed
    assert peer.look().pings == 0


async def test_a_client_that_takes_nothing_is_dropped(room: Room, autojump_clock: Clock) -> None:
    """After `stall_timeout`."""
    peer = await room.connect("/")
    peer.kernel.stall()
    await room.hub.publish("x")
    await trio.sleep(59)
    assert not peer.kernel.closed
    await trio.sleep(20)
    assert peer.kernel.was_reset


async def test_silence_does_not_count_while_nobody_listens(autojump_clock: Clock) -> None:
    """A session that is busy for an hour finds its client as it left it."""
    handled = trio.Event()

    async def handler(client: Client, message: str | bytes) -> None:
        await trio.sleep(3600)
        handled.set()

    async with open_room(handler=handler) as room:
        peer = await room.connect("/")
        peer.say("work")
        await handled.wait()
        assert not peer.kernel.closed
        peer.say_close()
        await room.quiet()
        assert peer.look().close == (1000, "")


# --- the goodbye ---


async def answer_close(peer: Peer) -> None:
    """Answer the server's Close as a client does."""
    while not peer.look().close:  # noqa: ASYNC110 - a fake kernel doesn't tell when it is written
        await trio.sleep(0.1)
    peer.say_close()


async def test_a_cancelled_connection_says_goodbye(autojump_clock: Clock) -> None:
    """1001, behind the cut frame; who doesn't read is reset after `close_timeout`."""
    async with trio.open_nursery() as nursery:
        async with open_room() as room:
            reads, stalls = await room.connect("/"), await room.connect("/")
            nursery.start_soon(answer_close, reads)
            stalls.kernel.stall()
            stalls.kernel.grant(2)
            await room.hub.publish("last", confirm=True)
            started = trio.current_time()
        assert reads.look().messages == ["last"]
        assert reads.close == (1001, "")
        assert not reads.kernel.was_reset
        assert stalls.kernel.was_reset
        assert trio.current_time() - started == pytest.approx(5)


async def test_leaving_the_hub_says_goodbye(autojump_clock: Clock) -> None:
    """To connections in all nurseries, before it is gone."""
    async with trio.open_nursery() as nursery:
        async with open_hub() as hub:
            kernel = FakeKernel()
            kernel.feed(upgrade("/"))
            nursery.start_soon(serve_transport, hub, kernel, "test")
            await trio.testing.wait_all_tasks_blocked()
            peer = Peer(kernel)
            nursery.start_soon(answer_close, peer)

        assert peer.close == (1001, "")
        assert trio.current_time() < 1


async def test_over_any_stream(autojump_clock: Clock) -> None:
    """`hub.handle`: a memory stream does, and a client that stalls in it doesn't delay others."""
    async with open_room() as room:
        ours, theirs = trio.testing.lockstep_stream_pair()
        room.nursery.start_soon(room.hub.handle, ours)
        await theirs.send_all(upgrade("/"))
        head = b""
        while b"\r\n\r\n" not in head:
            head += await theirs.receive_some()
        other = await room.connect("/")
        for i in range(5):
            await room.hub.publish(f"{i}" * 100, confirm=True)
        assert len(other.look().messages) == 5
        data = b""
        expected = b"".join(message_frame(f"{i}" * 100) for i in range(5))
        while len(data) < len(expected):
            data += await theirs.receive_some()
        assert data == expected
        await theirs.aclose()
        await room.quiet()
        assert len(room.hub.clients) == 1


# --- what must not happen ---


async def test_a_notification_never_goes_into_an_answer(autojump_clock: Clock) -> None:
    """The second answer is cut when the task that catches up wakes, and then there is room again."""

    async def handler(client: Client, message: str | bytes) -> None:
        await client.send("A" * 50)
        await client.send("B" * 50)

    for _ in range(20):  # Trio wakes tasks in random order
        kernel = FakeKernel()
        async with open_room(handler=handler) as room:
            peer = await room.connect("/", kernel=kernel)
            kernel.stall()
            kernel.grant(10)
            peer.say("go")
            await room.quiet()
            await room.hub.publish("N", confirm=True)
            kernel.drain = 1000
            kernel.grant(42 + 20)  # what is left of the first answer, and a part of the second
            await room.quiet()
            assert peer.look().messages == ["A" * 50, "B" * 50, "N"]


async def test_an_end_while_a_pong_is_owed(room: Room, autojump_clock: Clock) -> None:
    """The Close frame goes out behind it, without the peer saying anything more."""
    kernel = FakeKernel()
    peer = await room.connect("/", kernel=kernel)
    kernel.stall()
    peer.say_ping(b"p")
    await room.quiet()
    (client,) = room.hub.clients
    client.close(4000, "bye")
    kernel.grant(100)
    await room.quiet()
    assert (peer.look().pongs, peer.close) == ([b"p"], (4000, "bye"))
    assert kernel.eof_sent


async def test_what_stands_behind_a_ping_counts_though_nobody_hears_the_pong(
    room: Room, autojump_clock: Clock
) -> None:
    """The peer's last words, and then it was gone."""
    kernel = FakeKernel()
    await room.connect("/?role=publisher", kernel=kernel)

    def gone(_: bytes) -> int:
        raise ConnectionResetError

    kernel.send = gone  # type: ignore[assignment,method-assign] # a kernel that knows of the reset
    kernel.feed(masked(b"\x89\x00") + masked(b"\x81\x05hello"))
    await room.quiet()
    assert [entry.notification.data for entry in room.hub.log.read(0, 9)] == ["hello"]


async def test_many_pings_of_one_read_are_answered_at_once(room: Room, autojump_clock: Clock) -> None:
    """One call of the kernel for all of one turn: one peer must not keep the others waiting."""
    kernel = FakeKernel()
    peer = await room.connect("/", kernel=kernel)
    calls: list[int] = []
    send = kernel.send

    def counted(data: bytes | memoryview) -> int:
        calls.append(len(data))
        return send(data)

    kernel.send = counted  # type: ignore[method-assign] # to count its calls
    kernel.feed(masked(b"\x89\x01p") * 10_000)
    await room.quiet()
    assert calls == [*[3 * 64] * 156, 3 * 16]
    assert len(peer.look().pongs) == 10_000


async def test_close_drops_what_was_received_with_the_last_message(autojump_clock: Clock) -> None:
    """The iteration ends there and then."""
    handled: list[Any] = []

    async def handler(client: Client, message: str | bytes) -> None:
        handled.append(message)
        client.close(1008, "no more")

    async with open_room(handler=handler) as room:
        peer = await room.connect("/")
        peer.say("a", "b", "c")
        await room.quiet()
        assert handled == ["a"]
        assert peer.look().close == (1008, "no more")


async def test_a_bad_close_code_closes_nothing(autojump_clock: Clock) -> None:
    """It is refused, and the connection goes on."""

    async def handler(client: Client, message: str | bytes) -> None:
        with pytest.raises(
            ValueError, match=r"code: must be a code that a Close frame may have, .* not 1005"
        ):
            client.close(1005)
        await client.send("still here")
        client.close(4000, "\ud800")

    async with open_room(handler=handler) as room:
        peer = await room.connect("/")
        peer.say("x")
        await room.quiet()
        assert peer.look().messages == ["still here"]
        assert peer.close == (4000, "?")


async def test_from_the_start_of_a_log_that_moves(autojump_clock: Clock) -> None:
    """The headers' promise holds, though the oldest entries go while the client connects."""
    async with open_room(max_log_entries=5) as room:
        hub = room.hub

        @room.nursery.start_soon
        async def publish() -> None:
            for number in range(60):
                await hub.publish(f"{number + 1}", confirm=True)

        for _ in range(5):
            await hub.publish("x", confirm=True)
        peers = [await room.connect("/?since=start")]
        numbers: list[int] = []
        for _ in range(10):
            kernel = FakeKernel()
            kernel.feed(upgrade("/?since=start"))
            room.nursery.start_soon(serve_transport, hub, kernel, "test")
            peers.append(Peer(kernel))
            await trio.lowlevel.checkpoint()
        await room.quiet()
        for peer in peers:
            assert peer.look().close is None
            numbers.append(int((peer.header("Trionotify-Cursor") or "").rpartition(":")[2]))
            entries = [e.notification.data for e in hub.log.read(hub.log.start, 9)]
            assert peer.messages[-len(entries) :] == entries[-len(peer.messages) :]
            assert len(peer.messages) == hub.log.head - numbers[-1]


# --- refusals and authenticate ---


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((99, "x"), "status: must be from 300 to 599"),
        (("401", "x"), "status: must be from 300 to 599"),
        ((401, ValueError("x")), "detail: must be str"),
        ((401, "x", ("WWW-Authenticate", "Bearer\r\nX: y")), "is not a valid header"),
        ((401, "x", ("X-Reason", "grüße")), "is not a valid header"),
        ((401, "x", "X-Reason: y"), "headers: must be pairs of str, not str"),
        ((401, "x", ("Content-Length", "5")), "Content-Length is set by trionotify; leave it out"),
    ],
)
def test_a_refusal_that_can_not_be_said(arguments: Any, words: str) -> None:
    """Is an error where it is made, not where it is sent."""
    status, detail, *headers = arguments
    with pytest.raises((ValueError, TypeError), match=words):
        Refused(status, detail, headers=headers)


async def test_a_refusal_says_all_its_headers(autojump_clock: Clock) -> None:
    """Those given twice, too; and what can't be spelled in UTF-8 does no harm."""

    def authenticate(request: Request) -> Client:
        raise Refused(401, "who are you? \ud800", headers=[("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")])

    async with open_room(authenticate=authenticate) as room:
        kernel = FakeKernel()
        assert (await room.connect(kernel=kernel)).status == 401
        assert kernel.taken.count(b"\r\nSet-Cookie: ") == 2
        assert json.loads(kernel.taken.partition(b"\r\n\r\n")[2])["detail"] == "who are you? ?"


async def cleans_up_badly(request: Request) -> Client:
    """A nursery that is cancelled, and one of its tasks raises on the way."""

    async def worker() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("the clean-up failed")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(worker)
        await trio.sleep_forever()
    raise AssertionError("it sleeps for ever")


async def refuses_in_a_nursery(request: Request) -> Client:
    async with trio.open_nursery():
        raise Refused(403, "not you")


def loses_its_database(request: Request) -> Client:
    raise trio.BrokenResourceError("the database is gone")


async def is_no_client(request: Request) -> Client:
    return None  # type: ignore[return-value] # a mistake on purpose


@pytest.mark.parametrize(
    ("authenticate", "status"),
    [
        (cleans_up_badly, 503),
        (refuses_in_a_nursery, 403),
        (loses_its_database, 500),
        (is_no_client, 500),
        (lambda request: Client(" \n"), 500),
    ],
)
async def test_authenticate_may_fail_as_it_likes(
    authenticate: Any, status: int, autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """The peer has an answer, the log the reason, and the server goes on."""
    async with open_room(authenticate=authenticate) as room:
        kernel = FakeKernel()
        kernel.feed(upgrade("/"))
        room.nursery.start_soon(serve_transport, room.hub, kernel, "test")
        await trio.sleep(40)
        assert kernel.taken.startswith(b"HTTP/1.1 %d " % status)
        assert status == 403 or "the request failed" in caplog.text


async def test_a_record_is_for_one_connection(autojump_clock: Clock) -> None:
    """A second one is refused, and the first is untouched."""
    record = Client("al")
    async with open_room(authenticate=lambda request: record) as room:
        first, second = await room.connect(), await room.connect()
        assert (first.status, second.status) == (101, 500)
        await room.hub.publish("x")
        await room.quiet()
        assert first.look().messages == ["x"]
        with pytest.raises(ValueError, match="make a new Client"):
            record.connect(room.hub, record._link)


@pytest.mark.parametrize("asked", ["a", "c"])
async def test_the_query_narrows_what_authenticate_allows(asked: str, autojump_clock: Clock) -> None:
    """Also where it asks for just what one of several predicates allows; and a publisher's."""

    def authenticate(request: Request) -> Client:
        if request.params["role"] == "publisher":
            return Client("al", request.params, "publisher")
        client = Client("al", request.params)
        client.subscribe(Exact(type="a"))
        client.subscribe(Exact(type="b"))
        return client

    async with open_room(authenticate=authenticate) as room:
        reader = await room.connect(f"/?role=subscriber&exact.type={asked}")
        publisher = await room.connect(f"/?role=publisher&exact.type={asked}")
        for kind in ("a", "b", "c"):
            await room.hub.publish(kind, type=kind)
        await room.quiet()
        assert reader.look().messages == ([asked] if asked == "a" else [])
        assert publisher.look().messages == [asked]


# --- heads ---


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (upgrade("/?x=" + "y" * 17_000), 431),
        (upgrade("/", "Content-Length: 5") + b"hello", 400),
        (upgrade("/", "Transfer-Encoding: chunked"), 400),
        (upgrade("/", "Content-Length: 0"), 101),
        (upgrade("http://test/events?id=al"), 101),
        (upgrade("http://test"), 101),
        (upgrade("/?id=%20al"), 101),
    ],
)
async def test_unusual_heads(head: bytes, status: int, room: Room, autojump_clock: Clock) -> None:
    """Sizes count though all comes in one read; a handshake has no body; the absolute form is a path."""
    kernel = FakeKernel()
    kernel.feed(head)
    room.nursery.start_soon(serve_transport, room.hub, kernel, "test")
    await room.quiet()
    assert kernel.taken.startswith(b"HTTP/1.1 %d " % status)


async def test_a_bad_query_of_head_is_answered_without_a_body(room: Room, autojump_clock: Clock) -> None:
    """The method is known before the query is read."""
    kernel = FakeKernel()
    kernel.feed(b"HEAD /?a=1&a=2 HTTP/1.1\r\nHost: x\r\n\r\n")
    room.nursery.start_soon(serve_transport, room.hub, kernel, "test")
    await room.quiet()
    assert kernel.taken.startswith(b"HTTP/1.1 400 ")
    assert kernel.taken.endswith(b"\r\n\r\n")


async def test_the_log_shows_no_query_and_no_forged_line(
    room: Room, autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever a refused peer writes."""
    caplog.set_level("INFO")
    for target in ("/?format=s3cret", "/?since=s3cret", "/?exakt.s3=cret", "/%0aINFO%20forged"):
        await room.connect(target)
    assert len(caplog.records) == 4
    assert "s3cret" not in caplog.text
    assert "\nINFO forged" not in caplog.text


async def test_receiving_with_early_bytes_is_a_checkpoint_too(autojump_clock: Clock) -> None:
    """Cancelled there, nothing is lost."""
    received: list[Any] = []

    async def session(client: Client) -> None:
        with trio.CancelScope() as scope:
            scope.cancel()
            await client.receive_batch()
        received.append(scope.cancelled_caught)
        received.extend(await client.receive_batch())

    async with open_room(session=session) as room:
        kernel = FakeKernel()
        kernel.feed(upgrade("/") + masked(b"\x81\x02hi"))
        room.nursery.start_soon(serve_transport, room.hub, kernel, "test")
        await room.quiet()
        assert received == [True, "hi"]
