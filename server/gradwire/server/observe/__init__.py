"""What operators see of a server while it runs: counts, metrics, traces, and what its log says of a call."""
