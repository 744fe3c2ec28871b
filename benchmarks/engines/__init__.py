"""The cost of models in replicas outside the server's process."""
