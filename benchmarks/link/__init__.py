"""Codecs on a slow link: ``python -m benchmarks.link``."""
