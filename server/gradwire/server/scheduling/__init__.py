"""From admitted calls to computed batches: who is next, what is computed as one, on which thread."""
