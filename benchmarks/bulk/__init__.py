"""Large tensors: the time of a round trip, and the server's memory."""
