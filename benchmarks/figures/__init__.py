"""Figures with their goals, each measured beside another implementation in the same run, and their reports."""
