"""Assembly of a server process: its services, lifecycle and logs."""
