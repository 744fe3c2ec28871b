"""Benchmarks of gradwire beside each framework's plain code: one module a framework, each measured in a process of its own."""
