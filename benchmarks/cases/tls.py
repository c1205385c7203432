"""TLS: what a delivery costs when it is encrypted, and what a handshake does."""

from __future__ import annotations

import socket
import ssl
import time

from benchmarks.cases.measures import US, Figures, Run, closing, latencies, settle
from benchmarks.load import PATIENCE, WEBSOCKET, Readers, Stuck, client_frame, numbered
from benchmarks.servers import Server

VERSIONS = {"1.3": ssl.TLSVersion.TLSv1_3, "1.2": ssl.TLSVersion.TLSv1_2}


def context_of(version: ssl.TLSVersion) -> ssl.SSLContext:
    """A client's, which believes any certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = context.maximum_version = version
    return context


def connect(
    port: int, target: str, context: ssl.SSLContext, session: ssl.SSLSession | None = None
) -> ssl.SSLSocket:
    """A client whose handshakes are done, that of TLS and that of WebSocket."""
    plain = socket.create_connection(("127.0.0.1", port), PATIENCE)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    client = context.wrap_socket(plain, session=session)
    client.sendall(WEBSOCKET.format(target).encode())
    answer = b""
    while b"\r\n\r\n" not in answer:
        data = client.recv(1 << 16)
        answer += data
        if not data:
            raise Stuck(f"a handshake was answered with {answer!r}")
    return client


def encrypted(subscribers: int, size: int, seconds: float = 2.0) -> Run:
    """Each subscriber gets everything, one message at a time.

    The readers count encrypted bytes, because an encrypted message is as long as the one before it.
    """

    def run(server: Server) -> Figures:
        context = context_of(ssl.TLSVersion.TLSv1_3)
        fds = [connect(server.port, "/", context).detach() for _ in range(subscribers)]
        with closing([socket.socket(fileno=fd) for fd in fds]) as clients:
            with connect(server.port, server.kind.publish, context) as publisher:
                readers = Readers(clients)
                (frame,) = map(client_frame, numbered(1, size))
                due = 0
                for _ in range(3):  # the first one may come with what belongs to the handshake
                    publisher.sendall(frame)
                    due = _quiet(readers)
                taken: list[float] = []
                cpu, start = server.cpu(), time.perf_counter()
                while (now := time.perf_counter()) - start < seconds or len(taken) < 20:
                    publisher.sendall(frame)
                    readers.wait(due)
                    taken.append(time.perf_counter() - now)
                cpu = server.cpu() - cpu
        deliveries = len(taken) * subscribers
        return {
            "CPU us/delivery": cpu / deliveries * US,
            "deliveries/s": deliveries / (now - start),
            "bytes/delivery": due / subscribers,
            **latencies(taken),
        }

    return run


def _quiet(readers: Readers) -> int:
    """Read until nothing more comes; returns how many bytes came."""
    total = 0
    while got := readers.read_some(0.5):
        total += sum(size for _, size in got)
    return total


def handshakes(clients: int) -> Run:
    """Clients connect, at first without a session and then with one, in both versions."""

    def run(server: Server) -> Figures:
        figures: Figures = {}
        for name, version in VERSIONS.items():
            context = context_of(version)
            with connect(server.port, "/", context) as first:
                session = first.session
            for how, ticket in (("", None), (", resumed", session)):
                settle(server)
                cpu = server.cpu()
                connected = [connect(server.port, "/", context, ticket) for _ in range(clients)]
                figures[f"CPU us/connect {name}{how}"] = (server.cpu() - cpu) / clients * US
                resumed = sum(client.session_reused or False for client in connected)
                if ticket:
                    figures[f"resumed % {name}"] = resumed / clients * 100
                for client in connected:
                    client.close()
        return figures

    return run
