"""Delivery: the log, each client's position in it, and all tasks of a hub."""
