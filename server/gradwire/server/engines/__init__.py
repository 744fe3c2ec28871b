"""Models whose replicas compute elsewhere, in processes of their own, on other machines perhaps.

What stands in front is this server, with its access, budgets and queues; what is behind is the loaded model, several times.
"""
