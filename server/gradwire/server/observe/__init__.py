"""Metrics, device readings and the view of a running server."""
