"""Grants: the operations, answers and rows that each principal gets of each model."""
