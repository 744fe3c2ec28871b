"""Measurement of the costs of calls, attacks and databases on this machine."""
