"""How calls come in and answers go out: streams over gRPC or a host's own sockets, their messages, their limits."""
