"""Several processes behind one address: one for each device, started, watched and restarted by a supervisor.

The supervisor (`supervisor`) loads no model and no framework. Each process (`child`) is a whole server, on its own device, with
the same configuration; the kernel spreads connections between them (SO_REUSEPORT).
"""
