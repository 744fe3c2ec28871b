"""Figures that gradwire is to reach, each measured beside something in the same run: what they are, and how they are shown."""
