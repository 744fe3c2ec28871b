"""Configuration of a server: its schema, and its reader for YAML."""
