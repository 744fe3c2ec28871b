"""The demo's attacker: ``python -m gradwire.client.demo ADDRESS``. It knows the data, and of the model the address alone."""
