"""One client's connection: frames, formats, transports, the Wire, and what the client says."""
