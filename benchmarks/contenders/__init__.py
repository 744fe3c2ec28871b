"""Contenders that are measured beside each other: one file each, with a context manager that yields `Contender` objects."""
