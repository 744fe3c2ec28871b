"""Those who are measured: one file each, with a context manager that yields a `Contender`."""
