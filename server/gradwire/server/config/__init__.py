"""Configuration of a server: its schema, and how it is read from YAML."""
