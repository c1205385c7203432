"""trionotify: a WebSocket notification server on Trio.

async with trionotify.open_server() as server:
    await server.hub.publish("disk is full", type="disk.full", to="alice")
"""

from trionotify.attached import AcceptedWebSocket
from trionotify.clients import Client
from trionotify.counts import Statistics
from trionotify.entries import Receipt
from trionotify.errors import (
    CloseCode,
    Closed,
    Disconnected,
    Lagged,
    Refused,
    StoreError,
    TrionotifyError,
    Unreadable,
)
from trionotify.explain import Explanation, explain
from trionotify.filters import from_json
from trionotify.http import Request
from trionotify.hub import Hub
from trionotify.notification import Notification
from trionotify.options import Attributes, HubOptions, SettingsOptions
from trionotify.predicates import (
    EVERYTHING,
    NOTHING,
    AllOf,
    AnyOf,
    Exact,
    Not,
    Predicate,
    Prefix,
    Sql,
    Suffix,
    to_json,
)
from trionotify.reader import Subscription
from trionotify.remote import Remote, connect
from trionotify.secret import sign
from trionotify.server import Server, open_hub, open_server, serve
from trionotify.sessions import Authenticate, Handler, Session
from trionotify.settings import Settings

__version__ = "0.1.0"

__all__ = [
    "EVERYTHING",
    "NOTHING",
    "AcceptedWebSocket",
    "AllOf",
    "AnyOf",
    "Attributes",
    "Authenticate",
    "Client",
    "CloseCode",
    "Closed",
    "Disconnected",
    "Exact",
    "Explanation",
    "Handler",
    "Hub",
    "HubOptions",
    "Lagged",
    "Not",
    "Notification",
    "Predicate",
    "Prefix",
    "Receipt",
    "Refused",
    "Remote",
    "Request",
    "Server",
    "Session",
    "Settings",
    "SettingsOptions",
    "Sql",
    "Statistics",
    "StoreError",
    "Subscription",
    "Suffix",
    "TrionotifyError",
    "Unreadable",
    "connect",
    "explain",
    "from_json",
    "open_hub",
    "open_server",
    "serve",
    "sign",
    "to_json",
]
