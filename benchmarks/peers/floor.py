"""The floor. It accepts, and hands each message to every socket in a plain loop of non-blocking sends.

It has nothing that a server must have: no limits, no errors, no fragments, no slow clients. So its
figures are the kernel's share, and Python's cheapest loop around it.
"""

import base64
import hashlib
import select
import socket

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def answer(request: bytes) -> bytes:
    key = request.partition(b"Sec-WebSocket-Key: ")[2].partition(b"\r\n")[0]
    accept = base64.b64encode(hashlib.sha1(key + GUID).digest())
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
    )


def frames(data: bytes) -> tuple[list[bytes], bytes]:
    """Return the unmasked frames of masked ones below 64 KiB, and the remaining bytes."""
    found, at = [], 0
    while len(data) >= at + 8:
        size, start = data[at + 1] & 0x7F, at + 6
        head = data[at : at + 1] + bytes([size])
        if size == 126:
            size, start = int.from_bytes(data[at + 2 : at + 4]), at + 8
            head += size.to_bytes(2)
        if len(data) < start + size:
            break
        mask = (data[start - 4 : start] * (size // 4 + 1))[:size]
        payload = int.from_bytes(data[start : start + size]) ^ int.from_bytes(mask)
        found.append(head + payload.to_bytes(size))
        at = start + size
    return found, data[at:]


listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
print(listener.getsockname()[1], flush=True)
poll = select.epoll()
poll.register(listener, select.EPOLLIN)
sockets: dict[int, socket.socket] = {}
rest: dict[int, bytes] = {}
sends: dict[int, object] = {}

while True:
    for fd, _ in poll.poll():
        if fd == listener.fileno():
            sock, _ = listener.accept()
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            request = sock.recv(4096)
            sock.sendall(answer(request))
            sock.setblocking(False)
            sockets[sock.fileno()], rest[sock.fileno()] = sock, b""
            poll.register(sock, select.EPOLLIN)
            if not request.startswith(b"GET /publish"):
                sends[sock.fileno()] = sock.send
            continue
        try:
            data = sockets[fd].recv(1 << 16)
        except ConnectionError:
            data = b""
        if not data:
            sends.pop(fd, None)
            sockets.pop(fd).close()
            continue
        messages, rest[fd] = frames(rest[fd] + data)
        for message in messages:
            for send in sends.values():
                send(message)
