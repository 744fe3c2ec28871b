"""``gradwire demo``: trains a small model, serves it, and lets another process attack it that knows the address alone."""
