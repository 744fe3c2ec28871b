"""Every operation, beside plain torch, in-process ART and peers."""
