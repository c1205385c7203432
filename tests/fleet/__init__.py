"""A fleet: a real server that is killed again and again, and clients that must not notice.

    python -m tests.fleet --runs 200 --seed 1      the model with restarts
    python -m tests.fleet --kills 50               SIGKILL under load, in one long run
    python -m tests.fleet --crowd 5000             a restart with many clients

A run is a random program (`plan`). The server is a process (`server`); clients (`subscribers`,
`publishers`) are tasks on plain sockets (`line`), and use none of the package's own code. When the plan
is through, everything may settle, a last client of each kind reads the whole log with `since=start`,
and that is the truth by which all others are judged (`verdict`).

Nothing in it sleeps: the server is killed, and clients leave, stall or change their minds, when
something has been seen so and so often.
"""
