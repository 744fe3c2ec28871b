"""How many rows may still be queried, and what each call costs."""
