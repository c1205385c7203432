"""TLS: the certificate that the server shows, from two files that can be read again while it runs."""

from __future__ import annotations

import os
import ssl
from typing import Final

__all__ = ["Certificate"]

#: Frames are over HTTP/1.1, or nothing.
_PROTOCOLS: Final = ("http/1.1",)


class Certificate:
    """The files of a certificate (with what its issuers need) and of its key, and a context with them.

    Without `key` that is in the first file, too. Raises ValueError that names the file at fault.
    """

    def __init__(self, cert: str | os.PathLike[str], key: str | os.PathLike[str] | None = None) -> None:
        self._cert = os.fspath(cert)
        self._key = self._cert if key is None else os.fspath(key)
        self.context = self._load(ssl.create_default_context(ssl.Purpose.CLIENT_AUTH))
        self.context.set_alpn_protocols(_PROTOCOLS)

    def reload(self) -> list[str]:
        """Read both again, for connections from now on; raises ValueError, and keeps the old ones.

        Returns their paths.
        """
        # First into a context that nobody uses: half of a pair must not come into the other one.
        self._load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
        self._load(self.context)
        return list(dict.fromkeys([self._cert, self._key]))

    def _load(self, context: ssl.SSLContext) -> ssl.SSLContext:
        for name, path in (("tls_cert", self._cert), ("tls_key", self._key)):
            try:
                with open(path, "rb"):
                    pass
            except OSError as error:
                raise ValueError(f"{name}: {path} can't be read: {error.strerror}") from None
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
