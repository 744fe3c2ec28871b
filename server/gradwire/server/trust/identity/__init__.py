"""Who calls: tokens, client certificates, and the rule that only callers who are known are served."""
