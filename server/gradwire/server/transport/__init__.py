"""Transport: calls and answers over gRPC streams or this host's socket, their messages and limits."""
