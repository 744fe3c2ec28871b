"""Which names are served, and what is behind each: a model, and the access that the name gives to it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from gradwire.backends.capabilities import Answer, Operation
from gradwire.backends.errors import Unsupported
from gradwire.backends.estimator import Estimator
from gradwire.server.access import GRANTED, AccessLevel, least_access
from gradwire.server.usage import Counter


class UnknownModel(Exception):
    """Nothing is served under that name."""


class NotGranted(Exception):
    """The name does not give that much access."""


class TooManyClones(Exception):
    """As many clones of the model as the server allows are there already."""


@dataclass(eq=False)
class Served:
    """One served name.

    Attributes:
        name: What callers type.
        estimator: What answers; several names may share one.
        model: The name under which the estimator was loaded; its versions and its queue go by it.
        access: What every caller of this name gets.
        clone_of: For a clone, the name it was made from.
        counter: The rows used under this name.
    """

    name: str
    estimator: Estimator
    model: str
    access: AccessLevel
    clone_of: str = ""
    counter: Counter = field(default_factory=Counter)

    @property
    def operations(self) -> frozenset[Operation]:
        """What a caller may do and the model can do."""
        return GRANTED[self.access] & self.estimator.capabilities

    @property
    def answers(self) -> frozenset[Answer]:
        """What a caller may ask predict for, and the model can tell.

        Postprocessing is of outputs alone: where there is some, to ask for more is for those who see behind it anyway.
        """
        return self.estimator.answers & self._granted_answers

    @property
    def _granted_answers(self) -> frozenset[Answer]:
        if self.labels_only or (self.access == "scores" and self.estimator.postprocessing):
            return frozenset({Answer.OUTPUTS})
        return frozenset(Answer)

    @property
    def labels_only(self) -> bool:
        return self.access == "labels"

    def allow(self, operation: Operation) -> None:
        """Raises NotGranted if the name does not give the operation, Unsupported if the model does not have it."""
        granted = GRANTED[self.access]
        if operation not in granted:
            raise NotGranted(
                f"{self.name!r} is served with access {self.access!r}; {operation.value} needs {least_access(operation)!r}"
            )
        if operation not in self.estimator.capabilities:
            can = ", ".join(sorted(o.value for o in self.operations))
            kind = self.estimator.config.backend
            raise Unsupported(f"{self.name!r} ({kind}) has no {operation.value}; it has: {can}")

    def allow_answer(self, answer: Answer) -> None:
        """Raises NotGranted if the name does not give the answer, Unsupported if the model does not have it."""
        if answer not in self._granted_answers:
            least, why = ("scores", "") if self.labels_only else ("gradients", ", because outputs are postprocessed")
            raise NotGranted(f"{self.name!r} is served with access {self.access!r}; {answer.value} needs {least!r}{why}")
        if answer not in self.estimator.answers:
            can = ", ".join(sorted(a.value for a in self.answers))
            raise Unsupported(f"{self.name!r} ({self.estimator.config.backend}) has no {answer.value}; it has: {can}")


class Catalogue:
    """The served names. They change only when clones come and go.

    Args:
        served: The names of the configuration.
        max_clones: Of each model at the same time.
    """

    def __init__(self, served: list[Served], max_clones: int) -> None:
        self._served = {entry.name: entry for entry in served}
        self._max_clones = max_clones
        self._numbers = itertools.count(1)
        # Names of clones that are being made, by what they are made of.
        self._reserved: dict[str, str] = {}

    def __iter__(self) -> Iterator[Served]:
        return iter(list(self._served.values()))

    def get(self, name: str) -> Served:
        """What is served under a name. Raises UnknownModel."""
        try:
            return self._served[name]
        except KeyError:
            raise UnknownModel(f"{name!r} is not served here; there are: {', '.join(self._served)}") from None

    @contextmanager
    def reserving_clone(self, origin: Served) -> Iterator[str]:
        """A name for a clone of ``origin``, whose place is taken while the clone is made. Raises TooManyClones."""
        family = origin.model.partition("~")[0]
        clones = [entry for entry in self if entry.clone_of and entry.model.partition("~")[0] == family]
        being_made = [name for name, of in self._reserved.items() if of == family]
        if len(clones) + len(being_made) >= self._max_clones:
            raise TooManyClones(
                f"{origin.name!r} has {len(clones) + len(being_made)} clones, as many as max_clones allows; "
                "end one that is not needed any more"
            )
        name = f"{family}~{next(self._numbers)}"
        self._reserved[name] = family
        try:
            yield name
        finally:
            del self._reserved[name]

    def add_clone(self, origin: Served, name: str, estimator: Estimator) -> Served:
        """Serves a clone with its origin's access."""
        clone = Served(name, estimator, name, origin.access, clone_of=origin.name)
        self._served[name] = clone
        return clone

    def remove_clone(self, name: str) -> Served:
        """Ends a clone. Raises UnknownModel if there is none, NotGranted if the name is not a clone's."""
        served = self.get(name)
        if not served.clone_of:
            raise NotGranted(f"{name!r} is not a clone; models of the configuration are served as long as the server runs")
        return self._served.pop(name)
