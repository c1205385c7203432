"""Faults of Redis, as this package's exceptions, without secrets.

`Refusal` means that nothing of the request was done. `Unanswered` says that no task can know whether
it was done.
"""

from __future__ import annotations

import re
from typing import Final

import trio

from trionotify.errors import StoreError
from trionotify.storage.redis_address import RedisAddress

__all__ = ["Refusal", "Unanswered", "check_version", "faults"]

#: The oldest version that works. (Valkey begins with 7.2.)
_VERSION: Final = (7, 0)
_UNKNOWN: Final = "it is not known whether this was published; publish it again with the same id"
#: The first word of an error of Redis, which coredis leaves out if it has a class for it.
_CODES: Final = {
    "AskError": "ASK",
    "AuthenticationFailureError": "WRONGPASS",
    "AuthenticationRequiredError": "NOAUTH",
    "AuthorizationError": "NOPERM",
    "ClusterCrossSlotError": "CROSSSLOT",
    "ClusterDownError": "CLUSTERDOWN",
    "MovedError": "MOVED",
    "NoScriptError": "NOSCRIPT",
    "ReadOnlyError": "READONLY",
    "TryAgainError": "TRYAGAIN",
    "UnblockedError": "UNBLOCKED",
    "WrongTypeError": "WRONGTYPE",
}
_CLUSTER: Final = "this is a Redis Cluster, which can't hold a log; name a single server, or Sentinels"
#: What to do for each code with which Redis refuses a request.
_FIXES: Final = {
    **dict.fromkeys(("ASK", "CLUSTERDOWN", "CROSSSLOT", "MOVED", "TRYAGAIN"), _CLUSTER),
    "NOAUTH": "put a user and a password into the URL (for Sentinels, sentinel_password_file)",
    "OOM": "give Redis more memory (maxmemory), or let the log hold less (max_log_bytes)",
    "Protocol": "a notification is larger than Redis accepts (proto-max-bulk-len)",
    "READONLY": "name the primary, or Sentinels that know it",
    "MISCONF": "Redis can't save to its disk, so check its log",
    "NOREPLICAS": "connect the replicas that Redis needs (min-replicas-to-write)",
    "WRONGTYPE": "another program uses these keys, so give this log another name (?hub=NAME)",
    "NOPERM": "give this user the rights that the guide for several servers lists",
}
#: How Redis begins when a script runs a command that its user may not. (It has no code for that.)
_NO_RIGHT: Final = ("The user executing the script can't", "ACL failure in script")


class Unanswered(StoreError):
    """Redis has not answered. It may have executed the request."""

    def __init__(self, detail: str) -> None:
        super().__init__(503, detail, _UNKNOWN)


class Refusal(StoreError):
    """Redis has refused a request and done nothing. `code` is the first word of its answer."""

    def __init__(self, place: object, code: str, said: str) -> None:
        fix = f"; {_FIXES[code]}" if code in _FIXES else ""
        super().__init__(507 if code == "OOM" else 503, f"{place}: Redis says: {said}{fix}")
        self.code = code


class faults:  # noqa: N801 - a context manager, as those of contextlib
    """Convert the exceptions of coredis to `StoreError`s. `server` names one of several in them."""

    def __init__(self, address: RedisAddress, server: str = "") -> None:
        self._address = address
        self._place = f"{address}: {server}" if server else str(address)

    def __enter__(self) -> None:
        """Do nothing."""

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        from coredis import exceptions  # noqa: PLC0415 - only a log on Redis needs it

        if isinstance(error, exceptions.UnknownCommandError):
            # Redis repeats all arguments, and those of HELLO have the password.
            said = "ERR unknown command"
            if "hello" in str(error).lower():
                raise _too_old(self._place, "an older one") from None
            raise Refusal(self._place, "ERR", said) from None
        if isinstance(error, exceptions.ResponseError):
            said, code = self._address.without_secrets(str(error)), _CODES.get(type(error).__name__)
            if str(error).startswith(_NO_RIGHT):
                code = "NOPERM"
            if code is not None:
                said = f"{code} {said}"
            raise Refusal(self._place, said.partition(" ")[0], said) from None
        if isinstance(error, (exceptions.RedisError, OSError, trio.BrokenResourceError)):
            reason = self._address.without_secrets(_reason(error))
            raise Unanswered(f"{self._place}: {reason}") from None


def _reason(error: BaseException) -> str:
    """Return the message of the root cause, or of what it caused if it has none."""
    while (cause := error.__cause__) is not None and str(cause):
        error = cause
    if isinstance(error, BaseExceptionGroup):
        return _reason(error.exceptions[0])
    return str(error).removesuffix(".") or type(error).__name__


def check_version(place: object, version: str) -> None:
    found = re.match(r"(\d+)(?:\.(\d+))?", version)
    if found is None or (int(found[1]), int(found[2] or 0)) < _VERSION:
        raise _too_old(place, version)


def _too_old(place: object, version: str) -> StoreError:
    return StoreError(503, f"{place}: must be Redis 7.0 or Valkey 7.2 at least, not {version}")
