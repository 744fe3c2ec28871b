"""Commands of `gradwire` that need the server."""
