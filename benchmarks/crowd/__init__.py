"""Many clients at once: their throughput, and a server with a thousand of them."""
