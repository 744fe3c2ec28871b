"""Measures what the model is fed with, on this machine: calls, attacks, databases."""
