"""The account of one call: where its microseconds go, and what such a call costs at least."""
