"""Which names are served, and what is behind each. Who asks finds the names that were granted to it, and no others."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from gradwire.backends.estimator import Estimator
from gradwire.server.catalogue.granted import Granted
from gradwire.server.catalogue.served import Served
from gradwire.server.errors import NotGranted, TooManyClones, UnknownModel
from gradwire.server.trust.budgets.accounts import Accounts
from gradwire.server.trust.grants.book import GrantBook


class Catalogue:
    """The served names. They change only when clones come and go.

    Args:
        served: The names of the configuration.
        max_clones: Of each model at the same time.
        book: Who may do what.
        accounts: Where calls are charged.
    """

    def __init__(self, served: list[Served], max_clones: int, book: GrantBook, accounts: Accounts) -> None:
        self._served = {entry.name: entry for entry in served}
        self._max_clones = max_clones
        self._book = book
        self._accounts = accounts
        self._numbers = itertools.count(1)
        # What each principal has of each name, to be made anew when its grant is another one.
        self._known: dict[tuple[str, str], Granted] = {}
        # Names of clones that are being made, by what they are made of.
        self._reserved: dict[str, str] = {}

    def __iter__(self) -> Iterator[Served]:
        return iter(list(self._served.values()))

    def of(self, principal: str) -> list[Granted]:
        """What a principal finds here."""
        found = (self._granted(served, principal) for served in self)
        return [granted for granted in found if granted is not None]

    def get(self, name: str, principal: str) -> Granted:
        """What a principal has of a name. Raises UnknownModel, whether the name is served to nobody or only to others."""
        served = self._served.get(name)
        granted = None if served is None else self._granted(served, principal)
        if granted is None:
            names = ", ".join(granted.name for granted in self.of(principal)) or "none"
            raise UnknownModel(f"{name!r} is not served here; there are: {names}")
        return granted

    @contextmanager
    def reserving_clone(self, origin: Granted) -> Iterator[str]:
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

    def add_clone(self, origin: Granted, name: str, estimator: Estimator) -> Granted:
        """Serves a clone, to whoever made it, with what it has of the origin."""
        served = origin.served
        clone = Served(name, estimator, name, served.access, origin.name, origin.principal, served.granted_as)
        self._served[name] = clone
        return replace(origin, served=clone)

    def remove_clone(self, clone: Granted) -> None:
        """Ends a clone. Raises NotGranted if the name is not a clone's."""
        if not clone.clone_of:
            raise NotGranted(f"{clone.name!r} is not a clone; models of the configuration are served as long as the server runs")
        self._served.pop(clone.name, None)
        self._known.pop((clone.name, clone.principal), None)

    def _granted(self, served: Served, principal: str) -> Granted | None:
        if served.owner and served.owner != principal:
            return None
        name = served.granted_as
        grant = self._book.of(principal, name)
        if grant is None:
            return None
        known = self._known.get((served.name, principal))
        if known is None or known.grant is not grant or known.served is not served:
            known = self._known[served.name, principal] = Granted(served, principal, grant, self._accounts.of(principal, name))
        return known
