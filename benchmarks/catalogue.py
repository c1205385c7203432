"""All cases. docs/performance.md says what each one measures."""

from __future__ import annotations

from benchmarks.cases.connecting import (
    connects,
    connects_with_tokens,
    idle,
    own_filter,
    shared_filter,
    storm,
)
from benchmarks.cases.fanout import fanout, filtered, targeted
from benchmarks.cases.measures import Case
from benchmarks.cases.publishing import (
    acknowledged,
    acknowledged_in_a_window,
    ingest,
    posts,
    replay,
)
from benchmarks.cases.steady import churn, far, slow
from benchmarks.cases.tls import encrypted, handshakes
from benchmarks.cases.ways import (
    DEFLATED,
    NDJSON_STREAM,
    RAW,
    SSE_STREAM,
    Way,
    dots,
    events,
    orders,
    ways,
)
from benchmarks.servers import (
    FLOOR,
    FULL,
    NORMAL,
    OURS,
    OURS_JWT,
    OURS_TLS,
    SLOW,
    USUAL,
    UWS_DEFLATE,
    UWS_TLS,
    WEBSOCKETS_DEFLATE,
    WS_DEFLATE,
    WS_TLS,
)

#: Ours on each log.
LOGS = (OURS, NORMAL, FULL)
DISKS = (*LOGS, SLOW)
TLS = (OURS_TLS, UWS_TLS, WS_TLS)
#: Those that can't push back, or lose what they can't send, are not asked to.
_WITH_LIMITS = (OURS, "ws", "websockets")
_FANOUT = "CPU us/delivery"
_CONNECT = "CPU us/connect"


def _zipped(name: str, way: Way) -> Case:
    both = {"": way.zipped(), ", plain": way}
    about = "1,000 streams with gzip, 1 KiB of JSON, one at a time"
    return Case(name, about, _FANOUT, ways(1000, both, orders), (OURS,))


