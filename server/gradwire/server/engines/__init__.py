"""Engines: models loaded into this process, or replicas of them in other processes, possibly on other machines.

This server is the front, with access, budgets and queues; the replicas behind it each load the model.
"""
