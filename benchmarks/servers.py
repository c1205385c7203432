"""The servers that are compared, each in a process of its own on a core of its own."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path

import attrs
import trustme

from benchmarks.machine import SERVER_CORE, cpu_time, pin, resident
from benchmarks.provider import AUDIENCE, ISSUER, public_keys

#: The package that is measured, which is in the folder of this program.
TREE = Path(__file__).parent.parent
PEERS = TREE / "benchmarks" / "peers"
NODE_PEERS = PEERS / "node_modules"


@attrs.frozen
class Kind:
    """A server that can be measured: how to start it, and where its publishers connect."""

    name: str
    command: tuple[str, ...]
    #: What its version is, or None when it isn't installed.
    version: Callable[[], str | None]
    publish: str = "/publish"
    #: The folder that has our package; of a peer, nothing.
    tree: Path | None = None


def _python(name: str, script: str, distribution: str, module: str, *options: str) -> Kind:
    def find() -> str | None:
        return version(distribution) if importlib.util.find_spec(module) else None

    return Kind(name, (sys.executable, str(PEERS / script), *options), find)


def _node(name: str, *options: str) -> Kind:
    return Kind(name, ("node", str(PEERS / "ws.cjs"), *options), _ws_version)


def _ws_version() -> str | None:
    package = NODE_PEERS / "ws" / "package.json"
    if not shutil.which("node") or not package.exists():
        return None
    return str(json.loads(package.read_text())["version"])


OURS = "trionotify"
#: The same on a file, with a commit that waits for the disk, and one that doesn't.
FULL = "trionotify full"
NORMAL = "trionotify normal"
#: And on a disk that needs a millisecond longer for each commit.
SLOW = "trionotify full, +1 ms"
FLOOR = "floor"
#: Over TLS.
OURS_TLS, WS_TLS, UWS_TLS = f"{OURS} tls", "ws tls", "uWebSockets tls"
#: With the tokens of an identity provider, whose keys `running` puts into a file.
OURS_JWT, KEYS = f"{OURS} jwt", "{directory}/keys.json"
#: Peers with `permessage-deflate`. Ours needs no server of its own for it.
WS_DEFLATE, UWS_DEFLATE = "ws deflate", "uWebSockets deflate"
WEBSOCKETS_DEFLATE = "websockets deflate"
#: Where `running` puts a certificate and its key.
CERT, KEY = "{directory}/cert.pem", "{directory}/key.pem"


def _ours(name: str, *options: str) -> Kind:
    # The load answers no Pings, and the server must not drop it, however long a case takes.
    limits = ("--max-half-open=20000", "--ping-interval=3600")
    command = (sys.executable, "-m", "trionotify", "--port=0", *limits, *options)
    return Kind(name, command, lambda: version("trionotify"), publish="/?role=publisher", tree=TREE)


def _on_a_file(name: str, durability: str) -> Kind:
    store = ("--store=sqlite:{directory}/log", f"--durability={durability}")
    return _ours(name, *store, "--max-log-entries=2000000", f"--max-log-bytes={1 << 40}")


def _on_a_slow_disk() -> Kind:
    full = _on_a_file(SLOW, "full")
    delay = "inject=fsync,fdatasync:delay_exit=1000"  # microseconds
    # The tracer is a grandchild (-D), so that the server is the process that is measured.
    only = ("-e", "trace=fsync,fdatasync", "-e", delay)
    trace = ("strace", "-D", "-f", "--seccomp-bpf", "-o/dev/null", *only)
    return attrs.evolve(
        full,
        command=(*trace, *full.command),
        version=lambda: full.version() if shutil.which("strace") else None,
    )


KINDS = {
    kind.name: kind
    for kind in (
        _ours(OURS),
        _on_a_file(FULL, "full"),
        _on_a_file(NORMAL, "normal"),
        _on_a_slow_disk(),
        Kind(FLOOR, (sys.executable, str(PEERS / "floor.py")), lambda: ""),
        _python("uWebSockets", "uwebsockets.py", "socketify", "socketify"),
        _python("picows", "picows_peer.py", "picows", "picows"),
        _node("ws"),
        _python("websockets", "websockets_asyncio.py", "websockets", "websockets"),
        _python("websockets.trio", "websockets_trio.py", "websockets", "websockets"),
        _python("trio-websocket", "trio_websocket_peer.py", "trio-websocket", "trio_websocket"),
        _ours(OURS_TLS, f"--tls-cert={CERT}", f"--tls-key={KEY}"),
        _ours(OURS_JWT, f"--issuer={ISSUER}", f"--audience={AUDIENCE}", f"--jwks={KEYS}"),
        _node(WS_TLS, "tls", CERT, KEY),
        _python(UWS_TLS, "uwebsockets.py", "socketify", "socketify", "tls", CERT, KEY),
        _node(WS_DEFLATE, "deflate"),
        _python(UWS_DEFLATE, "uwebsockets.py", "socketify", "socketify", "deflate"),
        _python(WEBSOCKETS_DEFLATE, "websockets_asyncio.py", "websockets", "websockets", "deflate"),
    )
}

#: Our server and the peers as they are usually run.
USUAL = (
    *(OURS, FLOOR, "uWebSockets", "picows", "ws"),
    *("websockets", "websockets.trio", "trio-websocket"),
)


@attrs.frozen
class Server:
    """A server that runs."""

    kind: Kind
    pid: int
    port: int

    def cpu(self) -> float:
        """Seconds of CPU that it has used so far."""
        return cpu_time(self.pid)

    def memory(self) -> int:
        """Bytes that it has resident."""
        return resident(self.pid)


@contextmanager
def running(kind: Kind) -> Iterator[Server]:
    """Start a server, wait until it listens, and kill it at the end."""
    with tempfile.TemporaryDirectory() as directory:
        if CERT in kind.command or f"--tls-cert={CERT}" in kind.command:
            _certify(directory)
        if f"--jwks={KEYS}" in kind.command:
            Path(KEYS.format(directory=directory)).write_text(public_keys())
        with subprocess.Popen(
            [word.replace("{directory}", directory) for word in kind.command],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=kind.tree,
            preexec_fn=partial(pin, SERVER_CORE),
        ) as process:
            try:
                assert process.stdout is not None
                line = process.stdout.readline()
                if not line:
                    raise RuntimeError(f"{kind.name} did not start: {' '.join(kind.command)}")
                yield Server(kind, process.pid, int(line.strip().rpartition(":")[2]))
            finally:
                process.kill()


def _certify(directory: str) -> None:
    """Put a certificate there, of the kind that is usual now (ECDSA P-256)."""
    issued = trustme.CA().issue_cert("127.0.0.1")
    Path(CERT.format(directory=directory)).write_bytes(issued.cert_chain_pems[0].bytes())
    issued.private_key_pem.write_to_path(KEY.format(directory=directory))
