"""``gradwire top``: live activity of a server, from its status."""
