"""What codecs do on a slow link: ``python -m benchmarks.link``."""
