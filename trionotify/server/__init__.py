"""The server: nurseries, listening sockets, and the hub that they serve."""
