"""What can go wrong with replicas that cannot go wrong with a model that is here."""


class ReplicaLost(Exception):
    """The replica that was asked is gone, and what was asked cannot be asked of another one."""
