"""TLS: the certificate that the server shows, from two files that can be read again while it runs."""

from __future__ import annotations

import os
import ssl
from typing import Final

__all__ = ["Certificate", "certificate_of"]

#: Frames are over HTTP/1.1, or nothing.
_PROTOCOLS: Final = ("http/1.1",)


class Certificate:
    """The files of a certificate (with what its issuers need) and of its key, and a context with them.

    Without `key` that is in the first file, too. Raises ValueError that names the file at fault.

    `context` is for the next connection. It is never changed, only replaced: a context that takes a
    second pair keeps the first one where that is of another kind (RSA, EC), and goes on showing it; and
    one that takes half of a pair is of no use to anybody.
    """

    def __init__(self, cert: str | os.PathLike[str], key: str | os.PathLike[str] | None = None) -> None:
        self._cert = os.fspath(cert)
        self._key = self._cert if key is None else os.fspath(key)
        #: Its files.
        self.paths: list[str] = list(dict.fromkeys([self._cert, self._key]))
        self.context: ssl.SSLContext = self.read()

    def read(self) -> ssl.SSLContext:
        """A context with what is in the files now; raises ValueError."""
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
            if error.reason == "KEY_VALUES_MISMATCH":
                raise ValueError(
                    f"tls_key: {self._key} is not the key of the certificate in {self._cert}"
                ) from None
            raise ValueError(
                f"tls_cert: {self._cert} and {self._key} are no certificate and key in PEM:"
                f" {error.reason or 'nothing to be read there'}"
            ) from None
        return context

    def _refuse_encrypted(self) -> str:
        raise ValueError(f"tls_key: {self._key} has a passphrase, which nobody could type: take it off")


def certificate_of(
    cert: str | os.PathLike[str] | None,
    key: str | os.PathLike[str] | None,
    ssl_context: ssl.SSLContext | None,
) -> Certificate | None:
    """The certificate in these files; None if none are given.

    Raises TypeError for half of a pair, and ValueError for a context that is no server's.
    """
    if cert is None and key is not None:
        raise TypeError("tls_key: it needs tls_cert")
    if cert is not None and ssl_context is not None:
        raise TypeError("tls_cert or ssl_context, not both")
    if ssl_context is not None:
        try:
            ssl_context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_side=True)
        except ssl.SSLError:
            raise ValueError(
                "ssl_context: must be a server's, not a client's; make it with"
                " ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)"
            ) from None
    return None if cert is None else Certificate(cert, key)
