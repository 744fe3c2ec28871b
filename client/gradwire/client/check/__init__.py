"""Checks of remote models, which compare gradients with central differences."""

from gradwire.client.check.check import ROWS, Finding, Verdict, check_model, random_labels, rows_for

__all__ = ["ROWS", "Finding", "Verdict", "check_model", "random_labels", "rows_for"]
