"""Command ``gradwire demo``: trains a small model, serves it, and attacks it from a process that has only the address."""
