"""Scheduling: admitted calls, fair queues, batches and the threads that compute them."""
