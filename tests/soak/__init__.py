"""A soak: one real server for half an hour, clients of all kinds, and attacks in between.

    python -m tests.soak --minutes 30 --clients 200

It is a fleet (`tests.fleet`) whose server isn't killed: the same clients, the same truth, the same
verdict. Besides, there are streams and the Python client (`clients`), publishers at every entrance
(`publishers`), clients that never read, and attackers in a process of their own (`attacks`). Clients
leave, vanish, come back with their cursors, read slowly, and change their filters. At the end everyone
reads up to the log's head, and then (`run`):

1. For each client and each of its connections, all that it wanted came, once, in order (`tests.fleet`).
   All that was acknowledged is in the log, where its receipt says, and nothing else is.
2. Resident memory, descriptors and threads in the last third are those of the first third (`flat`).
3. `GET /livez` answers within 250 ms at the 99th percentile, attacks included.
4. The log has no error and no traceback, and SIGTERM ends the server with exit code 0 in time.
"""
