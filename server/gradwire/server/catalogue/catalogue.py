"""Catalogue of served names. A caller finds the names that were granted to it, and no others."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager

from gradwire.backends.estimator import Estimator
from gradwire.server.catalogue.admitted import Admitted
from gradwire.server.catalogue.served import Served
from gradwire.server.errors import NotGranted, TooManyClones, UnknownModel
from gradwire.server.trust.budgets.accounts import Accounts
from gradwire.server.trust.grants.book import GrantBook


class Catalogue:
    """The served names. They change only when clones are made and deleted.

    Args:
        served: Names of the configuration.
        max_clones: Most clones of each model at the same time.
        book: Grants in force.
        accounts: Accounts that calls are charged to.
    """

    def __init__(self, served: list[Served], max_clones: int, book: GrantBook, accounts: Accounts) -> None:
        self._served = {entry.name: entry for entry in served}
        self._max_clones = max_clones
        self._book = book
        self._accounts = accounts
        self._numbers = itertools.count(1)
        # By name and principal; replaced when the principal's grant changes.
        self._admitted: dict[tuple[str, str], Admitted] = {}
        # Names of clones that are being made, with the model that each is made of.
        self._reserved: dict[str, str] = {}

    def __iter__(self) -> Iterator[Served]:
        return iter(list(self._served.values()))

    def of(self, principal: str) -> list[Admitted]:
        """All served names that a principal may use."""
        found = (self._admit(served, principal) for served in self)
        return [admitted for admitted in found if admitted is not None]

    def admit(self, name: str, principal: str) -> Admitted:
        """A served name as a principal may use it.

        Args:
            name: Name that the caller typed.
            principal: The caller.

        Raises:
            UnknownModel: The name is not served, or not granted to this caller; the text is the same.
        """
        served = self._served.get(name)
        admitted = None if served is None else self._admit(served, principal)
        if admitted is None:
            names = ", ".join(admitted.name for admitted in self.of(principal)) or "none"
            raise UnknownModel(f"{name!r} is not served here; there are: {names}")
        return admitted

    @contextmanager
    def reserving_clone(self, origin: Admitted) -> Iterator[str]:
        """Reserves a name for a clone of ``origin`` while the clone is made. Raises TooManyClones."""
        family = origin.model.partition("~")[0]
        clones = [entry for entry in self if entry.clone_of and entry.model.partition("~")[0] == family]
        being_made = [name for name, of in self._reserved.items() if of == family]
        if len(clones) + len(being_made) >= self._max_clones:
            raise TooManyClones(
                f"{origin.name!r} has {len(clones) + len(being_made)} clones, as many as max_clones allows; "
                "delete one that is no longer needed"
            )
        name = f"{family}~{next(self._numbers)}"
        self._reserved[name] = family
        try:
            yield name
        finally:
            del self._reserved[name]

    def add_clone(self, origin: Admitted, name: str, estimator: Estimator) -> Admitted:
        """Serves a clone to the caller that made it, with that caller's grant for the origin."""
        served = origin.served
        clone = Served(name, estimator, name, served.access, origin.name, origin.principal, served.account_name)
        self._served[name] = clone
        return Admitted.of(clone, origin.principal, origin.grant, origin.charges)

    def remove_clone(self, clone: Admitted) -> None:
        """Deletes a clone. Raises NotGranted if the name is not a clone's."""
        if not clone.served.clone_of:
            raise NotGranted(f"{clone.name!r} is not a clone; configured models cannot be deleted")
        self._served.pop(clone.name, None)
        self._admitted.pop((clone.name, clone.principal), None)

    def _admit(self, served: Served, principal: str) -> Admitted | None:
        if served.owner and served.owner != principal:
            return None
        grant = self._book.of(principal, served.account_name)
        if grant is None:
            return None
        known = self._admitted.get((served.name, principal))
        if known is None or known.grant is not grant or known.served is not served:
            known = Admitted.of(served, principal, grant, self._accounts.of(principal, served.account_name))
            self._admitted[served.name, principal] = known
        return known
