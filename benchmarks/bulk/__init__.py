"""Large tensors: how long they travel, and what a server needs to let them through."""
