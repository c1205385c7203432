"""Authentication by cookie: the login of a web application also counts for notifications.

    export LOGIN_KEY=$(openssl rand -hex 32)
    python cookies.py login alice 3600                      what the application does: a cookie
    python cookies.py serve 8765 http://127.0.0.1:8000      the notifications for its pages

Watch with the cookie that the first command prints: `curl -N -b 'login=…'
http://127.0.0.1:8765/events`. Or in a page of the application, with `new
WebSocket("ws://127.0.0.1:8765/")`, because a browser sends the cookies of a host to all of its ports,
also with a WebSocket handshake.

The cookie says who a client is, whatever `id` its query has. So what is published `to` a user reaches
only that user, in all tabs. When the login expires, the connection is closed with 4401. The record
that `authenticate` makes is a subscriber's, so no client can publish. A browser sends cookies for the
pages of any site, so pages of other sites than `allow_origin` are refused with 403 before
`authenticate` is called. `/clients` and `/metrics` are at a port of their own.
"""

import hashlib
import hmac
import os
import signal
import sys
import time
from http.cookies import CookieError, SimpleCookie

import trio

import trionotify
from trionotify import Client, Refused, Request

KEY = os.environ["LOGIN_KEY"].encode()
LOCKED_OUT = {"mallory"}


def signature(text: str) -> str:
    return hmac.new(KEY, text.encode(), hashlib.sha256).hexdigest()


def cookie_of(user: str, expires_at: int) -> str:
    """The cookie that the application sets when USER logs in, as HttpOnly, Secure and SameSite=Lax."""
    text = f"{user}.{expires_at}"
    return f"{text}.{signature(text)}"


def read(cookie: str) -> tuple[str, int]:
    """Whose cookie this is, and when it expires; raises `Refused` (401)."""
    text, _, given = cookie.rpartition(".")
    if not hmac.compare_digest(signature(text).encode(), given.encode()):
        raise Refused(401, "cookie: log in first")
    user, _, expires_at = text.rpartition(".")
    if int(expires_at) <= time.time():
        raise Refused(401, "cookie: your login is over: log in again")
    return user, int(expires_at)


def authenticate(request: Request) -> Client:
    """The user who is logged in, until the login expires."""
    try:
        cookies = SimpleCookie(request.header("cookie"))
    except CookieError:
        cookies = SimpleCookie()
    user, expires_at = read(cookies["login"].value if "login" in cookies else "")
    if user in LOCKED_OUT:
        raise Refused(403, f"cookie: {user} may not watch")
    return Client(user, request.params, remote=request.remote, expires_at=expires_at)


async def session(client: Client) -> None:
    """Tell all tabs of this user that there is another one, and ignore what it sends."""
    await client.hub.publish(f"{client.id} is here, from {client.remote}", type="login", to=client.id)
    async for _ in client:
        client.close(trionotify.CloseCode.POLICY_VIOLATION, "this is for watching")


async def main(port: int, site: str) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trionotify.open_server(
            port=port,
            authenticate=authenticate,
            session=session,
            allow_origin=[site],
            page=False,
            admin_port=0,
        ) as server:
            print(f"for operators: {server.admin_url}, for users: {server.url}", flush=True)
            await anext(signals)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["login", user, seconds]:
            print("login=" + cookie_of(user, int(time.time()) + int(seconds)))
        case ["serve", port, site]:
            trio.run(main, int(port), site)
        case _:
            sys.exit(__doc__)
