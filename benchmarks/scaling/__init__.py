"""A discrete-event model of many servers and many clients, fed with what single calls were measured to cost."""
