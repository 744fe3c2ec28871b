"""A served name and the model behind it."""

from __future__ import annotations

from dataclasses import dataclass

from gradwire.backends.capabilities import Operation
from gradwire.backends.estimator import Estimator
from gradwire.server.values.access import AccessLevel

_CHANGING = frozenset({Operation.FIT, Operation.FIT_BATCHES, Operation.VERSIONS, Operation.CLONE})
"""What leaves weights behind that are in this process alone."""


@dataclass(frozen=True, eq=False)
class Served:
    """One served name.

    Attributes:
        name: What callers type.
        estimator: What answers; several names may share one.
        model: The name under which the estimator was loaded; its versions and its queue go by it.
        access: The most that anybody gets of this name.
        clone_of: For a clone, the name it was made from.
        owner: For a clone, who made it. Nobody else finds it.
        root: For a clone, the name of the configuration that it comes from; its grants and accounts are the clone's.
        fixed: Why the weights have to stay as they were loaded, for callers; empty where they may change.
    """

    name: str
    estimator: Estimator
    model: str
    access: AccessLevel
    clone_of: str = ""
    owner: str = ""
    root: str = ""
    fixed: str = ""

    @property
    def capabilities(self) -> frozenset[Operation]:
        """What can be done with the model here, whoever asks."""
        return self.estimator.capabilities - _CHANGING if self.fixed else self.estimator.capabilities

    @property
    def granted_as(self) -> str:
        """The name that grants and accounts go by."""
        return self.root or self.name
