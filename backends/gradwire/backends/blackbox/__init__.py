"""Black-box backend: a callable or a table of known answers."""

from gradwire.backends.blackbox.model import BlackBoxModel, Config, load

__all__ = ["BlackBoxModel", "Config", "load"]
