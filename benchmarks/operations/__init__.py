"""All operations beside plain torch, in-process ART and peers."""
