"""Counters, traces and logged refusals, for the rooms that record them."""
