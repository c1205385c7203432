"""Nurseries and sockets: what runs a hub, and listens for it."""
