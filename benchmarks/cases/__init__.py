"""The cases, by what they are about. They take a server, and return figures by name."""
