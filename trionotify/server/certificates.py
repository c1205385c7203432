"""The TLS certificate of the server, from two files that can be read again while it runs.

It runs no task. Reading blocks.
"""

from __future__ import annotations

import os
import ssl
from functools import partial
from typing import Final

from trionotify.http.secret import Reread

__all__ = ["Certificate", "certificate_of"]

#: The protocols for ALPN. The server speaks only HTTP/1.1.
_PROTOCOLS: Final = ("http/1.1",)

#: What OpenSSL says about the key of another certificate, of the same kind or of another one.
_MISMATCHES: Final = ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED")


class Certificate:
    """A certificate's file (with intermediate certificates), its key's file, and a context with both.

    Without `key`, the first file also has the key. Raises ValueError that names the invalid file.
    Created by `serve`. `Server.reload` calls `reread`.

    `context` is for the next connection. It is replaced, never changed. If a context loads a second
    pair of another kind (RSA, EC), it keeps the first and goes on presenting it. If loading fails
    halfway, the context is useless.
    """

    def __init__(self, cert: str | os.PathLike[str], key: str | os.PathLike[str] | None = None) -> None:
        self._cert = os.fspath(cert)
        self._key = self._cert if key is None else os.fspath(key)
        #: The paths of both files, each once.
        self.paths: list[str] = list(dict.fromkeys([self._cert, self._key]))
        self.context: ssl.SSLContext = self.read()

    def read(self) -> ssl.SSLContext:
        """Return a new context with what the files contain now. Blocks. Raises ValueError."""
        for name, path in (("tls_cert", self._cert), ("tls_key", self._key)):
            try:
                with open(path, "rb"):
                    pass
            except OSError as error:
                raise ValueError(f"{name}: {path} can't be read: {error.strerror}") from None
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.set_alpn_protocols(_PROTOCOLS)
        context.options |= ssl.OP_NO_RENEGOTIATION
        try:
            context.load_cert_chain(self._cert, self._key, password=self._refuse_encrypted)
        except ssl.SSLError as error:
            if error.reason in _MISMATCHES:
                raise ValueError(
                    f"tls_key: {self._key} is not the key of the certificate in {self._cert}"
                ) from None
            verb = "are" if len(self.paths) > 1 else "is"
            raise ValueError(
                f"tls_cert: {' and '.join(self.paths)} {verb} not a certificate and its key in PEM:"
                f" {error.reason or 'nothing was found'}"
            ) from None
        except OSError as error:  # since then, a file has gone, or the process has no descriptor left
            raise ValueError(
                f"tls_cert: {' and '.join(self.paths)} can't be read: {error.strerror}"
            ) from None
        return context

    def reread(self) -> list[Reread]:
        """Read both files again. Raises ValueError."""
        take = partial(setattr, self, "context", self.read())
        return [(path, take) for path in self.paths]

    def _refuse_encrypted(self) -> str:
        raise ValueError(f"tls_key: {self._key} must not have a passphrase; remove it")


def certificate_of(
    cert: str | os.PathLike[str] | None,
    key: str | os.PathLike[str] | None,
    ssl_context: ssl.SSLContext | None,
) -> Certificate | None:
    """Return the certificate in these files; None without `cert`.

    Raises TypeError for a key without a certificate or for a certificate with an `ssl_context`, and
    ValueError for a context that isn't a server's.
    """
    if cert is None and key is not None:
        raise TypeError("tls_key: needs tls_cert")
    if cert is not None and ssl_context is not None:
        raise TypeError("tls_cert: must not be combined with ssl_context; give one of them")
    if ssl_context is not None:
        try:
            ssl_context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_side=True)
        except ssl.SSLError:
            raise ValueError(
                "ssl_context: must be a server's; create it with"
                " ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)"
            ) from None
    return None if cert is None else Certificate(cert, key)
