"""Discrete-event model of many servers and many clients, fed with measured costs of single calls."""
