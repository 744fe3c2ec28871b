"""The account of one call: its microseconds by station, and the least that such a call can cost."""
