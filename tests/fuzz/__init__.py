"""Fuzzing: a real server gets invalid and hostile input, and must go on serving all other clients.

    python -m tests.fuzz                                   every kind, 100,000 inputs each
    python -m tests.fuzz http frames --inputs 5000         two kinds, for a while
    python -m tests.fuzz http --seed 7 --only 4711         one input again

An input is made from (seed, kind, number) alone (`kinds`), so each can be sent again by itself. The
server is a process; the inputs go to it over many connections of this one (`sender`), as a request on a
kept connection (`Ask`), as all bytes of a connection (`Burst`), or as frames of a WebSocket (`Talk`).
Kinds that need no server (`sql`, `urls`) run in this process.

What must hold, whatever is sent (`run`):

1. Witnesses (a raw WebSocket, a stream, a CloudEvents WebSocket) get each marker that a publisher
   publishes in between, once, in order, at the place that its receipt names (`witnesses`).
2. The server's log has no record of level ERROR and no traceback, and each of its lines is JSON.
3. No answer is a 5xx but 503 and 507, and these say why. Whatever is whole and legal is answered.
4. Memory returns to what it was, within `RSS_SLACK`, and so do descriptors (`vitals`).
5. `GET /livez`, asked by another process, answers within 250 ms at the 99th percentile (`lag`).
6. SIGTERM ends the server with exit code 0, within its deadline.

A kind may have oracles of its own: who must be let in, and what must be accepted.
"""
