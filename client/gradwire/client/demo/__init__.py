"""The demo's attacker, ``python -m gradwire.client.demo ADDRESS``. It has the data and the model's address only."""
