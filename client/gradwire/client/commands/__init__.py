"""Commands of the client, their options and exit codes."""
