"""trionotify, a WebSocket notification server on Trio.

async with trionotify.open_server() as server:
    await server.hub.publish("disk is full", type="disk.full", to="alice")
"""

from trionotify.client.remote import Remote, connect
from trionotify.connection.session import Handler, Session
from trionotify.delivery.accepted import AcceptedWebSocket
from trionotify.delivery.clients import Client
from trionotify.delivery.counters import Statistics
from trionotify.delivery.explain import Explanation, explain
from trionotify.delivery.hub import Hub
from trionotify.delivery.keywords import Attributes
from trionotify.delivery.subscription import Subscription
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
from trionotify.http.issuers import Issuer
from trionotify.http.messages import Authenticate, Request
from trionotify.http.secret import sign
from trionotify.http.tokens import Tokens
from trionotify.model.filters import from_json
from trionotify.model.notification import Notification
from trionotify.model.predicates import (
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
from trionotify.model.receipt import Receipt
from trionotify.server.options import HubOptions, SettingsOptions
from trionotify.server.server import Server, open_hub, open_server, serve
from trionotify.settings import Settings
from trionotify.version import __version__ as __version__

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
    "Issuer",
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
    "Tokens",
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
