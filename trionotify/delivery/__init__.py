"""One log, one cursor for each client, and all tasks of a hub."""
