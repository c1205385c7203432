"""The files that the provocations need: configurations, certificates, a log."""

from __future__ import annotations

from pathlib import Path

import trustme
from cryptography.hazmat.primitives import serialization

from tests.stores import add, open_store

__all__ = ["prepare"]


def prepare(directory: Path) -> None:
    """Write all of them."""
    texts = {
        "empty": "",
        "text": "this is not a database, and long enough to be read as one. " * 20,
        "file.txt": "a file",
        "secret": "0123456789abcdef0123456789abcdef",
        "event.json": '{"specversion":"1.0","id":"1","source":"s","type":"t"}',
        "no.toml": "port",
        "option.toml": "prot = 1",
        "table.toml": "[server]\nport = 1",
        "flag.toml": "page = 'no'",
        "true.toml": "port = true",
        "array.toml": "host = 5",
        "single.toml": "port = [1]",
        "value.toml": "max_log_age = 'soon'",
        "fraction.toml": "port = 1.5",
        "path.toml": "unix = 1",
        "origin.toml": "allow_origin = 'example.org'\nport = 0",
    }
    for name, text in texts.items():
        (directory / name).write_text(text)
    (directory / "utf16.toml").write_text("port = 1", encoding="utf-16")
    (directory / "latin1.toml").write_text("unix = 'é'", encoding="latin-1")
    _certificates(directory)
    store = open_store(directory / "log.db")
    add(store, "one", "two", "three")
    store.close()


def _certificates(directory: Path) -> None:
    authority = trustme.CA()
    mine, other = authority.issue_cert("localhost"), authority.issue_cert("localhost")
    mine.cert_chain_pems[0].write_to_path(directory / "cert.pem")
    (directory / "empty.pem").write_text("")
    other.private_key_pem.write_to_path(directory / "other.pem")
    key = serialization.load_pem_private_key(mine.private_key_pem.bytes(), None)
    locked = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"passphrase"),
    )
    (directory / "locked.pem").write_bytes(locked)
