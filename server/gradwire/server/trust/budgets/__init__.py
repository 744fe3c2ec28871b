"""Budgets: the rows that principals may still query, and the charge of each call."""
