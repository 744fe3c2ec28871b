"""Connections to servers: channels, streams, retries, deadlines and credentials."""