_ALL = (
    # Fan-out
    Case("fanout-1", "1,000 subscribers, 128 bytes, one at a time", _FANOUT, fanout(1000, 128, 1)),
    Case("fanout-16", "1,000 subscribers, 128 bytes, 16 in flight", _FANOUT, fanout(1000, 128, 16)),
    Case("fanout-4k", "1,000 subscribers, 4 KiB, 4 in flight", _FANOUT, fanout(1000, 4096, 4)),
    Case(
        "fanout-10k",
        "10,000 subscribers, 128 bytes, one at a time",
        _FANOUT,
        fanout(10_000, 128, 1),
        (OURS, FLOOR, "uWebSockets", "picows", "ws"),
    ),
    *(
        Case(f"filtered-{name}", about, "CPU us/publish", filtered(subscribers, kinds), (OURS,))
        for name, about, subscribers, kinds in (
            ("alone", "one subscriber, with an exact filter", 1, 1),
            ("one", "10,000 distinct exact filters, one matches", 10_000, 10_000),
            ("1%", "10,000 subscribers with 100 exact filters, one matches", 10_000, 100),
            ("all", "10,000 subscribers with the same exact filter", 10_000, 1),
        )
    ),
    Case("targeted", "one of 10,000 is told", "CPU us/publish", targeted(10_000), (OURS,)),
    # Other ways to be told
    Case("events", "1,000 CloudEvents subscribers, one at a time", _FANOUT, events(1000), (OURS,)),
    Case(
        "sse",
        "1,000 streams of Server-Sent Events, 128 bytes, one at a time",
        _FANOUT,
        ways(1000, {"": SSE_STREAM}, dots),
        (OURS, "ws"),
    ),
    Case(
        "ndjson",
        "1,000 streams of JSON lines, 128 bytes, one at a time",
        _FANOUT,
        ways(1000, {"": NDJSON_STREAM}, dots),
        (OURS,),
    ),
    Case(
        "deflate",
        "1,000 subscribers with permessage-deflate, 1 KiB of JSON, one at a time",
        _FANOUT,
        ways(1000, {"": DEFLATED, ", plain": RAW}, orders),
        (OURS, UWS_DEFLATE, WS_DEFLATE, WEBSOCKETS_DEFLATE),
    ),
    _zipped("sse-gzip", SSE_STREAM),
    _zipped("ndjson-gzip", NDJSON_STREAM),
    Case(
        "tls", "1,000 subscribers over TLS, 128 bytes, one at a time", _FANOUT, encrypted(1000, 128), TLS
    ),
    # Publishing
    Case("ingest-1", "one publisher, 128 bytes, 64 in flight", "CPU us/message", ingest(1, 64)),
    Case("ingest-10", "ten publishers, 128 bytes, 64 in flight", "CPU us/message", ingest(10, 64)),
    Case(
        "post-10",
        "ten connections post events, and wait for each answer",
        "CPU us/post",
        posts(10),
        (OURS, "uWebSockets", "ws"),
    ),
    # Connecting
    Case(
        "connects",
        "1,000 clients connect",
        _CONNECT,
        connects(1000),
        tuple(name for name in USUAL if name != FLOOR),
    ),
    Case(
        "jwt-connects",
        "1,000 clients connect, each with a token (JWT, RS256) or without",
        _CONNECT,
        connects_with_tokens(1000),
        (OURS, OURS_JWT),
    ),
    Case(
        "jwt-reconnects",
        "the same, and they come back with the same tokens",
        _CONNECT,
        connects_with_tokens(1000, again=True),
        (OURS, OURS_JWT),
    ),
    Case("tls-connects", "500 clients connect over TLS", f"{_CONNECT} 1.3", handshakes(500), TLS),
    Case(
        "idle",
        "5,000 connections (ours each with an id and a filter)",
        "KiB/connection",
        idle(5000, own_filter),
        tuple(name for name in USUAL if name != FLOOR),
    ),
    Case(
        "idle-shared",
        "5,000 connections, each with an id and the same filter",
        "KiB/connection",
        idle(5000, shared_filter),
        (OURS,),
    ),
    Case(
        "storm",
        "10,000 clients come back at once with cursors, 100 stay and get 100 messages a second",
        "seconds",
        storm(10_000, 100),
        (OURS,),
    ),
    # Latency
    Case("calm", "1,000 clients, 1 KiB, 100 a second", "p99 ms", slow(1000, False), _WITH_LIMITS),
    Case("slow", "the same; 1 % never read, 1 % read 10 kB/s", "p99 ms", slow(1000, True), _WITH_LIMITS),
    Case("near", "100 clients, bursts of 1 MiB", _FANOUT, far(100, 0.0), (OURS,)),
    Case("far", "the same, 100 ms away", _FANOUT, far(100, 0.1), (OURS,)),
    Case("stay", "500 clients, 128 bytes, 100 a second", "p99 ms", churn(500, False), _WITH_LIMITS),
    Case(
        "churn",
        "the same, while 100 clients a second come and go",
        "p99 ms",
        churn(500, True),
        _WITH_LIMITS,
    ),
    # The log in a file
    Case("fanout-log", "fanout-1, by log", _FANOUT, fanout(1000, 128, 1, 4.0, awake=True), LOGS),
    Case("fanout-16-log", "fanout-16, by log", _FANOUT, fanout(1000, 128, 16, 4.0, awake=True), LOGS),
    Case("fanout-10k-log", "fanout-10k, by log", _FANOUT, fanout(10_000, 128, 1, 4.0, awake=True), LOGS),
    Case("ingest-log", "ingest-1, by log", "CPU us/message", ingest(1, 64), LOGS),
    Case("ack-1", "one publisher waits for each commit", "publishes/s", acknowledged(1), DISKS),
    Case("ack-64", "64 publishers wait, each for its own", "publishes/s", acknowledged(64), DISKS),
    Case(
        "ack-window",
        "one publisher has 64 events on the way",
        "publishes/s",
        acknowledged_in_a_window(64),
        DISKS,
    ),
    Case(
        "replay",
        "a log of 1,000,000, of which one client wants 1 %",
        "seconds",
        replay(1_000_000),
        (NORMAL,),
    ),
)
CASES = {case.name: case for case in _ALL}
