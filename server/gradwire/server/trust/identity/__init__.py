"""Authentication of callers by tokens and client certificates."""
