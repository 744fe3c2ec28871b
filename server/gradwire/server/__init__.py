"""Serves models. ``gradwire serve`` on the command line, `serving` from Python."""

from gradwire.server.config.server import ServerConfig
from gradwire.server.errors import ConfigError
from gradwire.server.process.serve import serve_until_signal, serving

__all__ = ["ConfigError", "ServerConfig", "serve_until_signal", "serving"]
