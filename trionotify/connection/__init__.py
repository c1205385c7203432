"""One client's connection: frames, formats, transports, the Wire, and the dialogue."""
