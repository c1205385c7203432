"""Requests, until one of them makes a client."""
