"""``gradwire top``: what a server does, from its status."""
