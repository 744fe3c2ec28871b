"""Identity, grants, budgets and the ledger: admission of callers and its record."""
