"""The client's commands, one file for each group."""
