"""Damage to the files of a log, done at random; and whether anything of it reaches a client.

    python -m tests.damage [KIND…] --runs 500 --seed N
    python -m tests.damage fsync --kills 200

`templates` has logs that a process of its own has written and left, killed or in good order. `damages`
spoils copies of their files. `run` opens one, publishes as much again, and has it read by `readers`;
`verdict` says what must hold.

That is: what is delivered is the notification that was published at its offset. Where one is missing,
its reader hears so, with exactly the offsets that are missing. No offset is given twice under one epoch.

A snapshot is left out, because nothing in the files can tell. Where all of them are put back as they
were at one earlier moment, or the lock file as it was then and the rest so that it ends there or later,
the log is one that once was. Only its operator knows, and says so by `trionotify store new-epoch`.
"""
