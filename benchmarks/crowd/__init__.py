"""Many clients at once: what they get done together, and whether a server bears a thousand of them."""
