"""Served names, their models, versions and cards."""
