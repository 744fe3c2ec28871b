"""A served name and the model behind it."""

from __future__ import annotations

from dataclasses import dataclass, field

from gradwire.backends.capabilities import Operation
from gradwire.backends.estimator import Estimator
from gradwire.server.values.access import AccessLevel

_CHANGE_WEIGHTS = frozenset({Operation.FIT, Operation.FIT_BATCHES, Operation.VERSIONS, Operation.CLONE})
"""Operations whose weights would exist in this process alone."""


@dataclass(frozen=True, eq=False)
class Served:
    """One served name.

    Attributes:
        name: Name that callers type.
        estimator: Model that answers; several names may share one.
        model: Name under which the estimator was loaded; its versions and its queue go by it.
        access: Highest access level of this name.
        clone_of: Of a clone, the name that it was cloned from.
        owner: Of a clone, the principal that made it, and the only one that finds it.
        root: Of a clone, the configured name that it comes from.
        fixed: Reason why the weights must not change, for callers; empty where they may.
        account_name: Name that grants and accounts go by: ``root`` of a clone, else ``name``.
        capabilities: Operations that the model has here, for any caller.
    """

    name: str
    estimator: Estimator
    model: str
    access: AccessLevel
    clone_of: str = ""
    owner: str = ""
    root: str = ""
    fixed: str = ""
    account_name: str = field(init=False)
    capabilities: frozenset[Operation] = field(init=False)

    def __post_init__(self) -> None:
        able = self.estimator.capabilities
        object.__setattr__(self, "account_name", self.root or self.name)
        object.__setattr__(self, "capabilities", able - _CHANGE_WEIGHTS if self.fixed else able)
